"""The kinds of what is suspect in a file that can be used: `tailseg.annotations.kinds` holds all kinds."""

from dataclasses import replace
from typing import Final

from tailseg.annotations.kind import Kind

_LINTS: Final = (
    Kind(
        "polygon_inside",
        "iiii",
        "objects have a polygon inside another one",
        "Is it a hole? COCO's polygons have none: encode the mask as run lengths",
        "filled: a mask of polygons is all of them together",
    ),
    Kind(
        "area_of_box",
        "--ii",
        "areas are those of the boxes, while the masks are smaller{detail}",
        "Write the mask's pixels",
        "taken as they are",
    ),
    Kind(
        "copies",
        "iiii",
        "annotations say the same as another one of their image",
        "Leave the copies out (pylabel writes them for images without objects)",
        "all are read: no detector finds an object twice",
    ),
    Kind(
        "absent_present",
        "iiii",
        "classes are listed as absent from an image (neg_category_ids) that has objects of them",
        "Were files with other class numbers merged? Numbers in the lists must be changed with those of the objects",
        "all is read as it stands",
        "image",
    ),
    Kind(
        "area_zero",
        "--ii",
        "objects have an area of 0",
        "Write the mask's pixels",
        "not asked for under LVIS's rules, as in lvis-api",
    ),
)
"""What `tailseg.annotations.lints` finds."""

_LEAK: Final = "Remove them from one of the two: an image that was learned does not show how new ones are recognized"
_LEAKS: Final = (
    Kind("leak_names", "--ii", "file names stand in both files", _LEAK, scope="image"),
    Kind("leak_content", "--ii", "images have the content of a training image of another name", _LEAK, scope="image"),
    Kind(
        "leak_scenes",
        "--ii",
        "videos, or augmented pictures, have images in both files, by their names",
        "Put all frames of a video, and all copies of a picture, into one of the two",
        scope="image",
    ),
    Kind("leak_pixels", "--ii", "images look like a training image", _LEAK, scope="image"),
    Kind(
        "classes_differ",
        "--ii",
        "classes are in one file only, or have another id or name",
        "Give both files the same categories: those without objects as well",
        scope="category",
    ),
)
"""What `tailseg.annotations.leaks` finds between two files."""

_PIXELS: Final = "Write polygons as x1, y1, x2, y2, ... and bbox as [x, y, width, height], both in pixels of the image"
_DISAGREEMENTS: Final = (
    Kind(
        "mask_box",
        "nnnn",
        "of {detail}",
        f"{_PIXELS}; a box that is left out is taken from the mask",
        "learned and scored as they stand",
    ),
    Kind("box_otherwise", "nnnn", "of {detail}", _PIXELS, "learned and scored as they stand"),
    Kind(
        "area_group",
        "--nn",
        "of {detail}",
        "Write the mask's pixels",
        "taken as they are: the size groups of AP (APs, APm, APl) follow them",
    ),
    Kind(
        "area_mask",
        "-n-n",
        "of {detail} masks that were looked at have more or fewer pixels than their area says, by a third or more",
        "Is each part of an object a polygon of its own? Some converters join the parts into one list of points, which "
        "gives another mask: write the parts apart. If the masks are right, write their pixels as area",
        "learned and scored as they stand",
    ),
)
"""What `tailseg.annotations.agreement` finds in many objects of a file."""

_FEW: Final = replace(_DISAGREEMENTS[0], name="mask_box_some", verdicts="----")
"""The same of few objects, as official files have them: only `tailseg data check` says it."""

SUSPECT: Final = (*_LINTS, *_LEAKS, *_DISAGREEMENTS, _FEW)
