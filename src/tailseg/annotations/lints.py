"""What is suspect in a well-formed annotation file. `tailseg data check` looks for it; reading for a use does not.

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

MAX_MASK_SHARE: Final = 0.9
"""A mask with at most this share of its box's pixels is smaller than the box: rasterizing rounds by less."""

BLOCK: Final = 1 << 15
"""Pairs of polygons looked at together: bounds the memory."""


def lint(annotations: Annotations) -> tuple[Problem, ...]:
    """What is suspect, as notes."""
    problems = Problems()
    objects = annotations.objects
    name = _Describer(annotations)
    problems.add("polygon_inside", find_inner_polygons(objects), name)
    if not any(each.kind.name == "area_group" and BOX_AREAS in each.detail for each in annotations.problems):
        rows, changed = find_box_areas(annotations)
        problems.add("area_of_box", rows, name, detail=changed)
    problems.add("copies", find_copies(objects), name)
    if annotations.format == "lvis":
        boxes = objects.written_boxes[:, 2] * objects.written_boxes[:, 3]
        areas = np.where(np.isnan(objects.areas), boxes, objects.areas)
        problems.add("area_zero", np.flatnonzero(areas == 0), name)
        problems.add("absent_present", _describe_absent_present(annotations))
    return tuple(problems.entries)


class _Describer:
    """Names the object in a row, for messages."""

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations

    def __call__(self, row: int) -> str:
        objects = self.annotations.objects
        image = int(np.searchsorted(objects.offsets, row, side="right")) - 1
        return f"annotation {objects.ids[row]} (image {self.annotations.image_ids[image]})"


def _describe_absent_present(annotations: Annotations) -> list[str]:
    """Images that list a class as absent and have objects of it, in words."""
    objects, num_classes = annotations.objects, annotations.num_classes
    kept = ~objects.ignored
    keys = objects.images[kept] * num_classes + objects.labels[kept]
    ids = np.array([category.id for category in annotations.categories], np.int64)
    listed = np.repeat(np.arange(annotations.num_images), np.diff(annotations.negative.offsets))
    absent = np.unique(listed * num_classes + np.searchsorted(ids, annotations.negative.values))
    found = Counter(keys[np.isin(keys, absent)].tolist())
    return [
        f"image {annotations.image_ids[key // num_classes]}: class "
        f"{annotations.categories[key % num_classes].name!r:.60} is listed as absent and has {count} objects"
        for key, count in sorted(found.items())
    ]


def find_copies(objects: Objects) -> np.ndarray:
    """Rows that say what a row before them says, int64: image, class, box, mask and flag are the same."""
    columns = [objects.images, objects.labels, *objects.written_boxes.T.view(np.int64)]
    keys = np.zeros(len(objects), np.uint64)
    for column in columns:  # a hash, so that one sort tells which rows may be alike
        keys = (keys ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    _, place, times = np.unique(keys, return_inverse=True, return_counts=True)
    images, seen, found = objects.images, set(), []
    for row in np.flatnonzero(times[place] > 1).tolist():
        first, count = int(objects.first_polygons[row]), int(objects.polygon_counts[row])
        polygons = [objects.polygons[at].tobytes() for at in range(first, first + count)]
        key = (
            images[row],
            objects.labels[row],
            objects.ignored[row],
            objects.written_boxes[row].tobytes(),
            objects.run_lengths[row].tobytes(),
            *polygons,
        )
        if key in seen:
            found.append(row)
        seen.add(key)
    return np.array(found, np.int64)


def find_box_areas(annotations: Annotations) -> tuple[np.ndarray, str]:
    """Rows whose area is that of their box, while their mask is clearly smaller, int64, and what that changes.

    Where many masks do not agree with their boxes, those are told: it is the mask, or the box, that is wrong.
    """
    objects = annotations.objects
    boxes = objects.written_boxes[:, 2] * objects.written_boxes[:, 3]
    with np.errstate(invalid="ignore"):
        alike = np.isclose(objects.areas, boxes, rtol=1e-3, atol=0.01) & (boxes > 0)
    rows = np.flatnonzero(alike & ~objects.ignored & objects.masked)
    counts = objects.polygon_counts[rows]
    limits, areas = measure_polygons(objects.polygons.take(expand_spans(objects.first_polygons[rows], counts)))
    owners = np.repeat(np.arange(len(rows)), counts)
    masks = np.bincount(owners, weights=areas, minlength=len(rows))
    around = np.repeat([[np.inf, np.inf, -np.inf, -np.inf]], len(rows), axis=0)
    np.minimum.at(around[:, :2], owners, limits[:, :2])
    np.maximum.at(around[:, 2:], owners, limits[:, 2:])
    sizes = annotations.sizes[objects.images[rows]]
    for place in np.flatnonzero(counts == 0).tolist():
        encoded = {"size": sizes[place].tolist(), "counts": objects.run_lengths[int(rows[place])].tobytes()}
        masks[place], around[place] = coco.area(encoded), to_corners(coco.toBbox(encoded)[None])[0]
    told = masks <= MAX_MASK_SHARE * boxes[rows]
    if any(each.kind.name == "mask_box" for each in annotations.problems):
        told &= boxes_agree(around, to_corners(objects.written_boxes[rows]))
    return rows[told], describe_larger_areas(boxes[rows[told]], masks[told])


def find_inner_polygons(objects: Objects) -> np.ndarray:
    """Rows with a polygon that lies inside another one of the same object, int64."""
    rows = np.flatnonzero((objects.polygon_counts > 1) & ~objects.ignored)
    polygons = objects.polygons.take(expand_spans(objects.first_polygons[rows], objects.polygon_counts[rows]))
    owners = np.repeat(np.arange(len(rows)), objects.polygon_counts[rows])
    limits, _ = measure_polygons(polygons)
    found: list[np.ndarray] = []
    for inner, outer in _list_pairs(owners):
        within = (limits[inner, :2] >= limits[outer, :2]).all(axis=1) & (limits[inner, 2:] <= limits[outer, 2:]).all(
            axis=1
        )
        inner, outer = inner[within], outer[within]
        first = polygons.values[np.stack([polygons.offsets[inner], polygons.offsets[inner] + 1], axis=1)]
        begins = _contains_points(polygons, outer, first)
        found += [
            owners[one]
            for one, other in zip(inner[begins].tolist(), outer[begins].tolist(), strict=True)
            if _is_inside(polygons, one, other)
        ]
    return rows[np.unique(np.array(found, np.int64))]


def _list_pairs(owners: np.ndarray) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Ordered pairs of different polygons of one object, two int64 arrays at a time.

    Args:
        owners: int64 ``[P]``, ascending.
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
    """Whether each polygon contains its point (float64 ``[rows, 2]``), bool ``[rows]``: by the even-odd rule."""
    taken = polygons.take(rows)
    corners = taken.values.reshape(-1, 2)
    starts, lengths = taken.offsets[:-1] // 2, np.diff(taken.offsets) // 2
    following = np.arange(1, len(corners) + 1)
    following[starts + lengths - 1] = starts
    owners = np.repeat(np.arange(len(rows)), lengths)
    crossed = _crosses_ray(corners, corners[following], points[owners])
    return np.bincount(owners[crossed], minlength=len(rows)) % 2 == 1


def _is_inside(polygons: Ragged, inner: int, outer: int) -> bool:
    """Whether all corners of a polygon are in another one."""
    corners = polygons[outer].reshape(-1, 2)
    points = polygons[inner].reshape(-1, 1, 2)
    crossed = _crosses_ray(corners, np.roll(corners, -1, axis=0), points)
    return bool((crossed.sum(axis=1) % 2 == 1).all())


def _crosses_ray(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether the ray from the point to the right meets the edge between two corners; all float64 ``[..., 2]``."""
    above = (one[..., 1] > points[..., 1]) != (other[..., 1] > points[..., 1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        at = one[..., 0] + (points[..., 1] - one[..., 1]) / (other[..., 1] - one[..., 1]) * (other - one)[..., 0]
        return above & (points[..., 0] < at)
