"""Compressed run lengths, looked into before pycocotools is: of malformed ones it dies, or never comes back."""

from itertools import pairwise
from typing import Final

import numpy as np

from tailseg.annotations.types import RunLengths

BYTES_PER_BLOCK: Final = 1 << 20
"""Characters looked at together: bounds the memory."""
_LARGEST: Final = 2**63 - 1


def check_run_lengths(rle: RunLengths) -> RunLengths:
    """The run lengths as they are.

    Raises:
        ValueError: the counts are malformed, or do not add up to the size.
    """
    counts, (height, width) = rle["counts"], rle["size"]
    total = count_pixels(counts.encode() if isinstance(counts, str) else counts)
    if total is None or total != height * width:
        raise ValueError(
            f"run lengths must stand for the {height} x {width} pixels of their size, got "
            f"{'malformed counts' if total is None else f'{total} pixels'}: encode the mask again"
        )
    return rle


def count_pixels(compressed: bytes) -> int | None:
    """Number of pixels that compressed COCO run lengths stand for; None when they are malformed.

    A number is a series of characters of five bits each, lowest first, offset by 48; 32 marks "more follows", 16 in the
    last one a negative number. From the fourth on, a number is the difference to the one two before.
    """
    found = _decode_numbers(np.frombuffer(compressed, np.uint8))
    if found is None:
        return None
    numbers, _ = found
    runs = np.concatenate([numbers[:1], np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])])
    # a sum beyond int64 would come out as another
    return int(runs.sum()) if runs.min() >= 0 and runs.max() <= _LARGEST // len(runs) else None


def have_pixel_counts(compressed: np.ndarray, offsets: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether the run lengths ``compressed[offsets[i] : offsets[i + 1]]`` stand for ``pixels[i]`` pixels, for all i.

    Many at once: some microseconds each. Rows of no run lengths are passed over. ``offsets`` must cut ``compressed``.
    """
    filled = np.flatnonzero(np.diff(offsets))
    starts, ends, pixels = offsets[filled], offsets[filled + 1], pixels[filled]
    cuts = np.flatnonzero(np.diff(starts // BYTES_PER_BLOCK, prepend=-1))
    return all(
        _block_has_pixel_counts(
            compressed[starts[first] : ends[last - 1]], starts[first:last] - starts[first], pixels[first:last]
        )
        for first, last in pairwise([*cuts.tolist(), len(filled)])
    )


def _block_has_pixel_counts(compressed: np.ndarray, starts: np.ndarray, pixels: np.ndarray) -> bool:
    ends = np.append(starts[1:], len(compressed))
    if ((compressed[ends - 1] - 48) & 32).any():  # a number would go on in the next row
        return False
    found = _decode_numbers(compressed)
    if found is None:
        return False
    numbers, places = found
    first = np.searchsorted(places, starts)
    counts = np.diff(first, append=len(numbers))
    # every second number is summed over all rows; what a row's sums began with is then taken off
    sums = np.empty_like(numbers)
    sums[::2], sums[1::2] = np.cumsum(numbers[::2]), np.cumsum(numbers[1::2])
    before = np.where(first > 0, sums[first - 1], 0)
    odd = (np.arange(len(numbers)) - np.repeat(first, counts)) % 2 == 1
    runs = sums - np.where(odd, np.repeat(before, counts), np.repeat(sums[first], counts))
    runs[first] = numbers[first]
    fit = runs.min() >= 0 and runs.max() <= _LARGEST // len(runs)
    return bool(fit and (np.add.reduceat(runs, first) == pixels).all())


def _decode_numbers(compressed: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The numbers that the characters (uint8) write, and where each begins; None if they are malformed."""
    codes = compressed.astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = 5 * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    if place.max() > 30:
        return None
    numbers = np.add.reduceat((codes & 31) << place, first)
    numbers -= np.where(codes[last] & 16, 1 << (place[last] + 5), 0)
    return numbers, first
