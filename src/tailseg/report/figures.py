"""The report's figures, computed from what became of the detections and the objects.

Shapes: n detections, M objects and crowds, K classes.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from tailseg.evaluation import matches
from tailseg.evaluation.precision import compute_precision_curve
from tailseg.report.evidence import Evidence

SCORE_BINS: Final = 20

FOUND: Final = 2
CONFUSED: Final = 1
MISSED: Final = 0
LEFT_ALONE: Final = -1


def compute_precision_curves(evidence: Evidence) -> list[np.ndarray | None]:
    """Each class's precision ``[101]`` at IoU 0.5 and the recalls 0, 0.01 .. 1; None for a class without objects."""
    counts = evidence.matches.num_objects().tolist()
    return [
        compute_precision_curve(evidence.states[segment], count)[0] if count else None
        for segment, count in zip(evidence.matches.segments(), counts, strict=True)
    ]


def compute_score_histograms(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong detections ``[K, 20]`` by class and score, in bins of 0.05."""
    bins = (evidence.scores * SCORE_BINS).astype(int).clip(0, SCORE_BINS - 1)
    cells = evidence.classes * SCORE_BINS + bins
    size = evidence.matches.num_classes * SCORE_BINS
    right, wrong = (
        np.bincount(cells[evidence.states == state], minlength=size).reshape(-1, SCORE_BINS)
        for state in (matches.FOUND, matches.FALSE)
    )
    return right, wrong


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of each object, as a user sees it who shows what scores at least ``threshold``.

    Attributes:
        threshold: in [0, 1].
        fates: int8 ``[M]``: FOUND; CONFUSED, which is not found, but covered by a detection of another class that finds
            nothing and overlaps no object more than this one; MISSED; LEFT_ALONE (a crowd). In LVIS that other class
            need not have been looked for in the image: AP does not count such a detection, but a user sees it.
        by: int64 ``[M]``, the detection that found it, or the best one of those that confuse it; -1 without.
    """

    threshold: float
    fates: np.ndarray
    by: np.ndarray


def sort_outcomes(evidence: Evidence, *, threshold: float, iou: float = 0.5) -> Outcomes:
    """Sorts the objects into found, confused and missed.

    Args:
        evidence: what became of the detections, those from ``threshold`` up among them.
        threshold: detections that score less are not looked at.
        iou: the overlap that confuses.

    Returns:
        The fate of each object.
    """
    objects = evidence.truth.objects
    shown = evidence.scores >= threshold
    fates = np.where(objects.crowds, LEFT_ALONE, MISSED).astype(np.int8)
    by = np.full(len(objects), -1)
    other = evidence.classes != np.append(objects.classes, -1)[evidence.overlapped]
    confusing = np.flatnonzero(shown & other & (evidence.states != matches.FOUND) & (evidence.overlaps >= iou))
    worst_first = confusing[np.argsort(evidence.scores[confusing], kind="stable")]
    by[evidence.overlapped[worst_first]] = worst_first  # the best is written last, and stays
    fates[evidence.overlapped[confusing]] = CONFUSED
    found = np.flatnonzero(evidence.found_by >= 0)
    found = found[shown[evidence.found_by[found]]]
    fates[found], by[found] = FOUND, evidence.found_by[found]
    return Outcomes(threshold, fates, by)


def find_false_alarms(evidence: Evidence, *, threshold: float) -> list[np.ndarray]:
    """Each class's wrong detections that score at least ``threshold``, best first."""
    chosen = (evidence.states == matches.FALSE) & (evidence.scores >= threshold)
    return [segment.start + np.flatnonzero(chosen[segment]) for segment in evidence.matches.segments()]


def count_outcomes(evidence: Evidence, result: Outcomes) -> np.ndarray:
    """Objects ``[K, 3]`` of each class: missed, confused, found."""
    real = result.fates >= MISSED
    cells = evidence.truth.objects.classes[real] * 3 + result.fates[real]
    return np.bincount(cells, minlength=3 * evidence.matches.num_classes).reshape(-1, 3)


def count_confusions(evidence: Evidence, result: Outcomes) -> list[tuple[int, int, int]]:
    """``(class, taken for, objects)``, most objects first."""
    confused = np.flatnonzero(result.fates == CONFUSED)
    pairs = zip(
        evidence.truth.objects.classes[confused].tolist(),
        evidence.classes[result.by[confused]].tolist(),
        strict=True,
    )
    return sorted(((a, b, count) for (a, b), count in Counter(pairs).items()), key=lambda row: (-row[2], row[:2]))
