"""Packs segmentations (polygons or run lengths). Invalid ones are marked and reported later."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.json_file import WrittenRunLengths
from tailseg.annotations.ragged import Ragged, compute_offsets
from tailseg.annotations.run_lengths import count_pixels
from tailseg.words import count_noun


@dataclass(frozen=True)
class Segmentations:
    """The masks of M objects.

    Attributes:
        polygons: one row per polygon, float64 ``x, y, x, y ...``, in the order of the objects.
        polygon_counts: int64 ``[M]``.
        run_lengths: one row per object, the compressed counts; empty for an object with polygons.
        sizes: int64 ``[M, 2]``: height and width as stated in the run lengths; 0 for polygons.
        unknown: rows with segmentations that are neither polygons nor run lengths.
        broken: the reasons why run lengths are malformed, by row.
    """

    polygons: Ragged
    polygon_counts: np.ndarray
    run_lengths: Ragged
    sizes: np.ndarray
    unknown: list[int]
    broken: dict[int, str]


class SegmentationPacker:
    """Packs segmentations one by one."""

    def __init__(self) -> None:
        self._coordinates = array("d")
        self._polygon_lengths = array("q")
        self._polygon_counts = array("q")
        self._run_lengths = bytearray()
        self._run_length_rows = array("q")
        self._run_length_sizes = array("q")
        self._sizes = array("q")
        self._unknown: list[int] = []
        self._broken: dict[int, str] = {}

    def extend(self, segmentations: Sequence[list[list[float]] | WrittenRunLengths | None]) -> None:
        """Adds the segmentations of the next objects; their types must be right."""
        add_numbers, add_length = self._coordinates.fromlist, self._polygon_lengths.append
        add_count = self._polygon_counts.append
        for segmentation in segmentations:
            if isinstance(segmentation, WrittenRunLengths):
                self._add_run_lengths(list(segmentation.size), segmentation.counts)
                continue
            count = 0
            for polygon in segmentation or ():
                if polygon:  # an empty polygon is ignored
                    add_numbers(polygon)
                    add_length(len(polygon))
                    count += 1
            add_count(count)

    def add(self, segmentation: Any) -> None:  # noqa: ANN401 - whatever the file has
        """Adds the segmentation of the next object; it may be any value."""
        before = len(self._coordinates), len(self._polygon_lengths)
        try:
            if isinstance(segmentation, dict):
                self._add_run_lengths(segmentation.get("size"), segmentation.get("counts"))
                return
            if segmentation is not None and not isinstance(segmentation, list):
                raise TypeError
            if any(not isinstance(polygon, list) or bool in map(type, polygon) for polygon in segmentation or ()):
                raise TypeError
            self.extend([segmentation])
        except (TypeError, OverflowError):
            del self._coordinates[before[0] :], self._polygon_lengths[before[1] :]
            self._unknown.append(len(self._polygon_counts))
            self._polygon_counts.append(0)

    def _add_run_lengths(self, size: Any, counts: Any) -> None:  # noqa: ANN401
        row = len(self._polygon_counts)
        sides = _to_whole_numbers(size)
        if len(sides) == 2 and all(0 < side < 2**31 for side in sides):
            compressed = self._compress(counts, sides)
            self._run_lengths += compressed
            self._run_length_rows.append(row)
            self._run_length_sizes.append(len(compressed))
            self._sizes.extend(sides)
        else:
            self._broken[row] = f"size is {size!r:.60}, expected [height, width]"
        self._polygon_counts.append(0)

    def _compress(self, counts: Any, size: Sequence[int]) -> bytes:  # noqa: ANN401
        """Compresses the counts. Malformed counts give b"" and a reason in ``broken``."""
        row, (height, width) = len(self._polygon_counts), size
        if isinstance(counts, list):
            runs = _to_whole_numbers(counts)
            valid = len(runs) == len(counts) and min(runs, default=0) >= 0 and sum(runs) == height * width
            if valid and 0 < height * width < 2**32:
                return coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
            self._broken[row] = f"the sum of counts must be {count_noun(height * width, 'pixel')}"
        elif isinstance(counts, str) and counts.isascii():
            compressed = counts.encode()
            total = count_pixels(compressed)
            if total == height * width > 0:
                return compressed
            self._broken[row] = (
                "counts are malformed"
                if total is None
                else f"counts have {count_noun(total, 'pixel')}, not {height * width:,}"
            )
        else:
            self._broken[row] = f"counts must be a list or a string, got {type(counts).__name__}"
        return b""

    def pack(self) -> Segmentations:
        """Returns all packed segmentations."""
        rows, num_rows = np.frombuffer(self._run_length_rows, np.int64), len(self._polygon_counts)
        polygon_lengths = np.frombuffer(self._polygon_lengths, np.int64)
        sizes, lengths = np.zeros((num_rows, 2), np.int64), np.zeros(num_rows, np.int64)
        sizes[rows] = np.frombuffer(self._sizes, np.int64).reshape(-1, 2)
        lengths[rows] = self._run_length_sizes
        return Segmentations(
            polygons=Ragged(np.frombuffer(self._coordinates, np.float64), compute_offsets(polygon_lengths)),
            polygon_counts=np.frombuffer(self._polygon_counts, np.int64),
            run_lengths=Ragged(np.frombuffer(self._run_lengths, np.uint8), compute_offsets(lengths)),
            sizes=sizes,
            unknown=self._unknown,
            broken=self._broken,
        )


def _to_whole_numbers(numbers: Any) -> list[int]:  # noqa: ANN401 - anything that JSON can hold
    """Converts a list to whole numbers, also from ``96.0``; empty if a value is not a whole number."""
    if not isinstance(numbers, list):
        return []
    if all(type(number) is int for number in numbers):
        return numbers
    valid = all(type(number) is int or (type(number) is float and number.is_integer()) for number in numbers)
    return [*map(int, numbers)] if valid else []
