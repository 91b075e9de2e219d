"""Evaluation inside a loop: detections come batch by batch, and the figures are those of `evaluate`.

    evaluator = Evaluator("val.json", train="train.json", labels="from_1")
    for images, image_ids in loader:
        evaluator.update(model(images), image_ids=image_ids)
    print(evaluator.compute()["segm"]["APr"])
    evaluator.reset()

Detections are kept as numbers and run lengths, never as bitmaps. torch is not imported: several processes are those of
the process group that the caller's torch has made.
"""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from tailseg.annotations.read import open_content
from tailseg.evaluation.average_precision import check_max_detections, evaluate_truth
from tailseg.evaluation.ground_truth import GroundTruth, is_member
from tailseg.evaluation.in_memory import Predicted, check_pixels, read_prediction, read_scores, to_array
from tailseg.evaluation.labels import EXPECTED, Labels, LabelTable
from tailseg.evaluation.metrics import IouType, Metrics
from tailseg.evaluation.records import Part, Reader, compute_mask_areas
from tailseg.evaluation.results import Results, ResultsBuilder, find_iou_types
from tailseg.evaluation.sources import AnnotationSource, GroupsSource, check_iou_types, open_annotations, read_truth
from tailseg.evaluation.targets import ImageObjects, read_target, write_annotations
from tailseg.words import count_noun, count_part, verb_form

HIGH_SCORE: Final = 0.25
"""If all detections score at least this, a threshold has removed others, which AP needs too."""
SEVERAL: Final = 20
"""Detections that hardly all score so high without a threshold."""
Target = Mapping[str, Any]
"""The objects of one image, as torchvision's detectors take them."""


@dataclass
class _State:
    """What one process was given since the last reset.

    Attributes:
        kinds: what its detections have; empty while there are none.
        results: packed detections.
        image_ids: the images, in order.
        targets: their objects, unless there is an annotation file.
        notes: what the reader should know.
        num_repeated: images that were given again, and left out.
    """

    kinds: tuple[IouType, ...] = ()
    results: list[Results] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    targets: list[ImageObjects] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    num_repeated: int = 0


class Evaluator:
    """Collects detections batch by batch and computes the figures of `evaluate`, to the bit.

    Several processes (torch.distributed) give their own images each, and all get the figures of all images. An image
    that samplers gave to two processes counts once.

    Args:
        annotations: the ground truth: the path of an annotation file, its content as a dict, or `Annotations`. None if
            the objects come with the detections, as targets; then give ``classes``.
        labels: what the labels of the detections mean. ``"category_ids"``: they are category ids. ``"from_0"`` and
            ``"from_1"``: places among the categories in order of id. A mapping or a sequence: the category id of each
            label. It is never guessed: None takes result records only, or, with ``classes``, their keys.
        classes: the names by category id, if there is no annotation file.
        ignored_labels: labels that stand for no class, such as the background of a model: their detections are left
            out. Any other label without a class is an error.
        train: the training set, for the frequency groups, see `evaluate`.
        groups: bounds of the frequency groups, or the group of each category id, see `evaluate`.
        iou_types: what is scored; None scores what the detections have: boxes, masks or both.
        max_detections: how many detections count, see `evaluate`.

    Raises:
        TypeError, FileNotFoundError, ValueError: the files or the labels cannot be used, see `evaluate`.
    """

    def __init__(
        self,
        annotations: AnnotationSource | None = None,
        *,
        labels: Labels | None = None,
        classes: Mapping[int, str] | None = None,
        ignored_labels: Collection[int] = (),
        train: AnnotationSource | None = None,
        groups: GroupsSource | None = None,
        iou_types: Sequence[IouType] | None = None,
        max_detections: int | None = None,
    ) -> None:
        check_max_detections(max_detections)
        check_iou_types(iou_types)
        if (annotations is None) == (classes is None):
            raise ValueError(
                "give either the annotation file, or classes={1: 'person', 2: 'dog'}, the names by label, if the "
                "objects come as targets"
            )
        self._train = None if train is None else open_annotations(train, "train")
        self._groups, self._max_detections = groups, max_detections
        self._iou_types: tuple[IouType, ...] = tuple(iou_types or ())
        self._sizes: dict[int, tuple[int, int]] = {}
        if annotations is None:
            self._annotations, self._path, self._classes = None, "classes", _check_classes(classes)
            listed, labels = sorted(self._classes), labels or "category_ids"
        else:
            self._annotations = open_annotations(annotations)
            self._path, listed = str(self._annotations.path), list(self._annotations.listed_ids)
            sizes = map(tuple, self._annotations.sizes.tolist())
            self._sizes = dict(zip(self._annotations.image_ids.tolist(), sizes, strict=True))
        self._table = None if labels is None else LabelTable(labels, listed, self._path, ignored_labels)
        self._category_ids = np.array(sorted(listed), np.int64)
        self._truths: dict[bool, GroundTruth] = {}
        self.reset()

    def reset(self) -> None:
        """Forgets all detections. Call it before each evaluation."""
        self._state = _State(kinds=self._iou_types)
        self._seen: set[int] = set()
        self._builder: ResultsBuilder | None = None

    @property
    def num_images(self) -> int:
        """Images that this process was given since the last reset."""
        return len(self._seen)

    def update(
        self,
        predictions: Any,  # noqa: ANN401 - a list in the form of one of several frameworks
        targets: Sequence[Target] | None = None,
        *,
        image_ids: Iterable[Any] | None = None,
    ) -> None:
        """Takes the detections of some images. An error leaves the evaluator as it was.

        Args:
            predictions: one element for each image: a dict of torchvision, rfdetr or transformers (``boxes`` x1, y1,
                x2, y2 in pixels of the original image, ``labels``, ``scores``, perhaps ``masks``), a dict of
                transformers with ``segmentation`` and ``segments_info``, ``supervision.Detections``, or
                `tailseg.structures.Detections`. Or COCO-style result records of any number of images.
            targets: the objects of each image as torchvision has them, if there is no annotation file: ``boxes``,
                ``labels``, perhaps ``masks``, ``iscrowd``, ``area`` and ``image_id``.
            image_ids: the id of each image in the annotation file. With result records it names images that may have
                none.

        Raises:
            TypeError: an element is none of these.
            ValueError: an id or a label is unknown, an image was given before, or boxes, scores or masks cannot be
                used; says what to do.
        """
        if targets is not None and self._annotations is not None:
            raise ValueError(f"the objects come from {self._path}: give image_ids instead of targets")
        if targets is None and self._annotations is None:
            raise ValueError("without an annotation file the objects come as targets: give one for each image")
        if isinstance(predictions, str) or not isinstance(predictions, Sequence):
            kind = type(predictions)
            raise TypeError(
                "predictions should be a list with one element for each image, or of result records, got "
                f"{kind.__module__}.{kind.__qualname__}"
            )
        if self._table is None and not predictions and image_ids is not None:
            # Without labels= only records are taken: these images have none.
            ids = [_to_id(key) for key in image_ids]
            new = [ids[at] for at in self._find_new(ids)]
            self._add(new, None, None, self._state.kinds, set())
            self._state.num_repeated += len(ids) - len(new)
        elif predictions and isinstance(predictions[0], Mapping) and "category_id" in predictions[0]:
            self._update_records(predictions, targets, image_ids)
        else:
            self._update_images(predictions, targets, image_ids)

    def compute(self) -> Metrics:
        """Computes the figures of all images that any process was given since the last reset.

        Images of the annotation file that were not given count as images without detections, and a note tells their
        number. Of several processes, all must call this method.

        Returns:
            The figures of `evaluate`, on every process.

        Raises:
            ValueError: no image was given, or the annotations cannot be used.
        """
        if self._builder is not None:
            self._state.results.append(self._builder.results("results"))
            self._builder = None
        group = _find_process_group()
        if group is None:
            return self._compute([self._state])
        states: list[Any] | None = [None] * group.get_world_size() if group.get_rank() == 0 else None
        group.gather_object(self._state, states)
        outcome: list[Any] = [None]
        if states is not None:
            try:
                outcome = [self._compute(states)]
            except Exception as error:  # noqa: BLE001 - all processes raise it; they would wait for each other otherwise
                outcome = [ValueError(str(error)) if isinstance(error, ValueError) else RuntimeError(repr(error))]
        group.broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _update_records(
        self, records: Sequence[Any], targets: Sequence[Target] | None, image_ids: Iterable[Any] | None
    ) -> None:
        kinds = self._choose_kinds(find_iou_types(records), "the records")
        size = self.get_size if self._annotations is not None else None
        reader = Reader("results", boxes="bbox" in kinds, masks="segm" in kinds, names=None, digits=False, size=size)
        part = reader.read_part(records, 0)
        read_scores(part.scores, "results")
        if (unknown := ~is_member(part.category_ids, self._category_ids)).any():
            raise ValueError(
                f"results: the category_id {part.category_ids[unknown.argmax()]} is not in {self._path}: use its "
                "category ids, not labels"
            )
        named = np.unique(part.image_ids).tolist()
        if targets is None:
            given = [] if image_ids is None else [_to_id(key) for key in image_ids]
            ids = list(dict.fromkeys([*given, *named]))
        else:
            ids = self._get_ids(len(targets), targets, image_ids)
            if strange := {*named} - {*ids}:
                raise ValueError(f"results: image {min(strange)} is not among those of the targets: give its target")
        new = self._find_new(ids)
        part = part.select(np.isin(part.image_ids, [ids[at] for at in new]))
        self._add([ids[at] for at in new], targets and [targets[at] for at in new], part, kinds, set())
        self._state.num_repeated += len(ids) - len(new)

    def _update_images(
        self, predictions: Sequence[Any], targets: Sequence[Target] | None, image_ids: Iterable[Any] | None
    ) -> None:
        given = self._get_ids(len(predictions), targets, image_ids)
        new = self._find_new(given)
        ids, predictions = [given[at] for at in new], [predictions[at] for at in new]
        masks = not self._iou_types or "segm" in self._iou_types
        images = [
            read_prediction(value, f"image {key}", masks=masks) for value, key in zip(predictions, ids, strict=True)
        ]
        check_pixels(images, "predictions")
        if self._table is None:
            raise ValueError(
                f"labels are numbered in several ways, and it is not guessed which: give Evaluator(..., labels=) "
                f"{EXPECTED}"
            )
        kinds = self._state.kinds
        for image, key in zip(images, ids, strict=True):
            if len(image.labels):
                kinds = self._choose_kinds(image.kinds, f"image {key}", kinds)
        part = self._pack(images, ids, kinds, self._table) if kinds and images else None
        notes = {note for image in images for note in image.notes}
        self._add(ids, targets and [targets[at] for at in new], part, kinds, notes)
        self._state.num_repeated += len(given) - len(new)

    def _choose_kinds(
        self, found: Sequence[IouType], where: str, earlier: tuple[IouType, ...] | None = None
    ) -> tuple[IouType, ...]:
        """What is scored, now that detections have these kinds of overlap: all must have the same.

        Raises:
            ValueError: an earlier one, or ``iou_types``, has another kind.
        """
        kinds = self._state.kinds if earlier is None else earlier
        if not kinds:
            return tuple(found)
        if missing := [kind for kind in kinds if kind not in found]:
            raise ValueError(
                f"{where}: no {'boxes' if missing[0] == 'bbox' else 'masks'}, which earlier detections or iou_types "
                "have: every detection needs them"
            )
        if not self._iou_types and len(found) > len(kinds):
            raise ValueError(
                f"{where}: it has boxes and masks, and earlier detections have one of them: give the same of every "
                "image, or iou_types"
            )
        return kinds

    def _get_ids(self, count: int, targets: Sequence[Target] | None, image_ids: Iterable[Any] | None) -> list[int]:
        """The ids of the images, one for each of ``count`` predictions."""
        if image_ids is None and targets is not None and all("image_id" in target for target in targets):
            image_ids = [target["image_id"] for target in targets]
        if image_ids is not None:
            ids = [_to_id(key) for key in image_ids]
        elif targets is None:
            raise ValueError(f"image_ids is missing: give the id that each image has in {self._path}")
        elif _find_process_group() is not None:
            raise ValueError(
                "several processes need image_id in each target, because samplers give some images to two of them"
            )
        else:
            ids = [len(self._seen) + number for number in range(1, len(targets) + 1)]
        lengths = {"image ids": len(ids)} | ({} if targets is None else {"targets": len(targets)})
        for name, length in lengths.items():
            if length != count:
                raise ValueError(
                    f"{count_noun(count, 'prediction')} and {length} {name}: give one of each for each image"
                )
        return ids

    def get_size(self, image_id: int) -> tuple[int, int]:
        """Height and width of an image of the annotation file; zeros if the file does not state them.

        Raises:
            ValueError: the file has no such image.
        """
        if image_id not in self._sizes:
            raise ValueError(
                f"image_ids: {self._path} has no image {image_id}: give the ids of its images, not their places. Are "
                "the detections of another split?"
            )
        return self._sizes[image_id]

    def _pack(
        self, images: Sequence[Predicted], ids: Sequence[int], kinds: tuple[IouType, ...], table: LabelTable
    ) -> Part:
        """The detections of some images, in columns."""
        rows, categories = zip(
            *(table.convert(image.labels, f"image {key}") for image, key in zip(images, ids, strict=True)), strict=True
        )
        counts = [len(chosen) for chosen in rows]
        masks = sizes = areas = boxes = None
        if "segm" in kinds:
            masks = [
                image.masks[row] for image, at in zip(images, rows, strict=True) if image.masks for row in at.tolist()
            ]
            sizes = np.array([mask["size"] for mask in masks], np.int64).reshape(-1, 2)
            areas = compute_mask_areas(masks)
        if "bbox" in kinds:
            every = [image.boxes[at] for image, at in zip(images, rows, strict=True) if image.boxes is not None]
            boxes = np.concatenate([np.zeros((0, 4)), *every])
        return Part(
            image_ids=np.repeat(np.array(ids, np.int64), counts),
            category_ids=np.concatenate(categories),
            scores=np.concatenate([image.scores[at] for image, at in zip(images, rows, strict=True)]),
            boxes=boxes,
            masks=masks,
            sizes=sizes,
            areas=areas,
            source="results",
        )

    def _add(
        self,
        ids: list[int],
        targets: Sequence[Target] | None,
        part: Part | None,
        kinds: tuple[IouType, ...],
        notes: set[str],
    ) -> None:
        """Adds detections of images that come for the first time, after the last checks."""
        objects: list[ImageObjects] = []
        if targets is not None:
            assert self._table is not None
            objects = [read_target(target, key, self._table) for target, key in zip(targets, ids, strict=True)]
            sizes = {key: image.size for key, image in zip(ids, objects, strict=True)}
        else:
            sizes = {key: self.get_size(key) for key in ids}
        _check_mask_sizes(part, sizes)
        if part is not None:
            self._builder = self._builder or ResultsBuilder(boxes="bbox" in kinds, masks="segm" in kinds)
            self._builder.add(part, np.ones(len(part), dtype=bool))
        state = self._state
        state.kinds = kinds
        state.image_ids += ids
        state.targets += objects
        state.notes |= notes
        self._seen |= {*ids}

    def _find_new(self, ids: Sequence[int]) -> list[int]:
        """The places of the images that come for the first time.

        Raises:
            ValueError: a single process gets one again. Samplers of several processes repeat images.
        """
        seen, new, repeated = set(self._seen), [], []
        for place, key in enumerate(ids):
            (repeated if key in seen else new).append(place)
            seen.add(key)
        if repeated and _find_process_group() is None:
            raise ValueError(
                f"image {ids[repeated[0]]} was given before: give each image once, with all its detections, and call "
                "reset() before each evaluation"
            )
        return new

    def _compute(self, states: Sequence[_State]) -> Metrics:
        """The figures of all processes."""
        seen: set[int] = set()
        results: list[Results] = []
        targets: list[ImageObjects] = []
        num_repeated = sum(state.num_repeated for state in states)
        kinds = next((state.kinds for state in states if state.kinds), ())
        for state in states:
            if state.kinds not in ((), kinds):
                raise ValueError(
                    f"one process has detections with {kinds}, another one with {state.kinds}: give the same"
                )
            repeated = seen.intersection(state.image_ids)
            num_repeated += len(repeated)
            for found in state.results:
                results.append(
                    found.select(np.flatnonzero(~np.isin(found.image_ids, list(repeated)))) if repeated else found
                )
            targets += [
                image for key, image in zip(state.image_ids, state.targets, strict=False) if key not in repeated
            ]
            seen |= {*state.image_ids}
        if not seen:
            raise ValueError("no image was given since the last reset: call update for each batch")
        truth = self._read_truth(targets, kinds)
        kinds = kinds or (("bbox", "segm") if truth.annotations.has_masks else ("bbox",))
        truth = self._read_truth(targets, kinds) if "segm" in kinds and not truth.masks else truth
        found = (
            Results.concatenate(results)
            if results
            else ResultsBuilder(boxes="bbox" in kinds, masks="segm" in kinds).results("results")
        )
        metrics = evaluate_truth(truth, dict.fromkeys(kinds, found), max_detections=self._max_detections)
        notes = sorted({note for state in states for note in state.notes})
        notes += _describe_images(truth, len(seen), num_repeated) + _describe_threshold(found)
        return replace(metrics, notes=(*metrics.notes, *notes))

    def _read_truth(self, targets: Sequence[ImageObjects], kinds: Sequence[IouType]) -> GroundTruth:
        """The ground truth; that of an annotation file is read once."""
        masks = "segm" in kinds
        if self._annotations is None:
            annotations = open_content(write_annotations(targets, self._classes), "targets")
            return read_truth(annotations, masks=masks, train=self._train, groups=self._groups)
        if masks not in self._truths:
            self._truths[masks] = read_truth(self._annotations, masks=masks, train=self._train, groups=self._groups)
        return self._truths[masks]


def _check_classes(classes: object) -> dict[int, str]:
    if not isinstance(classes, Mapping) or not classes or not all(isinstance(key, int) for key in classes):
        raise ValueError(
            f"classes should be the names by label, such as {{1: 'person', 2: 'dog'}}, got {classes!r:.80}"
        )
    return {int(key): str(name) for key, name in classes.items()}


def _to_id(value: object) -> int:
    """An image id: a whole number, or a tensor or array of one."""
    numbers = to_array(value).reshape(-1)
    if numbers.dtype.kind not in "iu" or len(numbers) != 1:
        raise ValueError(f"an image id should be a whole number, got {value!r:.80}")
    return int(numbers[0])


def _check_mask_sizes(part: Part | None, sizes: Mapping[int, tuple[int, int] | None]) -> None:
    """Raises ValueError if a mask has another size than its image, where that is known."""
    if part is None or part.sizes is None:
        return
    for key, size in zip(part.image_ids.tolist(), map(tuple, part.sizes.tolist()), strict=True):
        expected = sizes[key]
        if expected is not None and 0 not in expected and size != expected:
            raise ValueError(
                f"image {key}: its masks have height and width {list(size)}, the image {list(expected)}: masks and "
                "boxes must be in pixels of the original image"
            )


def _describe_images(truth: GroundTruth, num_given: int, num_repeated: int) -> list[str]:
    lines = []
    if missing := len(truth.sizes) - num_given:
        lines.append(
            f"{count_part(missing, len(truth.sizes), 'image')} of {truth.path} {verb_form(missing, 'was', 'were')} not "
            f"given: {verb_form(missing, 'its', 'their')} objects count as missed"
        )
    if num_repeated:
        lines.append(
            f"{count_noun(num_repeated, 'image')} {verb_form(num_repeated, 'was', 'were')} given more than once, as "
            "samplers of several processes do: each counts once"
        )
    return lines


def _describe_threshold(found: Results) -> list[str]:
    if len(found) < SEVERAL or float(found.scores.min()) < HIGH_SCORE:
        return []
    least = float(found.scores.min())
    return [f"no detection scores below {least:.2f}: has a threshold removed them? AP needs them too (threshold=0)"]


def _find_process_group() -> Any | None:  # noqa: ANN401 - torch is not imported
    """torch.distributed, if this process belongs to a group of several; who has made one has imported it."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed if distributed.get_world_size() > 1 else None
