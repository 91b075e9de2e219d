"""Whether the boxes, masks and areas of a file's objects agree with each other.

Looked at while a file is read: from the ends of polygons and the runs of run lengths; few masks are drawn.

Shapes: M annotations, P polygons.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations import readings
from tailseg.annotations.checks import Checks, count_mask_pixels
from tailseg.annotations.problems import Problems
from tailseg.annotations.ragged import compute_offsets
from tailseg.annotations.segmentations import Segmentations

MIN_SHARE_IN_FILE: Final = 0.05
"""Share of the objects from which on a disagreement is a matter of the file: official files have a few."""

RUN_LENGTHS_PER_CALL: Final = 128
"""Run lengths that pycocotools takes together: it fails on 256 and more under NumPy 2."""

MIN_SHARE_OF_AREAS: Final = 0.5
"""Share of the objects above which areas that are not those of the masks are a matter of the file."""

MIN_AREA_DIFFERENCE: Final = 1 / 3
"""How far area and mask may lie apart, as a share of the smaller one."""

MAX_DRAWN_MASKS: Final = 200
"""Masks that are drawn to be compared with their areas: some hundredths of a millisecond each."""

BAD_BOX_KINDS: Final = ("record_bad", "box_bad", "box_infinite", "box_negative", "box_from_mask")
BAD_MASK_KINDS: Final = ("run_lengths_bad", "polygon_infinite", "polygon_short")
REPORTED_KINDS: Final = (
    "box_beyond",
    "box_outside",
    "small",
    "mask_empty",
    "polygon_part",
    "polygon_far",
    "polygon_flat",
)
"""Problems of boxes and masks that are told already: of few such objects nothing more is said."""


@dataclass(frozen=True)
class _MaskMeasures:
    """What is known of the masks without drawing them.

    Attributes:
        boxes: float64 ``[M, 4]`` xyxy; NaN without a mask.
        least, most: float64 ``[M]``: the number of pixels lies between these.
    """

    boxes: np.ndarray
    least: np.ndarray
    most: np.ndarray


def check_agreement(checks: Checks, masks: Segmentations, clipped: np.ndarray, problems: Problems) -> None:
    """Adds what does not agree to the problems.

    Args:
        checks: of the annotations, all done.
        masks: of the annotations, without their bad parts.
        clipped: their boxes within the images, float64 ``[M, 4]`` xyxy.
        problems: takes what is found.
    """
    columns = checks.columns
    boxed = ~columns.ignored & (checks.sizes > 0).all(axis=1) & ~checks.is_marked(*BAD_BOX_KINDS)
    known = _measure_masks(checks, masks, boxed & ~checks.is_marked(*BAD_MASK_KINDS))
    masked = ~np.isnan(known.boxes[:, 0])
    rows = np.flatnonzero(masked)
    apart = rows[~readings.boxes_agree(known.boxes[rows], clipped[rows])]
    limits = np.tile(checks.sizes[apart][:, ::-1], 2)  # what is drawn ends at the image's edges
    apart = apart[~readings.boxes_agree(np.clip(known.boxes[apart], 0, limits), clipped[apart])]
    many = _is_many(len(apart), len(rows))
    if many or len(apart := apart[~checks.is_marked(*REPORTED_KINDS)[apart]]):

        def name(row: int) -> str:
            written, around = _format_box(columns.boxes[row]), _format_box(known_xywh[row])
            return f"{checks.name(row)} has bbox {written}, that of its mask is {around}"

        known_xywh = np.concatenate([known.boxes[:, :2], known.boxes[:, 2:] - known.boxes[:, :2]], axis=1)
        detail = _describe_disagreement(checks, masks, known, apart, len(rows))
        problems.add("mask_box" if many else "mask_box_some", apart, name, detail=detail)
    if not many and 2 * len(rows) < np.count_nonzero(boxed):
        _check_boxes(checks, np.flatnonzero(boxed), problems)
    masked[apart] = False
    if not _check_areas(checks, known, np.flatnonzero(masked), problems):
        _check_pixels(checks, masks, np.flatnonzero(masked), problems)


def _is_many(count: int, of: int) -> bool:
    return count > 1 and count >= MIN_SHARE_IN_FILE * of


def _format_box(box: np.ndarray) -> str:
    return f"[{', '.join(f'{number:.4g}' for number in box.tolist())}]"


def _measure_masks(checks: Checks, masks: Segmentations, wanted: np.ndarray) -> _MaskMeasures:
    """The boxes and the sizes of the wanted masks (bool ``[M]``)."""
    boxes, least, most = np.full((len(wanted), 4), np.nan), np.zeros(len(wanted)), np.zeros(len(wanted))
    rows = np.flatnonzero(masks.polygon_counts > 0)
    if len(rows):
        first = compute_offsets(masks.polygon_counts)[rows]
        reduced = [np.minimum] * 2 + [np.maximum] * 2
        sides = [each.reduceat(side, first) for each, side in zip(reduced, checks.limits.T, strict=True)]
        boxes[rows] = np.stack(sides, axis=1)
        width, height = sides[2] - sides[0], sides[3] - sides[1]
        whole, slack = width * height, width + height  # drawing a polygon rounds by less
        least[rows] = np.minimum(np.maximum.reduceat(checks.areas, first), whole) - slack
        most[rows] = np.minimum(np.add.reduceat(checks.areas, first), whole) + slack
        _draw_doubtful(checks, masks, rows[wanted[rows]], least, most)
    boxes[~wanted] = np.nan
    rows = np.flatnonzero(wanted & (np.diff(masks.run_lengths.offsets) > 0))
    for start in range(0, len(rows), RUN_LENGTHS_PER_CALL):
        part = rows[start : start + RUN_LENGTHS_PER_CALL]
        sizes = masks.sizes[part].tolist()
        encoded = [
            {"size": size, "counts": masks.run_lengths[row].tobytes()}
            for row, size in zip(part.tolist(), sizes, strict=True)
        ]
        boxes[part] = readings.to_corners(coco.toBbox(encoded))
        least[part] = most[part] = coco.area(encoded)
    return _MaskMeasures(boxes, least, most)


def _draw_doubtful(checks: Checks, masks: Segmentations, rows: np.ndarray, least: np.ndarray, most: np.ndarray) -> None:
    """Draws masks whose area is not between ``least`` and ``most``, into these: polygons may cross themselves.

    What a polygon encloses by its corners is then more, or less, than its pixels: nothing for a figure of eight. Some
    are drawn, and all only if one of these is not as its corners say.
    """
    areas = checks.columns.areas[rows]
    rows = rows[((areas < least[rows]) | (areas > most[rows])) & ~checks.is_marked("polygon_far")[rows]]
    for part in (readings.sample_rows(rows, MAX_DRAWN_MASKS), rows):
        drawn = _count_drawn_pixels(checks, masks, part)
        if ((drawn >= least[part]) & (drawn <= most[part])).all():
            break
        least[part] = most[part] = drawn


def _count_drawn_pixels(checks: Checks, masks: Segmentations, rows: np.ndarray) -> np.ndarray:
    """The pixels of the polygons of the objects in these rows, drawn, int64."""
    first = compute_offsets(masks.polygon_counts)[:-1]
    return np.array([count_mask_pixels(masks, first, row, checks.sizes[row]) for row in rows.tolist()], np.int64)


def _describe_disagreement(
    checks: Checks, masks: Segmentations, known: _MaskMeasures, rows: np.ndarray, of: int
) -> str:
    """What is to be said of masks in these rows, which do not agree with their boxes."""
    first = compute_offsets(masks.polygon_counts)

    def grouped(some: np.ndarray) -> np.ndarray:
        boxes = np.zeros((len(some), 4))
        for place, row in enumerate(rows[some].tolist()):
            halves = [np.split(masks.polygons[at], 2) for at in range(first[row], first[row + 1])]
            if halves:
                x, y = (np.concatenate(axis) for axis in zip(*halves, strict=True))
                boxes[place] = x.min(), y.min(), x.max(), y.max()
        return boxes

    reading = readings.guess_reading(known.boxes[rows], checks.columns.boxes[rows], checks.sizes[rows], grouped)
    said = f"{of:,} masks do not agree with their boxes: the IoU of bbox with the mask's own box is below 0.5"
    return f"{said}. It seems that {reading}" if reading else said


def _check_boxes(checks: Checks, rows: np.ndarray, problems: Problems) -> None:
    """Boxes that fit better when they are read another way."""
    boxes = checks.columns.boxes
    shown, words = readings.guess_box_reading(boxes[rows], checks.sizes[rows], checks.columns.areas[rows])
    if words:
        problems.add("box_otherwise", rows[shown], checks.field("bbox"), detail=f"{len(rows):,} {words}")


def _check_areas(checks: Checks, known: _MaskMeasures, rows: np.ndarray, problems: Problems) -> bool:
    """Areas that put objects with a mask into another size group than the mask does; whether there are many."""
    areas, least, most = checks.columns.areas, known.least, known.most
    other = rows[(areas[rows] < least[rows]) | (areas[rows] > most[rows])]
    other = other[~checks.is_marked("area_negative", "area_large", "mask_empty")[other]]
    low, group, high = (readings.get_size_groups(pixels[other]) for pixels in (least, areas, most))
    other = other[(group < low) | (group > high)]
    many = _is_many(len(other), len(rows))
    if many:
        whose = readings.explain_areas(areas[other], checks.columns.boxes[other], checks.sizes[other])
        detail = (
            f"{len(rows):,} objects are of another size (small, medium, large) by their area than by their mask{whose}"
        )
        problems.add("area_group", other, checks.field("area", "bbox"), detail=detail)
    return many


def _check_pixels(checks: Checks, masks: Segmentations, rows: np.ndarray, problems: Problems) -> None:
    """Masks of most objects that have many more, or fewer, pixels than their areas say: they may be drawn wrong."""
    areas, boxes = checks.columns.areas, checks.columns.boxes
    told = checks.is_marked("area_negative", "area_large", "mask_empty", "polygon_far")
    rows = rows[(areas[rows] > 0) & (masks.polygon_counts[rows] > 0) & ~told[rows]]
    rows = readings.sample_rows(rows, MAX_DRAWN_MASKS)
    drawn = _count_drawn_pixels(checks, masks, rows)
    apart = np.abs(drawn - areas[rows])
    differ = (apart >= MIN_AREA_DIFFERENCE * np.minimum(drawn, areas[rows])) & (apart > boxes[rows, 2:].sum(axis=1))
    others, pixels = rows[differ], dict(zip(rows.tolist(), drawn.tolist(), strict=True))
    if len(others) < 2 or len(others) <= MIN_SHARE_OF_AREAS * len(rows):
        return
    if readings.explain_areas(areas[others], boxes[others], checks.sizes[others]):  # `lints` tells those of boxes
        return

    def name(row: int) -> str:
        return f"{checks.name(row)} has area {areas[row]:.6g}, and its mask {pixels[row]:,} pixels"

    problems.add("area_mask", others, name, detail=f"{len(rows):,}")
