"""Overlaps of detections with objects, computed only for pairs that can overlap.

Shapes: n detections, M objects, P pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from hotcoco import mask as run_lengths

Runs = dict[str, Any]
LEAST = 0.1
"""Overlaps below it are nobody's concern: neither a match (from 0.5) nor an error of localization (from 0.1)."""
BLOCK = 1 << 16
"""Pairs that are looked at together: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Pairs:
    """Detections and objects that overlap by at least `LEAST`, in order of detection, then object.

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


NO_PAIRS = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class Shapes:
    """Boxes, or masks with the boxes around them.

    Attributes:
        boxes: ``[n, 4]`` xywh.
        areas: float64 ``[n]``, of the boxes or masks.
        masks: the run lengths at some positions; None for boxes.
    """

    boxes: np.ndarray
    areas: np.ndarray
    masks: Callable[[np.ndarray], list[Runs]] | None = None


def find_overlaps(
    detection_keys: np.ndarray, object_keys: np.ndarray, detections: Shapes, objects: Shapes, crowds: np.ndarray
) -> Pairs:
    """The pairs of equal keys (an image, or a class in one) that overlap.

    Args:
        detection_keys: int64 ``[n]``.
        object_keys: int64 ``[M]``.
        detections: the n detections.
        objects: the M objects.
        crowds: bool ``[M]``.

    Returns:
        The pairs.
    """
    columns = _get_sides(detections.boxes), _get_sides(objects.boxes)
    overlaps_of = _compute_box_overlaps if objects.masks is None else _compute_mask_overlaps
    found = []
    for block in _pair_equal_keys(detection_keys, object_keys):
        mine, theirs, shared = _find_shared_areas(*block, *columns)
        overlaps = overlaps_of(mine, theirs, shared, detections, objects, crowds)
        near = np.flatnonzero(overlaps >= LEAST)
        found.append((mine[near], theirs[near], overlaps[near]))
    if not found:
        return NO_PAIRS
    pairs = Pairs(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
    return pairs.take(np.argsort(pairs.detections * len(object_keys) + pairs.objects))


def _pair_equal_keys(detection_keys: np.ndarray, object_keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Detections and objects of equal keys, those of an object together; some `BLOCK` at a time."""
    by_key = argsort_ascending(detection_keys)
    ordered = detection_keys[by_key]
    order = argsort_ascending(object_keys)
    first = np.searchsorted(ordered, object_keys[order], side="left")
    count = np.searchsorted(ordered, object_keys[order], side="right") - first
    reached = np.cumsum(count)
    cuts = np.flatnonzero(np.diff(reached // BLOCK, prepend=0))
    for low, high in pairwise([0, *cuts.tolist(), len(order)]):
        counts = count[low:high]
        theirs = np.repeat(order[low:high], counts)
        if len(theirs):
            starts = first[low:high] - (np.cumsum(counts) - counts)
            yield by_key[np.repeat(starts, counts) + np.arange(len(theirs))], theirs


def argsort_ascending(keys: np.ndarray) -> np.ndarray:
    """Positions in ascending order of whole numbers, equal ones as they come."""
    if not len(keys) or (keys[1:] >= keys[:-1]).all():
        return np.arange(len(keys))
    # a few bytes are sorted by counting, many by comparing
    return np.argsort(keys.astype(np.uint16) if keys.min() >= 0 and keys.max() < 1 << 16 else keys, kind="stable")


def _get_sides(boxes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Left, top, right and bottom of xywh boxes, each in one piece."""
    x, y, width, height = (np.ascontiguousarray(side, dtype=np.float64) for side in boxes.T)
    return x, y, width + x, height + y


def _find_shared_areas(
    mine: np.ndarray, theirs: np.ndarray, columns: tuple[np.ndarray, ...], their_columns: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Those of the pairs whose boxes overlap, and the area that they share, to the last bit as pycocotools has it."""
    sides: list[np.ndarray] = []
    for low, high in ((0, 2), (1, 3)):
        side = np.minimum(columns[high][mine], their_columns[high][theirs])
        side -= np.maximum(columns[low][mine], their_columns[low][theirs])
        kept = np.flatnonzero(side > 0)
        mine, theirs = mine[kept], theirs[kept]
        sides = [*(other[kept] for other in sides), side[kept]]
    return mine, theirs, sides[0] * sides[1]


def _compute_box_overlaps(
    mine: np.ndarray, theirs: np.ndarray, shared: np.ndarray, detections: Shapes, objects: Shapes, crowds: np.ndarray
) -> np.ndarray:
    area = detections.areas[mine]
    return shared / np.where(crowds[theirs], area, area + objects.areas[theirs] - shared)


def _compute_mask_overlaps(
    mine: np.ndarray, theirs: np.ndarray, shared: np.ndarray, detections: Shapes, objects: Shapes, crowds: np.ndarray
) -> np.ndarray:
    """By hotcoco, object by object; 0 where masks that share no more than their boxes do cannot reach `LEAST`."""
    assert detections.masks is not None
    assert objects.masks is not None
    overlaps = np.zeros(len(mine))
    area, object_area = detections.areas[mine], objects.areas[theirs]
    union = np.where(crowds[theirs], area, np.maximum(area, object_area))
    possible = np.flatnonzero(np.minimum(shared, np.minimum(area, object_area)) >= LEAST * union)
    if not len(possible):
        return overlaps
    masks = detections.masks(mine[possible])
    which = theirs[possible]
    starts = np.flatnonzero(np.diff(which, prepend=-1))
    found = [
        run_lengths.iou(masks[low:high], [mask], [crowd])[:, 0]
        for mask, crowd, (low, high) in zip(
            objects.masks(which[starts]),
            crowds[which[starts]].tolist(),
            pairwise([*starts.tolist(), len(which)]),
            strict=True,
        )
    ]
    overlaps[possible] = np.concatenate(found)
    return overlaps


def get_mask_boxes(masks: Sequence[Runs]) -> np.ndarray:
    """float64 ``[n, 4]`` xywh around masks."""
    return np.asarray(run_lengths.to_bbox(list(masks)), dtype=np.float64).reshape(-1, 4)
