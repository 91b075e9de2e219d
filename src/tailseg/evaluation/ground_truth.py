"""The annotation file as the evaluator needs it: checked, and mended where mending is safe."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from hotcoco import COCO
from hotcoco import mask as run_lengths

from tailseg.annotations.types import Group
from tailseg.evaluation.json_files import read_json
from tailseg.evaluation.records import is_run_lengths, mask_areas

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class Objects:
    """M objects and crowds, in the file's order.

    Attributes:
        images, classes: int64 ``[M]``, positions among the image ids and category ids in ascending order.
        boxes: float64 ``[M, 4]`` xywh.
        areas: float64 ``[M]``, of the file.
        crowds: bool ``[M]``: regions to be left alone.
        segmentations: M polygons or run lengths; None if masks were not asked for.
    """

    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    segmentations: list[Any] | None

    def __len__(self) -> int:
        return len(self.areas)


@dataclass(frozen=True)
class GroundTruth:
    """What is to be found.

    Attributes:
        protocol: lvis for a file with LVIS's lists, else coco.
        sizes: image id -> (height, width), in order of id.
        categories: id -> name, in order of id.
        groups: category id -> frequency group; empty if unknown.
        objects: what is annotated.
        negative, not_exhaustive: LVIS's lists, ascending keys ``image * K + class`` of positions in ``sizes`` and
            ``categories``; empty for coco.
        notes: what was mended.
        path: the file.
        data: its images and categories, for engines that want them.
    """

    protocol: Literal["lvis", "coco"]
    sizes: dict[int, tuple[int, int]]
    categories: dict[int, str]
    groups: dict[int, Group]
    objects: Objects
    negative: np.ndarray
    not_exhaustive: np.ndarray
    notes: tuple[str, ...]
    path: Path
    data: dict[str, Any]

    @cached_property
    def image_ids(self) -> np.ndarray:
        """int64, ascending."""
        return np.fromiter(self.sizes, dtype=np.int64, count=len(self.sizes))

    @cached_property
    def category_ids(self) -> np.ndarray:
        """int64 ``[K]``, ascending."""
        return np.fromiter(self.categories, dtype=np.int64, count=len(self.categories))

    @cached_property
    def image_sizes(self) -> np.ndarray:
        """int64 ``[images, 2]``: height and width, in order of id."""
        return np.asarray(list(self.sizes.values()), dtype=np.int64).reshape(-1, 2)

    @cached_property
    def namings(self) -> list[dict[str | int, int]]:
        """Image ids by what results may call images instead, where that is something else than the id.

        By the file's name without folder and suffix; or as ultralytics does, which makes a number of a name of digits.
        Names that several images share are left out.
        """
        stems = [
            (Path(str(image["file_name"])).stem, image["id"]) for image in self.data["images"] if "file_name" in image
        ]
        numbers = [(int(stem) if stem.isdecimal() and len(stem) < 19 else stem, key) for stem, key in stems]
        namings = []
        for pairs in (stems, numbers):
            times = Counter(name for name, _ in pairs)
            names = {name: key for name, key in pairs if times[name] == 1}
            if any(name != key for name, key in names.items()):
                namings.append(names)
        return namings

    @cached_property
    def object_masks(self) -> list[dict[str, Any]]:
        """Run lengths of all objects."""
        assert self.objects.segmentations is not None
        sizes = self.image_sizes[self.objects.images].tolist()
        return [
            _run_lengths(segmentation, height, width)
            for segmentation, (height, width) in zip(self.objects.segmentations, sizes, strict=True)
        ]

    @cached_property
    def class_groups(self) -> tuple[Group | None, ...]:
        """K frequency groups, None where unknown."""
        return tuple(self.groups.get(key) for key in self.categories)

    @cached_property
    def object_counts(self) -> np.ndarray:
        """int64 ``[K]``: objects to be found, crowds left out."""
        return np.bincount(self.objects.classes[~self.objects.crowds], minlength=len(self.categories))

    def keys(self, image_ids: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
        """int64 keys ``image * K + class`` of known ids."""
        images = np.searchsorted(self.image_ids, image_ids)
        return images * len(self.categories) + np.searchsorted(self.category_ids, category_ids)

    @cached_property
    def looked_for(self) -> np.ndarray:
        """Ascending keys of the images and classes that count: lvis, where an object or a negative list says so."""
        objects = self.objects
        return np.union1d(objects.images * len(self.categories) + objects.classes, self.negative)

    def counts(self, image_ids: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
        """Whether a detection of this class in this image can count for or against, bool ``[n]``."""
        if self.protocol == "coco":
            return np.ones(len(image_ids), dtype=bool)
        return is_member(self.keys(image_ids, category_ids), self.looked_for)

    @cached_property
    def coco(self) -> COCO:
        """hotcoco's data set."""
        return COCO(self.dataset())

    def dataset(self) -> dict[str, Any]:
        """The mended annotation file, its ids being places in order of id, from 1: hotcoco wants none beyond 2^53."""
        objects = self.objects
        images = {key: index for index, key in enumerate(self.sizes, start=1)}
        categories = {key: index for index, key in enumerate(self.categories, start=1)}
        annotations = [
            {
                "id": index + 1,  # the file's own may be missing, or repeated
                "image_id": image_id,
                "category_id": category_id,
                "bbox": bbox,
                "area": area,
                "iscrowd": crowd,
            }
            for index, (image_id, category_id, bbox, area, crowd) in enumerate(
                zip(
                    (objects.images + 1).tolist(),
                    (objects.classes + 1).tolist(),
                    objects.boxes.tolist(),
                    objects.areas.tolist(),
                    objects.crowds.astype(int).tolist(),
                    strict=True,
                )
            )
        ]
        for annotation, segmentation in zip(annotations, objects.segmentations or (), strict=False):
            annotation["segmentation"] = segmentation
        return {
            "images": [
                image
                | {"id": images[image["id"]]}
                | {key: [categories[category] for category in image[key]] for key in LVIS_LISTS if key in image}
                for image in self.data["images"]
            ],
            "categories": [category | {"id": categories[category["id"]]} for category in self.data["categories"]],
            "annotations": annotations,
        }


def _run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:  # noqa: ANN401
    if isinstance(segmentation, dict):
        return segmentation
    parts = run_lengths.frPyObjects(segmentation, height, width)
    return parts[0] if len(parts) == 1 else run_lengths.merge(parts)


def is_member(keys: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Which keys are among the ascending ones, bool."""
    if not len(ascending):
        return np.zeros(len(keys), dtype=bool)
    places = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
    return ascending[places] == keys


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
    sizes = {key: _size(images[key], path) for key in sorted(images)}
    if masks:
        _check_run_lengths(annotations, sizes, path)
    if protocol == "lvis":
        annotations = _without_empty(annotations, notes)
    order = {key: index for index, key in enumerate(sorted(categories))}
    return GroundTruth(
        protocol=protocol,
        sizes=sizes,
        categories={key: _text(categories[key].get("name", key)) for key in order},
        groups=_groups(categories, groups, path, needed=protocol == "lvis"),
        objects=_objects(annotations, {key: index for index, key in enumerate(sorted(images))}, order, masks),
        negative=_listed(images, order, "neg_category_ids", protocol),
        not_exhaustive=_listed(images, order, "not_exhaustive_category_ids", protocol),
        notes=tuple(notes),
        path=path,
        data={"images": data["images"], "categories": data["categories"]},
    )


def _objects(
    annotations: list[dict[str, Any]], images: dict[int, int], classes: dict[int, int], masks: bool
) -> Objects:
    return Objects(
        images=np.asarray([images[annotation["image_id"]] for annotation in annotations], dtype=np.int64),
        classes=np.asarray([classes[annotation["category_id"]] for annotation in annotations], dtype=np.int64),
        boxes=np.asarray([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4),
        areas=np.asarray([annotation["area"] for annotation in annotations], dtype=np.float64),
        crowds=np.asarray([annotation["iscrowd"] for annotation in annotations], dtype=bool),
        segmentations=[annotation["segmentation"] for annotation in annotations] if masks else None,
    )


def _listed(images: dict[int, Any], classes: dict[int, int], key: str, protocol: str) -> np.ndarray:
    if protocol == "coco":
        return np.zeros(0, dtype=np.int64)
    keys = [
        index * len(classes) + classes[category_id]
        for index, image_id in enumerate(sorted(images))
        for category_id in images[image_id][key]
    ]
    return np.unique(np.asarray(keys, dtype=np.int64))


_REMEDY = "pass groups= (category id -> group; --train on the command line)"
_SECTIONS = ("images", "annotations", "categories")


def _by_id(records: Sequence[Any], section: str, path: Path) -> dict[int, dict[str, Any]]:
    ids = [record.get("id") for record in records if isinstance(record, dict)]
    whole = [key for key in ids if isinstance(key, int) and abs(key) < 2**63]
    if len({*whole}) < len(records):
        raise ValueError(f"{path}: each of {section!r} needs an id of its own, a whole number")
    return dict(zip(whole, records, strict=True))


def _size(image: dict[str, Any], path: Path) -> tuple[int, int]:
    """Height and width, 0 where the file has none: boxes can be scored without."""
    sides = [image.get(side) or 0 for side in ("height", "width")]
    if not all(isinstance(side, int | float) and side == side // 1 and 0 <= side < 2**31 for side in sides):
        raise ValueError(f"{path}: height and width of image {image['id']} should be whole numbers, got {sides!r:.100}")
    return int(sides[0]), int(sides[1])


def _protocol(data: dict[str, Any], path: Path, notes: list[str], *, groups_given: bool) -> Literal["lvis", "coco"]:
    if any(key in image for image in data["images"] for key in LVIS_LISTS):
        return "lvis"
    if any("frequency" in category for category in data["categories"]):
        lists = " or ".join(map(repr, LVIS_LISTS))
        if not groups_given:
            raise ValueError(
                f"{path}: the categories have LVIS's 'frequency', but no image has {lists}, without which LVIS AP "
                "would be wrong. Take the original LVIS file; or, if every object of every class is annotated, "
                f"{_REMEDY} or remove 'frequency': the file is then scored as COCO"
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
        listed = [category for image in images.values() for category in image[key]]
        wrong = [category for category in listed if not isinstance(category, int)]
        if wrong:
            raise ValueError(f"{path}: {key!r} should list category ids, whole numbers, got {wrong[0]!r:.100}")
        unknown = {*listed} - categories.keys()
        if unknown:
            raise ValueError(f"{path}: {key!r} names categories that the file lacks: {_few(unknown)}")


def _mended(annotations: list[Any], masks: bool, path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Annotations with area, iscrowd and, if asked for, segmentation."""
    for index, annotation in enumerate(annotations):
        if not isinstance(annotation, dict) or not {"image_id", "category_id", "bbox"} <= annotation.keys():
            raise ValueError(
                f"{path}: annotation {index} needs image_id, category_id and bbox, got {annotation!r:.200}"
            )
    without_area = sum(annotation.get("area") is None for annotation in annotations)
    if without_area:
        notes.append(f"{without_area:,} objects without 'area' are sized by their boxes")
    _check_flags(annotations, path)
    ignored = sum(bool(annotation.get("ignore")) for annotation in annotations)
    if ignored:
        notes.append(f"{ignored:,} objects marked 'ignore' are left alone, as crowds are")
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "area": _box_area(annotation, path) if annotation.get("area") is None else annotation["area"],
            "iscrowd": int(bool(annotation.get("iscrowd") or annotation.get("ignore"))),
        }
        | ({"segmentation": _segmentation(annotation, index, path)} if masks else {})
        for index, annotation in enumerate(annotations)
    ]


def _text(value: object) -> str:
    """As text that can be written: JSON can escape half a surrogate pair."""
    return str(value).encode(errors="replace").decode()


def _without_empty(annotations: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """LVIS only: lvis-api never loads objects of zero area. (pycocotools asks for them all the same.)"""
    kept = [annotation for annotation in annotations if annotation["area"] > 0]
    if len(kept) < len(annotations):
        notes.append(f"{len(annotations) - len(kept):,} objects of zero area are not asked for, as in lvis-api")
    return kept


def _check_flags(annotations: list[dict[str, Any]], path: Path) -> None:
    """A flag of "0" would make a crowd of an object."""
    for index, annotation in enumerate(annotations):
        flags = {key: annotation[key] for key in ("iscrowd", "ignore") if annotation.get(key) not in (None, 0, 1)}
        if flags:
            raise ValueError(
                f"{path}: iscrowd and ignore should be 0 or 1, got {flags!r:.100} of annotation "
                f"{annotation.get('id', index)}"
            )


def _box_area(annotation: dict[str, Any], path: Path) -> float:
    try:
        _, _, width, height = annotation["bbox"]
        return float(width) * float(height)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{path}: a bbox should be [x, y, width, height], got {annotation['bbox']!r:.100}") from None


def _segmentation(annotation: dict[str, Any], index: int, path: Path) -> Any:  # noqa: ANN401 - polygons or run lengths
    segmentation = annotation.get("segmentation")
    name = f"{path}: annotation {annotation.get('id', index)}"
    if not segmentation:
        raise ValueError(
            f"{name} has no segmentation, masks cannot be scored; ask for iou_types=('bbox',), on the command line "
            "--only bbox, to score boxes alone"
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
    return all(isinstance(number, int | float) and abs(number) < 1e300 for number in value)


def _check_annotations(
    annotations: list[dict[str, Any]], images: dict[int, Any], categories: dict[int, Any], path: Path
) -> None:
    for key, known, section in (("image_id", images, "images"), ("category_id", categories, "categories")):
        wrong = [annotation[key] for annotation in annotations if not isinstance(annotation[key], Hashable)]
        if wrong:
            raise ValueError(f"{path}: the {key} of annotations should be whole numbers, got {wrong[0]!r:.100}")
        unknown = {annotation[key] for annotation in annotations} - known.keys()
        if unknown:
            raise ValueError(f"{path}: annotations refer to {section} that the file lacks: {key} {_few(unknown)}")
    try:
        boxes = _numbers([annotation["bbox"] for annotation in annotations]).reshape(len(annotations), 4)
        areas = _numbers([annotation["area"] for annotation in annotations]).reshape(len(annotations))
    except (TypeError, ValueError):
        raise ValueError(f"{path}: each annotation's bbox must be four numbers and its area one number") from None
    wrong = ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] >= 0).all(1) & np.isfinite(areas) & (areas >= 0))
    if wrong.any():
        first = annotations[int(wrong.argmax())]
        raise ValueError(
            f"{path}: {int(wrong.sum()):,} objects have a bbox or area that is infinite or negative; "
            f"the first, in image {first['image_id']}: bbox {first['bbox']}, area {first['area']}"
        )


def _numbers(values: list[Any]) -> np.ndarray:
    """float64, or a ValueError: NumPy would read a number out of a text."""
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "biuf":
        raise ValueError(values)
    return numbers.astype(np.float64)


def _check_run_lengths(annotations: list[dict[str, Any]], sizes: dict[int, tuple[int, int]], path: Path) -> None:
    """Of the wrong size they would never be found."""
    for annotation in annotations:
        mask, image_id = annotation["segmentation"], annotation["image_id"]
        if not isinstance(mask, dict):
            continue
        if tuple(mask["size"]) != sizes[image_id]:
            raise ValueError(
                f"{path}: a mask in image {image_id} has size [height, width] = {list(mask['size'])}, but the image is "
                f"{list(sizes[image_id])}"
            )
        try:
            mask_areas(mask)
        except ValueError as error:
            raise ValueError(f"{path}: the run lengths of a mask in image {image_id} are broken: {error}") from error


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
            remedy = _REMEDY if given is None else "mend groups="
            raise ValueError(
                f"{path}: the frequency group of category {key} should be 'r', 'c' or 'f', got {group!r:.60}; {remedy}"
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
    first = ", ".join(f"{key!s:.60}" for key in sorted(ids, key=str)[:5])
    return first + (f" and {len(ids) - 5:,} more" if len(ids) > 5 else "")
