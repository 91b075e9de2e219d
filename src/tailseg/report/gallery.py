"""Which pictures show a class: objects found, confused and missed, false alarms, and training examples.

They are chosen in rounds, one of each kind for each class, the tail first, until the file is full: a class with a
hundred objects takes no room from one with three.
"""

import base64
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.data.images import read_annotated
from tailseg.ops.masks import segmentation_to_rle
from tailseg.report.evidence import Evidence
from tailseg.report.figures import CONFUSED, FOUND, MISSED, Outcomes, find_false_alarms
from tailseg.report.run import EvaluatedRun
from tailseg.report.thumbnails import Crop, crop_around, make_thumbnail, trace_box, trace_outline
from tailseg.structures import RunLengths

PER_KIND: Final = 6
KINDS: Final = ("found", "missed", "confused", "false")


@dataclass(frozen=True)
class Subject:
    """One picture to be: an object or a detection of a class.

    Attributes:
        label: the class in whose gallery it hangs.
        kind: one of KINDS, or ``train``.
        run: position of the run; 0 for ``train``.
        image: position of the image: by id in the validation set, as in the file in the training set.
        object: row of the object shown, -1 for a false alarm that overlaps nothing.
        detection: the detection shown, -1 without: a training example, an object that nothing found.
    """

    label: int
    kind: str
    run: int
    image: int
    object: int
    detection: int


@dataclass
class Galleries:
    """The galleries of all classes, as the page reads them.

    Attributes:
        of: for each label ``{"pictures": [WebP in base64], "items": [...]}``, an item being ``[kind, run, number of
            the picture, outline of the object, outline of the detection, score, IoU, class of the other one]``.
        shown: pictures that are in the file.
        left_out: pictures for which there was no room.
        problem: why an image could not be shown; the last one.
        order: the label of each item, in the order in which they were added.
    """

    of: dict[int, dict[str, list[Any]]] = field(default_factory=dict)
    shown: int = 0
    left_out: int = 0
    problem: str = ""
    order: list[int] = field(default_factory=list)

    def drop(self, count: int) -> None:
        """Takes the last items out again, and the pictures that no other item of their class shows."""
        for _ in range(min(count, len(self.order))):
            gallery = self.of[self.order.pop()]
            gallery["items"].pop()
            shown = max((item[2] for item in gallery["items"]), default=-1) + 1
            self.shown -= len(gallery["pictures"]) - shown
            self.left_out += 1
            del gallery["pictures"][shown:]


def build_galleries(runs: Sequence[EvaluatedRun], results: Sequence[Outcomes], *, room: int, longest: int) -> Galleries:
    """Fills the galleries.

    Args:
        runs: all evaluated on the same annotation file.
        results: the outcomes of each run's objects.
        room: characters that the galleries may take in all.
        longest: longer side of a thumbnail in pixels.

    Returns:
        The galleries.
    """
    num_classes = runs[0].evidence.matches.num_classes
    galleries = Galleries(of={label: {"pictures": [], "items": []} for label in range(num_classes)})
    painter = _Painter(runs, longest)
    for subject in _choose_in_rounds(runs, results):
        if room < 0:
            galleries.left_out += 1
            continue
        try:
            item, picture, is_new = painter.paint(subject)
        except ImageError as error:
            galleries.problem = str(error)
            continue
        gallery = galleries.of[subject.label]
        if is_new:
            gallery["pictures"].append(picture)
            galleries.shown += 1
        gallery["items"].append(item)
        galleries.order.append(subject.label)
        room -= is_new * len(picture) + len(str(item)) // 2  # outlines shrink to half when they are packed
    return galleries


def _choose_in_rounds(runs: Sequence[EvaluatedRun], results: Sequence[Outcomes]) -> Iterator[Subject]:
    """The subjects of all classes, rare classes first, one of each kind a round."""
    labels = np.argsort(runs[0].frequency.image_counts.numpy(), kind="stable").tolist()
    alarms = [find_false_alarms(run.evidence, threshold=run.threshold) for run in runs]
    examples = _choose_examples(runs[0].train)
    queues = {}
    for label in labels:
        queues[label] = [[Subject(label, "train", 0, image, row, -1) for image, row in examples.get(label, [])]]
        for number, (run, result) in enumerate(zip(runs, results, strict=True)):
            queues[label] += _build_queues(run.evidence, result, alarms[number][label], label, number)
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
        yield [Subject(label, kind, number, int(objects.images[row]), row, int(by[row])) for row in rows]
    yield [
        Subject(label, "false", number, int(evidence.images[d]), int(evidence.overlapped[d]), d)
        for d in alarms[:PER_KIND].tolist()
    ]


def _choose_examples(train: Annotations | None) -> dict[int, list[tuple[int, int]]]:
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
    """Makes thumbnails, each place once a class."""

    def __init__(self, runs: Sequence[EvaluatedRun], longest: int) -> None:
        self.runs = runs
        self.longest = longest
        self.places: dict[int, dict[tuple[bool, int, Crop], int]] = defaultdict(dict)
        self.image: tuple[tuple[bool, int], Any] | None = None
        # the evaluation orders images by id, the annotations as the file does
        self.order = np.argsort(runs[0].annotations.image_ids, kind="stable").tolist()

    def paint(self, subject: Subject) -> tuple[list[Any], str, bool]:
        """The item (see `Galleries`), its picture, and whether the picture is new."""
        is_train = subject.kind == "train"
        crop, truth = self._training_object(subject) if is_train else self._object(subject)
        found, details = "", (None, None, None)
        if subject.detection >= 0:
            evidence, d = self.runs[subject.run].evidence, subject.detection
            found = self._detection(evidence, d, crop)
            other = _get_class(evidence, subject.object) if subject.kind == "false" else int(evidence.classes[d])
            details = round(float(evidence.scores[d]), 3), round(float(evidence.overlaps[d]), 3), other
        place = (is_train, subject.image, crop)
        places = self.places[subject.label]
        is_new = place not in places
        picture = self._picture(*place) if is_new else ""
        number = places.setdefault(place, len(places))
        return [subject.kind, subject.run, number, truth, found, *details], picture, is_new

    def _training_object(self, subject: Subject) -> tuple[Crop, str]:
        """Where the picture is, and the object's outline."""
        train = self.runs[0].train
        assert train is not None
        height, width = train.sizes[subject.image].tolist()
        crop = crop_around(train.objects.boxes[subject.object].tolist(), height=height, width=width)
        mask = segmentation_to_rle(train.get_segmentation(subject.object, subject.image), height, width)
        return crop, trace_outline(mask, crop, self.longest)

    def _object(self, subject: Subject) -> tuple[Crop, str]:
        """Where the picture is, and the outline of the object shown in it; around the detection for a false alarm."""
        evidence = self.runs[subject.run].evidence
        truth, row = evidence.truth, subject.object
        height, width = truth.image_sizes[subject.image].tolist()
        box = (
            _get_box(evidence, subject.detection) if subject.kind == "false" else _to_corners(truth.objects.boxes[row])
        )
        crop = crop_around(box, height=height, width=width)
        if row < 0:
            return crop, ""
        if evidence.kind == "bbox":
            return crop, trace_box(_to_corners(truth.objects.boxes[row]), crop, self.longest)
        return crop, trace_outline(_compress(truth.object_masks[row]), crop, self.longest)

    def _detection(self, evidence: Evidence, detection: int, crop: Crop) -> str:
        if evidence.kind == "bbox":
            return trace_box(_get_box(evidence, detection), crop, self.longest)
        (mask,) = evidence.found.masks(np.array([detection]))
        return trace_outline(_compress(mask), crop, self.longest)

    def _picture(self, is_train: bool, position: int, crop: Crop) -> str:
        if self.image is None or self.image[0] != (is_train, position):
            annotations = self.runs[0].train if is_train else self.runs[0].annotations
            assert annotations is not None
            info = annotations.get_info(position if is_train else self.order[position])
            self.image = (is_train, position), read_annotated(annotations, info)[0]
        return base64.b64encode(make_thumbnail(self.image[1], crop, self.longest)).decode("ascii")


def _compress(mask: dict[str, Any]) -> RunLengths:
    """A record may list its counts."""
    return cast("RunLengths", coco.frPyObjects(mask, *mask["size"]) if isinstance(mask["counts"], list) else mask)


def _get_box(evidence: Evidence, detection: int) -> list[float]:
    assert evidence.found.boxes is not None
    return _to_corners(evidence.found.boxes[detection])


def _to_corners(box: np.ndarray) -> list[float]:
    x, y, width, height = box.tolist()
    return [x, y, x + width, y + height]


def _get_class(evidence: Evidence, row: int) -> int:
    return int(evidence.truth.objects.classes[row]) if row >= 0 else -1
