"""Whether the boxes, masks and areas of a file's objects agree with each other.

Looked at while a file is read: from the ends of polygons and the runs of run lengths; few masks are drawn.

Shapes: M annotations, P polygons.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations import readings
from tailseg.annotations.checks import Checks, drawn_pixels
from tailseg.annotations.problems import Problems
from tailseg.annotations.ragged import offsets_of
from tailseg.annotations.segmentations import Segmentations

MANY: Final = 0.05
"""Share of the objects from which on a disagreement is a matter of the file: official files have a few."""

AT_ONCE: Final = 128
"""Run lengths that pycocotools takes together: it fails on 256 and more under NumPy 2."""

MOST: Final = 0.5
"""Share of the objects above which areas that are not those of the masks are a matter of the file."""

THIRD: Final = 1 / 3
"""How far area and mask may lie apart, as a share of the smaller one."""

DRAWN: Final = 200
"""Masks that are drawn to be compared with their areas: some hundredths of a millisecond each."""

BAD_BOXES: Final = ("record_bad", "box_bad", "box_infinite", "box_negative", "box_from_mask")
BAD_MASKS: Final = ("run_lengths_bad", "polygon_infinite", "polygon_short")
NAMED: Final = ("box_beyond", "box_outside", "small", "mask_empty", "polygon_part", "polygon_far", "polygon_flat")
"""Problems of boxes and masks that are told already: of few such objects nothing more is said."""


@dataclass(frozen=True)
class _Masks:
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
    boxed = ~columns.ignored & (checks.sizes > 0).all(axis=1) & ~checks.marked(*BAD_BOXES)
    known = _measure(checks, masks, boxed & ~checks.marked(*BAD_MASKS))
    masked = ~np.isnan(known.boxes[:, 0])
    rows = np.flatnonzero(masked)
    apart = rows[~readings.agree(known.boxes[rows], clipped[rows])]
    limits = np.tile(checks.sizes[apart][:, ::-1], 2)  # what is drawn ends at the image's edges
    apart = apart[~readings.agree(np.clip(known.boxes[apart], 0, limits), clipped[apart])]
    many = _is_many(len(apart), len(rows))
    if many or len(apart := apart[~checks.marked(*NAMED)[apart]]):

        def name(row: int) -> str:
            return (
                f"{checks.name(row)} has bbox {_text(columns.boxes[row])}, that of its mask is {_text(known_xywh[row])}"
            )

        known_xywh = np.concatenate([known.boxes[:, :2], known.boxes[:, 2:] - known.boxes[:, :2]], axis=1)
        detail = _apart(checks, masks, known, apart, len(rows))
        problems.add("mask_box" if many else "mask_box_some", apart, name, detail=detail)
    if not many and 2 * len(rows) < np.count_nonzero(boxed):
        _check_boxes(checks, np.flatnonzero(boxed), problems)
    masked[apart] = False
    if not _check_areas(checks, known, np.flatnonzero(masked), problems):
        _check_pixels(checks, masks, np.flatnonzero(masked), problems)


def _is_many(count: int, of: int) -> bool:
    return count > 1 and count >= MANY * of


def _text(box: np.ndarray) -> str:
    return f"[{', '.join(f'{number:.4g}' for number in box.tolist())}]"


def _measure(checks: Checks, masks: Segmentations, wanted: np.ndarray) -> _Masks:
    """The boxes and the sizes of the wanted masks (bool ``[M]``)."""
    boxes, least, most = np.full((len(wanted), 4), np.nan), np.zeros(len(wanted)), np.zeros(len(wanted))
    rows = np.flatnonzero(masks.polygon_counts > 0)
    if len(rows):
        first = offsets_of(masks.polygon_counts)[rows]
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
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        sizes = masks.sizes[part].tolist()
        encoded = [
            {"size": size, "counts": masks.run_lengths[row].tobytes()}
            for row, size in zip(part.tolist(), sizes, strict=True)
        ]
        boxes[part] = readings.corners_of(coco.toBbox(encoded))
        least[part] = most[part] = coco.area(encoded)
    return _Masks(boxes, least, most)


def _draw_doubtful(checks: Checks, masks: Segmentations, rows: np.ndarray, least: np.ndarray, most: np.ndarray) -> None:
    """Draws masks whose area is not between ``least`` and ``most``, into these: polygons may cross themselves.

    What a polygon encloses by its corners is then more, or less, than its pixels: nothing for a figure of eight. Some
    are drawn, and all only if one of these is not as its corners say.
    """
    areas = checks.columns.areas[rows]
    rows = rows[((areas < least[rows]) | (areas > most[rows])) & ~checks.marked("polygon_far")[rows]]
    for part in (readings.some_of(rows, DRAWN), rows):
        drawn = _drawn(checks, masks, part)
        if ((drawn >= least[part]) & (drawn <= most[part])).all():
            break
        least[part] = most[part] = drawn


def _drawn(checks: Checks, masks: Segmentations, rows: np.ndarray) -> np.ndarray:
    """The pixels of the polygons of the objects in these rows, drawn, int64."""
    first = offsets_of(masks.polygon_counts)[:-1]
    return np.array([drawn_pixels(masks, first, row, checks.sizes[row]) for row in rows.tolist()], np.int64)


def _apart(checks: Checks, masks: Segmentations, known: _Masks, rows: np.ndarray, of: int) -> str:
    """What is to be said of masks in these rows, which do not agree with their boxes."""
    first = offsets_of(masks.polygon_counts)

    def grouped(some: np.ndarray) -> np.ndarray:
        boxes = np.zeros((len(some), 4))
        for place, row in enumerate(rows[some].tolist()):
            halves = [np.split(masks.polygons[at], 2) for at in range(first[row], first[row + 1])]
            if halves:
                x, y = (np.concatenate(axis) for axis in zip(*halves, strict=True))
                boxes[place] = x.min(), y.min(), x.max(), y.max()
        return boxes

    reading = readings.likely_reading(known.boxes[rows], checks.columns.boxes[rows], checks.sizes[rows], grouped)
    said = f"{of:,} masks do not agree with their boxes: the IoU of bbox with the mask's own box is below 0.5"
    return f"{said}. It seems that {reading}" if reading else said


def _check_boxes(checks: Checks, rows: np.ndarray, problems: Problems) -> None:
    """Boxes that fit better when they are read another way."""
    boxes = checks.columns.boxes
    shown, words = readings.likely_boxes(boxes[rows], checks.sizes[rows], checks.columns.areas[rows])
    if words:
        problems.add("box_otherwise", rows[shown], checks.field("bbox"), detail=f"{len(rows):,} {words}")


def _check_areas(checks: Checks, known: _Masks, rows: np.ndarray, problems: Problems) -> bool:
    """Areas that put objects with a mask into another size group than the mask does; whether there are many."""
    areas, least, most = checks.columns.areas, known.least, known.most
    other = rows[(areas[rows] < least[rows]) | (areas[rows] > most[rows])]
    other = other[~checks.marked("area_negative", "area_large", "mask_empty")[other]]
    low, group, high = (readings.size_groups(pixels[other]) for pixels in (least, areas, most))
    other = other[(group < low) | (group > high)]
    many = _is_many(len(other), len(rows))
    if many:
        whose = readings.whose_areas(areas[other], checks.columns.boxes[other], checks.sizes[other])
        detail = (
            f"{len(rows):,} objects are of another size (small, medium, large) by their area than by their mask{whose}"
        )
        problems.add("area_group", other, checks.field("area", "bbox"), detail=detail)
    return many


def _check_pixels(checks: Checks, masks: Segmentations, rows: np.ndarray, problems: Problems) -> None:
    """Masks of most objects that have many more, or fewer, pixels than their areas say: they may be drawn wrong."""
    areas, boxes = checks.columns.areas, checks.columns.boxes
    told = checks.marked("area_negative", "area_large", "mask_empty", "polygon_far")
    rows = rows[(areas[rows] > 0) & (masks.polygon_counts[rows] > 0) & ~told[rows]]
    rows = readings.some_of(rows, DRAWN)
    drawn = _drawn(checks, masks, rows)
    apart = np.abs(drawn - areas[rows])
    differ = (apart >= THIRD * np.minimum(drawn, areas[rows])) & (apart > boxes[rows, 2:].sum(axis=1))
    others, pixels = rows[differ], dict(zip(rows.tolist(), drawn.tolist(), strict=True))
    if len(others) < 2 or len(others) <= MOST * len(rows):
        return
    if readings.whose_areas(areas[others], boxes[others], checks.sizes[others]):  # `lints` tells those of boxes
        return

    def name(row: int) -> str:
        return f"{checks.name(row)} has area {areas[row]:.6g}, and its mask {pixels[row]:,} pixels"

    problems.add("area_mask", others, name, detail=f"{len(rows):,}")
