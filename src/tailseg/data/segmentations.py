"""Segmentations as annotated: polygons or run lengths, checked and packed."""

from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from pycocotools import mask as coco

from tailseg.data.packed import Ragged, offsets_of
from tailseg.data.problems import Problems


def compact(record: dict[str, Any]) -> dict[str, Any]:
    """Hook for the JSON reader: polygons become arrays at once, a quarter of the memory of lists of floats.

    What is no list of lists of numbers is left as it is, to be reported later.
    """
    segmentation = record.get("segmentation")
    if isinstance(segmentation, list):
        with suppress(TypeError):
            record["segmentation"] = [array("d", polygon) for polygon in segmentation]
    return record


def pack_segmentations(
    segmentations: Sequence[Any], sizes: np.ndarray, names: Sequence[str], problems: Problems
) -> tuple[Ragged, np.ndarray, Ragged]:
    """Polygons (a row each), the objects' offsets into them, and compressed run lengths (a row an object).

    Args:
        segmentations: one an object as read with ``compact``: polygons, run lengths, or None or [] for no mask.
        sizes: int64 ``[M, 2]``, height and width of each object's image.
        names: of the objects, for messages.
        problems: takes what is wrong.
    """
    polygons: list[array[float]] = []
    counts: list[bytes] = []
    num_polygons: list[int] = []
    unknown: list[str] = []
    broken: list[str] = []
    for segmentation, size, name in zip(segmentations, sizes.tolist(), names, strict=True):
        mine: list[array[float]] = []
        compressed = b""
        if isinstance(segmentation, list) and all(isinstance(polygon, array) for polygon in segmentation):
            mine = segmentation
        elif isinstance(segmentation, dict):
            compressed, reason = _run_lengths(segmentation, size)
            broken += [f"{name}: {reason}"] * bool(reason)
        elif segmentation is not None:
            unknown.append(f"{name} has {str(segmentation)[:60]}")
        polygons += mine
        num_polygons.append(len(mine))
        counts.append(compressed)
    problems.add(
        f"{len(unknown)} segmentations are neither polygons nor run lengths",
        unknown,
        "Expected [[x1, y1, x2, y2, x3, y3, ...], ...] or {'size': [height, width], 'counts': ...}",
    )
    problems.add(
        f"{len(broken)} run lengths do not fit their image", broken, "Encode the mask again at the image's size"
    )
    packed = Ragged.pack([np.frombuffer(polygon, np.float64) for polygon in polygons], np.float64)
    _check_polygons(packed, np.repeat(np.arange(len(names)), num_polygons), sizes, names, problems)
    return packed, offsets_of(num_polygons), Ragged.pack_text(counts)


def _check_polygons(
    polygons: Ragged, owners: np.ndarray, sizes: np.ndarray, names: Sequence[str], problems: Problems
) -> None:
    lengths = np.diff(polygons.offsets)
    short = [
        f"{names[owners[i]]} has one of {lengths[i]} numbers"
        for i in np.flatnonzero((lengths < 6) | (lengths % 2 == 1))
    ]
    problems.add(
        f"{len(short)} polygons with fewer than three points or an odd number of coordinates",
        short,
        "Write x1, y1, x2, y2, x3, y3, ..., or remove the polygon (a box needs its four corners)",
    )
    points = np.repeat(np.arange(len(lengths)), lengths)
    limit = np.repeat(2 * sizes[owners].max(axis=1, initial=1), lengths)
    wrong = np.unique(owners[points[~(np.abs(polygons.values) <= limit)]])  # true for NaN, which pycocotools dies of
    problems.add(
        f"{len(wrong)} objects have a polygon with coordinates that are not finite or far outside the image",
        [names[i] for i in wrong],
        "Correct the coordinates (pixels of the image, x before y) or remove the object",
    )


def _run_lengths(segmentation: dict[str, Any], size: list[int]) -> tuple[bytes, str]:
    """The compressed counts, and what is wrong with them."""
    if segmentation.get("size") != size:
        return b"", f"size is {segmentation.get('size')}, the image's [height, width] is {size}"
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
            return b"", f"counts must be numbers of pixels that add up to {size[0] * size[1]}"
        return coco.frPyObjects(segmentation, *size)["counts"], ""
    if not isinstance(counts, str) or not counts.isascii():
        return b"", f"counts must be a list or a string, got {type(counts).__name__}"
    compressed = counts.encode()
    total = run_lengths_total(compressed)
    return compressed, "" if total == size[0] * size[1] else f"counts stand for {total} pixels, not {size[0] * size[1]}"


def run_lengths_total(compressed: bytes) -> int | None:
    """Number of pixels that compressed COCO run lengths stand for; None when they are malformed.

    A number is a series of characters of five bits each, lowest first, offset by 48; 32 marks "more follows", 16 in the
    last one a negative number. From the fourth on, a number is the difference to the one two before.
    """
    codes = np.frombuffer(compressed, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = 5 * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    if place.max() > 30:
        return None
    numbers = np.add.reduceat((codes & 31) << place, first)
    numbers -= np.where(codes[last] & 16, 1 << (place[last] + 5), 0)
    runs = np.concatenate([numbers[:1], np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])])
    return int(runs.sum()) if runs.min() >= 0 else None
