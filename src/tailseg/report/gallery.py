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

from tailseg.data.annotations import Annotations
from tailseg.data.images import ImageError, read_image
from tailseg.ops.masks import segmentation_to_rle
from tailseg.report.figures import CONFUSED, FOUND, MISSED, Outcomes, false_alarms
from tailseg.report.matching import Matches
from tailseg.report.run import EvaluatedRun
from tailseg.report.thumbnails import Crop, box_outline, crop_around, outline, thumbnail
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
        image: position in its annotation file.
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
    """

    of: dict[int, dict[str, list[Any]]] = field(default_factory=dict)
    shown: int = 0
    left_out: int = 0
    problem: str = ""


def build_galleries(runs: Sequence[EvaluatedRun], results: Sequence[Outcomes], *, room: int, longest: int) -> Galleries:
    """Fills the galleries.

    Args:
        runs: all evaluated on the same annotation file.
        results: the outcomes of each run's objects.
        room: characters that the galleries may take in all.
        longest: longer side of a thumbnail in pixels.
    """
    galleries = Galleries(of={label: {"pictures": [], "items": []} for label in range(_annotations(runs).num_classes)})
    painter = _Painter(runs, longest)
    for subject in _in_rounds(runs, results):
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
        room -= is_new * len(picture) + len(str(item)) // 2  # outlines shrink to half when they are packed
    return galleries


def _annotations(runs: Sequence[EvaluatedRun]) -> Annotations:
    return runs[0].matches.annotations


def _in_rounds(runs: Sequence[EvaluatedRun], results: Sequence[Outcomes]) -> Iterator[Subject]:
    """The subjects of all classes, rare classes first, one of each kind a round."""
    frequency = runs[0].frequency
    labels = np.argsort(frequency.image_counts.numpy(), kind="stable").tolist()
    queues = {label: _queues(runs, results, label) for label in labels}
    for turn in range(PER_KIND):
        for label in labels:
            yield from (queue[turn] for queue in queues[label] if turn < len(queue))


def _queues(runs: Sequence[EvaluatedRun], results: Sequence[Outcomes], label: int) -> list[list[Subject]]:
    """The class's subjects, a list for each kind and run."""
    queues = [[Subject(label, "train", 0, image, row, -1) for image, row in _examples(runs[0].train, label)]]
    objects = _annotations(runs).objects
    mine = np.flatnonzero((objects.labels == label) & ~objects.ignored)
    mine = np.random.default_rng(label).permutation(mine)  # any of them, the same in every run
    images = objects.images
    for number, (run, result) in enumerate(zip(runs, results, strict=True)):
        for kind, fate in (("found", FOUND), ("missed", MISSED), ("confused", CONFUSED)):
            rows = mine[result.fates[mine] == fate].tolist()[:PER_KIND]
            by = run.matches.found_by if kind == "missed" else result.by  # a missed one may be found with a low score
            queues.append([Subject(label, kind, number, int(images[r]), r, int(by[r])) for r in rows])
        alarms = false_alarms(run.matches, label, threshold=result.threshold)[:PER_KIND].tolist()
        queues.append(
            [
                Subject(label, "false", number, int(run.matches.images[d]), int(run.matches.overlapped[d]), d)
                for d in alarms
            ]
        )
    return queues


def _examples(train: Annotations | None, label: int) -> list[tuple[int, int]]:
    """Image and row of some of the class's training objects, one an image, large ones first."""
    if train is None:
        return []
    objects = train.objects
    rows = np.flatnonzero((objects.labels == label) & ~objects.ignored)
    sides = objects.boxes[rows, 2:] - objects.boxes[rows, :2]
    rows = rows[np.argsort(-sides.prod(axis=1), kind="stable")]
    images = objects.images[rows]
    firsts = np.sort(np.unique(images, return_index=True)[1])[:PER_KIND]
    return list(zip(images[firsts].tolist(), rows[firsts].tolist(), strict=True))


class _Painter:
    """Makes thumbnails, each place once a class."""

    def __init__(self, runs: Sequence[EvaluatedRun], longest: int) -> None:
        self.runs = runs
        self.longest = longest
        self.places: dict[int, dict[tuple[bool, int, Crop], int]] = defaultdict(dict)
        self.image: tuple[tuple[bool, int], Any] | None = None

    def paint(self, subject: Subject) -> tuple[list[Any], str, bool]:
        """The item (see `Galleries`), its picture, and whether the picture is new."""
        is_train = subject.kind == "train"
        matches = self.runs[subject.run].matches
        annotations = self.runs[0].train if is_train else matches.annotations
        assert annotations is not None
        height, width = annotations.sizes[subject.image].tolist()
        by_object = subject.kind != "false"
        box = annotations.objects.boxes[subject.object] if by_object else _box(matches, subject.detection)
        crop = crop_around(box.tolist(), height=height, width=width)
        truth = self._truth(annotations, subject, crop) if subject.object >= 0 else ""
        found, details = "", [None, None, None]
        if subject.detection >= 0:
            found = self._found(matches, subject.detection, crop)
            other = matches.labels[subject.detection] if by_object else _label(annotations, subject.object)
            details = [
                round(float(matches.scores[subject.detection]), 3),
                round(float(matches.overlaps[subject.detection]), 3),
                int(other),
            ]
        place = (is_train, subject.image, crop)
        places = self.places[subject.label]
        is_new = place not in places
        picture = self._picture(annotations, is_train, subject.image, crop) if is_new else ""
        number = places.setdefault(place, len(places))
        return [subject.kind, subject.run, number, truth, found, *details], picture, is_new

    def _picture(self, annotations: Annotations, is_train: bool, index: int, crop: Crop) -> str:
        if self.image is None or self.image[0] != (is_train, index):
            self.image = (is_train, index), read_image(annotations.info(index))
        return base64.b64encode(thumbnail(self.image[1], crop, self.longest)).decode("ascii")

    def _truth(self, annotations: Annotations, subject: Subject, crop: Crop) -> str:
        height, width = annotations.sizes[subject.image].tolist()
        segmentation = annotations.segmentation(subject.object, subject.image)
        return outline(segmentation_to_rle(segmentation, height, width), crop, self.longest)

    def _found(self, matches: Matches, detection: int, crop: Crop) -> str:
        masks = matches.detections.masks
        if masks is None:
            return box_outline(_box(matches, detection).tolist(), crop, self.longest)
        return outline(cast("RunLengths", masks[detection]), crop, self.longest)


def _box(matches: Matches, detection: int) -> np.ndarray:
    boxes = matches.detections.boxes
    assert boxes is not None
    x, y, width, height = boxes[detection]
    return np.array([x, y, x + width, y + height])


def _label(annotations: Annotations, row: int) -> int:
    return int(annotations.objects.labels[row]) if row >= 0 else -1
