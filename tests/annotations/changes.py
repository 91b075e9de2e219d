"""Small changes to the data set of `tests.raw_data`, and what each use of the file makes of them."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

from PIL import Image

from tailseg.annotations.kinds import Use

RawDataset = dict[str, Any]
USES = get_args(Use)
SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]


class Change(NamedTuple):
    """What is done to the data set.

    Attributes:
        make: changes it, or gives another one.
        letters: of training, training of masks, evaluation, evaluation of masks: x refused, n noted, i of interest,
            - nothing is said.
        kinds: of the problems that are found.
        repair: what is left after `tailseg data check --repair`: the ids of the annotations; None where it cannot be
            repaired.
    """

    make: Callable[[RawDataset], Any]
    letters: str
    kinds: set[str]
    repair: tuple[int, ...] | None = (1, 2, 3)


def annotate(**fields: object) -> Callable[[RawDataset], None]:
    """Sets fields of the second annotation, which is alone in the image 20."""
    return lambda raw: raw["annotations"][1].update(fields)


def without(section: str, key: str) -> Callable[[RawDataset], None]:
    """Takes a field from the second annotation, or from the first record of another section."""
    return lambda raw: raw[section][section == "annotations"].pop(key)


def texts(raw: RawDataset) -> None:
    """All ids as text."""
    for section in ("images", "annotations", "categories"):
        for record in raw[section]:
            record.update({key: str(record[key]) for key in ("id", "image_id", "category_id") if key in record})


def lists(raw: RawDataset, negative: list[Any], *, images: int = 2, frequency: bool = True) -> None:
    """Makes an LVIS file of it."""
    for image in raw["images"][:images]:
        image.update(neg_category_ids=negative, not_exhaustive_category_ids=[])
    for category in raw["categories"] if frequency else ():
        category["frequency"] = "r"


def no_masks(raw: RawDataset) -> None:
    """Boxes only."""
    for annotation in raw["annotations"]:
        annotation["segmentation"] = []


CHANGES = {
    "nothing": Change(lambda raw: None, "----", set()),
    "box 5 pixels beyond the image": Change(annotate(bbox=[33, 5, 20, 20]), "nn--", {"box_beyond"}),
    "box outside the image": Change(annotate(bbox=[-60, 5, 20, 20]), "xxnn", {"box_outside"}, (1, 3)),
    "image without a size": Change(
        lambda raw: raw["images"][0].pop("width"), "nn-x", {"size_missing", "size_missing_for_polygons"}
    ),
    "a width of null": Change(
        lambda raw: raw["images"][0].update(width=None), "nn-x", {"size_missing", "size_missing_for_polygons"}
    ),
    "a width that is a whole float": Change(lambda raw: raw["images"][0].update(width=48.0), "----", set()),
    "image without a file name": Change(without("images", "file_name"), "xx--", {"file_name_missing"}, None),
    "file name out of the folder": Change(
        lambda raw: raw["images"][0].update(file_name="../b.jpg"), "xx--", {"file_name_unsafe"}, None
    ),
    "absolute file name": Change(
        lambda raw: raw["images"][0].update(file_name="/data/b.jpg"), "nn--", {"file_name_last_part"}
    ),
    "absolute file names of one last part": Change(
        lambda raw: [image.update(file_name=f"/{image['id']}/b.jpg") for image in raw["images"]],
        "xx--",
        {"file_name_absolute"},
        None,
    ),
    "category without a name": Change(without("categories", "name"), "nnnn", {"category_name_missing"}),
    "two categories of one name": Change(
        lambda raw: raw["categories"][0].update(name="three"), "nnnn", {"category_name_twice"}
    ),
    "category without objects": Change(
        lambda raw: raw["categories"].append({"id": 9, "name": "nine"}), "ii--", {"category_unused"}
    ),
    "category id twice": Change(
        lambda raw: raw["categories"].append({"id": 3, "name": "nine"}), "xxxx", {"category_id_twice"}, None
    ),
    "image id twice": Change(
        lambda raw: raw["images"].append(dict(raw["images"][0])), "xxxx", {"image_id_twice"}, None
    ),
    "image id true": Change(
        lambda raw: raw["images"].append({**raw["images"][0], "id": True}), "xxxx", {"image_id_missing"}
    ),
    "annotation ids twice": Change(annotate(id=1), "nnnn", {"id_twice"}, (1, 3, 4)),
    "annotation without an id": Change(without("annotations", "id"), "nnnn", {"id_missing"}, (1, 3, 4)),
    "annotation id as a word": Change(annotate(id="7c9e-2"), "nnnn", {"id_bad"}, (1, 3, 4)),
    "annotation id 1.5": Change(annotate(id=1.5), "nnnn", {"id_bad"}, (1, 3, 4)),
    "annotation id null": Change(annotate(id=None), "nnnn", {"id_missing"}, (1, 3, 4)),
    "annotation id 0": Change(annotate(id=0), "----", set(), (0, 1, 3)),
    "ids as text": Change(texts, "nnnn", {"text_ids"}),
    "unknown image": Change(annotate(image_id=99), "xxxx", {"image_unknown"}, (1, 3)),
    "unknown category": Change(annotate(category_id=99), "xxxx", {"category_unknown"}, (1, 3)),
    "no annotations": Change(lambda raw: raw["annotations"].clear(), "xxnn", {"no_annotations"}, None),
    "frequency without lists": Change(
        lambda raw: [category.update(frequency="r") for category in raw["categories"]],
        "--nn",
        {"frequency_without_lists"},
    ),
    "frequency of one category": Change(
        lambda raw: raw["categories"][0].update(frequency="r"),
        "xxxx",
        {"frequency_bad", "frequency_without_lists"},
        None,
    ),
    "lists in one image": Change(lambda raw: lists(raw, [], images=1), "nnxx", {"lists_missing"}, None),
    "lists without frequency": Change(lambda raw: lists(raw, [], frequency=False), "--nn", {"lists_without_frequency"}),
    "lists with an unknown class": Change(lambda raw: lists(raw, [99]), "nnnn", {"lists_unknown"}),
    "lists with a name": Change(lambda raw: lists(raw, ["three"]), "xxxx", {"lists_bad"}, None),
    "polygon of two points alone": Change(annotate(segmentation=[[10, 5, 30, 25]]), "xx-x", {"polygon_short"}, (1, 3)),
    "polygon of two points beside a good one": Change(
        annotate(segmentation=[SQUARE, [10, 5, 30, 25]]), "nn-n", {"polygon_part"}
    ),
    "polygon without area beside a good one": Change(
        annotate(segmentation=[SQUARE, [10, 5, 20, 5, 30, 5]]), "nn--", {"polygon_flat"}
    ),
    "polygon far outside": Change(annotate(segmentation=[[10, 5, 300, 5, 30, 25]]), "xx--", {"polygon_far"}, (1, 3)),
    "polygon with NaN": Change(
        annotate(segmentation=[[10, 5, math.nan, 5, 30, 25]]), "xx-x", {"polygon_infinite"}, (1, 3)
    ),
    "points in pairs": Change(annotate(segmentation=[[[10, 5], [30, 5]]]), "xx-x", {"mask_unknown"}, (1, 3)),
    "run lengths of another size": Change(
        annotate(segmentation={"size": [48, 36], "counts": [1728]}), "xx-x", {"run_lengths_bad"}, (1, 3)
    ),
    "one object without a mask": Change(annotate(segmentation=[]), "-x-x", {"mask_missing"}, (1, 3)),
    "no object with a mask": Change(no_masks, "-x-x", {"mask_missing"}),
    "negative area": Change(annotate(area=-5), "nnxx", {"area_negative"}),
    "area as empty text": Change(annotate(area=""), "xxxx", {"area_bad"}),
    "infinite area": Change(annotate(area=math.inf), "xxxx", {"area_bad"}),
    "area larger than the box": Change(annotate(area=5000), "nnnn", {"area_large"}),
    "no area": Change(without("annotations", "area"), "--nn", {"area_missing"}),
    "box as text": Change(annotate(bbox=["10", "5", "20", "20"]), "xxxx", {"box_bad"}),
    "no box": Change(annotate(bbox=None), "nnnn", {"box_from_mask"}),
    "negative width": Change(annotate(bbox=[30, 5, -20, 20]), "xxxx", {"box_negative"}),
    "infinite box": Change(annotate(bbox=[10, 5, math.inf, 20]), "xxxx", {"box_infinite"}),
    "iscrowd as text": Change(annotate(iscrowd="0"), "xxxx", {"flag_bad"}),
    "iscrowd of two": Change(annotate(iscrowd=2), "xxxx", {"flag_bad"}, (1, 3)),
    "iscrowd 0.0": Change(annotate(iscrowd=0.0), "----", set()),
    "ignore": Change(annotate(ignore=1), "--nn", {"ignore"}),
    "crowds alone": Change(annotate(iscrowd=1), "ii--", {"crowds_alone"}),
    "a crowd without a mask": Change(
        annotate(iscrowd=1, segmentation=[]), "ii-x", {"crowds_alone", "crowd_mask_missing"}, (1, 3)
    ),
    "boxes only, one of a crowd": Change(
        lambda raw: (no_masks(raw), raw["annotations"][2].update(iscrowd=1)), "-x-x", {"mask_missing"}
    ),
    "keypoints": Change(lambda raw: raw["categories"][0].update(keypoints=["nose"]), "nnnn", {"keypoints"}),
    "videos": Change(lambda raw: raw.update(videos=[{"id": 1}]), "iinn", {"videos"}),
    "an annotation that is no record": Change(lambda raw: raw["annotations"].append(5), "xxxx", {"record_bad"}),
    "mask without a pixel": Change(annotate(segmentation=[[10, 5, 10.2, 5, 10.2, 25, 10, 25]]), "nn-n", {"mask_empty"}),
}


def write_change(name: str, raw: RawDataset, folder: Path) -> Path:
    """The changed data set, with its pictures in ``folder/pictures``."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for image in raw["images"]:
        Image.new("RGB", (48, 36)).save(pictures / image["file_name"])
    changed = copy.deepcopy(raw)
    CHANGES[name].make(changed)
    path = folder / "changed.json"
    path.write_text(json.dumps(changed))
    return path
