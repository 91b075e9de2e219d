"""The report's figures, computed from what became of the detections and the objects.

Shapes: n detections, m objects and regions, C classes.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from tailseg.report.matching import FALSE, TRUE, Matches

RECALLS: Final = np.linspace(0, 1, 101)
SCORE_BINS: Final = 20

FOUND: Final = 2
CONFUSED: Final = 1
MISSED: Final = 0
LEFT_ALONE: Final = -1


def precision_at_recalls(matches: Matches, label: int) -> np.ndarray | None:
    """The class's interpolated precision ``[101]`` at the recalls 0, 0.01 .. 1; None for a class without objects.

    p(r) = max over r' >= r of the precision at recall r'; 0 beyond the largest recall. Its mean is the AP at the IoU of
    the matches.
    """
    objects = matches.annotations.objects
    total = int(((objects.labels == label) & ~objects.ignored).sum())
    if total == 0:
        return None
    mine = np.flatnonzero((matches.labels == label) & (matches.fates >= FALSE))
    true = matches.fates[mine[np.argsort(-matches.scores[mine], kind="stable")]] == TRUE
    hits = true.cumsum()
    recall, precision = hits / total, hits / np.arange(1, len(mine) + 1)
    best_to_the_right = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return np.append(best_to_the_right, 0.0)[places]


def score_histograms(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong detections ``[C, 20]`` by class and score, in bins of 0.05; unknown ones are left out."""
    bins = (matches.scores * SCORE_BINS).astype(int).clip(0, SCORE_BINS - 1)
    cells = matches.labels * SCORE_BINS + bins
    size = matches.annotations.num_classes * SCORE_BINS
    true, false = (
        np.bincount(cells[matches.fates == fate], minlength=size).reshape(-1, SCORE_BINS) for fate in (TRUE, FALSE)
    )
    return true, false


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of each object, as a user sees it who shows what scores at least ``threshold``.

    Attributes:
        threshold: in [0, 1].
        fates: int8 ``[m]``: FOUND; CONFUSED, which is not found, but a wrong detection of another class overlaps no
            object more than this one, and this one enough to find it; MISSED; LEFT_ALONE (a region).
        by: int64 ``[m]``, the detection that found it, or the best one of those that confuse it; -1 without.
    """

    threshold: float
    fates: np.ndarray
    by: np.ndarray


def outcomes(matches: Matches, *, threshold: float, iou: float = 0.5) -> Outcomes:
    """Sorts the objects into found, confused and missed.

    Args:
        matches: made at the same ``iou``.
        threshold: detections that score less are not looked at.
        iou: the overlap that confuses.
    """
    objects = matches.annotations.objects
    shown = matches.scores >= threshold
    fates = np.where(objects.ignored, LEFT_ALONE, MISSED).astype(np.int8)
    by = np.full(len(objects), -1)
    other = matches.labels != np.append(objects.labels, -1)[matches.overlapped]
    confusing = np.flatnonzero(shown & other & (matches.fates != TRUE) & (matches.overlaps >= iou))
    worst_first = confusing[np.argsort(matches.scores[confusing], kind="stable")]
    by[matches.overlapped[worst_first]] = worst_first  # the best is written last, and stays
    fates[matches.overlapped[confusing]] = CONFUSED
    found = np.flatnonzero(matches.found_by >= 0)
    found = found[shown[matches.found_by[found]]]
    fates[found], by[found] = FOUND, matches.found_by[found]
    return Outcomes(threshold, fates, by)


def false_alarms(matches: Matches, label: int, *, threshold: float) -> np.ndarray:
    """The class's wrong detections that score at least ``threshold``, best first."""
    mine = np.flatnonzero((matches.labels == label) & (matches.fates == FALSE) & (matches.scores >= threshold))
    return mine[np.argsort(-matches.scores[mine], kind="stable")]


def outcome_counts(matches: Matches, result: Outcomes) -> np.ndarray:
    """Objects ``[C, 3]`` of each class: missed, confused, found."""
    real = result.fates >= MISSED
    cells = matches.annotations.objects.labels[real] * 3 + result.fates[real]
    return np.bincount(cells, minlength=3 * matches.annotations.num_classes).reshape(-1, 3)


def confusions(matches: Matches, result: Outcomes) -> list[tuple[int, int, int]]:
    """``(class, taken for, objects)``, most objects first."""
    confused = np.flatnonzero(result.fates == CONFUSED)
    pairs = zip(
        matches.annotations.objects.labels[confused].tolist(),
        matches.labels[result.by[confused]].tolist(),
        strict=True,
    )
    return sorted(((a, b, count) for (a, b), count in Counter(pairs).items()), key=lambda row: (-row[2], row[:2]))
