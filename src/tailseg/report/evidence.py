"""An evaluation looked at detection by detection: what each one found, and what it lies upon.

Shapes: n detections that count, M objects and crowds, P pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tailseg.evaluation.average_precision import MAX_DETECTIONS
from tailseg.evaluation.detections import best_of_each_image, match_results, overlaps, read_found
from tailseg.evaluation.ground_truth import GroundTruth, read_ground_truth
from tailseg.evaluation.matches import FALSE, FOUND, Matches
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.overlaps import pairs_of_equal
from tailseg.evaluation.results import Results
from tailseg.structures import Group

CHUNK: Final = 100_000
"""Detections whose overlaps are computed at a time."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Detections that count, beside the objects.

    Attributes:
        truth: the M objects and crowds.
        found: the results file.
        kind: what overlaps.
        matches: n detections, ordered by class, then score; their classes, images, scores and what they found.
        overlapped: int64 ``[n]``, the object that a detection overlaps most, of any class; -1 if none by a tenth.
        overlaps: float64 ``[n]``, their IoU.
        found_by: int64 ``[M]``, the detection that found the object at IoU 0.5, -1 if none did.
    """

    truth: GroundTruth
    found: Results
    kind: IouType
    matches: Matches
    overlapped: np.ndarray
    overlaps: np.ndarray
    found_by: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Detections that found an object, bool ``[n]``."""
        return self.matches.states[0, 0] == FOUND

    @property
    def wrong(self) -> np.ndarray:
        """False positives, bool ``[n]``; the rest counts neither for nor against."""
        return self.matches.states[0, 0] == FALSE


def gather(annotations_json: Path, results: Path, *, kind: IouType, groups: Mapping[int, Group]) -> Evidence:
    """Reads and matches a results file.

    Args:
        annotations_json: ground truth.
        results: the results file.
        kind: what overlaps.
        groups: category id -> frequency group.

    Raises:
        FileNotFoundError, ValueError: as `tailseg.evaluation.evaluate`.
    """
    both: tuple[IouType, ...] = ("bbox", "segm") if kind == "segm" else ("bbox",)  # boxes say where a picture is
    truth = read_ground_truth(annotations_json, masks=kind == "segm", groups=groups)
    found = read_found(results, truth, both)
    rows = best_of_each_image(found, truth, MAX_DETECTIONS[truth.protocol])
    matches = match_results(truth, found, rows, kind)
    overlapped, shares = _most_overlapped(truth, found, matches, kind)
    found_by = np.full(len(truth.objects), -1)
    hits = np.flatnonzero(matches.matched >= 0)
    found_by[matches.matched[hits]] = hits
    return Evidence(truth, found, kind, matches, overlapped, shares, found_by)


def _most_overlapped(
    truth: GroundTruth, found: Results, matches: Matches, kind: IouType
) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection the object that it overlaps most, and their IoU; -1 and 0 without."""
    which, most = np.full(len(matches), -1), np.zeros(len(matches))
    objects = np.flatnonzero(~truth.objects.crowds)
    by_image = np.argsort(matches.images, kind="stable")
    for first in range(0, len(by_image), CHUNK):
        some = by_image[first : first + CHUNK]
        at, among = pairs_of_equal(matches.images[some], truth.objects.images[objects])
        detections = some[at]
        pairs = overlaps(truth, found, matches.rows, detections, objects[among], matches.images[detections], kind)
        least_first = np.argsort(pairs.overlaps, kind="stable")
        which[pairs.detections[least_first]] = pairs.objects[least_first]  # the largest is written last, and stays
        most[pairs.detections[least_first]] = pairs.overlaps[least_first]
    return which, most
