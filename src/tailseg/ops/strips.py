"""Masks as strips of their columns: for masks in images that are too large for bitmaps.

Strips are int64 ``[k, 3]``: column, first row, and the row after the last one. They are in the order of columns and
rows, and no two of them touch in a column. Moving, cutting, mirroring and uniting masks takes time and memory of the
number of strips, whatever the size of the image.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64
from pycocotools import mask as coco

from tailseg.annotations.run_lengths import check_run_lengths, decode_runs
from tailseg.structures import RunLengths

Strips = Int64[np.ndarray, "_ 3"]
Box = tuple[int, int, int, int]
"""``x1, y1, x2, y2`` in whole pixels; the last column and row are outside."""

_COLUMN: Final = 1 << 32
"""Places between the first rows of two columns: more than an image has rows."""


def from_run_lengths(rle: RunLengths) -> Strips:
    """Converts COCO run lengths.

    Raises:
        ValueError: the counts do not fit the size.
    """
    counts, (height, _) = check_run_lengths(rle)["counts"], rle["size"]
    runs = decode_runs(counts.encode() if isinstance(counts, str) else counts)
    assert runs is not None
    ends = np.cumsum(runs)
    starts, ends = ends[: len(ends) // 2 * 2 : 2], ends[1::2]
    filled = ends > starts
    starts, ends = starts[filled], ends[filled]
    first, last = starts // height, (ends - 1) // height
    run = np.repeat(np.arange(len(starts)), last - first + 1)  # a run goes on in the next column
    column = np.arange(len(run)) - np.repeat(np.cumsum(last - first + 1) - (last - first + 1), last - first + 1)
    column += first[run]
    top = np.maximum(starts[run] - column * height, 0)
    bottom = np.minimum(ends[run] - column * height, height)
    return np.stack([column, top, bottom], axis=1)


def to_run_lengths(strips: Strips, height: int, width: int) -> RunLengths:
    """Converts to COCO run lengths, ready for JSON.

    Args:
        strips: inside the image.
        height: of the image.
        width: of the image.

    Returns:
        Compressed run lengths.
    """
    starts, ends = strips[:, 0] * height + strips[:, 1], strips[:, 0] * height + strips[:, 2]
    if len(starts):  # the end of a column may be the start of the next one
        apart = starts[1:] > ends[:-1]
        starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    places = np.stack([starts, ends], axis=1).ravel()
    if not len(places) or places[-1] < height * width:  # pycocotools writes no last run without a pixel
        places = np.append(places, height * width)
    counts = np.diff(places, prepend=0).tolist()
    encoded = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def move(strips: Strips, x: int, y: int) -> Strips:
    """Moves a mask.

    Args:
        strips: the mask.
        x: columns to the right.
        y: rows down.

    Returns:
        The moved mask.
    """
    return strips + np.array([x, y, y])


def mirror(strips: Strips, width: int) -> Strips:
    """Mirrors a mask left to right in an image of this width."""
    mirrored = np.stack([width - 1 - strips[:, 0], strips[:, 1], strips[:, 2]], axis=1)
    return mirrored[np.lexsort((mirrored[:, 1], mirrored[:, 0]))]


def cut(strips: Strips, box: Box) -> Strips:
    """Returns the part of a mask in a box."""
    x1, y1, x2, y2 = box
    first, last = np.searchsorted(strips[:, 0], [x1, x2])
    part = strips[first:last].copy()
    part[:, 1:] = part[:, 1:].clip(y1, y2)
    return part[part[:, 2] > part[:, 1]]


def count_pixels(strips: Strips) -> int:
    """Counts the pixels of a mask."""
    return int((strips[:, 2] - strips[:, 1]).sum())


def unite(masks: Sequence[Strips]) -> Strips:
    """Returns the union of masks."""
    strips = np.concatenate(masks)
    strips = strips[np.lexsort((strips[:, 1], strips[:, 0]))]
    if not len(strips):
        return strips
    starts, ends = (strips[:, 0] * _COLUMN + strips[:, side] for side in (1, 2))
    reached = np.maximum.accumulate(ends)
    new = np.flatnonzero(np.append(True, starts[1:] > reached[:-1]))
    column, top = np.divmod(starts[new], _COLUMN)
    return np.stack([column, top, np.maximum.reduceat(ends, new) - column * _COLUMN], axis=1)


def count_shared(one: Strips, other: Strips) -> int:
    """Counts the pixels that two masks share."""
    return count_pixels(one) + count_pixels(other) - count_pixels(unite([one, other]))


def find_box(strips: Strips) -> Box:
    """Returns the smallest box around a mask; all zeros for an empty one."""
    if not len(strips):
        return 0, 0, 0, 0
    return int(strips[0, 0]), int(strips[:, 1].min()), int(strips[-1, 0]) + 1, int(strips[:, 2].max())


def to_bitmap(strips: Strips, box: Box) -> Bool[np.ndarray, "h w"]:
    """Makes the bitmap of the part of a mask in a box."""
    x1, y1, x2, y2 = box
    part = cut(strips, box)
    changes = np.zeros((x2 - x1, y2 - y1 + 1), np.int8)  # by columns
    np.add.at(changes, (part[:, 0] - x1, part[:, 1] - y1), 1)
    np.add.at(changes, (part[:, 0] - x1, part[:, 2] - y1), -1)
    return np.cumsum(changes[:, :-1], axis=1, dtype=np.int8).view(bool).T
