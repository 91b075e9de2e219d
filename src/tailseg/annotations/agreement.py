"""Checks whether the boxes, masks and areas of a file's objects agree.

The checks run while a file is read. They use the extents of polygons and the run lengths; few masks are drawn.

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
from tailseg.words import count_noun

MIN_SHARE_IN_FILE: Final = 0.05
"""Least share of objects with a disagreement that makes it a problem of the file: official files have a few."""

RUN_LENGTHS_PER_CALL: Final = 128
"""Masks that are given to pycocotools in one call: it fails on 256 and more with NumPy 2."""

MIN_SHARE_OF_AREAS: Final = 0.5
"""Least share of objects whose area differs from the mask that makes it a problem of the file."""

MIN_AREA_DIFFERENCE: Final = 1 / 3
"""Least difference of area and mask that counts, as a share of the smaller one."""

MAX_DRAWN_MASKS: Final = 200
"""Masks that are drawn and compared with their areas: some hundredths of a millisecond each."""

BAD_BOX_KINDS: Final = ("record_bad", "box_bad", "box_infinite", "box_negative", "box_from_mask")
BAD_MASK_KINDS: Final = ("run_lengths_bad", "polygon_infinite", "polygon_short")
REPORTED_KINDS: Final = (
    *("box_beyond", "box_outside", "small", "mask_empty"),
    *("polygon_part", "polygon_far", "polygon_flat"),
)
"""Problems of boxes and masks that are reported already. If few such objects disagree, nothing more is reported."""


@dataclass(frozen=True)
class _MaskMeasures:
    """Measures of the masks, without drawing them.

    Attributes:
        boxes: float64 ``[M, 4]`` xyxy; NaN without a mask.
        least, most: float64 ``[M]``: bounds of the number of pixels.
    """

    boxes: np.ndarray
    least: np.ndarray
    most: np.ndarray


def check_agreement(checks: Checks, masks: Segmentations, clipped: np.ndarray, problems: Problems) -> None:
    """Adds the disagreements to the problems.

    Args:
        checks: the finished checks of the annotations.
        masks: the masks of the annotations, without invalid parts.
        clipped: the boxes within the images, float64 ``[M, 4]`` xyxy.
        problems: where problems are added.
    """
    columns = checks.columns
    valid_boxes = ~columns.ignored & (checks.sizes > 0).all(axis=1) & ~checks.is_marked(*BAD_BOX_KINDS)
    measures = _measure_masks(checks, masks, valid_boxes & ~checks.is_marked(*BAD_MASK_KINDS))
    has_mask = ~np.isnan(measures.boxes[:, 0])
    rows = np.flatnonzero(has_mask)
    apart = rows[~readings.boxes_agree(measures.boxes[rows], clipped[rows])]
    limits = np.tile(checks.sizes[apart][:, ::-1], 2)  # a mask is drawn within the image only
    apart = apart[~readings.boxes_agree(np.clip(measures.boxes[apart], 0, limits), clipped[apart])]
    many = _is_many(len(apart), len(rows))
    if many or len(apart := apart[~checks.is_marked(*REPORTED_KINDS)[apart]]):

        def describe(row: int) -> str:
            written, around = _format_box(columns.boxes[row]), _format_box(mask_boxes[row])
            return f"{checks.describe(row)} has bbox {written}, that of its mask is {around}"

        mask_boxes = np.concatenate([measures.boxes[:, :2], measures.boxes[:, 2:] - measures.boxes[:, :2]], axis=1)
        detail = _describe_disagreement(checks, masks, measures, apart, len(rows))
        problems.add("mask_box" if many else "mask_box_some", apart, describe, detail=detail)
    if not many and 2 * len(rows) < np.count_nonzero(valid_boxes):
        _check_boxes(checks, np.flatnonzero(valid_boxes), problems)
    has_mask[apart] = False
    if not _check_areas(checks, measures, np.flatnonzero(has_mask), problems):
        _check_pixels(checks, masks, np.flatnonzero(has_mask), problems)


def _is_many(count: int, total: int) -> bool:
    return count > 1 and count >= MIN_SHARE_IN_FILE * total


def _format_box(box: np.ndarray) -> str:
    return f"[{', '.join(f'{number:.4g}' for number in box.tolist())}]"


def _measure_masks(checks: Checks, masks: Segmentations, wanted: np.ndarray) -> _MaskMeasures:
    """The boxes and the sizes of the wanted masks (bool ``[M]``)."""
    boxes, least, most = np.full((len(wanted), 4), np.nan), np.zeros(len(wanted)), np.zeros(len(wanted))
    rows = np.flatnonzero(masks.polygon_counts > 0)
    if len(rows):
        first = compute_offsets(masks.polygon_counts)[rows]
        reductions = [np.minimum] * 2 + [np.maximum] * 2
        sides = [reduction.reduceat(side, first) for reduction, side in zip(reductions, checks.limits.T, strict=True)]
        boxes[rows] = np.stack(sides, axis=1)
        width, height = sides[2] - sides[0], sides[3] - sides[1]
        whole, slack = width * height, width + height  # drawing a polygon rounds by less
        least[rows] = np.minimum(np.maximum.reduceat(checks.areas, first), whole) - slack
        most[rows] = np.minimum(np.add.reduceat(checks.areas, first), whole) + slack
        _draw_doubtful(checks, masks, rows[wanted[rows]], least, most)
    boxes[~wanted] = np.nan
    rows = np.flatnonzero(wanted & (np.diff(masks.run_lengths.offsets) > 0))
    for start in range(0, len(rows), RUN_LENGTHS_PER_CALL):
        block = rows[start : start + RUN_LENGTHS_PER_CALL]
        sizes = masks.sizes[block].tolist()
        encoded = [
            {"size": size, "counts": masks.run_lengths[row].tobytes()}
            for row, size in zip(block.tolist(), sizes, strict=True)
        ]
        boxes[block] = readings.to_corners(coco.toBbox(encoded))
        least[block] = most[block] = coco.area(encoded)
    return _MaskMeasures(boxes, least, most)


def _draw_doubtful(checks: Checks, masks: Segmentations, rows: np.ndarray, least: np.ndarray, most: np.ndarray) -> None:
    """Draws the masks whose area is not between ``least`` and ``most``, and writes the pixels into these.

    The polygons may cross themselves. The area that the corners enclose is then not the number of pixels: it is 0 for a
    figure of eight. A sample is drawn first, and all masks only if the sample shows a difference.
    """
    areas = checks.columns.areas[rows]
    rows = rows[((areas < least[rows]) | (areas > most[rows])) & ~checks.is_marked("polygon_far")[rows]]
    for sample in (readings.sample_rows(rows, MAX_DRAWN_MASKS), rows):
        pixels = _count_drawn_pixels(checks, masks, sample)
        if ((pixels >= least[sample]) & (pixels <= most[sample])).all():
            break
        least[sample] = most[sample] = pixels


def _count_drawn_pixels(checks: Checks, masks: Segmentations, rows: np.ndarray) -> np.ndarray:
    """The number of pixels of the drawn polygons of these rows, int64."""
    first = compute_offsets(masks.polygon_counts)[:-1]
    return np.array([count_mask_pixels(masks, first, row, checks.sizes[row]) for row in rows.tolist()], np.int64)


def _describe_disagreement(
    checks: Checks, masks: Segmentations, measures: _MaskMeasures, rows: np.ndarray, total: int
) -> str:
    """The text for masks that do not agree with their boxes."""
    first = compute_offsets(masks.polygon_counts)

    def read_grouped(sample: np.ndarray) -> np.ndarray:
        boxes = np.zeros((len(sample), 4))
        for position, row in enumerate(rows[sample].tolist()):
            halves = [np.split(masks.polygons[index], 2) for index in range(first[row], first[row + 1])]
            if halves:
                x, y = (np.concatenate(axis) for axis in zip(*halves, strict=True))
                boxes[position] = x.min(), y.min(), x.max(), y.max()
        return boxes

    reading = readings.guess_reading(measures.boxes[rows], checks.columns.boxes[rows], checks.sizes[rows], read_grouped)
    text = f"{count_noun(total, 'mask')} [does not agree with its box|do not agree with their boxes]"
    text = f"{text}: the IoU of bbox and the box around the mask is below 0.5"
    return f"{text}. Probably {reading}" if reading else text


def _check_boxes(checks: Checks, rows: np.ndarray, problems: Problems) -> None:
    """Finds boxes that fit better if they are read in another way."""
    boxes = checks.columns.boxes
    shown, reading = readings.guess_box_reading(boxes[rows], checks.sizes[rows], checks.columns.areas[rows])
    if reading:
        problems.add("box_otherwise", rows[shown], checks.describe_with("bbox"), detail=f"{len(rows):,} {reading}")


def _check_areas(checks: Checks, measures: _MaskMeasures, rows: np.ndarray, problems: Problems) -> bool:
    """Finds areas that put objects into another size group than their masks; returns whether there are many."""
    areas, least, most = checks.columns.areas, measures.least, measures.most
    other = rows[(areas[rows] < least[rows]) | (areas[rows] > most[rows])]
    other = other[~checks.is_marked("area_negative", "area_large", "mask_empty")[other]]
    low, group, high = (readings.get_size_groups(pixels[other]) for pixels in (least, areas, most))
    other = other[(group < low) | (group > high)]
    many = _is_many(len(other), len(rows))
    if many:
        explanation = readings.explain_areas(areas[other], checks.columns.boxes[other], checks.sizes[other])
        detail = (
            f"{count_noun(len(rows), 'object')} [has|have] another size (small, medium, large) by area than by mask"
            f"{explanation}"
        )
        problems.add("area_group", other, checks.describe_with("area", "bbox"), detail=detail)
    return many


def _check_pixels(checks: Checks, masks: Segmentations, rows: np.ndarray, problems: Problems) -> None:
    """Finds masks that have many more, or fewer, pixels than their areas say: these masks may be drawn wrong.

    A problem is added only if this holds for most objects.
    """
    areas, boxes = checks.columns.areas, checks.columns.boxes
    reported = checks.is_marked("area_negative", "area_large", "mask_empty", "polygon_far")
    rows = rows[(areas[rows] > 0) & (masks.polygon_counts[rows] > 0) & ~reported[rows]]
    rows = readings.sample_rows(rows, MAX_DRAWN_MASKS)
    drawn = _count_drawn_pixels(checks, masks, rows)
    apart = np.abs(drawn - areas[rows])
    differ = (apart >= MIN_AREA_DIFFERENCE * np.minimum(drawn, areas[rows])) & (apart > boxes[rows, 2:].sum(axis=1))
    others, pixels = rows[differ], dict(zip(rows.tolist(), drawn.tolist(), strict=True))
    if len(others) < 2 or len(others) <= MIN_SHARE_OF_AREAS * len(rows):
        return
    if readings.explain_areas(areas[others], boxes[others], checks.sizes[others]):  # `lints` reports areas of boxes
        return

    def describe(row: int) -> str:
        return f"{checks.describe(row)} has area {areas[row]:.6g}, and its mask {count_noun(pixels[row], 'pixel')}"

    problems.add("area_mask", others, describe, detail=f"{len(rows):,}")
