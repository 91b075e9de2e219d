"""How boxes, masks and areas could be meant that do not agree as they stand.

Shapes: n objects. Boxes are float64 ``[n, 4]`` xyxy in pixels unless said; sizes are ``[n, 2]``: the images' height and
width.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

MIN_IOU: Final = 0.5
"""IoU of two boxes of one object from which on they agree."""

MIN_READING_IOU: Final = 0.8
"""The same for a reading that explains boxes that do not agree."""

MIN_DETECTION_IOU: Final = 0.7
"""The same for a reading that explains detections that are not where the objects are."""

TOLERANCE: Final = 2.0
"""Pixels by which sides of boxes may differ in any case: rounding, and masks of few pixels."""

MIN_EXPLAINED: Final = 0.8
"""Share of the objects that a reading must explain."""

MIN_BOXES: Final = 5
"""Boxes that hardly show another way of writing by chance, where they are a part of the file."""

MIN_SHARE: Final = 0.01
"""Share of the boxes that such a part is at least."""

MAX_SAMPLE: Final = 2000
"""Objects by which a reading is chosen."""

SHARES: Final = "shares of the image's width and height (0..1)"
BOX_AREAS: Final = "the areas are those of the boxes"
CORNERS: Final = "[x1, y1, x2, y2]"


def boxes_agree(one: np.ndarray, other: np.ndarray, least: float = MIN_IOU) -> np.ndarray:
    """Whether boxes agree, bool ``[n]``: IoU ``least`` or more, or no side differs by more than `TOLERANCE`."""
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(one - other)
        found = np.maximum(np.maximum(apart[:, 0], apart[:, 1]), np.maximum(apart[:, 2], apart[:, 3])) <= TOLERANCE
        rows = np.flatnonzero(~found)  # few, in nearly all files
        one, other = one[rows], other[rows]
        shared = np.clip(np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2]), 0, None)
        inner = shared.prod(axis=1)
        union = (one[:, 2:] - one[:, :2]).prod(axis=1) + (other[:, 2:] - other[:, :2]).prod(axis=1) - inner
        found[rows] = (inner > 0) & (inner >= least * union)
    return found


def sample_rows(rows: np.ndarray, most: int) -> np.ndarray:
    """About ``most`` of the rows at the most, from all over; all where there are no more."""
    return rows[:: max(1, -(-len(rows) // most))]


def to_corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes xywh as xyxy."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def guess_reading(
    masks: np.ndarray, written: np.ndarray, sizes: np.ndarray, grouped: Callable[[np.ndarray], np.ndarray] | None = None
) -> str:
    """How masks and boxes that do not agree are likely meant, in words; nothing if no reading explains most of them.

    Args:
        masks: the boxes around the masks.
        written: the boxes as they are written, xywh.
        sizes: of the images.
        grouped: the boxes around some of the masks (int64 rows) if their polygons are x, x, .. y, y, ...
    """
    rows = sample_rows(np.arange(len(masks)), MAX_SAMPLE)
    best, words = MIN_EXPLAINED, ""
    with np.errstate(all="ignore"):
        for reading, mask, box in _list_readings(masks[rows], written[rows], sizes[rows]):
            share = float(boxes_agree(mask, box, MIN_READING_IOU).mean())
            if share > best or (share == best and not words):
                best, words = share, reading
        if (
            not words
            and grouped is not None
            and boxes_agree(grouped(rows), to_corners(written[rows]), MIN_READING_IOU).mean() >= MIN_EXPLAINED
        ):
            words = "the polygons are written x, x, .. y, y, .."
    return words


def _list_readings(
    masks: np.ndarray, written: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Ways to read masks and boxes, the likelier ones first: in words, and the boxes that should then agree."""
    scale = np.tile(sizes[:, ::-1], 2).astype(np.float64)
    boxes, centers = to_corners(written), _from_centers(written)
    yield f"bbox is {CORNERS}", masks, written
    if masks.max() <= 1.5:
        yield f"the masks' coordinates are {SHARES}", masks * scale, boxes
    if written.max() <= 1.5:
        yield f"bbox is written in {SHARES}", masks, boxes * scale
        yield f"bbox is [center x, center y, width, height] in {SHARES}", masks, centers * scale
    yield "bbox is [center x, center y, width, height]", masks, centers
    yield "x and y are swapped in the masks, or in bbox", masks[:, [1, 0, 3, 2]], boxes
    yield (
        "the masks' coordinates begin at the corner of their box, not of the image",
        masks + boxes[:, [0, 1, 0, 1]],
        boxes,
    )
    if len(masks) > 2:
        factor, said = _compute_factor(masks[:, 2:], boxes[:, 2:])
        yield f"the masks' coordinates are {said} times those of bbox", masks / np.tile(factor, 2), boxes
        side = np.median(masks[:, 2:] * scale[:, 2:] / boxes[:, 2:], axis=0)
        said = f"{side[0]:.4g} x {side[1]:.4g}"
        yield f"the masks' coordinates are those of images of {said} pixels", masks * scale / np.tile(side, 2), boxes


def guess_detection_reading(there: np.ndarray, written: np.ndarray, sizes: np.ndarray) -> str:
    """How detections that are not where the objects are may be meant, in words; nothing if it cannot be told.

    Half of them must fit: a detector finds other objects as well.

    Args:
        there: the boxes of the objects.
        written: the boxes of as many detections as they are written, xywh.
        sizes: of the images.
    """
    best, words = 0.5, ""
    with np.errstate(all="ignore"):
        for reading, box in _list_box_readings(there, written, sizes):
            share = float(boxes_agree(there, box, MIN_DETECTION_IOU).mean())
            if share > best:
                best, words = share, reading
    return words


def _list_box_readings(there: np.ndarray, written: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Ways to read boxes, the likelier ones first: in words, and the boxes."""
    scale = np.tile(sizes[:, ::-1], 2).astype(np.float64)
    boxes, sides = to_corners(written), there[:, 2:] - there[:, :2]
    yield f"bbox is {CORNERS}", written
    yield "bbox is [center x, center y, width, height]", _from_centers(written)
    yield f"bbox is written in {SHARES}", boxes * scale
    yield "x and y are swapped in bbox", boxes[:, [1, 0, 3, 2]]
    factor, said = _compute_factor(written[:, 2:], sides)
    yield f"bbox is {said} times those of the objects", boxes / np.tile(factor, 2)
    side = np.median(written[:, 2:] * scale[:, 2:] / sides, axis=0)
    yield (
        f"bbox is in pixels of images of {side[0]:.4g} x {side[1]:.4g} pixels",
        boxes * scale / np.tile(side, 2),
    )


def _compute_factor(numbers: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, str]:
    """How many times the second ones the numbers are, ``[n, 2]`` both: of x and of y, and in words."""
    x, y = factor = np.median(numbers / of, axis=0)
    return factor, f"{x:.3g}" if np.isclose(x, y, rtol=0.02) else f"{x:.3g} (x) and {y:.3g} (y)"


def _from_centers(written: np.ndarray) -> np.ndarray:
    """Boxes of center, width and height as xyxy."""
    return np.concatenate([written[:, :2] - written[:, 2:] / 2, written[:, :2] + written[:, 2:] / 2], axis=1)


def guess_box_reading(
    written: np.ndarray, sizes: np.ndarray, areas: np.ndarray | None = None, *, masked: bool = False
) -> tuple[np.ndarray, str]:
    """How boxes without masks, or a part of them, are likely meant that do not fit their images.

    Args:
        written: boxes, xywh by right.
        sizes: of the images, all known.
        areas: of the objects, float64 ``[n]``, NaN where there is none.
        masked: whether there are masks, which tell centers better.

    Returns:
        The boxes that show it, bool ``[n]``, and what they have, in words; none and nothing where all is right.
    """
    if not len(written):
        return np.zeros(0, bool), ""
    with np.errstate(all="ignore"):
        for found in (_read_as_shares, _read_as_corners, *[_read_as_centers] * (not masked)):
            shown, words = found(written, sizes, areas)
            if words:
                return shown, words
    return np.zeros(len(written), bool), ""


def _read_as_shares(written: np.ndarray, sizes: np.ndarray, _areas: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Boxes within 0..1: all of them, or a part that is not of whole pixels."""
    corner, sides = written[:, :2], written[:, 2:]
    within = (corner >= 0).all(axis=1) & (corner + sides / 2 <= 1 + 1e-3).all(axis=1) & (sides <= 1).all(axis=1)
    shares = within & (sides.sum(axis=1) > 0) & (sizes.max(axis=1) > 2)
    if shares.mean() < 0.99:
        shares &= (written % 1 > 0).any(axis=1)
    if shares.mean() < 0.99 and np.count_nonzero(shares) < max(MIN_BOXES, MIN_SHARE * len(shares)):
        return shares, ""
    return shares, "boxes lie within 0..1: are they shares of the image's width and height?"


def _read_as_corners(written: np.ndarray, sizes: np.ndarray, areas: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Boxes that are likely [x1, y1, x2, y2]: by their areas, or because they leave their images."""
    corner, sides, limits = written[:, :2], written[:, 2:], sizes[:, ::-1]
    proper = (sides > corner).all(axis=1)
    fit = proper & (corner >= -TOLERANCE).all(axis=1) & (sides <= limits + TOLERANCE).all(axis=1)
    if areas is not None:
        smaller = proper & (areas < 0.9 * sides.prod(axis=1))
        told = smaller & np.isclose(areas, (sides - corner).prod(axis=1), rtol=0.01)
        if told.mean() >= 0.9 or (_are_most(told, smaller) and told.mean() >= MIN_SHARE):
            return told, f"boxes have the area that {CORNERS} would have: is bbox written so?"
    beyond = np.asarray((corner + sides > limits + TOLERANCE).any(axis=1))
    all_fit = proper.mean() >= 0.99 and (sides <= limits + TOLERANCE).all(axis=1).mean() >= 0.99
    far = (corner + sides > 1.1 * limits).any(axis=1)  # hardly an object that its image cuts
    part_fits = _are_most(beyond & fit, beyond, 0.95) and 2 * far.sum() > beyond.sum()
    if (all_fit and len(written) > 2 and beyond.mean() >= 0.25) or (part_fits and beyond.mean() >= MIN_SHARE):
        return beyond, f"boxes reach beyond their image, and read as {CORNERS} they fit: is bbox written so?"
    return beyond, ""


def _read_as_centers(written: np.ndarray, sizes: np.ndarray, _areas: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Boxes that leave their images to the right and below alone, and by less than half of themselves.

    As many objects are cut by one side of their images as by the other, by right.
    """
    limits, corners = sizes[:, ::-1], to_corners(written)
    centered = _from_centers(written)
    beyond = np.asarray((corners[:, 2:] > limits + TOLERANCE).any(axis=1))
    fit = (centered[:, :2] >= -TOLERANCE / 4).all(axis=1) & (centered[:, 2:] <= limits + TOLERANCE / 4).all(axis=1)
    if np.count_nonzero(~fit) > 0.05 * np.count_nonzero(beyond) or not _are_most(beyond & fit, beyond):
        return beyond, ""
    return beyond, (
        "boxes reach beyond their image, and read as [center x, center y, width, height] they fit: is bbox written so?"
    )


def _are_most(told: np.ndarray, of: np.ndarray, share: float = MIN_EXPLAINED) -> bool:
    """Whether several are told, and nearly all of those that could be; both bool ``[n]``."""
    count = int(np.count_nonzero(told))
    return count >= MIN_BOXES and count >= share * int(np.count_nonzero(of))


def explain_empty_masks(polygons: Sequence[np.ndarray]) -> str:
    """Why polygons (each ``x, y, x, y ..``) have no pixel, in brackets; nothing where it cannot be told."""
    points = [polygon.reshape(-1, 2) for polygon in polygons]
    if not points:
        return ""
    if all(each.min() >= 0 and each.max() <= 1 for each in points):
        return " (their coordinates lie within 0..1: are they shares of the image's width and height?)"
    if all(len(np.unique(each, axis=0)) <= 2 for each in points):
        return " (their polygons have no more than two different corners)"
    return ""


def get_size_groups(areas: np.ndarray) -> np.ndarray:
    """0 for small, 1 for medium (from 32 x 32 pixels), 2 for large (above 96 x 96), int64 ``[n]``."""
    return np.digitize(areas, [32**2, 96**2 + 1e-9])


def describe_larger_areas(areas: np.ndarray, pixels: np.ndarray) -> str:
    """What areas change that are larger than the objects of so many pixels; nothing where all groups stay."""
    moved = np.count_nonzero(get_size_groups(areas) != get_size_groups(pixels))
    return f", by which {moved:,} objects count as larger than they are" if moved else ""


def explain_areas(areas: np.ndarray, written: np.ndarray, sizes: np.ndarray) -> str:
    """Of what the areas are, in brackets; nothing where it cannot be told. ``written`` are boxes, xywh."""
    _, y, width, height = written.T
    ways = {
        "the areas are those of the images": sizes.prod(axis=1),
        BOX_AREAS: width * height,
        "the areas are width * bottom - top of the box, as SuperAnnotate writes them": width * (y + height) - y,
    }
    with np.errstate(invalid="ignore", over="ignore"):
        told = [words for words, of in ways.items() if len(areas) and np.isclose(areas, of, rtol=1e-3).mean() >= 0.9]
    return f" ({told[0]})" if told else ""
