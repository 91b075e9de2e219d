"""Objects that were split into several detections, and objects that one detection merged.

A detection d and an object o of its class share ``|d and o|`` pixels (of boxes: their area).

- split: an object with two or more pieces that together cover at least half of it. A piece is a detection with
  ``|d and o| >= |d| / 2``.
- merged: two or more objects with ``|d and o| >= |o| / 2`` for one detection, of which they together cover at least
  half.

Detections that score less than a threshold do not count, nor do crowd regions, nor pairs with an IoU below 0.1: a piece
is no speck. Pieces are distinct. From the largest shared area on, a piece that shares half of its area, or of the area
of an earlier piece, with that piece is left out, so that a second detection of the whole object is no split. Objects
that one detection merges are distinct in the same way: an object within another one is no second object.

The definition is the one of over- and under-segmentation with a tolerance of one half in A. Hoover et al., "An
Experimental Comparison of Range Image Segmentation Algorithms", IEEE TPAMI 18(7), 1996, extended to regions that
overlap.

Shapes: n detections, M objects, P pairs, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from hotcoco import mask as run_lengths

from tailseg.annotations.types import Group
from tailseg.evaluation.detections import get_object_shapes, get_shapes
from tailseg.evaluation.errors import Part, find_members
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.matches import Matches
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.overlaps import Shapes
from tailseg.evaluation.results import Results

MIN_SHARE: Final = 0.5
"""A piece lies in its object, and an object in the detection that merges it, with at least this share of its area."""
THRESHOLD: Final = 0.3
"""As in `tailseg predict`."""
COUNTS: Final = ("split", "merged", "merging")


@dataclass(frozen=True, eq=False)
class Splits:
    """Objects that were split, and objects that were merged.

    Attributes:
        threshold: detections with lower scores do not count.
        splits: ``(object, pieces)``, in order of object; positions among the objects and the matches.
        merges: ``(detection, objects)``, in order of detection.
        per_class: int64 ``[K, 3]`` in the order of `COUNTS`: split objects, merged objects, and detections that merge
            objects.
    """

    threshold: float
    splits: tuple[tuple[int, tuple[int, ...]], ...]
    merges: tuple[tuple[int, tuple[int, ...]], ...]
    per_class: np.ndarray

    def count_parts(self, groups: tuple[Group | None, ...]) -> dict[Part, dict[str, int]]:
        """The counts of all classes and of each frequency group."""
        return {
            part: dict(zip(COUNTS, self.per_class[members].sum(0).tolist(), strict=True))
            for part, members in find_members(groups).items()
        }

    def to_dict(self, groups: tuple[Group | None, ...]) -> dict[str, Any]:
        """The threshold and the counts as dicts, lists and numbers."""
        return {
            "threshold": self.threshold,
            "parts": self.count_parts(groups),
            "per_class": [dict(zip(COUNTS, row, strict=True)) for row in self.per_class.tolist()],
        }


def find_splits(
    truth: GroundTruth, found: Results, matches: Matches, iou_type: IouType, *, threshold: float = THRESHOLD
) -> Splits:
    """Finds the objects that were split, and those that were merged.

    Args:
        truth: the ground truth.
        found: the results.
        matches: the matches, by `match_results`, with their pairs.
        iou_type: what overlaps: boxes or masks.
        threshold: detections with lower scores do not count.

    Returns:
        The objects with their pieces, and the detections with the objects that they merge.
    """
    pairs = matches.pairs
    pairs = pairs.take(
        np.flatnonzero((matches.scores[pairs.detections] >= threshold) & ~truth.objects.crowds[pairs.objects])
    )
    objects = get_object_shapes(truth, iou_type)
    area, object_area = matches.areas[pairs.detections], objects.areas[pairs.objects]
    shared = pairs.overlaps * (area + object_area) / (1 + pairs.overlaps)
    inside, covered = (np.flatnonzero(shared >= MIN_SHARE * size) for size in (area, object_area))
    detections = get_shapes(found, matches.rows, iou_type)
    columns = pairs.objects, pairs.detections
    splits = _find_wholes(*(column[inside] for column in (*columns, shared)), objects.areas, detections)
    merges = _find_wholes(*(column[covered] for column in (*columns[::-1], shared)), matches.areas, objects)
    found_splits, found_merges = tuple(splits), tuple(merges)
    merged = sorted({row for _, rows in found_merges for row in rows})
    per_class = [
        np.bincount(classes[rows], minlength=matches.num_classes)
        for classes, rows in (
            (truth.objects.classes, np.array([row for row, _ in found_splits], np.int64)),
            (truth.objects.classes, np.array(merged, np.int64)),
            (matches.classes, np.array([row for row, _ in found_merges], np.int64)),
        )
    ]
    return Splits(threshold, found_splits, found_merges, np.stack(per_class, axis=1))


def _find_wholes(
    wholes: np.ndarray, parts: np.ndarray, shared: np.ndarray, areas: np.ndarray, shapes: Shapes
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The wholes with two distinct parts or more that cover at least half of them, and these parts.

    Args:
        wholes: int64 ``[P]``, position of the whole of each pair.
        parts: int64 ``[P]``, position of the part.
        shared: float64 ``[P]``, the area that both share.
        areas: the areas of all wholes.
        shapes: all parts.

    Yields:
        The position of the whole, and of its parts, ascending.
    """
    order = np.lexsort((-shared, wholes))
    order = order[_can_be_covered(wholes[order], shared[order], areas)]
    wholes, parts, shared = wholes[order], parts[order], shared[order]
    selected = _select_distinct(shapes, wholes, parts)
    wholes, parts, shared = wholes[selected], parts[selected], shared[selected]
    rows = np.flatnonzero(_can_be_covered(wholes, shared, areas))
    wholes, parts = wholes[rows], parts[rows]
    edges = np.flatnonzero(np.diff(wholes, prepend=-1, append=-1)).tolist()
    for low, high in pairwise(edges):
        yield int(wholes[low]), tuple(sorted(parts[low:high].tolist()))


def _can_be_covered(wholes: np.ndarray, shared: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Whether the whole of each pair has two parts or more, which have at least half of its area, bool ``[P]``."""
    counts, sums = np.bincount(wholes), np.bincount(wholes, shared)
    return (counts[wholes] >= 2) & (sums[wholes] >= MIN_SHARE * areas[wholes])


def _select_distinct(shapes: Shapes, wholes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Pairs in order, without those whose part shares half of its area, or of an earlier part's, with the earlier one.

    A round selects the first part of each whole, and drops the parts of this whole that are no distinct ones.
    """
    selected: list[np.ndarray] = []
    rest = np.arange(len(wholes))
    while len(rest):
        starts = np.flatnonzero(np.diff(wholes[rest], prepend=-1))
        selected.append(rest[starts])
        first = np.repeat(rest[starts], np.diff(starts, append=len(rest)))
        others = rest != first
        rest, first = rest[others], first[others]
        rest = rest[~_is_same(shapes, parts[rest], parts[first])]
    return np.sort(np.concatenate(selected)) if selected else rest


def _is_same(shapes: Shapes, rows: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Whether two shapes share half of the smaller one, bool; equal ones of ``firsts`` are next to each other."""
    enough = MIN_SHARE * np.minimum(shapes.areas[rows], shapes.areas[firsts])
    low, high = shapes.boxes[:, :2], shapes.boxes[:, :2] + shapes.boxes[:, 2:]
    sides = np.minimum(high[rows], high[firsts]) - np.maximum(low[rows], low[firsts])
    same = sides.clip(0).prod(-1) >= enough
    if shapes.masks is None or not same.any():
        return same
    near = np.flatnonzero(same)  # masks share no more than their boxes do
    edges = np.flatnonzero(np.diff(firsts[near], prepend=-1, append=-1))
    masks, heads = shapes.masks(rows[near]), shapes.masks(firsts[near[edges[:-1]]])
    overlaps = np.concatenate(
        [
            np.asarray(run_lengths.iou(masks[low:high], [head], [False]), np.float64)[:, 0]
            for head, (low, high) in zip(heads, pairwise(edges.tolist()), strict=True)
        ]
    )
    total = shapes.areas[rows[near]] + shapes.areas[firsts[near]]
    same[near] = overlaps * total / (1 + overlaps) >= enough[near]
    return same
