"""The kinds of suspicious content in a valid file. `tailseg.annotations.kinds` has all kinds of problems."""

from dataclasses import replace
from typing import Final

from tailseg.annotations.kind import Kind

_LINTS: Final = (
    Kind(
        "polygon_inside",
        "iiii",
        "[object has|objects have] a polygon inside another one",
        "Is it a hole? Polygons in COCO format have no holes: encode the mask as run lengths",
        "filled: a mask is the union of its polygons",
    ),
    Kind(
        "area_of_box",
        "--ii",
        "[area is that of the box, while the mask is|areas are those of the boxes, while the masks are] "
        "smaller{detail}",
        "Write the number of the mask's pixels",
        "used unchanged",
    ),
    Kind(
        "copies",
        "iiii",
        "[annotation is a copy|annotations are copies] of another one of the same image",
        "Remove the copies (pylabel writes copies for images without objects)",
        "copies are read as objects, and a detector finds each object only once",
    ),
    Kind(
        "absent_present",
        "iiii",
        "[class is|classes are] listed as absent from an image (neg_category_ids) that has objects of the class",
        "Were files with other category ids merged? Change the ids in the lists as well as those of the objects",
        "everything is read unchanged",
        "image",
    ),
    Kind(
        "area_zero",
        "--ii",
        "[object has|objects have] an area of 0",
        "Write the number of the mask's pixels",
        "ignored by LVIS's rules, as in lvis-api",
    ),
)
"""The kinds that `tailseg.annotations.lints` finds."""

_LEAK: Final = (
    "Remove these images from one of the two files: an image of the training set does not measure how well new images "
    "are recognized"
)
_LEAKS: Final = (
    Kind("leak_names", "--ii", "file [name is|names are] in both files", _LEAK, scope="image"),
    Kind(
        "leak_content",
        "--ii",
        "[image has|images have] the content of a training image with another name",
        _LEAK,
        scope="image",
    ),
    Kind(
        "leak_scenes",
        "--ii",
        "[video or augmented picture has|videos or augmented pictures have] images in both files, by their names",
        "Put all frames of a video, and all copies of a picture, into one of the two files",
        scope="image",
    ),
    Kind("leak_pixels", "--ii", "[image looks|images look] like a training image", _LEAK, scope="image"),
    Kind(
        "classes_differ",
        "--ii",
        "[class is in one file only, or has|classes are in one file only, or have] another id or name",
        "Give both files the same categories, also those without objects",
        scope="category",
    ),
)
"""The kinds that `tailseg.annotations.leaks` finds in two files."""

_PIXELS: Final = "Write polygons as x1, y1, x2, y2, ... and bbox as [x, y, width, height], both in pixels of the image"
_DISAGREEMENTS: Final = (
    Kind(
        "mask_box",
        "nnnn",
        "of {detail}",
        f"{_PIXELS}; without a bbox, the box around the mask is used",
        "used unchanged in training and evaluation",
    ),
    Kind("box_otherwise", "nnnn", "of {detail}", _PIXELS, "used unchanged in training and evaluation"),
    Kind(
        "area_group",
        "--nn",
        "of {detail}",
        "Write the number of the mask's pixels",
        "used unchanged: the size groups of AP (APs, APm, APl) depend on the areas",
    ),
    Kind(
        "area_mask",
        "-n-n",
        "of {detail} sampled masks [differs|differ] from the area by a third or more",
        "Is each part of an object a separate polygon? Some converters join the parts into one list of points, which "
        "gives another mask: write separate polygons. If the masks are right, write the number of their pixels as area",
        "used unchanged in training and evaluation",
    ),
)
"""The kinds that `tailseg.annotations.agreement` finds in many objects of a file."""

_FEW: Final = replace(_DISAGREEMENTS[0], name="mask_box_some", verdicts="----")
"""``mask_box`` in few objects, as in official files: only `tailseg data check` shows it."""

SUSPECT: Final = (*_LINTS, *_LEAKS, *_DISAGREEMENTS, _FEW)
