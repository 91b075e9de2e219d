"""Finds suspicious content in a valid annotation file, for `tailseg data check`. Training and evaluation skip this.

Shapes: M objects and regions, P polygons.
"""

from collections import Counter
from collections.abc import Generator
from typing import Final

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.checks import measure_polygons
from tailseg.annotations.dataset import Annotations, Objects
from tailseg.annotations.problems import Problem, Problems
from tailseg.annotations.ragged import Ragged, expand_spans
from tailseg.annotations.readings import BOX_AREAS, boxes_agree, describe_larger_areas, to_corners
from tailseg.words import count_noun

MAX_MASK_SHARE: Final = 0.9
"""Largest share of the box's pixels of a mask that is smaller than its box: rounding changes less."""

BLOCK: Final = 1 << 15
"""Pairs of polygons that are checked together: this limits the memory."""


def lint(annotations: Annotations) -> tuple[Problem, ...]:
    """Finds suspicious content.

    Returns:
        The problems, all of them notes.
    """
    problems = Problems()
    objects = annotations.objects
    describe = _Describer(annotations)
    problems.add("polygon_inside", find_inner_polygons(objects), describe)
    if not any(problem.kind.name == "area_group" and BOX_AREAS in problem.detail for problem in annotations.problems):
        rows, detail = find_box_areas(annotations)
        problems.add("area_of_box", rows, describe, detail=detail)
    problems.add("copies", find_copies(objects), describe)
    if annotations.format == "lvis":
        boxes = objects.written_boxes[:, 2] * objects.written_boxes[:, 3]
        areas = np.where(np.isnan(objects.areas), boxes, objects.areas)
        problems.add("area_zero", np.flatnonzero(areas == 0), describe)
        problems.add("absent_present", _describe_absent_present(annotations))
    return tuple(problems.entries)


class _Describer:
    """Names the object of a row in a message."""

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations

    def __call__(self, row: int) -> str:
        objects = self.annotations.objects
        image = int(np.searchsorted(objects.offsets, row, side="right")) - 1
        return f"annotation {objects.ids[row]} (image {self.annotations.image_ids[image]})"


def _describe_absent_present(annotations: Annotations) -> list[str]:
    """Describes the images that list a class as absent and have objects of it."""
    objects, num_classes = annotations.objects, annotations.num_classes
    annotated = ~objects.ignored
    keys = objects.images[annotated] * num_classes + objects.labels[annotated]
    ids = np.array([category.id for category in annotations.categories], np.int64)
    listed = np.repeat(np.arange(annotations.num_images), np.diff(annotations.negative.offsets))
    absent = np.unique(listed * num_classes + np.searchsorted(ids, annotations.negative.values))
    counts = Counter(keys[np.isin(keys, absent)].tolist())
    return [
        f"image {annotations.image_ids[key // num_classes]}: class "
        f"{annotations.categories[key % num_classes].name!r:.60} is listed as absent and has "
        f"{count_noun(count, 'object')}"
        for key, count in sorted(counts.items())
    ]


def find_copies(objects: Objects) -> np.ndarray:
    """Finds copies of earlier annotations: image, class, box, mask and flag are the same.

    Returns:
        The rows, int64.
    """
    columns = [objects.images, objects.labels, *objects.written_boxes.T.view(np.int64)]
    keys = np.zeros(len(objects), np.uint64)
    for column in columns:  # one sort of the hashes finds the candidates
        keys = (keys ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    images, seen, rows = objects.images, set(), []
    for row in np.flatnonzero(counts[inverse] > 1).tolist():
        first, count = int(objects.first_polygons[row]), int(objects.polygon_counts[row])
        polygons = [objects.polygons[index].tobytes() for index in range(first, first + count)]
        key = (
            images[row],
            objects.labels[row],
            objects.ignored[row],
            objects.written_boxes[row].tobytes(),
            objects.run_lengths[row].tobytes(),
            *polygons,
        )
        if key in seen:
            rows.append(row)
        seen.add(key)
    return np.array(rows, np.int64)


def find_box_areas(annotations: Annotations) -> tuple[np.ndarray, str]:
    """Finds areas that are those of the boxes, while the masks are clearly smaller.

    If many masks of the file do not agree with their boxes, only objects with agreeing mask and box count.

    Returns:
        The rows, int64, and the text on what these areas change.
    """
    objects = annotations.objects
    boxes = objects.written_boxes[:, 2] * objects.written_boxes[:, 3]
    with np.errstate(invalid="ignore"):
        equal = np.isclose(objects.areas, boxes, rtol=1e-3, atol=0.01) & (boxes > 0)
    rows = np.flatnonzero(equal & ~objects.ignored & objects.masked)
    counts = objects.polygon_counts[rows]
    limits, areas = measure_polygons(objects.polygons.take(expand_spans(objects.first_polygons[rows], counts)))
    owners = np.repeat(np.arange(len(rows)), counts)
    masks = np.bincount(owners, weights=areas, minlength=len(rows))
    around = np.repeat([[np.inf, np.inf, -np.inf, -np.inf]], len(rows), axis=0)
    np.minimum.at(around[:, :2], owners, limits[:, :2])
    np.maximum.at(around[:, 2:], owners, limits[:, 2:])
    sizes = annotations.sizes[objects.images[rows]]
    for index in np.flatnonzero(counts == 0).tolist():
        encoded = {"size": sizes[index].tolist(), "counts": objects.run_lengths[int(rows[index])].tobytes()}
        masks[index], around[index] = coco.area(encoded), to_corners(coco.toBbox(encoded)[None])[0]
    smaller = masks <= MAX_MASK_SHARE * boxes[rows]
    if any(problem.kind.name == "mask_box" for problem in annotations.problems):
        smaller &= boxes_agree(around, to_corners(objects.written_boxes[rows]))
    return rows[smaller], describe_larger_areas(boxes[rows[smaller]], masks[smaller])


def find_inner_polygons(objects: Objects) -> np.ndarray:
    """Finds objects with a polygon inside another one of the same object.

    Returns:
        The rows, int64.
    """
    rows = np.flatnonzero((objects.polygon_counts > 1) & ~objects.ignored)
    polygons = objects.polygons.take(expand_spans(objects.first_polygons[rows], objects.polygon_counts[rows]))
    owners = np.repeat(np.arange(len(rows)), objects.polygon_counts[rows])
    limits, _ = measure_polygons(polygons)
    inside: list[np.ndarray] = []
    for inner, outer in _list_pairs(owners):
        low, high = limits[inner, :2] >= limits[outer, :2], limits[inner, 2:] <= limits[outer, 2:]
        within = low.all(axis=1) & high.all(axis=1)
        inner, outer = inner[within], outer[within]
        first = polygons.values[np.stack([polygons.offsets[inner], polygons.offsets[inner] + 1], axis=1)]
        candidates = _contains_points(polygons, outer, first)
        inside += [
            owners[one]
            for one, other in zip(inner[candidates].tolist(), outer[candidates].tolist(), strict=True)
            if _is_inside(polygons, one, other)
        ]
    return rows[np.unique(np.array(inside, np.int64))]


def _list_pairs(owners: np.ndarray) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Lists the ordered pairs of different polygons of one object, in blocks of two int64 arrays.

    Args:
        owners: int64 ``[P]``, the object of each polygon, ascending.
    """
    first = np.searchsorted(owners, owners)
    counts = np.searchsorted(owners, owners, side="right") - first
    ends = np.cumsum(counts)
    start = 0
    while start < len(owners):
        reached = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, reached + BLOCK)))
        inner = np.repeat(np.arange(start, stop), counts[start:stop])
        outer = expand_spans(first[start:stop], counts[start:stop])
        different = inner != outer
        yield inner[different], outer[different]
        start = stop


def _contains_points(polygons: Ragged, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether each polygon contains its point (float64 ``[rows, 2]``) by the even-odd rule, bool ``[rows]``."""
    selected = polygons.take(rows)
    corners = selected.values.reshape(-1, 2)
    starts, lengths = selected.offsets[:-1] // 2, np.diff(selected.offsets) // 2
    following = np.arange(1, len(corners) + 1)
    following[starts + lengths - 1] = starts
    owners = np.repeat(np.arange(len(rows)), lengths)
    crossed = _crosses_ray(corners, corners[following], points[owners])
    return np.bincount(owners[crossed], minlength=len(rows)) % 2 == 1


def _is_inside(polygons: Ragged, inner: int, outer: int) -> bool:
    """Whether all corners of a polygon are inside another one."""
    corners = polygons[outer].reshape(-1, 2)
    points = polygons[inner].reshape(-1, 1, 2)
    crossed = _crosses_ray(corners, np.roll(corners, -1, axis=0), points)
    return bool((crossed.sum(axis=1) % 2 == 1).all())


def _crosses_ray(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether the ray from a point to the right crosses the edge between two corners; all float64 ``[..., 2]``."""
    above = (one[..., 1] > points[..., 1]) != (other[..., 1] > points[..., 1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x = one[..., 0] + (points[..., 1] - one[..., 1]) / (other[..., 1] - one[..., 1]) * (other - one)[..., 0]
        return above & (points[..., 0] < x)
