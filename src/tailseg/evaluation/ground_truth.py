"""The annotation file as the evaluator needs it: checked, and mended where mending is safe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from hotcoco import COCO

from tailseg.evaluation.results import is_run_lengths, read_json
from tailseg.structures import Group

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class GroundTruth:
    """What is to be found.

    Attributes:
        coco: the engine's data set.
        protocol: lvis for a file with LVIS's lists, else coco.
        sizes: image id -> (height, width).
        categories: id -> name, in order of id.
        groups: category id -> frequency group; empty if unknown.
        object_counts: category id -> objects to be found, crowds left out.
        notes: what was mended.
        path: the file.
    """

    coco: COCO
    protocol: Literal["lvis", "coco"]
    sizes: dict[int, tuple[int, int]]
    categories: dict[int, str]
    groups: dict[int, Group]
    object_counts: dict[int, int]
    notes: tuple[str, ...]
    path: Path


def read_ground_truth(path: Path, *, masks: bool, groups: Mapping[int, Group] | None = None) -> GroundTruth:
    """Reads an LVIS or COCO annotation file for evaluation.

    Args:
        path: the JSON file.
        masks: every object needs a segmentation.
        groups: category id -> frequency group; None takes LVIS's ``frequency``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not such a file, or disagrees with itself; the message names the record and the remedy.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in _SECTIONS):
        raise ValueError(f"{path} is no COCO or LVIS annotation file: expected an object with the lists {_SECTIONS}")
    images, categories = (_by_id(data[section], section, path) for section in ("images", "categories"))
    if not images:
        raise ValueError(f"{path} holds no images: there is nothing to evaluate")
    notes: list[str] = []
    protocol = _protocol(data, path, notes, groups_given=groups is not None)
    if protocol == "lvis":
        _check_lvis_lists(images, categories, path)
    annotations = _mended(data["annotations"], masks, path, notes)
    _check_annotations(annotations, images, categories, path)
    if protocol == "lvis":
        annotations = _without_empty(annotations, notes)
    counts = dict.fromkeys(sorted(categories), 0)
    for annotation in annotations:
        counts[annotation["category_id"]] += not annotation["iscrowd"]
    return GroundTruth(
        coco=COCO({"images": data["images"], "categories": data["categories"], "annotations": annotations}),
        protocol=protocol,
        sizes={key: (image.get("height", 0), image.get("width", 0)) for key, image in images.items()},
        categories={key: str(categories[key].get("name", key)) for key in counts},
        groups=_groups(categories, groups, path, needed=protocol == "lvis"),
        object_counts=counts,
        notes=tuple(notes),
        path=path,
    )


_SECTIONS = ("images", "annotations", "categories")


def _by_id(records: Sequence[Any], section: str, path: Path) -> dict[int, dict[str, Any]]:
    index = {record.get("id"): record for record in records if isinstance(record, dict)}
    if len(index) != len(records) or not all(isinstance(key, int) for key in index):
        raise ValueError(f"{path}: each of {section!r} needs an id of its own, a whole number")
    return index


def _protocol(data: dict[str, Any], path: Path, notes: list[str], *, groups_given: bool) -> Literal["lvis", "coco"]:
    if any(key in image for image in data["images"] for key in LVIS_LISTS):
        return "lvis"
    if any("frequency" in category for category in data["categories"]):
        lists = " or ".join(map(repr, LVIS_LISTS))
        if not groups_given:
            raise ValueError(
                f"{path}: the categories have LVIS's 'frequency', but no image has {lists}, without which LVIS AP "
                "would be wrong. Take the original LVIS file; or, if every object of every class is annotated, pass "
                "groups= (category id -> group) or remove 'frequency': the file is then scored as COCO"
            )
        notes.append(f"the file has LVIS's 'frequency', but not {lists}: scored as COCO, not comparable with LVIS AP")
    return "coco"


def _check_lvis_lists(images: dict[int, Any], categories: dict[int, Any], path: Path) -> None:
    for key in LVIS_LISTS:
        missing = [image_id for image_id, image in images.items() if not isinstance(image.get(key), list)]
        if missing:
            raise ValueError(
                f"{path}: {len(missing):,} of {len(images):,} images lack the list {key!r} (the first is image "
                f"{missing[0]}), without which LVIS AP would be wrong. Take the original LVIS file, or write the list "
                "([] if every class was looked for everywhere)"
            )
        unknown = {category for image in images.values() for category in image[key]} - categories.keys()
        if unknown:
            raise ValueError(f"{path}: {key!r} names categories that the file lacks: {_few(unknown)}")


def _mended(annotations: list[Any], masks: bool, path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Annotations with id, area, iscrowd and, if asked for, segmentation."""
    for index, annotation in enumerate(annotations):
        if not isinstance(annotation, dict) or not {"image_id", "category_id", "bbox"} <= annotation.keys():
            raise ValueError(
                f"{path}: annotation {index} needs image_id, category_id and bbox, got {annotation!r:.200}"
            )
    without_area = sum(annotation.get("area") is None for annotation in annotations)
    if without_area:
        notes.append(f"{without_area:,} objects without 'area' are sized by their boxes")
    ignored = sum(bool(annotation.get("ignore")) for annotation in annotations)
    if ignored:
        notes.append(f"{ignored:,} objects marked 'ignore' are left alone, as crowds are")
    return [
        {
            "id": index + 1,  # the file's own may be missing, or repeated
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "area": _box_area(annotation, path) if annotation.get("area") is None else annotation["area"],
            "iscrowd": int(bool(annotation.get("iscrowd") or annotation.get("ignore"))),
        }
        | ({"segmentation": _segmentation(annotation, index, path)} if masks else {})
        for index, annotation in enumerate(annotations)
    ]


def _without_empty(annotations: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """LVIS only: lvis-api never loads objects of zero area. (pycocotools asks for them all the same.)"""
    kept = [annotation for annotation in annotations if annotation["area"] > 0]
    if len(kept) < len(annotations):
        notes.append(f"{len(annotations) - len(kept):,} objects of zero area are not asked for, as in lvis-api")
    return kept


def _box_area(annotation: dict[str, Any], path: Path) -> float:
    try:
        _, _, width, height = annotation["bbox"]
        return float(width * height)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: a bbox should be [x, y, width, height], got {annotation['bbox']!r:.100}") from None


def _segmentation(annotation: dict[str, Any], index: int, path: Path) -> Any:  # noqa: ANN401 - polygons or run lengths
    segmentation = annotation.get("segmentation")
    name = f"{path}: annotation {annotation.get('id', index)}"
    if not segmentation:
        raise ValueError(
            f"{name} has no segmentation, masks cannot be scored; ask for iou_types=('bbox',) to score boxes alone"
        )
    # The engines would take four numbers for a box, and crash on some of the rest.
    if not (is_run_lengths(segmentation) or (isinstance(segmentation, list) and all(map(_is_polygon, segmentation)))):
        raise ValueError(
            f"{name}: the segmentation should be run lengths, or polygons [x1, y1, x2, y2, x3, y3, ..] of at least "
            f"three points, got {segmentation!r:.100}; mend or remove that annotation"
        )
    return segmentation


def _is_polygon(value: Any) -> bool:  # noqa: ANN401
    if not isinstance(value, list) or len(value) < 6 or len(value) % 2:
        return False
    return all(isinstance(number, int | float) and isfinite(number) for number in value)


def _check_annotations(
    annotations: list[dict[str, Any]], images: dict[int, Any], categories: dict[int, Any], path: Path
) -> None:
    for key, known, section in (("image_id", images, "images"), ("category_id", categories, "categories")):
        unknown = {annotation[key] for annotation in annotations} - known.keys()
        if unknown:
            raise ValueError(f"{path}: annotations refer to {section} that the file lacks: {key} {_few(unknown)}")
    try:
        boxes = np.asarray([annotation["bbox"] for annotation in annotations], dtype=np.float64)
        boxes = boxes.reshape(len(annotations), 4)
        areas = np.asarray([annotation["area"] for annotation in annotations], dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: each annotation's bbox must be four numbers and its area one number") from None
    wrong = ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] >= 0).all(1) & np.isfinite(areas) & (areas >= 0))
    if wrong.any():
        first = annotations[int(wrong.argmax())]
        raise ValueError(
            f"{path}: {int(wrong.sum()):,} objects have a bbox or area that is infinite or negative; "
            f"the first, in image {first['image_id']}: bbox {first['bbox']}, area {first['area']}"
        )


def _groups(
    categories: dict[int, Any], given: Mapping[int, Group] | None, path: Path, *, needed: bool
) -> dict[int, Group]:
    """Frequency groups by category id: those given, else the file's, else none."""
    if given is None and not needed:
        return {}
    own = {key: category.get("frequency") for key, category in categories.items()}
    groups: dict[int, Group] = {}
    for key, group in (own if given is None else given).items():
        if group not in get_args(Group):
            remedy = "pass groups= (category id -> group)" if given is None else "mend groups="
            raise ValueError(
                f"{path}: the frequency group of category {key} should be 'r', 'c' or 'f', got {group!r}; {remedy}"
            )
        groups[key] = group
    unknown = groups.keys() - categories.keys()
    if unknown:
        raise ValueError(
            f"groups= names categories that {path} lacks: {_few(unknown)}; its keys are category ids, not labels"
        )
    return groups


def _few(ids: set[int]) -> str:
    """The first few of many ids."""
    ordered = sorted(ids, key=str)
    return ", ".join(map(str, ordered[:5])) + (f" and {len(ordered) - 5:,} more" if len(ordered) > 5 else "")
