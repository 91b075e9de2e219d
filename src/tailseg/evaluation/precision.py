"""Precision at fixed recall, from matches, as lvis-api and pycocotools define it.

Shapes: n detections, T IoU thresholds, P recall points (0, 0.01 .. 1), K classes, A ranges of object area.
"""

import numpy as np

from tailseg.evaluation.matches import FOUND, LEFT_ALONE, Matches

RECALLS = np.linspace(0.0, 1.0, 101)


def precision_and_recall(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Precision ``[T, P, K, A]`` and recall ``[T, K, A]``; -1 where there is no object to be found.

    precision(r) = the best TP / (TP + FP) among the score thresholds whose recall TP / objects is at least r, else 0;
    recall = TP / objects over all detections.
    """
    num_areas, num_thresholds, _ = matches.states.shape
    precision = np.full((num_thresholds, len(RECALLS), matches.num_classes, num_areas), -1.0)
    recall = np.full((num_thresholds, matches.num_classes, num_areas), -1.0)
    segments = matches.segments()
    for area in range(num_areas):
        num_objects = matches.num_objects(area)
        for index in np.flatnonzero(num_objects).tolist():
            states = matches.states[area, :, segments[index]]
            for threshold in range(num_thresholds):
                curve, last = precision_curve(states[threshold], int(num_objects[index]))
                precision[threshold, :, index, area] = curve
                recall[threshold, index, area] = last
    return precision, recall


def precision_curve(states: np.ndarray, num_objects: int) -> tuple[np.ndarray, float]:
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
