"""An evaluation looked at detection by detection: what each one found, and what it lies upon.

Shapes: n detections, M objects and crowds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tailseg.evaluation.average_precision import MAX_DETECTIONS
from tailseg.evaluation.detections import best_of_each_image, match_results, overlaps, read_found
from tailseg.evaluation.ground_truth import GroundTruth, read_ground_truth
from tailseg.evaluation.matches import LEFT_ALONE, Matches
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.overlaps import pairs_of_equal
from tailseg.evaluation.results import Results
from tailseg.structures import Group

CHUNK: Final = 100_000
"""Detections whose overlaps are computed at a time."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Detections beside the objects: those that count, and behind them those that do not, but that a user would see.

    Attributes:
        truth: the M objects and crowds.
        found: the results file.
        kind: what overlaps.
        matches: the detections that count, ordered by class, then score.
        rows: int64 ``[n]``, places in ``found``.
        classes, images: int64 ``[n]``, positions in order of id.
        scores: float64 ``[n]``.
        states: uint8 ``[n]``: FOUND (an object), FALSE (a false positive), or LEFT_ALONE: in LVIS a class that was not
            looked for in the image.
        overlapped: int64 ``[n]``, the object that a detection overlaps most, of any class; -1 if none by a tenth.
        overlaps: float64 ``[n]``, their IoU.
        found_by: int64 ``[M]``, the detection that found the object at IoU 0.5, -1 if none did.
    """

    truth: GroundTruth
    found: Results
    kind: IouType
    matches: Matches
    rows: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    states: np.ndarray
    overlapped: np.ndarray
    overlaps: np.ndarray
    found_by: np.ndarray


def gather(
    annotations_json: Path, results: Path, *, kind: IouType, groups: Mapping[int, Group], least_score: float
) -> Evidence:
    """Reads and matches a results file.

    Args:
        annotations_json: ground truth.
        results: the results file.
        kind: what overlaps.
        groups: category id -> frequency group.
        least_score: of the detections that do not count, those that score less are left out.

    Raises:
        FileNotFoundError, ValueError: as `tailseg.evaluation.evaluate`.
    """
    both: tuple[IouType, ...] = ("bbox", "segm") if kind == "segm" else ("bbox",)  # boxes say where a picture is
    truth = read_ground_truth(annotations_json, masks=kind == "segm", groups=groups)
    found = read_found(results, truth, both, least_score=least_score)
    capped = best_of_each_image(found, truth, MAX_DETECTIONS[truth.protocol])
    matches = match_results(truth, found, capped, kind)
    others = capped[~np.isin(capped, matches.rows) & (found.scores[capped] >= least_score)]
    rows = np.concatenate([matches.rows, others])
    images = np.searchsorted(truth.image_ids, found.image_ids[rows])
    overlapped, shares = _most_overlapped(truth, found, rows, images, kind)
    found_by = np.full(len(truth.objects), -1)
    hits = np.flatnonzero(matches.matched >= 0)
    found_by[matches.matched[hits]] = hits
    return Evidence(
        truth=truth,
        found=found,
        kind=kind,
        matches=matches,
        rows=rows,
        classes=np.searchsorted(truth.category_ids, found.category_ids[rows]),
        images=images,
        scores=found.scores[rows],
        states=np.append(matches.states[0, 0], np.full(len(others), LEFT_ALONE, np.uint8)),
        overlapped=overlapped,
        overlaps=shares,
        found_by=found_by,
    )


def _most_overlapped(
    truth: GroundTruth, found: Results, rows: np.ndarray, images: np.ndarray, kind: IouType
) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection the object that it overlaps most, and their IoU; -1 and 0 without."""
    which, most = np.full(len(rows), -1), np.zeros(len(rows))
    objects = np.flatnonzero(~truth.objects.crowds)
    by_image = np.argsort(images, kind="stable")
    for first in range(0, len(by_image), CHUNK):
        some = by_image[first : first + CHUNK]
        at, among = pairs_of_equal(images[some], truth.objects.images[objects])
        detections = some[at]
        pairs = overlaps(truth, found, rows, detections, objects[among], images[detections], kind)
        least_first = np.argsort(pairs.overlaps, kind="stable")
        which[pairs.detections[least_first]] = pairs.objects[least_first]  # the largest is written last, and stays
        most[pairs.detections[least_first]] = pairs.overlaps[least_first]
    return which, most
