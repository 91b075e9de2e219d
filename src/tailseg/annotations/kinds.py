"""The kinds of problems that an annotation file can have, and what each use of the file does about them.

A file is read once for all uses: `tailseg.annotations.parse` collects its problems. Each use has a verdict on a kind:

    -  ignored
    i  information: `tailseg data check` and the first lines of `tailseg train` show it
    n  a note (a warning): the use goes on, and the note says what it does
    x  the use refuses the file

The uses, in the order of the letters:

    training         training of boxes; objects without a mask are accepted
    training_masks   training of boxes and masks
    boxes            evaluation of boxes
    masks            evaluation of boxes and masks

Training refuses a file that it cannot learn from. Evaluation refuses a file if the problem would change a figure. If
only objects have the problem, training can leave these objects out (``on_problem="repair"``).

In the texts, ``[image has|images have]`` stands for the form that fits the count (`tailseg.words.inflect`).
"""

from typing import Final

from tailseg.annotations.kind import USE_NAMES, Kind, Scope, Use
from tailseg.annotations.suspect_kinds import SUSPECT

__all__ = ["BITS", "KINDS", "USE_NAMES", "Kind", "Scope", "Use"]

_BOX: Final = "Write bbox as [x, y, width, height], x and y of the upper left corner"
_AREA: Final = "Write the number of the mask's pixels; in a file of boxes, write width * height"
_IDS: Final = "Give each record its own id, a whole number"
_LISTS: Final = "neg_category_ids and not_exhaustive_category_ids"

_FILE: Final = (
    Kind(
        "no_annotations",
        "xxnn",
        "the data set is empty: its list annotations has no entry",
        "Check that the export selected annotated images",
        "there is no object to detect, so AP is undefined",
        "file",
    ),
    Kind("other_format", "iiii", "the labels are read as {detail}", "Nothing needs to be done", "converted", "file"),
    Kind("read_so", "iiii", "{detail}", "Nothing needs to be done", "converted", "file"),
    Kind(
        "not_kept",
        "nnnn",
        "{detail}",
        "Nothing needs to be done, if this is meant",
        "left out, because boxes and masks of classes cannot express it",
        "file",
    ),
    Kind(
        "keypoints",
        "nnnn",
        "the file has keypoints",
        "Nothing needs to be done",
        "boxes and masks are read, keypoints are not",
        "file",
    ),
    Kind(
        "boxes_alone",
        "-x-x",
        "no object has a mask: the file has boxes only",
        "To train on boxes: tailseg train with --boxes-only (a recipe with model.mask=None); to evaluate boxes: "
        "--only bbox",
        "boxes are used for training and evaluation",
        "file",
    ),
    Kind(
        "videos", "iinn", "the file has videos", "Nothing needs to be done", "each frame is read as one image", "file"
    ),
    Kind(
        "text_ids",
        "nnnn",
        "{detail}",
        "Write ids as whole numbers",
        'text such as "12" is read as the whole number 12',
        "file",
    ),
)

_IMAGES: Final = (
    Kind("image_id_missing", "xxxx", "image [record has|records have] no integer id", _IDS, scope="image"),
    Kind(
        "image_id_twice", "xxxx", "image [id occurs|ids occur] more than once", "Number the images again", scope="image"
    ),
    Kind(
        "size_missing",
        "nn--",
        "[image has|images have] no height or no width",
        "Write the size of each image in pixels",
        "the size is read from the image file",
        "image",
    ),
    Kind(
        "size_missing_for_polygons",
        "---x",
        "[image with polygons has|images with polygons have] no height or no width",
        "Write the size of each image in pixels: polygons are drawn at that size",
        scope="image",
    ),
    Kind(
        "size_bad",
        "xxxx",
        "[image has|images have] a height or a width that is not a number of pixels",
        "Give each image a height and a width, integers above 0",
        scope="image",
    ),
    Kind(
        "image_too_large",
        "xx--",
        "[image has|images have] more than {detail} pixels",
        "Cut them into tiles",
        scope="image",
    ),
    Kind(
        "file_name_missing",
        "xx--",
        "[image has|images have] no file_name and no coco_url",
        "Add one of them",
        scope="image",
    ),
    Kind(
        "file_name_unsafe",
        "xx--",
        "file [name is|names are] not valid, or [leads|lead] out of the image folder",
        "Write names relative to the folder that holds all images, and name that folder",
        scope="image",
    ),
    Kind(
        "file_name_absolute",
        "xx--",
        "file [name is|names are] absolute or [leads|lead] out of the image folder",
        "Name the folder of the images (--images, --data.train-images, --data.val-images): tailseg then looks there "
        "for "
        "the last part of each name",
        scope="image",
    ),
    Kind(
        "file_name_last_part",
        "nn--",
        "file [name is|names are] absolute",
        "Write names relative to the folder that holds all images",
        "tailseg looks for the last part of each name in the folder of the images",
        "image",
    ),
    Kind("images_not_found", "xx--", "[image is|images are] not found", "{detail}", scope="pixels"),
    Kind(
        "images_unusable",
        "xx--",
        "[image|images] cannot be used",
        "Replace these images, or remove them from the annotation file",
        scope="pixels",
    ),
    Kind(
        "images_turned",
        "ii--",
        "[image has|images have] an EXIF orientation other than 1{detail}",
        "Were the stored pixels annotated? Then train with --data.orientation stored, or remove the orientation from "
        "the files",
        "turned as viewers and annotation tools turn them, if the annotated size fits",
        "pixels",
    ),
    Kind(
        "images_dark",
        "ii--",
        "[image uses less than a tenth of its|images use less than a tenth of their] 16 bits",
        "Scale the values to 16 bits, or write 8 bits",
        "the upper 8 bits are read: the result is nearly black",
        "pixels",
    ),
    Kind(
        "images_of_pages",
        "ii--",
        "[file holds|files hold] more than one page",
        "Write each page to its own file if a later page is annotated",
        "the first page is read",
        "pixels",
    ),
    Kind(
        "images_twice",
        "iiii",
        "[file is|files are] listed more than once, as different images",
        "List each file once, with all its objects",
        "each entry is read as one image; a validation split keeps all entries of a file together",
        "pixels",
    ),
)

_CATEGORIES: Final = (
    Kind("category_id_missing", "xxxx", "category [record has|records have] no integer id", _IDS, scope="category"),
    Kind(
        "category_id_twice",
        "xxxx",
        "category [id occurs|ids occur] more than once",
        "Number the categories again",
        scope="category",
    ),
    Kind(
        "category_name_missing",
        "nnnn",
        "[category has|categories have] no name",
        "Add the key name",
        "the id is used as the name",
        "category",
    ),
    Kind(
        "category_name_twice",
        "nnnn",
        "[name belongs|names belong] to more than one category",
        "Give each category its own name, or remove the category that has no object",
        "the categories are told apart by their ids",
        "category",
    ),
    Kind(
        "category_unused",
        "ii--",
        "[category has|categories have] no object",
        "Remove the categories, or annotate objects",
        "a model that is trained on this file sees no example of them",
        "category",
    ),
    Kind(
        "frequency_bad",
        "xxxx",
        "[category has|categories have] no frequency of 'r', 'c' or 'f' while others have one",
        "State the frequency of all categories or of none; without it, the groups are counted in the training file "
        "(--train)",
        scope="category",
    ),
    Kind(
        "frequency_without_lists",
        "--nn",
        "the file has LVIS's 'frequency', but not 'neg_category_ids' or 'not_exhaustive_category_ids'",
        "Use the original LVIS file",
        "evaluated by COCO's rules; the result cannot be compared with LVIS AP",
        "file",
    ),
    Kind(
        "lists_without_frequency",
        "--nn",
        "the file has LVIS's lists, but no 'frequency'",
        "Name the training set (--train)",
        "APr, APc and APf are missing: they need the groups of the training set (--train)",
        "file",
    ),
    Kind(
        "lists_missing",
        "nnxx",
        f"[image|images] of an LVIS file [lacks|lack] one of the lists {_LISTS}",
        "Use the original LVIS file; or write [] if nothing is known (hotcoco's `dataset` leaves out empty lists, its "
        "`save` writes them); or remove the lists from every image: the file is then evaluated by COCO's rules",
        "a missing list is read as empty",
        "image",
    ),
    Kind(
        "lists_bad",
        "xxxx",
        f"[image lists|images list] something other than ids in {_LISTS}",
        "List category ids",
        scope="image",
    ),
    Kind(
        "lists_unknown",
        "nnnn",
        "[image lists|images list] an unknown category as absent or not exhaustive",
        "Remove the id, or add the category",
        "the unknown id is ignored",
        "image",
    ),
)

_OBJECTS: Final = (
    Kind("record_bad", "xxxx", "[annotation is not a JSON object|annotations are not JSON objects]", "Remove them"),
    Kind(
        "id_bad",
        "nnnn",
        "[annotation has|annotations have] an id that is not a 64-bit whole number",
        _IDS,
        "a new id is assigned",
    ),
    Kind("id_missing", "nnnn", "[annotation has|annotations have] no id", _IDS, "a new id is assigned"),
    Kind(
        "id_twice",
        "nnnn",
        "annotation [id occurs|ids occur] more than once",
        "Number the annotations again: pycocotools keeps one annotation per id",
        "all annotations are read",
    ),
    Kind(
        "image_unknown",
        "xxxx",
        "[annotation belongs|annotations belong] to an unknown image",
        "Add the image, or remove the annotations",
    ),
    Kind(
        "category_unknown",
        "xxxx",
        "[annotation belongs|annotations belong] to an unknown category",
        "Add the category, or remove the annotations",
    ),
    Kind("box_bad", "xxxx", "[box is|boxes are] not four numbers", _BOX),
    Kind("box_infinite", "xxxx", "[box has|boxes have] NaN or infinite numbers", "Correct or remove the boxes"),
    Kind("box_negative", "xxxx", "[box has|boxes have] a negative width or height", _BOX),
    Kind("box_from_mask", "nnnn", "[object has|objects have] no box", _BOX, "the box around the mask is used"),
    Kind(
        "box_beyond",
        "nn--",
        "[box reaches {detail} pixels beyond its image|boxes reach up to {detail} pixels beyond their image]",
        f"{_BOX}; clip it to the image, or correct the image's width and height if they are wrong",
        "clipped",
    ),
    Kind(
        "box_outside",
        "xxnn",
        "[box lies outside its|boxes lie outside their] image",
        f"{_BOX}; remove the object, or correct the image's width and height if they are wrong",
        "kept as an object that no detection can match",
    ),
    Kind(
        "flag_bad",
        "xxxx",
        "[annotation has|annotations have] an iscrowd or an ignore that is neither 0 nor 1",
        "Write 1 for a region to ignore, 0 or nothing for an object",
    ),
    Kind(
        "area_bad", "xxxx", "[area is not a finite number|areas are not finite numbers]", f"{_AREA}, or remove the area"
    ),
    Kind(
        "area_negative",
        "nnxx",
        "[area is|areas are] negative",
        f"{_AREA}, or remove the area",
        "not used in training; evaluation refuses them",
    ),
    Kind("area_missing", "--nn", "[object has|objects have] no 'area'", _AREA, "the area of the box is used"),
    Kind(
        "area_large",
        "nnnn",
        "[area is|areas are] larger than the box{detail}",
        _AREA,
        "used unchanged",
    ),
    Kind(
        "ignore",
        "--nn",
        "[object is|objects are] marked 'ignore'",
        "Remove the mark from objects that should be detected",
        "treated as crowd regions",
    ),
    Kind(
        "small",
        "nn--",
        "[object is|objects are] less than one pixel wide or high",
        "Remove these objects, or correct their boxes",
        "not used in training",
    ),
    Kind(
        "mask_unknown",
        "xx-x",
        "[segmentation is|segmentations are] neither polygons nor run lengths",
        "Expected [[x1, y1, x2, y2, x3, y3, ...], ...] or {{'size': [height, width], 'counts': ...}}",
    ),
    Kind(
        "run_lengths_bad",
        "xx-x",
        "[mask|masks] of run lengths [does not fit its|do not fit their] image",
        "Encode the mask again at the image's size",
    ),
    Kind(
        "polygon_short",
        "xx-x",
        "[polygon has|polygons have] fewer than three points or an odd number of coordinates",
        "Write x1, y1, x2, y2, x3, y3, ..., or remove the polygon (for a box, write its four corners)",
    ),
    Kind(
        "polygon_part",
        "nn-n",
        "[object has|objects have] polygons with fewer than three points or an odd number of coordinates, and valid "
        "ones",
        "Remove the invalid polygons",
        "the invalid polygons are left out",
    ),
    Kind(
        "polygon_infinite",
        "xx-x",
        "[object has|objects have] a polygon with coordinates that are not finite",
        "Correct the coordinates (pixels of the image, x before y) or remove the object",
    ),
    Kind(
        "polygon_far",
        "xx--",
        "[object has|objects have] a polygon with coordinates that are not finite or far outside the image",
        "Correct the coordinates (pixels of the image, x before y) or remove the object",
    ),
    Kind(
        "polygon_flat",
        "nn--",
        "[object has|objects have] polygons without area, and valid ones",
        "Remove the polygons without area",
        "these polygons add no pixel",
    ),
    Kind(
        "mask_missing",
        "-x-x",
        "[object has|objects have] no mask ({detail})",
        "Annotate masks, or remove these objects. To train on boxes only: tailseg train with --boxes-only (a recipe "
        "with "
        "model.mask=None); to evaluate boxes only: --only bbox (iou_types=('bbox',))",
        "only boxes are read",
    ),
    Kind(
        "mask_empty",
        "nn-n",
        "[object has|objects have] a mask without a pixel{detail}",
        "Correct the polygons",
        "the box is used; training leaves the mask out, and no detection can match it",
    ),
    Kind(
        "crowds_alone",
        "ii--",
        "{detail} not used in training",
        "Were masks exported as crowds? Datumaro and CVAT do so with brush masks, supervision with objects of several "
        "parts. --data.crowds objects reads crowds as objects",
        "ignored in training and evaluation, see --data.crowds",
        "file",
    ),
    Kind(
        "crowd_mask_missing",
        "---x",
        "crowd or ignore [region has|regions have] no mask, so that no detection can be ignored there",
        "Annotate masks, or remove these regions. To evaluate boxes only: --only bbox (iou_types=('bbox',))",
    ),
)

KINDS: Final = {kind.name: kind for kind in (*_FILE, *_IMAGES, *_CATEGORIES, *_OBJECTS, *SUSPECT)}
BITS: Final = {kind.name: 1 << place for place, kind in enumerate(_OBJECTS)}
"""The bit of each kind of problem that objects have, see `tailseg.annotations.dataset.Objects.faults`."""
