"""What can be wrong with an annotation file, and what each use of it makes of that.

A file is read once, for all uses: `tailseg.annotations.parse` notes what is wrong, and a use decides what it means.

    -  of no importance
    i  of interest: `tailseg data check` and the first lines of `tailseg train` say it
    n  a note, as a warning: the use goes on, and says what it does
    x  the file is refused

Uses, in the order of the letters:

    training         learns boxes; objects without a mask are accepted
    training_masks   learns masks as well
    boxes            scores boxes
    masks            scores boxes and masks

Training refuses what it cannot learn from, evaluation what would change a figure. Where only objects are concerned,
training can be told to leave them out (`repair`).
"""

from typing import Final

from tailseg.annotations.kind import USE_NAMES, Kind, Scope, Use
from tailseg.annotations.suspect_kinds import SUSPECT

__all__ = ["BITS", "KINDS", "USE_NAMES", "Kind", "Scope", "Use"]

_BOX: Final = "Write bbox as [x, y, width, height], x and y of the upper left corner"
_AREA: Final = "Write the mask's pixels, in a file of boxes width * height"
_IDS: Final = "Give each an id of its own, a whole number"
_LISTS: Final = "neg_category_ids and not_exhaustive_category_ids"

_FILE: Final = (
    Kind(
        "no_annotations",
        "xxnn",
        "it is an empty data set: its list annotations has no entry",
        "Check that the export selected annotated images",
        "there is nothing to find, AP is undefined",
        "file",
    ),
    Kind(
        "keypoints",
        "nnnn",
        "it holds keypoints",
        "None is needed",
        "boxes and masks are read, keypoints are not",
        "file",
    ),
    Kind(
        "boxes_alone",
        "-x-x",
        "no object has a mask: it is a file of boxes",
        "To learn boxes: tailseg train with --boxes-only (a recipe with model.mask=None); to score boxes: --only bbox",
        "boxes are learned and scored",
        "file",
    ),
    Kind("videos", "iinn", "it is of videos", "None is needed", "each frame is read as an image by itself", "file"),
    Kind(
        "text_ids",
        "nnnn",
        "{detail} ids are written as text",
        "Write whole numbers",
        "read as the whole numbers that they spell",
        "file",
    ),
)

_IMAGES: Final = (
    Kind("image_id_missing", "xxxx", "image records without an integer id", _IDS, scope="image"),
    Kind("image_id_twice", "xxxx", "image ids occur more than once", "Number the images again", scope="image"),
    Kind(
        "size_missing",
        "nn--",
        "images without a height or a width",
        "Write the size of each image in pixels",
        "read from the pictures",
        "image",
    ),
    Kind(
        "size_missing_for_polygons",
        "---x",
        "images with polygons have no height or width",
        "Write the size of each image in pixels: polygons are drawn at that size",
        scope="image",
    ),
    Kind(
        "size_bad",
        "xxxx",
        "images without a size in pixels",
        "Give each a height and a width, integers above 0",
        scope="image",
    ),
    Kind("image_too_large", "xx--", "images have more than {detail} pixels", "Cut them into tiles", scope="image"),
    Kind("file_name_missing", "xx--", "images without a file_name or a coco_url", "Add one of them", scope="image"),
    Kind(
        "file_name_unsafe",
        "xx--",
        "file names are none that a file can have, or lead out of the image folder",
        "Write them relative to the folder that holds all images, and name that folder",
        scope="image",
    ),
    Kind(
        "file_name_absolute",
        "xx--",
        "file names are absolute or lead out of the image folder",
        "Name the folder of the images (--images, --data.train-images, --data.val-images): their last parts are then "
        "looked for there",
        scope="image",
    ),
    Kind(
        "file_name_last_part",
        "nn--",
        "file names are absolute",
        "Write them relative to the folder that holds all images",
        "their last parts are looked for in the folder of the images",
        "image",
    ),
    Kind("images_not_found", "xx--", "images not found", "{detail}", scope="pixels"),
    Kind(
        "images_unusable",
        "xx--",
        "images cannot be used",
        "Replace them, or remove them from the annotation file",
        scope="pixels",
    ),
    Kind(
        "images_turned",
        "ii--",
        "images have an EXIF orientation other than 1{detail}",
        "Were they annotated on the stored pixels? Train with --data.orientation stored, or take the orientation out "
        "of the files",
        "read as viewers and annotation tools show them, where the annotated size allows it",
        "pixels",
    ),
    Kind(
        "images_dark",
        "ii--",
        "images use less than a tenth of their 16 bits",
        "Scale their values to 16 bits, or write 8 bits",
        "the upper 8 bits are read: they are nearly black",
        "pixels",
    ),
    Kind(
        "images_of_pages",
        "ii--",
        "files hold more than one picture",
        "Write each page into a file of its own, if others than the first are annotated",
        "the first is read",
        "pixels",
    ),
    Kind(
        "images_twice",
        "iiii",
        "files are listed more than once, as images of their own",
        "List each file once, with all its objects",
        "each is read as an image by itself; where a part is held out, those of one file stay in one part",
        "pixels",
    ),
)

_CATEGORIES: Final = (
    Kind("category_id_missing", "xxxx", "category records without an integer id", _IDS, scope="category"),
    Kind(
        "category_id_twice",
        "xxxx",
        "category ids occur more than once",
        "Number the categories again",
        scope="category",
    ),
    Kind(
        "category_name_missing",
        "nnnn",
        "categories without a name",
        "Add the key name",
        "named after their ids",
        "category",
    ),
    Kind(
        "category_name_twice",
        "nnnn",
        "names stand for more than one category",
        "Give each category a name of its own, or leave out the one that no object has",
        "kept apart by their ids",
        "category",
    ),
    Kind(
        "category_unused",
        "ii--",
        "categories have no object",
        "Leave them out, or annotate them",
        "the model has an output for each, which nothing teaches",
        "category",
    ),
    Kind(
        "frequency_bad",
        "xxxx",
        "categories without a frequency of 'r', 'c' or 'f' where others have one",
        "State it for all categories, or for none: groups are then counted in the training file (--train)",
        scope="category",
    ),
    Kind(
        "frequency_without_lists",
        "--nn",
        "the file has LVIS's 'frequency', but not 'neg_category_ids' or 'not_exhaustive_category_ids'",
        "Take the original LVIS file",
        "scored as COCO, not comparable with LVIS AP",
        "file",
    ),
    Kind(
        "lists_without_frequency",
        "--nn",
        "the file has LVIS's lists, but no 'frequency'",
        "Name the training set (--train)",
        "APr, APc and APf need the groups of the training set (--train)",
        "file",
    ),
    Kind(
        "lists_missing",
        "nnxx",
        f"images of an LVIS file without both lists {_LISTS}",
        "Take the original LVIS file; or write [] where nothing is known (hotcoco's `dataset` leaves out empty lists, "
        "its `save` writes them); or remove the lists from every image: the file is then scored as COCO",
        "read as empty",
        "image",
    ),
    Kind("lists_bad", "xxxx", f"images list something else than ids in {_LISTS}", "List category ids", scope="image"),
    Kind(
        "lists_unknown",
        "nnnn",
        "images list an unknown category as absent or not exhaustive",
        "Remove the id, or add the category",
        "passed over, as where a subset leaves out categories",
        "image",
    ),
)

_OBJECTS: Final = (
    Kind("record_bad", "xxxx", "annotations are no records", "Remove them"),
    Kind("id_bad", "nnnn", "annotations have an id that is no whole number of 64 bits", _IDS, "numbered"),
    Kind("id_missing", "nnnn", "annotations without an id", _IDS, "numbered"),
    Kind(
        "id_twice",
        "nnnn",
        "annotation ids occur more than once",
        "Number the annotations again: pycocotools keeps one of each",
        "all are read",
    ),
    Kind("image_unknown", "xxxx", "annotations of an unknown image", "Add the image, or remove the annotations"),
    Kind(
        "category_unknown", "xxxx", "annotations of an unknown category", "Add the category, or remove the annotations"
    ),
    Kind("box_bad", "xxxx", "boxes are not four numbers", _BOX),
    Kind("box_infinite", "xxxx", "boxes have NaN or infinite numbers", "Correct or remove them"),
    Kind("box_negative", "xxxx", "boxes have a negative width or height", _BOX),
    Kind("box_from_mask", "nnnn", "objects without a box", _BOX, "their boxes are those of their masks"),
    Kind(
        "box_beyond",
        "nn--",
        "boxes reach up to {detail} pixels beyond their image",
        f"{_BOX}; clip it to the image, or correct the image's width and height if those are wrong",
        "clipped",
    ),
    Kind(
        "box_outside",
        "xxnn",
        "boxes lie outside their image",
        f"{_BOX}; remove the object, or correct the image's width and height if those are wrong",
        "kept as objects that nothing can find",
    ),
    Kind(
        "flag_bad",
        "xxxx",
        "annotations have an iscrowd or an ignore that is neither 0 nor 1",
        "Write 1 for a region to be left alone, 0 or nothing for an object",
    ),
    Kind("area_bad", "xxxx", "areas are no finite numbers", f"{_AREA}, or leave the area out"),
    Kind(
        "area_negative",
        "nnxx",
        "areas are negative",
        f"{_AREA}, or leave the area out",
        "not used in training; evaluation refuses them",
    ),
    Kind("area_missing", "--nn", "objects without 'area'", _AREA, "sized by their boxes"),
    Kind(
        "area_large",
        "nnnn",
        "areas are larger than the box{detail}",
        _AREA,
        "taken as they are",
    ),
    Kind(
        "ignore",
        "--nn",
        "objects marked 'ignore'",
        "Take the mark off what is to be found",
        "left alone, as crowds are",
    ),
    Kind(
        "small",
        "nn--",
        "objects are below one pixel in width or height",
        "Remove them, or correct their boxes",
        "not trained on",
    ),
    Kind(
        "mask_unknown",
        "xx-x",
        "segmentations are neither polygons nor run lengths",
        "Expected [[x1, y1, x2, y2, x3, y3, ...], ...] or {{'size': [height, width], 'counts': ...}}",
    ),
    Kind("run_lengths_bad", "xx-x", "run lengths do not fit their image", "Encode the mask again at the image's size"),
    Kind(
        "polygon_short",
        "xx-x",
        "polygons with fewer than three points or an odd number of coordinates",
        "Write x1, y1, x2, y2, x3, y3, ..., or remove the polygon (a box needs its four corners)",
    ),
    Kind(
        "polygon_part",
        "nn-n",
        "objects have polygons with fewer than three points or an odd number of coordinates, next to good ones",
        "Remove those polygons",
        "those polygons are left out",
    ),
    Kind(
        "polygon_infinite",
        "xx-x",
        "objects have a polygon with coordinates that are not finite",
        "Correct the coordinates (pixels of the image, x before y) or remove the object",
    ),
    Kind(
        "polygon_far",
        "xx--",
        "objects have a polygon with coordinates that are not finite or far outside the image",
        "Correct the coordinates (pixels of the image, x before y) or remove the object",
    ),
    Kind(
        "polygon_flat",
        "nn--",
        "objects have polygons without area, next to good ones",
        "Remove those polygons",
        "they add no pixel",
    ),
    Kind(
        "mask_missing",
        "-x-x",
        "objects without a mask ({detail})",
        "Annotate their masks, or remove them. To learn boxes alone: tailseg train with --boxes-only (a recipe with "
        "model.mask=None); to score boxes alone: --only bbox (iou_types=('bbox',))",
        "boxes alone are read",
    ),
    Kind(
        "mask_empty",
        "nn-n",
        "objects' masks have no pixel{detail}",
        "Correct their polygons",
        "their boxes are learned and scored; their masks are not learned, and no detection can match them",
    ),
    Kind(
        "crowds_alone",
        "ii--",
        "{detail} objects are crowd regions and will not be learned",
        "Were masks exported as crowds, as Datumaro and CVAT do with brush masks, and supervision with objects of "
        "several parts? --data.crowds objects takes crowds as objects",
        "left alone in training and evaluation, see --data.crowds",
        "file",
    ),
    Kind(
        "crowd_mask_missing",
        "---x",
        "crowd or ignore regions without a mask, which would leave no detection alone",
        "Annotate their masks, or remove them. To score boxes alone: --only bbox (iou_types=('bbox',))",
    ),
)

KINDS: Final = {kind.name: kind for kind in (*_FILE, *_IMAGES, *_CATEGORIES, *_OBJECTS, *SUSPECT)}
BITS: Final = {kind.name: 1 << place for place, kind in enumerate(_OBJECTS)}
"""Of the kinds that objects have: the bit in `tailseg.annotations.dataset.Objects.faults`."""
