"""Checks compressed run lengths before pycocotools reads them: it crashes or hangs on malformed ones."""

from itertools import pairwise
from typing import Final

import numpy as np

from tailseg.annotations.types import RunLengths
from tailseg.words import count_noun

BYTES_PER_BLOCK: Final = 1 << 20
"""Characters that are checked together: this limits the memory."""
_LARGEST: Final = 2**63 - 1


def check_run_lengths(rle: RunLengths) -> RunLengths:
    """Checks run lengths and returns them unchanged.

    Raises:
        ValueError: the counts are malformed, or their sum is not the number of pixels.
    """
    counts, (height, width) = rle["counts"], rle["size"]
    total = count_pixels(counts.encode() if isinstance(counts, str) else counts)
    if total is None or total != height * width:
        raise ValueError(
            f"run lengths must have the {height} x {width} pixels of their size, got "
            f"{'malformed counts' if total is None else count_noun(total, 'pixel')}. Encode the mask again"
        )
    return rle


def count_pixels(compressed: bytes) -> int | None:
    """Counts the pixels of compressed COCO run lengths; None if they are malformed.

    A number is a series of characters with five bits each, lowest first, offset by 48. The bit 32 means that more
    characters follow, the bit 16 in the last character means a negative number. From the fourth number on, a number is
    the difference to the number two positions earlier.
    """
    runs = decode_runs(compressed)
    return None if runs is None else int(runs.sum())


def decode_runs(compressed: bytes) -> np.ndarray | None:
    """Decodes compressed COCO run lengths to the lengths of the runs, int64; None if they are malformed."""
    decoded = _decode_numbers(np.frombuffer(compressed, np.uint8))
    if decoded is None:
        return None
    numbers, _ = decoded
    runs = numbers.copy()
    runs[1::2], runs[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    # a sum beyond int64 would overflow
    return runs if runs.min() >= 0 and runs.max() <= _LARGEST // len(runs) else None


def have_pixel_counts(compressed: np.ndarray, offsets: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether the run lengths ``compressed[offsets[i] : offsets[i + 1]]`` have ``pixels[i]`` pixels, for all i.

    This takes a few microseconds per row. Empty rows are ignored.

    Args:
        compressed: uint8, the characters of all rows.
        offsets: int64, the offsets of the rows.
        pixels: int64, the right number of pixels for each row.

    Returns:
        Whether all rows are right.
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
    if ((compressed[ends - 1] - 48) & 32).any():  # a number would continue in the next row
        return False
    decoded = _decode_numbers(compressed)
    if decoded is None:
        return False
    numbers, positions = decoded
    first = np.searchsorted(positions, starts)
    counts = np.diff(first, append=len(numbers))
    # every second number is summed over all rows; the sum before each row is then subtracted
    sums = np.empty_like(numbers)
    sums[::2], sums[1::2] = np.cumsum(numbers[::2]), np.cumsum(numbers[1::2])
    before = np.where(first > 0, sums[first - 1], 0)
    odd = (np.arange(len(numbers)) - np.repeat(first, counts)) % 2 == 1
    runs = sums - np.where(odd, np.repeat(before, counts), np.repeat(sums[first], counts))
    runs[first] = numbers[first]
    valid = runs.min() >= 0 and runs.max() <= _LARGEST // len(runs)
    return bool(valid and (np.add.reduceat(runs, first) == pixels).all())


def _decode_numbers(compressed: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Decodes the numbers from characters (uint8); returns them and their positions, or None if malformed."""
    codes = compressed.astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    shift = 5 * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    if shift.max() > 30:
        return None
    numbers = np.add.reduceat((codes & 31) << shift, first)
    numbers -= np.where(codes[last] & 16, 1 << (shift[last] + 5), 0)
    return numbers, first
