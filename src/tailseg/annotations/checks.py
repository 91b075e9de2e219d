"""What is wrong with the annotations of a file, all rows at once.

Shapes: M annotations, P polygons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.columns import UNKNOWN, Columns
from tailseg.annotations.json_file import decode_record
from tailseg.annotations.kinds import BITS
from tailseg.annotations.problems import Problems
from tailseg.annotations.ragged import Ragged, compute_offsets
from tailseg.annotations.readings import MAX_SAMPLE, describe_larger_areas, explain_areas, explain_empty_masks
from tailseg.annotations.segmentations import Segmentations

MAX_COORDINATE: Final = 1e9
"""Pixels beyond which a coordinate is none: pycocotools and hotcoco count pixels in 32 bits."""

BOXES_PER_BLOCK: Final = 1 << 14
"""Boxes looked at together: they stay in the processor's cache."""

POLYGONS_PER_BLOCK: Final = 1 << 11
"""Polygons looked at together, for the same reason."""


@dataclass(frozen=True)
class Images:
    """What the checks need of the images.

    Attributes:
        ids: int64, in the file's order.
        sizes: int64 ``[images, 2]``: height and width; 0 where they are not known.
    """

    ids: np.ndarray
    sizes: np.ndarray


class Checks:
    """Checks the annotations, marks rows in ``columns.faults`` and adds problems.

    Args:
        columns: of the annotations; boxes that are missing are taken from the masks.
        records: the annotations as they stand in the file, for messages.
        images: of the file.
        image_of: int64 ``[M]``: each annotation's image, -1 where it is unknown.
        problems: takes what is found.

    Attributes:
        limits, areas: float64 ``[P, 4]`` and ``[P]`` of the polygons that are kept, see `measure_polygons`; known
            after `check_masks`.
    """

    def __init__(
        self, columns: Columns, records: Sequence[Any], images: Images, image_of: np.ndarray, problems: Problems
    ) -> None:
        self.columns = columns
        self.records = records
        self.images = images
        self.image_of = image_of
        self.problems = problems
        self.sizes = images.sizes[image_of] if len(images.sizes) else np.zeros((len(image_of), 2), np.int64)
        self.sizes[image_of < 0] = 0
        self.limits, self.areas = np.zeros((0, 4)), np.zeros(0)

    def name(self, row: int) -> str:
        """An annotation, for messages."""
        number = self.columns.ids[row]
        called = f"annotation {number}" if number != UNKNOWN else f"annotation number {row}"
        return f"{called} (image {self.images.ids[self.image_of[row]]})" if self.image_of[row] >= 0 else called

    def field(self, *keys: str) -> Callable[[int], str]:
        """Names an annotation with what it has."""
        return lambda row: f"{self.name(row)} has {' and '.join(f'{self.value(row, key)!r:.100}' for key in keys)}"

    def value(self, row: int, key: str) -> Any:  # noqa: ANN401 - anything that JSON can hold
        """What an annotation has under a key."""
        record = decode_record(self.records[row])
        return record.get(key) if isinstance(record, dict) else record

    def mark(self, kind: str, rows: np.ndarray, name: Callable[[int], str] | None = None, *, detail: str = "") -> None:
        """Rows (int64, or bool ``[M]``) have a problem of that kind."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        self.columns.faults[rows] |= np.uint32(BITS[kind])
        self.problems.add(kind, rows, name or self.name, detail=detail)

    def is_marked(self, *kinds: str) -> np.ndarray:
        """Rows that were marked, bool ``[M]``."""
        return (self.columns.faults & np.uint32(sum(BITS[kind] for kind in kinds))) > 0

    def check_ids(self, labels: np.ndarray) -> None:
        """Records, their ids, and the images and categories (-1 where unknown) that they name."""
        columns, bad = self.columns, self.is_marked("record_bad")
        self.mark("record_bad", bad, lambda row: f"number {row} is {decode_record(self.records[row])!r:.60}")
        self.mark("id_bad", self.is_marked("id_bad"), self.field("id"))
        self.mark("id_missing", ~bad & ~self.is_marked("id_bad") & (columns.ids == UNKNOWN))
        self.mark("id_twice", ~bad & (columns.ids != UNKNOWN) & ~_find_first_occurrences(columns.ids))
        for key, unknown in (("image", self.image_of < 0), ("category", labels < 0)):
            rows = np.flatnonzero(unknown & ~bad)
            self.columns.faults[rows] |= np.uint32(BITS[f"{key}_unknown"])
            self.problems.add(f"{key}_unknown", rows, lambda row, key=key: self._describe_unknown_id(row, f"{key}_id"))

    def _describe_unknown_id(self, row: int, key: str) -> str:
        return f"{self.name(row).split(' (')[0]} has {key} {self.value(row, key)!r:.60}"

    def check_flags_and_areas(self) -> None:
        """``iscrowd``, ``ignore`` and ``area``."""
        columns = self.columns
        self.mark("flag_bad", self.is_marked("flag_bad"), self.field("iscrowd", "ignore"))
        self.mark("ignore", self.is_marked("ignore"))
        objects, areas = ~columns.ignored, columns.areas
        self.mark("area_bad", self.is_marked("area_bad") | np.isinf(areas), self.field("area"))
        self.mark("area_negative", areas < 0, self.field("area"))
        self.mark("area_missing", np.isnan(areas) & ~self.is_marked("area_bad", "record_bad"))
        sides = columns.boxes[:, 2:]
        with np.errstate(invalid="ignore", over="ignore"):
            largest = (sides + 1).prod(axis=1)  # masks are of whole pixels, boxes need not be
            large = objects & (areas > largest) & ~self.is_marked("area_bad", "box_bad", "box_infinite", "box_negative")
        self.mark(
            "area_large", large, self.field("area", "bbox"), detail=self._explain_large_areas(np.flatnonzero(large))
        )

    def _explain_large_areas(self, rows: np.ndarray) -> str:
        """Of what areas that are larger than the box are, and what they change."""
        areas, boxes = self.columns.areas[rows], self.columns.boxes[rows]
        return explain_areas(areas, boxes, self.sizes[rows]) + describe_larger_areas(areas, boxes[:, 2:].prod(axis=1))

    def check_boxes(self) -> np.ndarray:
        """Boxes as xyxy, float64 ``[M, 4]``, clipped to their images where those have a size."""
        bad = self.is_marked("box_bad")
        self.mark("box_bad", bad, self._describe_box)
        blocks = [slice(start, start + BOXES_PER_BLOCK) for start in range(0, max(len(bad), 1), BOXES_PER_BLOCK)]
        found = [_clip(self.columns.boxes[block], self.sizes[block], bad[block]) for block in blocks]
        clipped, overshoot, infinite, negative, outside = map(np.concatenate, zip(*found, strict=True))
        beyond = ~outside & (overshoot > 1e-3)  # not the rounding of x + width
        self.mark("box_infinite", infinite, self._describe_box)
        self.mark("box_negative", negative, self._describe_box)
        self.mark("box_outside", outside, self._describe_box)
        farthest = overshoot[beyond].max(initial=0)
        self.mark(
            "box_beyond", beyond, self._describe_box, detail=f"{farthest:,.0f}" if farthest >= 10 else f"{farthest:.2g}"
        )
        small = ~(clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)
        self.mark(
            "small",
            small & ~self.columns.ignored & ~(infinite | negative | bad | outside | self.is_marked("record_bad")),
        )
        return clipped

    def _describe_box(self, row: int) -> str:
        height, width = self.sizes[row]
        return f"{self.field('bbox')(row)}, its image is {width} x {height}"

    def check_masks(self) -> Segmentations:
        """The masks without what is left out of them."""
        masks = self.columns.segmentations
        self.mark("mask_unknown", np.array(masks.unknown, np.int64), self._describe_segmentation)
        other = (masks.sizes > 0).all(axis=1) & (self.sizes > 0).all(axis=1) & (masks.sizes != self.sizes).any(axis=1)
        reasons = masks.broken | {
            row: f"size is {masks.sizes[row].tolist()}, the image's [height, width] is {self.sizes[row].tolist()}"
            for row in np.flatnonzero(other).tolist()
        }
        rows = np.array(sorted(reasons), np.int64)
        self.mark("run_lengths_bad", rows, lambda row: f"{self.name(row)}: {reasons[row]}")
        masks = self._check_polygons(masks)
        have = (masks.polygon_counts > 0) | (np.diff(masks.run_lengths.offsets) > 0)
        have |= self.is_marked("mask_unknown", "run_lengths_bad", "polygon_short", "record_bad")
        objects = ~self.columns.ignored & ~self.is_marked("record_bad")
        missing = objects & ~have
        self.mark("mask_missing", missing, detail=f"{int(missing.sum()):,} of {int(objects.sum()):,}")
        if (objects & have).any() or not objects.any():  # else it is a file of boxes
            self.mark("crowd_mask_missing", self.columns.ignored & ~have)
        return masks

    def _describe_segmentation(self, row: int) -> str:
        return f"{self.name(row)} has {self.value(row, 'segmentation')!r:.60}"

    def _check_polygons(self, masks: Segmentations) -> Segmentations:
        polygons, counts = masks.polygons, masks.polygon_counts
        lengths, owners = np.diff(polygons.offsets), np.repeat(np.arange(len(counts)), counts)
        short = (lengths < 6) | (lengths % 2 == 1)
        good = np.bincount(owners[~short], minlength=len(counts)) > 0
        first_short = np.full(len(counts), -1)
        first_short[owners[short]] = lengths[short]
        parts = np.bincount(owners[short], minlength=len(counts)) > 0
        said = lambda row: f"{self.name(row)} has one of {first_short[row]} numbers"  # noqa: E731 - used twice
        self.mark("polygon_short", parts & ~good, said)
        self.mark("polygon_part", parts & good, said)
        if short.any():
            kept = np.flatnonzero(~short)
            polygons, owners = polygons.take(kept), owners[kept]
            counts = np.bincount(owners, minlength=len(counts))
        self.limits, self.areas = measure_polygons(polygons)
        self._check_coordinates(owners)
        areas = self.areas
        flat = (areas == 0) & (counts[owners] > 1)
        flat_rows = np.unique(owners[flat])
        solid = np.bincount(owners, weights=areas, minlength=len(counts))
        self.mark("polygon_flat", flat_rows[solid[flat_rows] > 0])
        masks = replace(masks, polygons=polygons, polygon_counts=counts)
        self._check_pixels(masks, solid)
        return masks

    def _check_coordinates(self, owners: np.ndarray) -> None:
        farthest = np.abs(self.limits.T).max(axis=0, initial=0)
        finite = farthest <= MAX_COORDINATE  # false for NaN, which pycocotools dies of
        self.mark("polygon_infinite", np.unique(owners[~finite]))
        limits = 2 * np.where(self.sizes.min(axis=1) > 0, self.sizes.max(axis=1, initial=1), MAX_COORDINATE)[owners]
        self.mark("polygon_far", np.unique(owners[finite & ~(farthest <= limits)]))

    def _check_pixels(self, masks: Segmentations, areas: np.ndarray) -> None:
        """Masks without a pixel; only those that are thin or small are drawn."""
        sides = self.columns.boxes[:, 2:].sum(axis=1)
        fit = ~self.is_marked("polygon_infinite", "polygon_far") & (self.sizes > 0).all(axis=1)
        thin = fit & (masks.polygon_counts > 0) & (areas <= np.maximum(sides, 2))
        few_runs = np.diff(masks.run_lengths.offsets)
        short = (few_runs > 0) & (few_runs < 9) & ~self.is_marked("run_lengths_bad")
        first = compute_offsets(masks.polygon_counts)
        empty = []
        for row in np.flatnonzero(thin | short).tolist():
            if short[row]:
                size = masks.sizes[row].tolist()
                pixels = coco.area({"size": size, "counts": masks.run_lengths[row].tobytes()})
            else:
                pixels = count_mask_pixels(masks, first, row, self.sizes[row])
            if not pixels:
                empty.append(row)
        rows = np.array(empty, np.int64)
        self.columns.faults[rows] |= np.uint32(BITS["mask_empty"])  # crowds can be taken as objects
        rows = rows[~self.columns.ignored[rows]]
        parts = [masks.polygons[at] for row in rows[:MAX_SAMPLE].tolist() for at in range(first[row], first[row + 1])]
        self.problems.add("mask_empty", rows, self.name, detail=explain_empty_masks(parts))


def _clip(written: np.ndarray, sizes: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, ...]:
    """Boxes xywh as xyxy within their images, and for each: how far it reached beyond, and whether it is infinite, of a
    negative size, or wholly outside.
    """
    corner, sides = np.split(written, 2, axis=1)
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite numbers
        boxes = np.concatenate([corner, corner + sides], axis=1)
    infinite = np.asarray(~np.isfinite(boxes).all(axis=1))
    boxes[infinite] = 0
    negative = ~infinite & (sides.min(axis=1, initial=0) < 0)
    sized = (sizes > 0).all(axis=1) & ~infinite & ~negative & ~bad
    limits = np.where(sized[:, None], np.tile(sizes[:, ::-1], 2), np.inf)
    clipped = np.clip(boxes, np.where(sized, 0, -np.inf)[:, None], limits)
    clipped[negative] = 0
    overshoot = np.where(sized, np.abs(clipped - boxes).max(axis=1, initial=0), 0)
    outside = sized & (sides > 0).all(axis=1) & ~(clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    return clipped, overshoot, infinite, negative, outside


def _find_first_occurrences(ids: np.ndarray) -> np.ndarray:
    """Rows with an id that no row before has, bool."""
    order = np.argsort(ids, kind="stable")
    first = np.ones(len(ids), bool)
    first[order[1:][ids[order[1:]] == ids[order[:-1]]]] = False
    return first


def measure_polygons(polygons: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """Where polygons end and what they enclose.

    Returns:
        Least x and y, greatest x and y, float64 ``[P, 4]``; and the areas in pixels, float64 ``[P]``: half of
        |sum of x_i y_(i+1) - x_(i+1) y_i|. NaN where a coordinate is NaN.
    """
    limits, areas = np.zeros((4, len(polygons))), np.zeros(len(polygons))
    for start in range(0, len(polygons), POLYGONS_PER_BLOCK):
        part, offsets = (
            slice(start, start + POLYGONS_PER_BLOCK),
            polygons.offsets[start : start + POLYGONS_PER_BLOCK + 1],
        )
        firsts, lasts = (offsets[:-1] - offsets[0]) // 2, (offsets[1:] - offsets[0]) // 2 - 1
        axes: list[np.ndarray] = []
        for axis in (0, 1):
            here = np.ascontiguousarray(polygons.values[offsets[0] + axis : offsets[-1] : 2])
            np.minimum.reduceat(here, firsts, out=limits[axis, part])
            np.maximum.reduceat(here, firsts, out=limits[2 + axis, part])
            following = np.empty_like(here)
            following[:-1] = here[1:]
            following[lasts] = here[firsts]
            axes += [here, following]
        x, next_x, y, next_y = axes
        with np.errstate(invalid="ignore", over="ignore"):
            x *= next_y
            x -= np.multiply(next_x, y, out=next_x)
            areas[part] = np.abs(np.add.reduceat(x, firsts)) / 2
    return limits.T, areas


def count_mask_pixels(masks: Segmentations, first: np.ndarray, row: int, size: np.ndarray) -> int:
    """Pixels of an object's polygons, drawn.

    Args:
        masks: of all objects.
        first: int64 ``[M]``, the first polygon of each object.
        row: of the object.
        size: height and width of its image.
    """
    parts = [masks.polygons[place].tolist() for place in range(first[row], first[row] + masks.polygon_counts[row])]
    return int(coco.area(coco.merge(coco.frPyObjects(parts, *size.tolist()))))


def compute_mask_boxes(masks: Segmentations, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes xywh, float64 ``[rows, 4]``, of the masks in these rows without bad parts, and whether there is a mask."""
    boxes, found = np.zeros((len(rows), 4)), np.zeros(len(rows), bool)
    first = compute_offsets(masks.polygon_counts)
    for place, row in enumerate(rows.tolist()):
        counts = masks.run_lengths[row]
        if len(counts):
            found[place] = True
            boxes[place] = coco.toBbox({"size": masks.sizes[row].tolist(), "counts": counts.tobytes()})
        elif masks.polygon_counts[row]:
            parts = [masks.polygons[at] for at in range(first[row], first[row + 1])]
            values = np.concatenate([np.empty(0), *(part for part in parts if len(part) >= 6 and len(part) % 2 == 0)])
            if len(values) and np.isfinite(values).all():
                low, high = values.reshape(-1, 2).min(axis=0), values.reshape(-1, 2).max(axis=0)
                found[place], boxes[place] = True, [*low, *(high - low)]
    return boxes, found
