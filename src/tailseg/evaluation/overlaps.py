"""Overlaps of detections with objects, computed only for pairs that can overlap.

Shapes: n detections, M objects, P pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from hotcoco import mask as run_lengths

Runs = dict[str, Any]
LEAST = 0.1
"""Overlaps below it are nobody's concern: neither a match (from 0.5) nor an error of localisation (from 0.1)."""


@dataclass(frozen=True)
class Pairs:
    """Detections and objects that overlap by at least `LEAST`, in order of detection.

    Attributes:
        detections, objects: int64 ``[P]`` positions.
        overlaps: float64 ``[P]``: intersection over union; over the detection's area where the object is a crowd.
    """

    detections: np.ndarray
    objects: np.ndarray
    overlaps: np.ndarray

    def __len__(self) -> int:
        return len(self.overlaps)

    def take(self, rows: np.ndarray) -> "Pairs":
        """The pairs at these rows."""
        return Pairs(self.detections[rows], self.objects[rows], self.overlaps[rows])


def pairs_of_equal(detection_keys: np.ndarray, object_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs whose keys are equal: positions of detections, ascending, and of objects, ascending within each."""
    order = np.argsort(object_keys, kind="stable")
    ordered = object_keys[order]
    first = np.searchsorted(ordered, detection_keys, side="left")
    count = np.searchsorted(ordered, detection_keys, side="right") - first
    detections = np.repeat(np.arange(len(detection_keys)), count)
    within = np.arange(len(detections)) - np.repeat(np.cumsum(count) - count, count)
    return detections, order[np.repeat(first, count) + within]


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Shared area of xywh boxes, row by row, with pycocotools' order of operations: equal to the last bit."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    sides = np.minimum(boxes[:, 2:] + boxes[:, :2], others[:, 2:] + others[:, :2]) - low
    return np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)


def box_pairs(
    detections: np.ndarray, objects: np.ndarray, boxes: np.ndarray, object_boxes: np.ndarray, crowds: np.ndarray
) -> Pairs:
    """Those of the given pairs whose boxes (xywh, ``[n, 4]`` and ``[M, 4]``) overlap."""
    mine, theirs = boxes[detections], object_boxes[objects]
    shared = intersections(mine, theirs)
    area = mine[:, 2] * mine[:, 3]
    union = np.where(crowds[objects], area, area + theirs[:, 2] * theirs[:, 3] - shared)
    overlaps = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    near = overlaps >= LEAST
    return Pairs(detections[near], objects[near], overlaps[near])


def mask_pairs(
    detections: np.ndarray,
    objects: np.ndarray,
    groups: np.ndarray,
    masks: Callable[[np.ndarray], list[Runs]],
    areas: np.ndarray,
    object_masks: Sequence[Runs],
    crowds: np.ndarray,
) -> Pairs:
    """Those of the given pairs whose masks overlap.

    Args:
        detections, objects: the pairs.
        groups: ``[P]``: pairs of one group (an image, or a class in one) are handed to the engine together.
        masks: the run lengths of the detections at some positions.
        areas: of the masks of all detections.
        object_masks: of all objects.
        crowds: bool ``[M]``.
    """
    possible = _possible(detections, objects, masks, areas, object_masks, crowds)
    detections, objects, groups = detections[possible], objects[possible], groups[possible]
    order = np.argsort(groups, kind="stable")
    groups = groups[order]
    ends = [*np.flatnonzero(np.diff(groups, prepend=-1)).tolist(), len(order)]
    mine, theirs = _distinct(groups, ends, detections[order]), _distinct(groups, ends, objects[order])
    overlaps = np.zeros(len(order))
    for i, (start, end) in enumerate(pairwise(ends)):
        ours, others = mine.of_group(i), theirs.of_group(i)
        table = run_lengths.iou(masks(ours), [object_masks[index] for index in others.tolist()], crowds[others])
        overlaps[order[start:end]] = table[mine.places[start:end], theirs.places[start:end]]
    near = overlaps >= LEAST
    return Pairs(detections[near], objects[near], overlaps[near])


class _Distinct(NamedTuple):
    """The distinct values of each group, ascending, the groups one after the other."""

    values: np.ndarray
    starts: np.ndarray
    """Where each group's begin, and their number."""
    places: np.ndarray
    """``[P]``: the place of each value among those of its group."""

    def of_group(self, group: int) -> np.ndarray:
        return self.values[self.starts[group] : self.starts[group + 1]]


def _distinct(groups: np.ndarray, ends: Sequence[int], values: np.ndarray) -> _Distinct:
    """Of values whose groups are ascending; for all groups at once, since there is one for each class in each image.

    Args:
        groups, values: ``[P]``.
        ends: where each group begins, and P.
    """
    order = np.lexsort((values, groups))
    ordered = values[order]
    new = np.diff(ordered, prepend=-1) != 0
    new[ends[:-1]] = True
    rank = np.cumsum(new) - 1
    starts = np.append(rank[ends[:-1]], new.sum())
    places = np.empty_like(rank)
    places[order] = rank - np.repeat(starts[:-1], np.diff(ends))
    return _Distinct(ordered[new], starts, places)


def _possible(
    detections: np.ndarray,
    objects: np.ndarray,
    masks: Callable[[np.ndarray], list[Runs]],
    areas: np.ndarray,
    object_masks: Sequence[Runs],
    crowds: np.ndarray,
) -> np.ndarray:
    """Whether the overlap can reach `LEAST`: masks share no more than their boxes do, and than the smaller one has."""
    mine, at_mine = np.unique(detections, return_inverse=True)
    theirs, at_theirs = np.unique(objects, return_inverse=True)
    if not len(theirs):
        return np.zeros(0, dtype=bool)
    their_masks = [object_masks[index] for index in theirs.tolist()]
    boxes, object_boxes = _boxes(masks(mine)), _boxes(their_masks)
    area, object_area = areas[detections], np.asarray(run_lengths.area(their_masks), dtype=np.float64)[at_theirs]
    shared = np.minimum(intersections(boxes[at_mine], object_boxes[at_theirs]), np.minimum(area, object_area))
    union = np.where(crowds[objects], area, np.maximum(area, object_area))
    return (shared >= LEAST * union) & (shared > 0)


def _boxes(masks: list[Runs]) -> np.ndarray:
    return np.asarray(run_lengths.to_bbox(masks), dtype=np.float64).reshape(-1, 4)
