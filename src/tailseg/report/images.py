"""The images with the most errors.

An error is an object that is missed or taken for another class, or a false detection with a score of at least the
threshold. (An object that is taken for another class and the detection that covers it are two errors: AP counts both.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tailseg.evaluation import matches
from tailseg.report.evaluated import EvaluatedRun
from tailseg.report.evidence import Evidence
from tailseg.report.figures import CONFUSED, FOUND, MISSED, Outcomes
from tailseg.report.galleries import Galleries, Photographs
from tailseg.report.outlines import get_image_size, trace_detection, trace_object

GALLERY: Final = "images"
PER_ORDER: Final = 12
"""Images that are shown of each order."""
MAX_OUTLINES: Final = 60
"""Outlines of objects, and of detections, that are drawn on an image; errors first."""


@dataclass(frozen=True, eq=False)
class ImageErrors:
    """What became of the objects of each image, int64 ``[images]`` by position in order of id.

    Attributes:
        missed, confused, found: objects.
        false: false detections with a score of at least the threshold.
        rare: objects of rare classes that are missed or confused.
    """

    missed: np.ndarray
    confused: np.ndarray
    found: np.ndarray
    false: np.ndarray
    rare: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Objects that are not found, and false detections."""
        return self.missed + self.confused + self.false


def count_image_errors(evidence: Evidence, result: Outcomes) -> ImageErrors:
    """Counts the errors of each image."""
    truth = evidence.truth
    size, objects = len(truth.sizes), truth.objects
    by_fate = {
        fate: np.bincount(objects.images[result.fates == fate], minlength=size) for fate in (MISSED, CONFUSED, FOUND)
    }
    is_false = (evidence.states == matches.FALSE) & (evidence.scores >= result.threshold)
    is_rare = np.array([group == "r" for group in truth.class_groups])[objects.classes]
    not_found = (result.fates == MISSED) | (result.fates == CONFUSED)
    return ImageErrors(
        missed=by_fate[MISSED],
        confused=by_fate[CONFUSED],
        found=by_fate[FOUND],
        false=np.bincount(evidence.images[is_false], minlength=size),
        rare=np.bincount(objects.images[not_found & is_rare], minlength=size),
    )


def choose_images(counts: ImageErrors) -> list[int]:
    """The positions of the images with the most errors, missed objects, false detections and missed rare objects.

    Of equal counts, the image with fewer found objects comes first. The orders take turns.
    """
    chosen: dict[int, None] = {}
    orders = [
        np.lexsort((counts.found, -values))[:PER_ORDER]
        for values in (counts.errors, counts.missed + counts.confused, counts.false, counts.rare)
    ]
    columns = (counts.errors, counts.missed + counts.confused, counts.false, counts.rare)
    for turn in range(PER_ORDER):
        for order, values in zip(orders, columns, strict=True):
            if turn < len(order) and values[order[turn]] > 0:
                chosen[int(order[turn])] = None
    return list(chosen)


def add_images(
    galleries: Galleries,
    runs: Sequence[EvaluatedRun],
    results: Sequence[Outcomes],
    *,
    photographs: Photographs,
    longest: int,
) -> None:
    """Fills the gallery of the images with the most errors.

    An item is ``[number of the picture, run, name of the image, [missed, confused, found, false, rare], objects,
    detections]``, with ``[class, fate, outline]`` of each object and ``[class, state, score, outline]`` of each
    detection.

    Args:
        galleries: has the gallery `GALLERY`.
        runs: all evaluated on the same annotation file.
        results: the outcomes of each run's objects.
        photographs: the images of the validation set.
        longest: longer side of a thumbnail in pixels.
    """
    annotations = runs[0].annotations
    order = np.argsort(annotations.image_ids, kind="stable").tolist()
    counts = [count_image_errors(run.evidence, result) for run, result in zip(runs, results, strict=True)]
    queues = [choose_images(count) for count in counts]
    for turn in range(max(map(len, queues), default=0)):
        for number, queue in enumerate(queues):
            if turn >= len(queue):
                continue
            image, index = queue[turn], order[queue[turn]]
            evidence = runs[number].evidence
            height, width = get_image_size(evidence, image)
            crop = 0, 0, width, height
            name = annotations.names.text(index).split("\n")[0] or f"image {annotations.image_ids[index]}"
            columns = vars(counts[number])
            galleries.add(
                GALLERY,
                image,
                lambda index=index, crop=crop: photographs.cut(index, crop, longest),
                [
                    number,
                    name,
                    [int(columns[column][image]) for column in ("missed", "confused", "found", "false", "rare")],
                    _outline_objects(evidence, results[number], image, crop, longest),
                    _outline_detections(evidence, results[number], image, crop, longest),
                ],
            )


def _outline_objects(
    evidence: Evidence, result: Outcomes, image: int, crop: tuple[int, int, int, int], longest: int
) -> list[list[Any]]:
    """Class, fate and outline of the objects of an image, those that were not found first."""
    objects = evidence.truth.objects
    rows = np.flatnonzero((objects.images == image) & ~objects.crowds)
    rows = rows[np.argsort(result.fates[rows] == FOUND, kind="stable")][:MAX_OUTLINES]
    return [
        [int(objects.classes[row]), int(result.fates[row]), trace_object(evidence, row, crop, longest)]
        for row in rows.tolist()
    ]


def _outline_detections(
    evidence: Evidence, result: Outcomes, image: int, crop: tuple[int, int, int, int], longest: int
) -> list[list[Any]]:
    """Class, state, score and outline of the detections of an image, false ones first."""
    rows = np.flatnonzero((evidence.images == image) & (evidence.scores >= result.threshold))
    rows = rows[np.lexsort((-evidence.scores[rows], evidence.states[rows]))][:MAX_OUTLINES]
    return [
        [
            int(evidence.classes[row]),
            int(evidence.states[row]),
            round(float(evidence.scores[row]), 3),
            trace_detection(evidence, row, crop, longest),
        ]
        for row in rows.tolist()
    ]
