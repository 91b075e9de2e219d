"""Each detection of an evaluation: the object that it finds, and the objects that it overlaps.

Shapes: n detections, M objects and crowds.
"""

from dataclasses import dataclass, replace

import numpy as np

from tailseg.evaluation.average_precision import MAX_DETECTIONS
from tailseg.evaluation.detections import find_surroundings, select_best_of_each_image
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.matches import LEFT_ALONE, Matches
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.overlaps import NO_PAIRS, Pairs
from tailseg.evaluation.results import Results
from tailseg.evaluation.splits import Splits, find_splits


@dataclass(frozen=True, eq=False)
class Evidence:
    """Detections beside the objects: those that count, and behind them those that do not, but that a user would see.

    Attributes:
        truth: the M objects and crowds.
        found: the results of the n detections, in their order.
        kind: what overlaps.
        matches: the detections that count, ordered by class, then score; at IoU 0.5 and of all sizes, without pairs.
        classes, images: int64 ``[n]``, positions in order of id.
        scores: float64 ``[n]``.
        states: uint8 ``[n]``: FOUND (an object), FALSE (a false positive), or LEFT_ALONE: in LVIS a class that was not
            looked for in the image.
        overlapped: int64 ``[n]``, the object that a detection overlaps most, of any class; -1 if none by a tenth.
        overlaps: float64 ``[n]``, their IoU.
        found_by: int64 ``[M]``, the detection that found the object at IoU 0.5, -1 if none did.
        splits: the objects that were split into several detections, and those that one detection merged.
    """

    truth: GroundTruth
    found: Results
    kind: IouType
    matches: Matches
    classes: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    states: np.ndarray
    overlapped: np.ndarray
    overlaps: np.ndarray
    found_by: np.ndarray
    splits: Splits


def collect_evidence(
    truth: GroundTruth, found: Results, matches: Matches, *, kind: IouType, least_score: float
) -> Evidence:
    """Collects the detections and their matches from an analysis.

    Args:
        truth: the ground truth.
        found: the results.
        matches: the matches, by `match_results`.
        kind: what overlaps.
        least_score: of the detections that do not count, those that score less are left out; they also make no
            splits.

    Returns:
        The evidence.
    """
    capped = select_best_of_each_image(found, truth, MAX_DETECTIONS[truth.protocol])
    others = capped[~np.isin(capped, matches.rows) & (found.scores[capped] >= least_score)]
    rows = np.concatenate([matches.rows, others])
    images = np.searchsorted(truth.image_ids, found.image_ids[rows])
    around = matches.around
    if around is None:
        around = find_surroundings(truth, found, matches.rows, matches.images, kind)
    beside = find_surroundings(truth, found, others, images[len(matches) :], kind)
    overlapped, shares = _find_most_overlapped(
        truth, len(rows), around, replace(beside, detections=beside.detections + len(matches))
    )
    found_by = np.full(len(truth.objects), -1)
    hits = np.flatnonzero(matches.matched >= 0)
    found_by[matches.matched[hits]] = hits
    return Evidence(
        truth=truth,
        found=found.select(rows),
        kind=kind,
        matches=replace(matches, states=matches.states[:1, :1].copy(), pairs=NO_PAIRS, around=None),
        classes=np.searchsorted(truth.category_ids, found.category_ids[rows]),
        images=images,
        scores=found.scores[rows],
        states=np.append(matches.states[0, 0], np.full(len(others), LEFT_ALONE, np.uint8)),
        overlapped=overlapped,
        overlaps=shares,
        found_by=found_by,
        splits=find_splits(truth, found, matches, kind, threshold=least_score),
    )


def _find_most_overlapped(truth: GroundTruth, num_detections: int, *parts: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection the object that it overlaps most, and their IoU; -1 and 0 without."""
    which, most = np.full(num_detections, -1), np.zeros(num_detections)
    for pairs in parts:
        least_first = np.argsort(pairs.overlaps, kind="stable")
        least_first = least_first[~truth.objects.crowds[pairs.objects[least_first]]]
        which[pairs.detections[least_first]] = pairs.objects[least_first]  # the largest is written last, and stays
        most[pairs.detections[least_first]] = pairs.overlaps[least_first]
    return which, most
