"""Precision at fixed recall, from matches, as lvis-api and pycocotools define it.

Shapes: n detections, T IoU thresholds, P recall points (0, 0.01 .. 1), K classes, A ranges of object area.
"""

from typing import NamedTuple

import numpy as np

from tailseg.evaluation.matches import FOUND, LEFT_ALONE, Matches

RECALLS = np.linspace(0.0, 1.0, 101)


class Curves(NamedTuple):
    """Precision and recall of some classes; -1 where an area range has no object to be found.

    precision(r) = the best TP / (TP + FP) among the score thresholds whose recall TP / objects is at least r, else 0;
    recall = TP / objects over all detections.

    Attributes:
        precision: ``[T, P, C, A]``.
        recall: ``[T, C, A]``.
        classes: int64 ``[C]``, positions of those classes among the K, ascending; all others have no object.
    """

    precision: np.ndarray
    recall: np.ndarray
    classes: np.ndarray

    @classmethod
    def of_all(cls, precision: np.ndarray, recall: np.ndarray) -> "Curves":
        """From those of all K classes."""
        return cls(precision, recall, np.arange(recall.shape[1]))


def compute_precision_and_recall(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """`Curves` of all K classes: precision ``[T, P, K, A]`` and recall ``[T, K, A]``."""
    curves, num_classes = compute_curves(matches), matches.num_classes
    num_thresholds, num_recalls, _, num_areas = curves.precision.shape
    precision = np.full((num_thresholds, num_recalls, num_classes, num_areas), -1.0)
    recall = np.full((num_thresholds, num_classes, num_areas), -1.0)
    precision[:, :, curves.classes], recall[:, curves.classes] = curves.precision, curves.recall
    return precision, recall


def compute_curves(matches: Matches, among: np.ndarray | None = None) -> Curves:
    """Curves of the classes that have objects.

    Args:
        matches: by `match_results`.
        among: bool ``[n]``, the detections that count; all if None.
    """
    known = np.unique(matches.object_classes[matches.wanted.any(0)])
    places = np.full(matches.num_classes, -1)
    places[known] = np.arange(len(known))
    classes = places[matches.classes]
    counting = classes >= 0 if among is None else among & (classes >= 0)
    scored = slice(None) if counting.all() else np.flatnonzero(counting)
    classes = classes[scored]
    num_areas, num_thresholds, _ = matches.states.shape
    precision = np.full((num_areas, num_thresholds, len(known), len(RECALLS)), -1.0)
    recall = np.full((num_areas, num_thresholds, len(known)), -1.0)
    for area in range(num_areas):
        num_objects = matches.num_objects(area)[known]
        there, needed = num_objects > 0, count_objects_needed(num_objects)
        for threshold in range(num_thresholds):
            states = matches.states[area, threshold, scored]
            curves, last = compute_precision_curves(classes, states, num_objects, needed)
            precision[area, threshold, there], recall[area, threshold, there] = curves[there], last[there]
    return Curves(precision.transpose(1, 3, 2, 0), recall.transpose(1, 2, 0), known)


def count_objects_needed(num_objects: np.ndarray) -> np.ndarray:
    """``[K, P]``: how many objects before the one whose finding reaches each recall."""
    sizes, of_size = np.unique(num_objects, return_inverse=True)
    needed = [np.searchsorted(np.arange(1, size + 1) / size, RECALLS) if size else 0 * RECALLS for size in sizes]
    return np.asarray(needed, dtype=np.int64).reshape(-1, len(RECALLS))[of_size]


def compute_precision_curves(
    classes: np.ndarray, states: np.ndarray, num_objects: np.ndarray, needed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes `compute_precision_curve` of all classes at once.

    Args:
        classes: int64 ``[n]``, ascending.
        states: uint8 ``[n]``, by class, then score.
        num_objects: int64 ``[K]``.
        needed: by `count_objects_needed`.

    Returns:
        Precision ``[K, P]`` and final recall ``[K]``, both 0 for a class without objects.
    """
    places = np.flatnonzero(states == FOUND)
    curves, recall = np.zeros(needed.shape), np.zeros(len(needed))
    if not len(places):
        return curves, recall
    of_class = classes[places]
    edges = np.searchsorted(classes, np.arange(len(needed)))
    first = np.searchsorted(of_class, np.arange(len(needed)))
    num_found = np.bincount(of_class, minlength=len(needed))
    counted = np.zeros(len(states) + 1, dtype=np.int32)
    np.cumsum(states != LEFT_ALONE, out=counted[1:])
    ranked = counted[places + 1] - counted[edges][of_class]
    found = np.arange(1, len(places) + 1, dtype=np.float64) - first[of_class]
    precision = found / (ranked + np.spacing(1))
    reached = needed < num_found[:, None]
    # the best between two recalls, then the best from each recall on
    curves[reached] = np.maximum.reduceat(precision, (first[:, None] + needed)[reached])
    np.divide(num_found, num_objects, out=recall, where=num_objects > 0)
    return np.ascontiguousarray(np.maximum.accumulate(curves[:, ::-1], axis=1)[:, ::-1]), recall


def compute_mean_precision(
    classes: np.ndarray, states: np.ndarray, num_objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the means of `compute_precision_curves` over the recall points, without the curves.

    Precision at a recall point is that of the object whose finding reaches it, or the best after it. An object counts
    as often as it is the first to reach a point. The work grows with the found objects, not with the classes.

    Args:
        classes: int64 ``[n]``, ascending.
        states: uint8 ``[n]``, by class, then score.
        num_objects: int64 ``[K]``.

    Returns:
        Mean precision ``[K]`` and final recall ``[K]``, both 0 for a class without objects.
    """
    places = np.flatnonzero(states == FOUND)
    size = len(num_objects)
    of_class = classes[places]
    num_found = np.bincount(of_class, minlength=size)
    counted = np.zeros(len(states) + 1, dtype=np.int64)
    np.cumsum(states != LEFT_ALONE, out=counted[1:])
    ranked = counted[places + 1] - counted[np.searchsorted(classes, of_class)]
    found = np.arange(1, len(places) + 1) - (np.cumsum(num_found) - num_found)[of_class]
    # The largest precision from each object of its class on: classes that are 2 apart do not mix.
    apart = 2.0 * (size - of_class)
    best = np.maximum.accumulate((found / ranked + apart)[::-1])[::-1] - apart
    reached = count_points_reached(found / num_objects[of_class])
    before = np.where(found > 1, np.concatenate([[0], reached[:-1]]), 0) if len(places) else reached
    mean = np.bincount(of_class, (reached - before) * best, minlength=size) / len(RECALLS)
    return mean, np.divide(num_found, num_objects, out=np.zeros(size), where=num_objects > 0)


def count_points_reached(recalls: np.ndarray) -> np.ndarray:
    """How many of `RECALLS` are at most the recall: ``searchsorted(RECALLS, recalls, "right")``, in less time."""
    near = np.minimum((recalls * 100).astype(np.int64), 100)
    near += RECALLS[np.minimum(near + 1, 100)] <= recalls
    near = np.minimum(near, 100)
    return near + (RECALLS[near] <= recalls)


def compute_precision_curve(states: np.ndarray, num_objects: int) -> tuple[np.ndarray, float]:
    """Precision at each of `RECALLS` and the final recall, from states in order of score.

    Only detections that find an object raise the recall, so precision is looked at there alone.
    """
    places = np.flatnonzero(states == FOUND)
    curve = np.zeros(len(RECALLS))
    if not len(places):
        return curve, 0.0
    ranked = np.cumsum(states != LEFT_ALONE)[places]
    found = np.arange(1, len(places) + 1, dtype=np.float64)
    best = np.maximum.accumulate((found / (ranked + np.spacing(1)))[::-1])[::-1]
    recalls = found / num_objects
    at = np.searchsorted(recalls, RECALLS, side="left")
    reached = at < len(places)
    curve[reached] = best[at[reached]]
    return curve, float(recalls[-1])
