"""Which pictures show a class: objects found, confused, missed, split and merged, false alarms, and training examples.

They are chosen in rounds, one of each kind for each class, the tail first, until the file is full: a class with a
hundred objects takes no room from one with three.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.report.evaluated import EvaluatedRun, count_images
from tailseg.report.evidence import Evidence
from tailseg.report.figures import CONFUSED, FOUND, MISSED, Outcomes, find_false_alarms
from tailseg.report.galleries import Galleries, Photographs
from tailseg.report.outlines import (
    get_detection_box,
    get_image_size,
    get_object_box,
    trace_detection,
    trace_object,
)
from tailseg.report.thumbnails import Crop, crop_around, trace_outline

PER_KIND: Final = 6
TRAIN: Final = "train"
Wholes = Mapping[int, list[tuple[int, tuple[int, ...]]]]
"""For each class, a whole and its parts: an object and its pieces, or a detection and the objects that it merges."""


@dataclass(frozen=True)
class Subject:
    """One picture of a class.

    Attributes:
        label: the class in whose gallery it is.
        kind: found, missed, confused, split, merged, false, or train.
        run: position of the run; 0 for ``train``.
        image: position of the image: by id in the validation set, as in the file in the training set.
        objects: rows of the objects shown; none for a false alarm that overlaps nothing.
        detections: the detections shown; none for a training example and for an object that nothing found.
    """

    label: int
    kind: str
    run: int
    image: int
    objects: tuple[int, ...]
    detections: tuple[int, ...]


def add_examples(
    galleries: Galleries,
    runs: Sequence[EvaluatedRun],
    results: Sequence[Outcomes],
    *,
    photographs: Photographs,
    longest: int,
) -> None:
    """Fills the galleries of all classes; the key of a gallery is the label.

    An item is ``[number of the picture, kind, run, outlines of the objects, outlines of the detections, score, IoU,
    class of the other one]``.

    Args:
        galleries: has a gallery for each class.
        runs: all evaluated on the same annotation file.
        results: the outcomes of each run's objects.
        photographs: the images of the validation set.
        longest: longer side of a thumbnail in pixels.
    """
    painter = _Painter(runs, photographs, longest)
    for subject in _choose_in_rounds(runs, results):
        painter.add(galleries, subject)


def _choose_in_rounds(runs: Sequence[EvaluatedRun], results: Sequence[Outcomes]) -> Iterator[Subject]:
    """The subjects of all classes, rare classes first, one of each kind a round."""
    labels = np.argsort(count_images(runs[0]), kind="stable").tolist()
    alarms = [find_false_alarms(run.evidence, threshold=run.threshold) for run in runs]
    wholes = [_sort_by_class(run.evidence) for run in runs]
    examples = _choose_training_examples(runs[0].train)
    queues = {}
    for label in labels:
        queues[label] = [[Subject(label, TRAIN, 0, image, (row,), ()) for image, row in examples.get(label, [])]]
        for number, (run, result) in enumerate(zip(runs, results, strict=True)):
            queues[label] += _build_queues(run.evidence, result, alarms[number][label], label, number)
            queues[label] += _queue_wholes(run.evidence, *wholes[number], label, number)
    for turn in range(PER_KIND):
        for label in labels:
            yield from (queue[turn] for queue in queues[label] if turn < len(queue))


def _build_queues(
    evidence: Evidence, result: Outcomes, alarms: np.ndarray, label: int, number: int
) -> Iterator[list[Subject]]:
    """The class's subjects in one run, a list for each kind."""
    objects = evidence.truth.objects
    mine = np.flatnonzero(objects.classes == label)
    mine = np.random.default_rng(label).permutation(mine)  # any of them, the same in every run
    for kind, fate in (("found", FOUND), ("missed", MISSED), ("confused", CONFUSED)):
        rows = mine[result.fates[mine] == fate].tolist()[:PER_KIND]
        by = evidence.found_by if kind == "missed" else result.by  # a missed one may be found with a low score
        yield [
            Subject(label, kind, number, int(objects.images[row]), (row,), (int(by[row]),) if by[row] >= 0 else ())
            for row in rows
        ]
    overlapped = [(row,) if row >= 0 else () for row in evidence.overlapped[alarms[:PER_KIND]].tolist()]
    yield [
        Subject(label, "false", number, int(evidence.images[d]), rows, (d,))
        for d, rows in zip(alarms[:PER_KIND].tolist(), overlapped, strict=True)
    ]


def _sort_by_class(evidence: Evidence) -> tuple[Wholes, Wholes]:
    """The splits and the merges of each class."""
    splits, merges = defaultdict(list), defaultdict(list)
    for row, pieces in evidence.splits.splits:
        splits[int(evidence.truth.objects.classes[row])].append((row, pieces))
    for detection, rows in evidence.splits.merges:
        merges[int(evidence.classes[detection])].append((detection, rows))
    return splits, merges


def _queue_wholes(evidence: Evidence, splits: Wholes, merges: Wholes, label: int, number: int) -> list[list[Subject]]:
    """The class's split and merged objects in one run."""
    objects = evidence.truth.objects
    return [
        [
            Subject(label, "split", number, int(objects.images[row]), (row,), pieces)
            for row, pieces in splits.get(label, [])[:PER_KIND]
        ],
        [
            Subject(label, "merged", number, int(evidence.images[detection]), rows, (detection,))
            for detection, rows in merges.get(label, [])[:PER_KIND]
        ],
    ]


def _choose_training_examples(train: Annotations | None) -> dict[int, list[tuple[int, int]]]:
    """For each label image and row of some training objects, one an image, large ones first."""
    examples: dict[int, list[tuple[int, int]]] = defaultdict(list)
    if train is None:
        return examples
    objects, images = train.objects, train.objects.images
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    shown: set[tuple[int, int]] = set()
    for row in np.argsort(-sides.prod(axis=1), kind="stable").tolist():
        label, image = int(objects.labels[row]), int(images[row])
        if not objects.ignored[row] and len(examples[label]) < PER_KIND and (label, image) not in shown:
            examples[label].append((image, row))
            shown.add((label, image))
    return examples


class _Painter:
    """Makes the items of a class."""

    def __init__(self, runs: Sequence[EvaluatedRun], photographs: Photographs, longest: int) -> None:
        self.runs = runs
        self.longest = longest
        self.photographs = photographs
        self.training = None if runs[0].train is None else Photographs(runs[0].train)
        # the evaluation orders images by id, the annotations as the file does
        self.order = np.argsort(runs[0].annotations.image_ids, kind="stable").tolist()

    def add(self, galleries: Galleries, subject: Subject) -> None:
        """Adds the item to its gallery, if there is room. A training example needs its image."""
        if galleries.room < 0:
            galleries.left_out += 1
            return
        if subject.kind == TRAIN:
            self._add_training_example(galleries, subject)
            return
        evidence = self.runs[subject.run].evidence
        crop = self._choose_crop(evidence, subject)
        objects = "".join(trace_object(evidence, row, crop, self.longest) for row in subject.objects)
        detections = "".join(trace_detection(evidence, row, crop, self.longest) for row in subject.detections)
        details: tuple[Any, ...] = (None, None, None)
        if subject.detections:
            best = subject.detections[0]
            other = _get_class(evidence, subject.objects) if subject.kind == "false" else int(evidence.classes[best])
            details = round(float(evidence.scores[best]), 3), round(float(evidence.overlaps[best]), 3), other
        galleries.add(
            subject.label,
            (False, subject.image, crop),
            lambda: self.photographs.cut(self.order[subject.image], crop, self.longest),
            [subject.kind, subject.run, objects, detections, *details],
        )

    def _add_training_example(self, galleries: Galleries, subject: Subject) -> None:
        photographs, train = self.training, self.runs[0].train
        assert photographs is not None
        assert train is not None
        if not photographs.can_read(subject.image):
            self.photographs.problem = self.photographs.problem or photographs.problem
            return
        from tailseg.ops.masks import segmentation_to_rle  # torch, which has just read the image

        (row,) = subject.objects
        height, width = train.sizes[subject.image].tolist()
        crop = crop_around(train.objects.boxes[row].tolist(), height=height, width=width)
        mask = segmentation_to_rle(train.get_segmentation(row, subject.image), height, width)
        galleries.add(
            subject.label,
            (True, subject.image, crop),
            lambda: photographs.cut(subject.image, crop, self.longest),
            [TRAIN, 0, trace_outline(mask, crop, self.longest), "", None, None, None],
        )

    def _choose_crop(self, evidence: Evidence, subject: Subject) -> Crop:
        """The part of the image that shows the object; the detection, if there is no object of its own."""
        height, width = get_image_size(evidence, subject.image)
        if subject.kind in ("false", "merged"):
            box = get_detection_box(evidence, subject.detections[0])
        else:
            box = get_object_box(evidence, subject.objects[0])
        return crop_around(box, height=height, width=width)


def _get_class(evidence: Evidence, rows: tuple[int, ...]) -> int:
    return int(evidence.truth.objects.classes[rows[0]]) if rows else -1
