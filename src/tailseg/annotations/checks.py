"""Checks of the annotations of a file, for all rows at once.

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
from tailseg.words import count_noun

MAX_COORDINATE: Final = 1e9
"""Largest valid coordinate in pixels: pycocotools and hotcoco count pixels in 32 bits."""

BOXES_PER_BLOCK: Final = 1 << 14
"""Boxes that are checked together: they stay in the processor's cache."""

POLYGONS_PER_BLOCK: Final = 1 << 11
"""Polygons that are checked together, for the same reason."""


@dataclass(frozen=True)
class Images:
    """The images of a file, as the checks need them.

    Attributes:
        ids: int64, in the order of the file.
        sizes: int64 ``[images, 2]``: height and width; 0 where unknown.
    """

    ids: np.ndarray
    sizes: np.ndarray


class Checks:
    """Checks the annotations, marks rows in ``columns.faults`` and adds problems.

    Args:
        columns: the columns of the annotations. Missing boxes were replaced by those around the masks.
        records: the annotations as written in the file, for messages.
        images: the images of the file.
        image_rows: int64 ``[M]``: each annotation's image, -1 where it is unknown.
        problems: where problems are added.

    Attributes:
        limits, areas: float64 ``[P, 4]`` and ``[P]`` of the valid polygons, see `measure_polygons`; set by
            `check_masks`.
    """

    def __init__(
        self, columns: Columns, records: Sequence[Any], images: Images, image_rows: np.ndarray, problems: Problems
    ) -> None:
        self.columns = columns
        self.records = records
        self.images = images
        self.image_rows = image_rows
        self.problems = problems
        self.sizes = images.sizes[image_rows] if len(images.sizes) else np.zeros((len(image_rows), 2), np.int64)
        self.sizes[image_rows < 0] = 0
        self.limits, self.areas = np.zeros((0, 4)), np.zeros(0)

    def describe(self, row: int) -> str:
        """Names an annotation in a message: ``annotation 7 (image 3)``."""
        number = self.columns.ids[row]
        text = f"annotation {number}" if number != UNKNOWN else f"annotation number {row}"
        image = self.image_rows[row]
        return f"{text} (image {self.images.ids[image]})" if image >= 0 else text

    def describe_with(self, *keys: str) -> Callable[[int], str]:
        """A function that names an annotation and its values under these keys."""

        def describe(row: int) -> str:
            return f"{self.describe(row)} has {' and '.join(f'{self.get_value(row, key)!r:.100}' for key in keys)}"

        return describe

    def get_value(self, row: int, key: str) -> Any:  # noqa: ANN401 - anything that JSON can hold
        """The value of an annotation under a key."""
        record = decode_record(self.records[row])
        return record.get(key) if isinstance(record, dict) else record

    def mark(
        self, kind: str, rows: np.ndarray, describe: Callable[[int], str] | None = None, *, detail: str = ""
    ) -> None:
        """Marks rows and adds their problem.

        Args:
            kind: name of the kind of problem.
            rows: int64, or bool ``[M]``.
            describe: returns the text for one row; its name unless given.
            detail: a figure about all rows, see `Kind.what`.
        """
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        self.columns.faults[rows] |= np.uint32(BITS[kind])
        self.problems.add(kind, rows, describe or self.describe, detail=detail)

    def is_marked(self, *kinds: str) -> np.ndarray:
        """Whether each row has a problem of these kinds, bool ``[M]``."""
        return (self.columns.faults & np.uint32(sum(BITS[kind] for kind in kinds))) > 0

    def check_ids(self, labels: np.ndarray) -> None:
        """Checks the records, their ids, their images and their categories.

        Args:
            labels: int64 ``[M]``: the label of each annotation, -1 where its category is unknown.
        """
        columns, bad = self.columns, self.is_marked("record_bad")
        self.mark("record_bad", bad, lambda row: f"number {row} is {decode_record(self.records[row])!r:.60}")
        self.mark("id_bad", self.is_marked("id_bad"), self.describe_with("id"))
        self.mark("id_missing", ~bad & ~self.is_marked("id_bad") & (columns.ids == UNKNOWN))
        self.mark("id_twice", ~bad & (columns.ids != UNKNOWN) & ~_find_first_occurrences(columns.ids))
        for key, unknown in (("image", self.image_rows < 0), ("category", labels < 0)):
            rows = np.flatnonzero(unknown & ~bad)
            self.columns.faults[rows] |= np.uint32(BITS[f"{key}_unknown"])
            self.problems.add(f"{key}_unknown", rows, lambda row, key=key: self._describe_unknown_id(row, f"{key}_id"))

    def _describe_unknown_id(self, row: int, key: str) -> str:
        return f"{self.describe(row).split(' (')[0]} has {key} {self.get_value(row, key)!r:.60}"

    def check_flags_and_areas(self) -> None:
        """Checks ``iscrowd``, ``ignore`` and ``area``."""
        columns = self.columns
        self.mark("flag_bad", self.is_marked("flag_bad"), self.describe_with("iscrowd", "ignore"))
        self.mark("ignore", self.is_marked("ignore"))
        objects, areas = ~columns.ignored, columns.areas
        self.mark("area_bad", self.is_marked("area_bad") | np.isinf(areas), self.describe_with("area"))
        self.mark("area_negative", areas < 0, self.describe_with("area"))
        self.mark("area_missing", np.isnan(areas) & ~self.is_marked("area_bad", "record_bad"))
        sides = columns.boxes[:, 2:]
        with np.errstate(invalid="ignore", over="ignore"):
            largest = (sides + 1).prod(axis=1)  # masks have whole pixels, boxes may have fractions
            large = objects & (areas > largest) & ~self.is_marked("area_bad", "box_bad", "box_infinite", "box_negative")
        self.mark(
            "area_large",
            large,
            self.describe_with("area", "bbox"),
            detail=self._explain_large_areas(np.flatnonzero(large)),
        )

    def _explain_large_areas(self, rows: np.ndarray) -> str:
        """The text on areas that are larger than the box: what they are instead, and what they change."""
        areas, boxes = self.columns.areas[rows], self.columns.boxes[rows]
        return explain_areas(areas, boxes, self.sizes[rows]) + describe_larger_areas(areas, boxes[:, 2:].prod(axis=1))

    def check_boxes(self) -> np.ndarray:
        """Checks the boxes.

        Returns:
            The boxes as xyxy, float64 ``[M, 4]``, clipped to the images that have a size.
        """
        bad = self.is_marked("box_bad")
        self.mark("box_bad", bad, self._describe_box)
        blocks = [slice(start, start + BOXES_PER_BLOCK) for start in range(0, max(len(bad), 1), BOXES_PER_BLOCK)]
        parts = [_clip(self.columns.boxes[block], self.sizes[block], bad[block]) for block in blocks]
        clipped, overshoot, infinite, negative, outside = map(np.concatenate, zip(*parts, strict=True))
        beyond = ~outside & (overshoot > 1e-3)  # more than the rounding of x + width
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
        return f"{self.describe_with('bbox')(row)}, its image is {width} x {height}"

    def check_masks(self) -> Segmentations:
        """Checks the masks.

        Returns:
            The masks without invalid polygons.
        """
        masks = self.columns.segmentations
        self.mark("mask_unknown", np.array(masks.unknown, np.int64), self._describe_segmentation)
        other = (masks.sizes > 0).all(axis=1) & (self.sizes > 0).all(axis=1) & (masks.sizes != self.sizes).any(axis=1)
        reasons = masks.broken | {
            row: f"size is {masks.sizes[row].tolist()}, the image's [height, width] is {self.sizes[row].tolist()}"
            for row in np.flatnonzero(other).tolist()
        }
        rows = np.array(sorted(reasons), np.int64)
        self.mark("run_lengths_bad", rows, lambda row: f"{self.describe(row)}: {reasons[row]}")
        masks = self._check_polygons(masks)
        has_mask = (masks.polygon_counts > 0) | (np.diff(masks.run_lengths.offsets) > 0)
        has_mask |= self.is_marked("mask_unknown", "run_lengths_bad", "polygon_short", "record_bad")
        objects = ~self.columns.ignored & ~self.is_marked("record_bad")
        missing = objects & ~has_mask
        self.mark("mask_missing", missing, detail=f"{int(missing.sum()):,} of {int(objects.sum()):,}")
        if (objects & has_mask).any() or not objects.any():  # otherwise the file has boxes only
            self.mark("crowd_mask_missing", self.columns.ignored & ~has_mask)
        return masks

    def _describe_segmentation(self, row: int) -> str:
        return f"{self.describe(row)} has {self.get_value(row, 'segmentation')!r:.60}"

    def _check_polygons(self, masks: Segmentations) -> Segmentations:
        polygons, counts = masks.polygons, masks.polygon_counts
        lengths, owners = np.diff(polygons.offsets), np.repeat(np.arange(len(counts)), counts)
        short = (lengths < 6) | (lengths % 2 == 1)
        has_valid = np.bincount(owners[~short], minlength=len(counts)) > 0
        has_short = np.bincount(owners[short], minlength=len(counts)) > 0
        short_lengths = np.full(len(counts), -1)
        short_lengths[owners[short]] = lengths[short]

        def describe(row: int) -> str:
            return f"{self.describe(row)} has one of {count_noun(int(short_lengths[row]), 'number')}"

        self.mark("polygon_short", has_short & ~has_valid, describe)
        self.mark("polygon_part", has_short & has_valid, describe)
        if short.any():
            valid = np.flatnonzero(~short)
            polygons, owners = polygons.take(valid), owners[valid]
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
        finite = farthest <= MAX_COORDINATE  # false for NaN, on which pycocotools crashes
        self.mark("polygon_infinite", np.unique(owners[~finite]))
        limits = 2 * np.where(self.sizes.min(axis=1) > 0, self.sizes.max(axis=1, initial=1), MAX_COORDINATE)[owners]
        self.mark("polygon_far", np.unique(owners[finite & ~(farthest <= limits)]))

    def _check_pixels(self, masks: Segmentations, areas: np.ndarray) -> None:
        """Finds masks without a pixel. Only thin or small masks are drawn."""
        sides = self.columns.boxes[:, 2:].sum(axis=1)
        drawable = ~self.is_marked("polygon_infinite", "polygon_far") & (self.sizes > 0).all(axis=1)
        thin = drawable & (masks.polygon_counts > 0) & (areas <= np.maximum(sides, 2))
        lengths = np.diff(masks.run_lengths.offsets)
        short = (lengths > 0) & (lengths < 9) & ~self.is_marked("run_lengths_bad")
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
        self.columns.faults[rows] |= np.uint32(BITS["mask_empty"])  # crowds may be read as objects
        rows = rows[~self.columns.ignored[rows]]
        sample = [
            masks.polygons[index] for row in rows[:MAX_SAMPLE].tolist() for index in range(first[row], first[row + 1])
        ]
        self.problems.add("mask_empty", rows, self.describe, detail=explain_empty_masks(sample))


def _clip(written: np.ndarray, sizes: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, ...]:
    """Converts boxes from xywh to xyxy and clips them to their images.

    Args:
        written: the boxes xywh.
        sizes: height and width of the images, 0 where unknown.
        bad: bool: boxes that are not numbers.

    Returns:
        The boxes, how far each box reached beyond its image, and whether it is infinite, has a negative size, or lies
        outside its image.
    """
    corner, sides = np.split(written, 2, axis=1)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite numbers
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
    """Whether no earlier row has the id of a row, bool."""
    order = np.argsort(ids, kind="stable")
    first = np.ones(len(ids), bool)
    first[order[1:][ids[order[1:]] == ids[order[:-1]]]] = False
    return first


def measure_polygons(polygons: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """Computes the extents and the areas of polygons.

    Returns:
        Least x and y, greatest x and y, float64 ``[P, 4]``; and the areas in pixels, float64 ``[P]``: half of
        |sum of x_i y_(i+1) - x_(i+1) y_i|. NaN if a coordinate is NaN.
    """
    limits, areas = np.zeros((4, len(polygons))), np.zeros(len(polygons))
    for start in range(0, len(polygons), POLYGONS_PER_BLOCK):
        stop = start + POLYGONS_PER_BLOCK
        block, offsets = slice(start, stop), polygons.offsets[start : stop + 1]
        firsts, lasts = (offsets[:-1] - offsets[0]) // 2, (offsets[1:] - offsets[0]) // 2 - 1
        axes: list[np.ndarray] = []
        for axis in (0, 1):
            here = np.ascontiguousarray(polygons.values[offsets[0] + axis : offsets[-1] : 2])
            np.minimum.reduceat(here, firsts, out=limits[axis, block])
            np.maximum.reduceat(here, firsts, out=limits[2 + axis, block])
            following = np.empty_like(here)
            following[:-1] = here[1:]
            following[lasts] = here[firsts]
            axes += [here, following]
        x, next_x, y, next_y = axes
        with np.errstate(invalid="ignore", over="ignore"):
            x *= next_y
            x -= np.multiply(next_x, y, out=next_x)
            areas[block] = np.abs(np.add.reduceat(x, firsts)) / 2
    return limits.T, areas


def count_mask_pixels(masks: Segmentations, first: np.ndarray, row: int, size: np.ndarray) -> int:
    """Draws the polygons of an object and counts the pixels.

    Args:
        masks: the masks of all objects.
        first: int64 ``[M]``, the first polygon of each object.
        row: the row of the object.
        size: height and width of its image.

    Returns:
        The number of pixels.
    """
    polygons = [masks.polygons[index].tolist() for index in range(first[row], first[row] + masks.polygon_counts[row])]
    return int(coco.area(coco.merge(coco.frPyObjects(polygons, *size.tolist()))))


def compute_mask_boxes(masks: Segmentations, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the boxes around the masks of these rows, without invalid polygons.

    Returns:
        The boxes xywh, float64 ``[rows, 4]``, and whether the row has a mask, bool ``[rows]``.
    """
    boxes, has_mask = np.zeros((len(rows), 4)), np.zeros(len(rows), bool)
    first = compute_offsets(masks.polygon_counts)
    for position, row in enumerate(rows.tolist()):
        counts = masks.run_lengths[row]
        if len(counts):
            has_mask[position] = True
            boxes[position] = coco.toBbox({"size": masks.sizes[row].tolist(), "counts": counts.tobytes()})
        elif masks.polygon_counts[row]:
            polygons = [masks.polygons[index] for index in range(first[row], first[row + 1])]
            valid = [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
            values = np.concatenate([np.empty(0), *valid])
            if len(values) and np.isfinite(values).all():
                low, high = values.reshape(-1, 2).min(axis=0), values.reshape(-1, 2).max(axis=0)
                has_mask[position], boxes[position] = True, [*low, *(high - low)]
    return boxes, has_mask
