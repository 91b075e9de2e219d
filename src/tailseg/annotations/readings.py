"""Guesses how boxes, masks and areas that do not agree were meant.

Shapes: n objects. Boxes are float64 ``[n, 4]`` xyxy in pixels unless noted; sizes are ``[n, 2]``: height and width of
the images.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from tailseg.words import count_noun, inflect, verb_form

MIN_IOU: Final = 0.5
"""Least IoU of two boxes of one object that agree."""

MIN_READING_IOU: Final = 0.8
"""Least IoU that a reading must give to explain boxes that do not agree."""

MIN_DETECTION_IOU: Final = 0.7
"""Least IoU that a reading must give to explain detections that miss the objects."""

TOLERANCE: Final = 2.0
"""Pixels by which the sides of boxes that agree may always differ: rounding, and masks of few pixels."""

MIN_EXPLAINED: Final = 0.8
"""Least share of the objects that a reading must explain."""

MIN_BOXES: Final = 5
"""Least number of boxes that show another format, if they are a part of the file: fewer may do so by chance."""

MIN_SHARE: Final = 0.01
"""Least share of the boxes of such a part."""

MAX_SAMPLE: Final = 2000
"""Most objects that are used to choose a reading."""

SHARES: Final = "shares of the image's width and height (0..1)"
BOX_AREAS: Final = "the areas are those of the boxes"
CORNERS: Final = "[x1, y1, x2, y2]"


def boxes_agree(one: np.ndarray, other: np.ndarray, least: float = MIN_IOU) -> np.ndarray:
    """Whether boxes agree: their IoU is ``least`` or more, or no side differs by more than `TOLERANCE`.

    Args:
        one: boxes.
        other: boxes of the same objects.
        least: least IoU.

    Returns:
        bool ``[n]``.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(one - other)
        agree = np.maximum(np.maximum(apart[:, 0], apart[:, 1]), np.maximum(apart[:, 2], apart[:, 3])) <= TOLERANCE
        rows = np.flatnonzero(~agree)  # few, in nearly all files
        one, other = one[rows], other[rows]
        shared = np.clip(np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2]), 0, None)
        inner = shared.prod(axis=1)
        union = (one[:, 2:] - one[:, :2]).prod(axis=1) + (other[:, 2:] - other[:, :2]).prod(axis=1) - inner
        agree[rows] = (inner > 0) & (inner >= least * union)
    return agree


def sample_rows(rows: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of the rows, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))]


def to_corners(boxes: np.ndarray) -> np.ndarray:
    """Converts boxes from xywh to xyxy."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def guess_reading(
    masks: np.ndarray,
    written: np.ndarray,
    sizes: np.ndarray,
    read_grouped: Callable[[np.ndarray], np.ndarray] | None = None,
) -> str:
    """Guesses how masks and boxes that do not agree were meant.

    Args:
        masks: the boxes around the masks.
        written: the boxes as written, xywh.
        sizes: sizes of the images.
        read_grouped: returns the boxes around the masks of a sample (int64 rows), with polygons read as
            x, x, .. y, y, ...

    Returns:
        The reading in words; empty if no reading explains most of them.
    """
    rows = sample_rows(np.arange(len(masks)), MAX_SAMPLE)
    best, text = MIN_EXPLAINED, ""
    with np.errstate(all="ignore"):
        for reading, mask, box in _list_readings(masks[rows], written[rows], sizes[rows]):
            share = float(boxes_agree(mask, box, MIN_READING_IOU).mean())
            if share > best or (share == best and not text):
                best, text = share, reading
        if not text and read_grouped is not None:
            agree = boxes_agree(read_grouped(rows), to_corners(written[rows]), MIN_READING_IOU)
            if agree.mean() >= MIN_EXPLAINED:
                text = "the polygons are written as x, x, .. y, y, .."
    return text


def _list_readings(
    masks: np.ndarray, written: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Ways to read masks and boxes, the likelier ones first: the text, and the boxes that should then agree."""
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
        "the masks' coordinates start at the corner of the box, not of the image",
        masks + boxes[:, [0, 1, 0, 1]],
        boxes,
    )
    if len(masks) > 2:
        factor, text = _compute_factor(masks[:, 2:], boxes[:, 2:])
        yield f"the masks' coordinates are {text} times those of bbox", masks / np.tile(factor, 2), boxes
        side = np.median(masks[:, 2:] * scale[:, 2:] / boxes[:, 2:], axis=0)
        text = f"{side[0]:.4g} x {side[1]:.4g}"
        yield f"the masks' coordinates belong to images of {text} pixels", masks * scale / np.tile(side, 2), boxes


def guess_detection_reading(objects: np.ndarray, written: np.ndarray, sizes: np.ndarray) -> str:
    """Guesses how detections that miss the objects were meant.

    Half of them must fit: a detector finds other objects as well.

    Args:
        objects: the boxes of the objects.
        written: the boxes of the same number of detections as written, xywh.
        sizes: sizes of the images.

    Returns:
        The reading in words; empty if there is none.
    """
    best, text = 0.5, ""
    with np.errstate(all="ignore"):
        for reading, box in _list_box_readings(objects, written, sizes):
            share = float(boxes_agree(objects, box, MIN_DETECTION_IOU).mean())
            if share > best:
                best, text = share, reading
    return text


def _list_box_readings(objects: np.ndarray, written: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Ways to read boxes, the likelier ones first: the text, and the boxes."""
    scale = np.tile(sizes[:, ::-1], 2).astype(np.float64)
    boxes, sides = to_corners(written), objects[:, 2:] - objects[:, :2]
    yield f"bbox is {CORNERS}", written
    yield "bbox is [center x, center y, width, height]", _from_centers(written)
    yield f"bbox is written in {SHARES}", boxes * scale
    yield "x and y are swapped in bbox", boxes[:, [1, 0, 3, 2]]
    factor, text = _compute_factor(written[:, 2:], sides)
    yield f"bbox is {text} times that of the objects", boxes / np.tile(factor, 2)
    side = np.median(written[:, 2:] * scale[:, 2:] / sides, axis=0)
    yield (
        f"bbox belongs to images of {side[0]:.4g} x {side[1]:.4g} pixels",
        boxes * scale / np.tile(side, 2),
    )


def _compute_factor(numbers: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, str]:
    """The median ratio of the numbers to the base, both ``[n, 2]``: for x and for y, and in words."""
    x, y = factor = np.median(numbers / base, axis=0)
    return factor, f"{x:.3g}" if np.isclose(x, y, rtol=0.02) else f"{x:.3g} (x) and {y:.3g} (y)"


def _from_centers(written: np.ndarray) -> np.ndarray:
    """Converts boxes from center, width and height to xyxy."""
    return np.concatenate([written[:, :2] - written[:, 2:] / 2, written[:, :2] + written[:, 2:] / 2], axis=1)


def guess_box_reading(
    written: np.ndarray, sizes: np.ndarray, areas: np.ndarray | None = None, *, masked: bool = False
) -> tuple[np.ndarray, str]:
    """Guesses how boxes, or a part of them, were meant that do not fit their images.

    Args:
        written: the boxes, which should be xywh.
        sizes: sizes of the images, all known.
        areas: areas of the objects, float64 ``[n]``, NaN where missing.
        masked: whether there are masks: then boxes of centers are recognized by the masks.

    Returns:
        The boxes that show another format, bool ``[n]``, and the text for them, as ``boxes lie within 0..1: ...``. No
        boxes and an empty text if all is right.
    """
    if not len(written):
        return np.zeros(0, bool), ""
    with np.errstate(all="ignore"):
        for read in (_read_as_shares, _read_as_corners, *[_read_as_centers] * (not masked)):
            shown, text = read(written, sizes, areas)
            if text:
                noun = "box" if len(written) == 1 else "boxes"
                return shown, f"{noun} {inflect(text, int(np.count_nonzero(shown)))}"
    return np.zeros(len(written), bool), ""


def _read_as_shares(written: np.ndarray, sizes: np.ndarray, _areas: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Finds boxes within 0..1: all boxes, or a part with fractions of pixels."""
    corner, sides = written[:, :2], written[:, 2:]
    within = (corner >= 0).all(axis=1) & (corner + sides / 2 <= 1 + 1e-3).all(axis=1) & (sides <= 1).all(axis=1)
    shares = within & (sides.sum(axis=1) > 0) & (sizes.max(axis=1) > 2)
    if shares.mean() < 0.99:
        shares &= (written % 1 > 0).any(axis=1)
    if shares.mean() < 0.99 and np.count_nonzero(shares) < max(MIN_BOXES, MIN_SHARE * len(shares)):
        return shares, ""
    return shares, "[lies|lie] within 0..1: is bbox written in shares of the image's width and height?"


def _read_as_corners(written: np.ndarray, sizes: np.ndarray, areas: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Finds boxes that are probably [x1, y1, x2, y2]: by their areas, or because they reach beyond their images."""
    corner, sides, limits = written[:, :2], written[:, 2:], sizes[:, ::-1]
    proper = (sides > corner).all(axis=1)
    fit = proper & (corner >= -TOLERANCE).all(axis=1) & (sides <= limits + TOLERANCE).all(axis=1)
    if areas is not None:
        smaller = proper & (areas < 0.9 * sides.prod(axis=1))
        shown = smaller & np.isclose(areas, (sides - corner).prod(axis=1), rtol=0.01)
        if shown.mean() >= 0.9 or (_are_most(shown, smaller) and shown.mean() >= MIN_SHARE):
            return shown, f"[has|have] the area of {CORNERS}: is bbox written so?"
    beyond = np.asarray((corner + sides > limits + TOLERANCE).any(axis=1))
    all_fit = proper.mean() >= 0.99 and (sides <= limits + TOLERANCE).all(axis=1).mean() >= 0.99
    far = (corner + sides > 1.1 * limits).any(axis=1)  # more than an object at the edge of an image
    part_fits = _are_most(beyond & fit, beyond, 0.95) and 2 * far.sum() > beyond.sum()
    if (all_fit and len(written) > 2 and beyond.mean() >= 0.25) or (part_fits and beyond.mean() >= MIN_SHARE):
        return beyond, f"[reaches|reach] beyond the image and would fit as {CORNERS}: is bbox written so?"
    return beyond, ""


def _read_as_centers(written: np.ndarray, sizes: np.ndarray, _areas: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Finds boxes that are probably [center x, center y, width, height].

    They reach beyond their images only to the right and below, and by less than half of their size. In correct files,
    objects are cut at all sides of the images.
    """
    limits, corners = sizes[:, ::-1], to_corners(written)
    centered = _from_centers(written)
    beyond = np.asarray((corners[:, 2:] > limits + TOLERANCE).any(axis=1))
    fit = (centered[:, :2] >= -TOLERANCE / 4).all(axis=1) & (centered[:, 2:] <= limits + TOLERANCE / 4).all(axis=1)
    if np.count_nonzero(~fit) > 0.05 * np.count_nonzero(beyond) or not _are_most(beyond & fit, beyond):
        return beyond, ""
    return beyond, (
        "[reaches|reach] beyond the image and would fit as [center x, center y, width, height]: is bbox written so?"
    )


def _are_most(shown: np.ndarray, candidates: np.ndarray, share: float = MIN_EXPLAINED) -> bool:
    """Whether at least `MIN_BOXES` boxes are shown, and this share of the candidates; both bool ``[n]``."""
    count = int(np.count_nonzero(shown))
    return count >= MIN_BOXES and count >= share * int(np.count_nonzero(candidates))


def explain_empty_masks(polygons: Sequence[np.ndarray]) -> str:
    """Explains in brackets why polygons (each ``x, y, x, y ..``) have no pixel; empty if the reason is unknown."""
    points = [polygon.reshape(-1, 2) for polygon in polygons]
    if not points:
        return ""
    if all(polygon.min() >= 0 and polygon.max() <= 1 for polygon in points):
        return " (the coordinates lie within 0..1: are they shares of the image's width and height?)"
    if all(len(np.unique(polygon, axis=0)) <= 2 for polygon in points):
        return " (the polygons have only one or two different corners)"
    return ""


def get_size_groups(areas: np.ndarray) -> np.ndarray:
    """The size group of areas: 0 for small, 1 for medium (from 32 x 32 pixels), 2 for large (above 96 x 96)."""
    return np.digitize(areas, [32**2, 96**2 + 1e-9])


def describe_larger_areas(areas: np.ndarray, pixels: np.ndarray) -> str:
    """Describes what too large areas change; empty if all size groups stay the same. ``pixels`` are the right areas."""
    moved = int(np.count_nonzero(get_size_groups(areas) != get_size_groups(pixels)))
    return f"; {count_noun(moved, 'object')} {verb_form(moved, 'is', 'are')} in a larger size group" if moved else ""


def explain_areas(areas: np.ndarray, written: np.ndarray, sizes: np.ndarray) -> str:
    """Explains in brackets what the areas belong to.

    Args:
        areas: the areas, float64 ``[n]``.
        written: the boxes, xywh.
        sizes: sizes of the images.

    Returns:
        The explanation; empty if there is none.
    """
    _, y, width, height = written.T
    explanations = {
        "the areas are those of the images": sizes.prod(axis=1),
        BOX_AREAS: width * height,
        "the areas are width * bottom - top of the box, as SuperAnnotate writes them": width * (y + height) - y,
    }
    with np.errstate(invalid="ignore", over="ignore"):
        fitting = [
            text
            for text, values in explanations.items()
            if len(areas) and np.isclose(areas, values, rtol=1e-3).mean() >= 0.9
        ]
    return f" ({fitting[0]})" if fitting else ""
