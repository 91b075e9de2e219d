"""The annotation file as the evaluator needs it: a view of `tailseg.annotations`, with evaluation's rules.

Objects are sized by the ``area`` of the file, as in lvis-api and pycocotools, and under LVIS's rules those without area
are not asked for, as in lvis-api.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from hotcoco import COCO
from hotcoco import mask as run_lengths

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.formats.registry import exists
from tailseg.annotations.problems import Problem
from tailseg.annotations.ragged import Ragged
from tailseg.annotations.read import judge, open_file
from tailseg.annotations.types import Group
from tailseg.evaluation.image_names import ImageNames
from tailseg.words import count_noun, verb_form

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class Objects:
    """M objects and crowds, ordered by image, in the file's order within an image.

    Attributes:
        images, classes: int64 ``[M]``, positions among the image ids and category ids in ascending order.
        boxes: float64 ``[M, 4]`` xywh.
        areas: float64 ``[M]``, of the file; of the box where it has none.
        crowds: bool ``[M]``: regions that count neither for nor against.
        rows: int64 ``[M]``: rows of the annotations' objects.
    """

    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.areas)


@dataclass(frozen=True)
class GroundTruth:
    """The objects to find, and the rules by which they are scored.

    Attributes:
        protocol: lvis for a file with LVIS's lists, else coco.
        sizes: image id -> (height, width), in order of id.
        categories: id -> name, in order of id.
        groups: category id -> frequency group; empty if unknown.
        objects: the annotated objects.
        negative, not_exhaustive: LVIS's lists, ascending keys ``image * K + class`` of positions in ``sizes`` and
            ``categories``; empty for coco.
        notes: what was changed in reading.
        annotations: the file.
        masks: whether every object has a segmentation that can be scored.
    """

    protocol: Literal["lvis", "coco"]
    sizes: dict[int, tuple[int, int]]
    categories: dict[int, str]
    groups: dict[int, Group]
    objects: Objects
    negative: np.ndarray
    not_exhaustive: np.ndarray
    notes: tuple[str, ...]
    annotations: Annotations
    masks: bool

    @property
    def path(self) -> Path:
        """The annotation file."""
        return self.annotations.path

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
    def image_names(self) -> ImageNames:
        """What results may call the images."""
        return ImageNames(self.annotations)

    def get_segmentation(self, index: int) -> Any:  # noqa: ANN401 - polygons or run lengths
        """The mask of an object as pycocotools takes it: polygons as lists of numbers, or run lengths."""
        objects, row = self.annotations.objects, int(self.objects.rows[index])
        if len(counts := objects.run_lengths[row]):
            size = self.image_sizes[self.objects.images[index]].tolist()
            return {"size": size, "counts": counts.tobytes().decode("ascii")}
        first = objects.first_polygons[row]
        return [objects.polygons[place].tolist() for place in range(first, first + objects.polygon_counts[row])]

    @cached_property
    def object_masks(self) -> list[dict[str, Any]]:
        """Run lengths of all objects."""
        assert self.masks
        sizes = self.image_sizes[self.objects.images].tolist()
        return [_to_run_lengths(self.get_segmentation(index), *size) for index, size in enumerate(sizes)]

    @cached_property
    def class_groups(self) -> tuple[Group | None, ...]:
        """K frequency groups, None where unknown."""
        return tuple(self.groups.get(key) for key in self.categories)

    @cached_property
    def object_counts(self) -> np.ndarray:
        """int64 ``[K]``: objects to be found, crowds left out."""
        return np.bincount(self.objects.classes[~self.objects.crowds], minlength=len(self.categories))

    def get_keys(self, image_ids: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
        """int64 keys ``image * K + class`` of known ids."""
        images = np.searchsorted(self.image_ids, image_ids)
        return images * len(self.categories) + np.searchsorted(self.category_ids, category_ids)

    @cached_property
    def scored_keys(self) -> np.ndarray:
        """Ascending keys of the images and classes that count: lvis, where an object or a negative list says so."""
        objects = self.objects
        return np.union1d(objects.images * len(self.categories) + objects.classes, self.negative)

    def can_count(self, image_ids: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
        """Whether a detection of this class in this image can count for or against, bool ``[n]``."""
        if self.protocol == "coco":
            return np.ones(len(image_ids), dtype=bool)
        return is_member(self.get_keys(image_ids, category_ids), self.scored_keys)

    @cached_property
    def coco(self) -> COCO:
        """hotcoco's data set."""
        return COCO(self.to_dataset())

    def to_dataset(self) -> dict[str, Any]:
        """The annotation file, its ids being places in order of id, from 1: hotcoco wants none beyond 2^53."""
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
        if self.masks:
            for index, annotation in enumerate(annotations):
                annotation["segmentation"] = self.get_segmentation(index)
        lists = (self.annotations.negative, self.annotations.not_exhaustive)
        listed = dict(zip(LVIS_LISTS, lists, strict=True)) if self.protocol == "lvis" else {}
        frequency = {key: {"frequency": group} for key, group in self.groups.items()}
        return {
            "images": [
                {"id": images[key], "height": self.sizes[key][0], "width": self.sizes[key][1]}
                | {name: [categories[category] for category in rows[row].tolist()] for name, rows in listed.items()}
                for row, key in enumerate(self.annotations.image_ids.tolist())
            ],
            "categories": [
                {"id": categories[key], "name": name} | frequency.get(key, {}) for key, name in self.categories.items()
            ],
            "annotations": annotations,
        }


def _to_run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:  # noqa: ANN401
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


def read_ground_truth(
    source: str | Path | Annotations, *, masks: bool, groups: Mapping[int, Group] | None = None
) -> GroundTruth:
    """Reads an LVIS or COCO annotation file for evaluation.

    Args:
        source: the JSON file, or what was read of it.
        masks: every object needs a segmentation.
        groups: category id -> frequency group; None takes LVIS's ``frequency``.

    Returns:
        The ground truth.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not such a file, or disagrees with itself; the message names the record and the remedy.
    """
    if not isinstance(source, Annotations):
        if not exists(Path(source)):
            raise FileNotFoundError(f"no such file: {source}")
        source = open_file(Path(source))
    annotations = source
    if groups is not None:
        annotations = replace(annotations, problems=_without_groups(annotations.problems))
    annotations = judge(annotations, ["masks" if masks else "boxes"])
    notes = [*annotations.notes]
    protocol = annotations.format
    order = np.argsort(annotations.image_ids, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    ids = annotations.image_ids[order].tolist()
    return GroundTruth(
        protocol=protocol,
        sizes=dict(zip(ids, map(tuple, annotations.sizes[order].tolist()), strict=True)),
        categories={category.id: category.name for category in annotations.categories},
        groups=_get_groups(annotations, groups),
        objects=_get_objects(annotations, rank, notes),
        negative=_get_listed_keys(annotations, annotations.negative, rank),
        not_exhaustive=_get_listed_keys(annotations, annotations.not_exhaustive, rank),
        notes=tuple(notes),
        annotations=annotations,
        masks=masks,
    )


def _without_groups(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """The problems that remain where the groups are given."""
    return tuple(each for each in problems if each.kind.name not in ("frequency_bad", "lists_without_frequency"))


def _get_objects(annotations: Annotations, rank: np.ndarray, notes: list[str]) -> Objects:
    """The objects; under LVIS's rules without those of zero area, which lvis-api never loads (pycocotools does)."""
    objects = annotations.objects
    boxes = objects.written_boxes
    areas = np.where(np.isnan(objects.areas), boxes[:, 2] * boxes[:, 3], objects.areas)
    rows = np.arange(len(objects))
    if annotations.format == "lvis":
        rows = np.flatnonzero(areas > 0)
        if len(rows) < len(objects):
            are = verb_form(len(objects) - len(rows), "is", "are")
            notes.append(
                f"{count_noun(len(objects) - len(rows), 'object')} of zero area {are} left out, as in lvis-api"
            )
    return Objects(
        images=rank[objects.images[rows]],
        classes=objects.labels[rows],
        boxes=boxes[rows],
        areas=areas[rows],
        crowds=objects.ignored[rows],
        rows=rows,
    )


def _get_listed_keys(annotations: Annotations, lists: Ragged, rank: np.ndarray) -> np.ndarray:
    """Ascending keys ``image * K + class`` of what the images list."""
    categories = np.array([category.id for category in annotations.categories], np.int64)
    images = np.repeat(rank, np.diff(lists.offsets))
    return np.unique(images * len(categories) + np.searchsorted(categories, lists.values))


def _get_groups(annotations: Annotations, given: Mapping[int, Group] | None) -> dict[int, Group]:
    """Frequency groups by category id: those given, else the file's, else none."""
    if given is None:
        return {c.id: c.group for c in annotations.categories} if annotations.states_groups else {}
    known = {category.id for category in annotations.categories}
    for key, group in given.items():
        if group not in get_args(Group):
            raise ValueError(
                f"{annotations.path}: the frequency group of category {key} should be 'r', 'c' or 'f', got "
                f"{group!r:.60}; correct groups="
            )
    if given and not given.keys() & known:
        raise ValueError(
            f"groups= names categories that {annotations.path} lacks: {_join_few({*given} - known)}; its keys are "
            "category ids, not labels"
        )
    return {key: group for key, group in given.items() if key in known}


def _join_few(ids: set[int]) -> str:
    """The first few of many ids."""
    first = ", ".join(f"{key!s:.60}" for key in sorted(ids, key=str)[:5])
    return first + (f" and {len(ids) - 5:,} more" if len(ids) > 5 else "")
