"""Compressed run lengths, looked into before pycocotools is: of malformed ones it dies, or never comes back."""

import numpy as np

from tailseg.structures import RunLengths


def check_run_lengths(rle: RunLengths) -> RunLengths:
    """The run lengths as they are.

    Raises:
        ValueError: the counts are malformed, or do not add up to the size.
    """
    counts, (height, width) = rle["counts"], rle["size"]
    total = run_lengths_total(counts.encode() if isinstance(counts, str) else counts)
    if total is None or total != height * width:
        raise ValueError(
            f"run lengths must stand for the {height} x {width} pixels of their size, got "
            f"{'malformed counts' if total is None else f'{total} pixels'}: encode the mask again"
        )
    return rle


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
