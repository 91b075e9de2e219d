"""Segmentations as annotated: polygons or run lengths, checked and packed."""

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.problems import Problems
from tailseg.annotations.ragged import Ragged, offsets_of
from tailseg.annotations.run_lengths import run_lengths_total


class SegmentationPacker:
    """Packs segmentations one after the other; what is wrong with them is told at the end."""

    def __init__(self) -> None:
        self._coordinates = array("d")
        self._polygon_lengths = array("q")
        self._polygon_counts = array("q")
        self._run_lengths = bytearray()
        self._run_length_sizes = array("q")
        self._unknown: list[int] = []
        self._broken: list[tuple[int, str]] = []

    def add(self, segmentation: Any, size: list[int]) -> None:  # noqa: ANN401 - whatever the file has
        """The next object's: polygons, run lengths, or None or [] for no mask; ``size`` is ``[height, width]``."""
        row, polygons, compressed = len(self._polygon_counts), 0, b""
        if isinstance(segmentation, dict):
            compressed, reason = _run_lengths(segmentation, size)
            self._broken += [(row, reason)] * bool(reason)
        elif segmentation is not None:
            polygons = self._add_polygons(segmentation)
            self._unknown += [row] * (polygons is None)
        self._polygon_counts.append(polygons or 0)
        self._run_lengths += compressed
        self._run_length_sizes.append(len(compressed))

    def _add_polygons(self, polygons: Any) -> int | None:  # noqa: ANN401
        """The number of polygons added; None, and nothing added, if they are no list of lists of numbers."""
        if not isinstance(polygons, list):
            return None
        coordinates, lengths = len(self._coordinates), len(self._polygon_lengths)
        try:
            for polygon in polygons:
                self._coordinates.fromlist(polygon)
                self._polygon_lengths.append(len(polygon))
        except (TypeError, OverflowError):
            del self._coordinates[coordinates:], self._polygon_lengths[lengths:]
            return None
        return len(polygons)

    def pack(
        self, sizes: np.ndarray, name: Callable[[int], str], segmentation: Callable[[int], Any], problems: Problems
    ) -> tuple[Ragged, np.ndarray, Ragged]:
        """Polygons (a row each), the objects' offsets into them, and compressed run lengths (a row an object).

        Args:
            sizes: int64 ``[M, 2]``, height and width of each object's image.
            name: of an object, for messages.
            segmentation: of an object, for messages.
            problems: takes what is wrong.
        """
        problems.add(
            "segmentations are neither polygons nor run lengths",
            self._unknown,
            "Expected [[x1, y1, x2, y2, x3, y3, ...], ...] or {'size': [height, width], 'counts': ...}",
            name=lambda row: f"{name(row)} has {segmentation(row)!r:.60}",
        )
        problems.add(
            "run lengths do not fit their image",
            self._broken,
            "Encode the mask again at the image's size",
            name=lambda found: f"{name(found[0])}: {found[1]}",
        )
        polygons = Ragged(np.frombuffer(self._coordinates, np.float64), offsets_of(self._polygon_lengths))
        polygon_counts = np.frombuffer(self._polygon_counts, np.int64)
        _check_polygons(polygons, np.repeat(np.arange(len(sizes)), polygon_counts), sizes, name, problems)
        run_lengths = Ragged(np.frombuffer(self._run_lengths, np.uint8), offsets_of(self._run_length_sizes))
        return polygons, offsets_of(polygon_counts), run_lengths


def _check_polygons(
    polygons: Ragged, owners: np.ndarray, sizes: np.ndarray, name: Callable[[int], str], problems: Problems
) -> None:
    lengths = np.diff(polygons.offsets)
    problems.add(
        "polygons with fewer than three points or an odd number of coordinates",
        np.flatnonzero((lengths < 6) | (lengths % 2 == 1)),
        "Write x1, y1, x2, y2, x3, y3, ..., or remove the polygon (a box needs its four corners)",
        name=lambda polygon: f"{name(int(owners[polygon]))} has one of {lengths[polygon]} numbers",
    )
    limits = 2 * sizes.max(axis=1, initial=1)[owners]
    filled = np.flatnonzero(lengths)
    highest, lowest = (
        limit.reduceat(polygons.values, polygons.offsets[filled]) if len(filled) else np.empty(0)
        for limit in (np.maximum, np.minimum)
    )
    fits = (highest <= limits[filled]) & (lowest >= -limits[filled])  # false for NaN, which pycocotools dies of
    problems.add(
        "objects have a polygon with coordinates that are not finite or far outside the image",
        np.unique(owners[filled[~fits]]),
        "Correct the coordinates (pixels of the image, x before y) or remove the object",
        name=name,
    )


def _run_lengths(segmentation: dict[str, Any], size: list[int]) -> tuple[bytes, str]:
    """The compressed counts, and what is wrong with them."""
    if segmentation.get("size") != size:
        return b"", f"size is {segmentation.get('size')!r:.60}, the image's [height, width] is {size}"
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
            return b"", f"counts must be numbers of pixels that add up to {size[0] * size[1]}"
        return coco.frPyObjects({"size": size, "counts": counts}, *size)["counts"], ""
    if not isinstance(counts, str) or not counts.isascii():
        return b"", f"counts must be a list or a string, got {type(counts).__name__}"
    compressed = counts.encode()
    total = run_lengths_total(compressed)
    return compressed, "" if total == size[0] * size[1] else f"counts stand for {total} pixels, not {size[0] * size[1]}"
