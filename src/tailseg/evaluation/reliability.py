"""Do scores mean what they say? Of the detections with score 0.8, four in five should find an object.

Shapes: n detections, B bins of equal width in [0, 1].
"""

from dataclasses import dataclass

import numpy as np

from tailseg.annotations.types import Group
from tailseg.evaluation.errors import Part, find_members
from tailseg.evaluation.matches import FOUND, LEFT_ALONE, Matches

NUM_BINS = 10


@dataclass(frozen=True)
class Bin:
    """Detections with a score in (low, high] (the first bin has 0 too).

    Attributes:
        low, high: edges.
        count: detections.
        score: their mean score, None for an empty bin.
        precision: the share that finds an object, None for an empty bin.
    """

    low: float
    high: float
    count: int
    score: float | None
    precision: float | None


@dataclass(frozen=True)
class Reliability:
    """Scores against precision in a part of the classes.

    Attributes:
        bins: from low to high scores.
        count: detections.
        expected_error: expected calibration error, sum over bins of count / n |score - precision|, in 0..1; None
            without detections.
        bias: mean score - precision over all: above 0 the scores promise too much.
    """

    bins: tuple[Bin, ...]
    count: int
    expected_error: float | None
    bias: float | None


def compute_reliability(
    matches: Matches, groups: tuple[Group | None, ...], *, num_bins: int = NUM_BINS
) -> dict[Part, Reliability]:
    """Reliability at IoU 0.5, of all classes and by frequency group; detections that LVIS leaves alone do not count.

    M. P. Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015 (the error);
    F. Küppers et al., "Multivariate Confidence Calibration for Object Detection", CVPR Workshops 2020 (for detections).

    Args:
        matches: by `match_results`.
        groups: of the K classes.
        num_bins: B.

    Returns:
        The reliability of each part of the classes.

    Raises:
        ValueError: a score lies outside [0, 1].
    """
    scores = matches.scores
    if len(scores) and not 0 <= scores.min() <= scores.max() <= 1:
        raise ValueError(f"reliability wants scores in [0, 1], got {scores.min():.4g} .. {scores.max():.4g}")
    state = matches.states[0, 0]
    counts = state != LEFT_ALONE
    return {
        part: _compute_reliability(scores[rows], state[rows] == FOUND, num_bins)
        for part, members in find_members(groups).items()
        for rows in [counts & members[matches.classes]]
    }


def _compute_reliability(scores: np.ndarray, found: np.ndarray, num_bins: int) -> Reliability:
    edges = np.linspace(0, 1, num_bins + 1)
    at = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, num_bins - 1)
    count, score, hits = (np.bincount(at, weights, num_bins) for weights in (None, scores, found))
    bins = tuple(
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int(count[i]),
            score=float(score[i] / count[i]) if count[i] else None,
            precision=float(hits[i] / count[i]) if count[i] else None,
        )
        for i in range(num_bins)
    )
    total = len(scores)
    return Reliability(
        bins=bins,
        count=total,
        expected_error=float(np.abs(score - hits).sum() / total) if total else None,
        bias=float((score - hits).sum() / total) if total else None,
    )
