"""A score threshold for each class: the one with the best F1, shrunk towards those of other classes.

The F1 of a class at a threshold t counts its detections with a score of at least t:

    F1(t) = 2 TP / (D + N)      TP: found objects at IoU 0.5, D: detections that count, N: objects

Macro F1 is the mean over the classes with objects. Micro F1 comes from the sums of TP, D and N over classes. Detections
that LVIS leaves alone are neither right nor wrong and not in D: those of a class that was not looked for in the image,
and false ones of a class that is not exhaustively annotated in it.

A rare class has few objects, and the threshold with the best F1 on them may be chance. So a class k borrows the counts
of a objects from its frequency group g, and the group those of b objects from all classes. With lower case for counts
for each object:

    group    TP_g' = (TP_g + b tp_all) / (N_g + b)
    class    F1_k'(t) = 2 (TP_k + a TP_g') / (D_k + a D_g' + N_k + a)

and D_g' like TP_g'. The threshold of the class maximizes F1_k'. With a = 0 it would be the best for the objects seen;
with a infinite it is the group's, and with both infinite the one threshold of the best micro F1. This is the posterior
mean of a Gamma prior on the rates of found objects and detections, with strength a; the data choose a and b (empirical
Bayes): five-fold cross-validation over images takes those of `CLASS_STRENGTHS` and `GROUP_STRENGTHS` whose gain in the
mean of macro and micro F1 over one threshold is largest after subtraction of two standard errors. If no gain is larger
than these, all classes get one threshold.

Shapes: n detections that count, M objects, K classes, I images, G thresholds to choose from, B samples of images.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from tailseg.annotations.types import Group
from tailseg.evaluation.average_precision import MAX_DETECTIONS
from tailseg.evaluation.bootstrap import draw_weights
from tailseg.evaluation.comparison import FEWEST_IMAGES, Difference
from tailseg.evaluation.detections import match_results, select_best_of_each_image
from tailseg.evaluation.errors import Part, find_members
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.matches import FOUND, LEFT_ALONE, Matches
from tailseg.evaluation.metrics import ROW_NAMES, IouType
from tailseg.evaluation.reading import read_sources
from tailseg.evaluation.sources import (
    AnnotationSource,
    GroupsSource,
    ResultsSource,
    get_sources,
    open_annotations,
    read_truth,
)
from tailseg.files import write_text

if TYPE_CHECKING:
    from rich.table import Table

Average = Literal["macro", "micro"]
CLASS_STRENGTHS: Final = (1.0, 3.0, 10.0, 30.0, 100.0, math.inf)
"""a, in objects."""
GROUP_STRENGTHS: Final = (1.0, 10.0, 100.0, math.inf)
"""b, in objects."""
FILE: Final = "thresholds.json"
"""The name of the file in a run's folder."""
_INNER_FOLDS: Final = 5
_INNER_SAMPLES: Final = 100
_QUANTILES: Final = 129
_AT_A_TIME: Final = 100
_BLOCK: Final = 10_000_000  # rows times samples, which limits the memory
_DEVIATIONS: Final = 1.959963984540054


@dataclass(frozen=True)
class ClassThreshold:
    """The threshold of a class.

    Attributes:
        category_id, name, group: the class and its frequency group, if it is known.
        num_objects: objects of the class from which the threshold was found.
        threshold: detections of the class with at least this score are kept.
    """

    category_id: int
    name: str
    group: Group | None
    num_objects: int
    threshold: float


@dataclass(frozen=True, repr=False)
class Thresholds:
    """A score threshold for each class, and what it is worth.

    Attributes:
        classes: the threshold of each class, in order of id, found on all images.
        single: the one threshold with the best micro F1 on all images.
        class_strength, group_strength: a and b, in objects; infinity for no difference.
        iou_type: what overlaps: boxes or masks.
        num_images: all images.
        folds: parts of the images. Each part was judged with thresholds that were found on the others.
        f1: macro and micro F1 of each part of the classes: with one threshold (``before``) and with one for each class
            (``after``), and the 95 % interval of the difference; all on images that the thresholds have not seen.
        source: what made the results, such as a calibration and a checkpoint; None if it is not known.
    """

    classes: tuple[ClassThreshold, ...]
    single: float
    class_strength: float
    group_strength: float
    iou_type: IouType
    num_images: int
    folds: int
    f1: dict[Part, dict[Average, Difference]]
    source: dict[str, str | int] | None = None

    def tables(self) -> "list[Table]":
        """Macro and micro F1 with one threshold and with one for each class."""
        from tailseg.evaluation.tables import build_threshold_table  # which imports much more

        return [build_threshold_table(self)]

    def __repr__(self) -> str:
        from tailseg.evaluation.notebook import to_text

        return to_text(*self.tables())

    def describe(self) -> str:
        """One line about the thresholds and their effect, for a reader of a report."""
        values = [entry.threshold for entry in self.classes]
        parts: list[tuple[Part, str]] = [("r", "rare classes"), ("all", "all classes")]
        effects = [
            f"{100 * found.before:.1f} -> {100 * found.after:.1f} ({name})"
            for part, name in parts
            if part in self.f1 and (found := self.f1[part]["macro"]).before is not None and found.after is not None
        ]
        return (
            f"score thresholds from {min(values):.2g} to {max(values):.2g} by class; macro F1 of "
            f"{ROW_NAMES[self.iou_type]} with one threshold ({self.single:.2g}) -> with these: {', '.join(effects)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All attributes as dicts, lists and numbers; an infinite strength is None."""
        content = asdict(self)
        for name in ("class_strength", "group_strength"):
            content[name] = content[name] if math.isfinite(content[name]) else None
        return content

    def to_json(self) -> str:
        """All attributes as a JSON object, indented."""
        return json.dumps(self.to_dict(), indent=1)


def save(thresholds: Thresholds, file: Path) -> None:
    """Writes thresholds as JSON: the whole file or nothing."""
    write_text(file, thresholds.to_json() + "\n")


def load(file: Path) -> Thresholds:
    """Reads thresholds that `save` wrote.

    Raises:
        ValueError: the file has another format.
    """
    try:
        content = json.loads(file.read_text())
        class_strength, group_strength = (
            math.inf if value is None else float(value)
            for value in (content.pop(name) for name in ("class_strength", "group_strength"))
        )
        return Thresholds(
            classes=tuple(ClassThreshold(**entry) for entry in content.pop("classes")),
            f1={
                part: {average: Difference(**entry) for average, entry in averages.items()}
                for part, averages in content.pop("f1").items()
            },
            class_strength=class_strength,
            group_strength=group_strength,
            **content,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} was not written by `tailseg thresholds`: {error!r}. Write it again") from error


def find_thresholds(
    annotations: AnnotationSource,
    results: ResultsSource,
    *,
    train: AnnotationSource | None = None,
    groups: GroupsSource | None = None,
    iou_types: Sequence[IouType] | None = None,
    folds: int = 2,
    samples: int = 1000,
    seed: int = 0,
    step: Callable[[str, int, int], None] = lambda *_: None,
) -> Thresholds:
    """Finds a score threshold for each class, and judges such thresholds on images that they were not found on.

    The images are split into ``folds`` parts. Each part is judged with thresholds found on all others. The thresholds
    that are returned are found on all images, in the same way. `tailseg.evaluation.thresholds` has the method.

    Args:
        annotations: the ground truth, see `evaluate`.
        results: the results, see `evaluate`.
        train: the training set, see `evaluate`.
        groups: bounds of the frequency groups, or the group of each category id, see `evaluate`.
        iou_types: ``("bbox",)`` or ``("segm",)``; None takes masks if the results have some.
        folds: 2 or more; at most as many as images with objects.
        samples: how often the images are resampled for the intervals.
        seed: of the folds and samples.
        step: called with the name of a step, how much of it is done, and its total.

    Returns:
        The thresholds, and macro and micro F1 with them and with one threshold.

    Raises:
        TypeError, FileNotFoundError, ValueError: as `evaluate`; or no object is found, or there are fewer images with
            objects than folds.
    """
    if folds < 2 or samples < 2:
        raise ValueError(f"folds and samples should be at least 2, got {folds} and {samples}")
    opened = open_annotations(annotations)
    sources = get_sources(results, iou_types, opened)
    iou_type: IouType = "segm" if "segm" in sources else "bbox"
    truth = read_truth(opened, masks=iou_type == "segm", train=train, groups=groups)
    cap = MAX_DETECTIONS[truth.protocol]
    reading = lambda done, size: step("reading results", done, size)  # noqa: E731
    found = read_sources({iou_type: sources[iou_type]}, truth, cap=cap, progress=reading)[iou_type]
    matches = match_results(truth, found, select_best_of_each_image(found, truth, cap), iou_type)
    return find_from_matches(matches, truth, iou_type, folds=folds, samples=samples, seed=seed, step=step)


def find_from_matches(
    matches: Matches,
    truth: GroundTruth,
    iou_type: IouType,
    *,
    folds: int = 2,
    samples: int = 1000,
    seed: int = 0,
    step: Callable[[str, int, int], None] = lambda *_: None,
) -> Thresholds:
    """Does the work of `find_thresholds`.

    Args:
        matches: the matches of all images.
        truth: the ground truth.
        iou_type: what overlaps.
        folds: the number of parts of the images.
        samples: how often the images are resampled.
        seed: of the folds and samples.
        step: called with the name of a step, how much of it is done, and its total.

    Returns:
        The thresholds.

    Raises:
        ValueError: no object is found, or there are fewer images with objects than folds.
    """
    data = _Counted.of_matches(matches, truth.class_groups)
    if not data.correct.any():
        raise ValueError(
            f"no detection finds an object of its class at IoU 0.5 in {truth.path}, so no threshold can be chosen. "
            "A run has learned too little for it (`tailseg report RUN` says what to try). Results of another program "
            "may not belong to this file (`tailseg eval` shows their AP)"
        )
    filled = len(np.unique(data.object_images))
    if filled < folds:
        raise ValueError(f"{truth.path} has objects in {filled} images: {folds} folds need at least as many")
    rng = np.random.default_rng(seed)
    parts = _split_images(data, folds, rng)
    single, each = np.zeros(len(data.scores), dtype=bool), np.zeros(len(data.scores), dtype=bool)
    for part in range(folds):
        step("finding thresholds", part, folds + 1)
        judged = parts[data.images] == part
        fitted = _fit(data.select(parts != part), rng)
        single |= judged & (data.scores >= fitted.single)
        each |= judged & (data.scores >= fitted.values[data.classes])
    final = _fit(data, rng)
    step("finding thresholds", folds + 1, folds + 1)
    counts = truth.object_counts.tolist()
    entries = zip(truth.categories.items(), truth.class_groups, counts, final.values.tolist(), strict=True)
    return Thresholds(
        classes=tuple(ClassThreshold(key, name, group, count, value) for (key, name), group, count, value in entries),
        single=final.single,
        class_strength=final.class_strength,
        group_strength=final.group_strength,
        iou_type=iou_type,
        num_images=data.num_images,
        folds=folds,
        f1=_judge(data, single, each, truth.class_groups, samples, rng, step),
    )


@dataclass(frozen=True, eq=False)
class _Counted:
    """Detections that count, in order of class, and objects.

    Attributes:
        classes, images: int64 ``[n]``.
        scores: float64 ``[n]``.
        correct: bool ``[n]``, whether a detection finds an object.
        object_classes, object_images: int64 ``[M]``.
        groups: int64 ``[K]``, the frequency group of each class; -1 if unknown.
        num_classes, num_images: K and I; the images of `select` keep their numbers.
    """

    classes: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    correct: np.ndarray
    object_classes: np.ndarray
    object_images: np.ndarray
    groups: np.ndarray
    num_classes: int
    num_images: int

    @classmethod
    def of_matches(cls, matches: Matches, groups: tuple[Group | None, ...]) -> "_Counted":
        states = matches.states[0, 0]
        rows, wanted = np.flatnonzero(states != LEFT_ALONE), matches.wanted[0]
        return cls(
            classes=matches.classes[rows],
            images=matches.images[rows],
            scores=matches.scores[rows],
            correct=states[rows] == FOUND,
            object_classes=matches.object_classes[wanted],
            object_images=matches.object_images[wanted],
            groups=np.array([-1 if group is None else "rcf".index(group) for group in groups], dtype=np.int64),
            num_classes=matches.num_classes,
            num_images=matches.num_images,
        )

    def select(self, images: np.ndarray) -> "_Counted":
        """Those of some images (bool ``[I]``)."""
        rows, objects = images[self.images], images[self.object_images]
        columns = {name: getattr(self, name)[rows] for name in ("classes", "images", "scores", "correct")}
        more = {name: getattr(self, name)[objects] for name in ("object_classes", "object_images")}
        return replace(self, **columns, **more)

    @property
    def num_objects(self) -> np.ndarray:
        """float64 ``[K]``."""
        return np.bincount(self.object_classes, minlength=self.num_classes).astype(np.float64)


def _split_images(data: _Counted, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The part of each image, int64 ``[I]``: the images are dealt out in the order of their rarest class.

    So two images with the only objects of a class are in two parts. Within a class the order is random.
    """
    rank = np.argsort(np.argsort(data.num_objects, kind="stable"))
    rarest = np.full(data.num_images, data.num_classes)
    np.minimum.at(rarest, data.object_images, rank[data.object_classes])
    shuffled = rng.permutation(data.num_images)
    order = shuffled[np.argsort(rarest[shuffled], kind="stable")]
    parts = np.empty(data.num_images, dtype=np.int64)
    parts[order] = np.arange(data.num_images) % folds
    return parts


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Thresholds ``[K]``, the single one, and the strengths."""

    values: np.ndarray
    single: float
    class_strength: float
    group_strength: float


def _fit(data: _Counted, rng: np.random.Generator) -> _Fitted:
    """Chooses the strengths by cross-validation, then the thresholds on all images of ``data``."""
    curves = _Curves.of_data(data)
    chosen = _choose_strengths(data, rng)
    (single,) = np.unique(curves.find(math.inf, math.inf))
    return _Fitted(curves.find(*chosen), float(single), *chosen)


@dataclass(frozen=True, eq=False)
class _Curves:
    """Counts of each class at each threshold to choose from.

    Attributes:
        grid: float64 ``[G]``, ascending.
        found, kept: float64 ``[K, G]``: TP and D.
        num_objects: float64 ``[K]``: N.
        groups: int64 ``[K]``.
    """

    grid: np.ndarray
    found: np.ndarray
    kept: np.ndarray
    num_objects: np.ndarray
    groups: np.ndarray

    @classmethod
    def of_data(cls, data: _Counted) -> "_Curves":
        """The grid has quantiles of the scores that find an object, of all classes and of each group."""
        shape = data.num_classes, len(grid := _make_grid(data))
        places = np.searchsorted(grid, data.scores, side="right") - 1
        above = places >= 0
        keys = data.classes[above] * shape[1] + places[above]
        found, kept = (
            np.bincount(keys, weights, minlength=shape[0] * shape[1]).reshape(shape)[:, ::-1].cumsum(1)[:, ::-1]
            for weights in (data.correct[above].astype(np.float64), np.ones(len(keys)))
        )
        return cls(grid, found, kept, data.num_objects, data.groups)

    def find(self, class_strength: float, group_strength: float) -> np.ndarray:
        """The thresholds of all classes, float64 ``[K]``; of equal ones the lowest."""
        everything = np.ones(len(self.groups), dtype=bool)
        found, kept = np.empty_like(self.found), np.empty_like(self.kept)
        overall = self._compute_rates(everything)
        for group in np.unique(self.groups).tolist():
            members = self.groups == group
            rates = overall
            if math.isfinite(group_strength) and group >= 0:
                rates = self._compute_rates(members, group_strength, overall)
            found[members], kept[members] = rates
        if math.isinf(class_strength):
            f1 = _compute_f1(found, kept, np.ones((len(found), 1)))
        else:
            f1 = _compute_f1(
                self.found + class_strength * found,
                self.kept + class_strength * kept,
                self.num_objects[:, None] + class_strength,
            )
        return self.grid[f1.argmax(1)]

    def _compute_rates(
        self,
        members: np.ndarray,
        strength: float = 0.0,
        prior: tuple[np.ndarray, np.ndarray] | tuple[float, float] = (0.0, 0.0),
    ) -> tuple[np.ndarray, np.ndarray]:
        """TP and D for each object ``[G]`` of some classes, with ``strength`` objects of the prior."""
        total = max(self.num_objects[members].sum() + strength, 1e-9)
        found, kept = (
            (counts[members].sum(0) + strength * rate) / total
            for counts, rate in zip((self.found, self.kept), prior, strict=True)
        )
        return found, kept


def _make_grid(data: _Counted) -> np.ndarray:
    """Thresholds to choose from, ascending; one of no effect where nothing is found."""
    shares = np.linspace(0, 1, _QUANTILES)
    members = [data.correct, *(data.correct & (data.groups[data.classes] == group) for group in range(3))]
    columns = [np.quantile(data.scores[rows], shares) for rows in members if rows.any()]
    return np.unique(np.concatenate(columns)) if columns else np.array([data.scores.max(initial=0.0)])


def _compute_f1(found: np.ndarray, kept: np.ndarray, num_objects: np.ndarray) -> np.ndarray:
    """``2 TP / (D + N)``, 0 where there is nothing."""
    total = kept + num_objects
    return np.divide(2 * found, total, out=np.zeros(total.shape), where=total > 0)


def _choose_strengths(data: _Counted, rng: np.random.Generator) -> tuple[float, float]:
    """Those with the largest gain over one threshold, less two standard errors; both infinite if that is below 0."""
    pairs = [(math.inf, math.inf), *product(CLASS_STRENGTHS, GROUP_STRENGTHS)]
    parts = _split_images(data, _INNER_FOLDS, rng)
    thresholds = np.empty((len(pairs), _INNER_FOLDS, data.num_classes))
    for part in range(_INNER_FOLDS):
        curves = _Curves.of_data(data.select(parts != part))
        for place, pair in enumerate(pairs):
            thresholds[place, part] = curves.find(*pair)
    images = np.zeros(data.num_images, dtype=bool)  # of this data alone: a fold has not all images
    images[data.images] = images[data.object_images] = True
    weights = np.zeros((data.num_images, 1 + _INNER_SAMPLES), dtype=np.float32)
    weights[images, 0] = 1
    weights[images, 1:] = draw_weights(int(images.sum()), _INNER_SAMPLES, rng)
    num_objects = _sum_weights(data.object_classes, data.object_images, weights, data.num_classes)
    values = np.stack(
        [
            _compute_objective(data, data.scores >= own[parts[data.images], data.classes], num_objects, weights)
            for own in thresholds
        ]
    )
    gains = values - values[0]
    return pairs[int((gains[:, 0] - 2 * gains[:, 1:].std(1)).argmax())]


def _compute_objective(data: _Counted, kept: np.ndarray, num_objects: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of macro and micro F1 of the detections that are kept, in each sample, ``[B]``."""
    found, total = _count(data, kept, weights)
    there = num_objects > 0
    macro = (_compute_f1(found, total, num_objects) * there).sum(0) / np.maximum(there.sum(0), 1)
    return (macro + _compute_f1(found.sum(0), total.sum(0), num_objects.sum(0))) / 2


def _count(data: _Counted, kept: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """TP and D of the detections that are kept, ``[K, B]``."""
    found, total = (
        _sum_weights(data.classes[rows], data.images[rows], weights, data.num_classes)
        for rows in (kept & data.correct, kept)
    )
    return found, total


def _sum_weights(classes: np.ndarray, images: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    """The sum of the images' weights ``[I, B]`` over the rows of each class, float64 ``[K, B]``."""
    sums = np.zeros((num_classes, weights.shape[1]))
    if not len(classes):
        return sums
    order = np.argsort(classes, kind="stable")
    ordered, images = classes[order], images[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    step = max(_BLOCK // len(classes), 1)
    for first in range(0, weights.shape[1], step):
        block = slice(first, first + step)
        sums[ordered[starts], block] = np.add.reduceat(weights[images, block], starts, axis=0, dtype=np.float64)
    return sums


def _judge(
    data: _Counted,
    single: np.ndarray,
    each: np.ndarray,
    groups: tuple[Group | None, ...],
    samples: int,
    rng: np.random.Generator,
    step: Callable[[str, int, int], None],
) -> dict[Part, dict[Average, Difference]]:
    """F1 of the detections that are kept with one threshold and with one for each class (bool ``[n]`` both)."""
    members = {part: rows for part, rows in find_members(groups).items() if rows[data.object_classes].any()}

    def evaluate(weights: np.ndarray) -> np.ndarray:
        """``[2, parts, 2, B]``: kept by one threshold or by each; macro and micro."""
        num_objects = _sum_weights(data.object_classes, data.object_images, weights, data.num_classes)
        return np.stack(
            [_compute_part_f1(*_count(data, kept, weights), num_objects, members) for kept in (single, each)]
        )

    whole = evaluate(np.ones((data.num_images, 1), dtype=np.float32))[..., 0]
    drawn = []
    for start in range(0, samples, _AT_A_TIME):
        drawn.append(evaluate(draw_weights(data.num_images, min(_AT_A_TIME, samples - start), rng)))
        step("resampling", start + drawn[-1].shape[-1], samples)
    before, after = np.concatenate(drawn, axis=-1)
    averages: tuple[Average, ...] = ("macro", "micro")
    f1: dict[Part, dict[Average, Difference]] = {}
    for place, (part, rows) in enumerate(members.items()):
        scarce = len(np.unique(data.object_images[rows[data.object_classes]])) < FEWEST_IMAGES
        f1[part] = {}
        for column, average in enumerate(averages):
            first, second = whole[:, place, column].tolist()
            f1[part][average] = Difference(first, second, None, None)
            differences = (after - before)[place, column]
            differences = differences[~np.isnan(differences)]
            if not scarce and len(differences) > 1:
                reach = _DEVIATIONS * float(differences.std(ddof=1))
                low, high = max(second - first - reach, -1.0), min(second - first + reach, 1.0)
                f1[part][average] = Difference(first, second, low, high)
    return f1


def _compute_part_f1(
    found: np.ndarray, kept: np.ndarray, num_objects: np.ndarray, members: Mapping[Part, np.ndarray]
) -> np.ndarray:
    """Macro and micro F1 of each part, ``[parts, 2, B]``; NaN where a part has no object."""
    each = np.where(num_objects > 0, _compute_f1(found, kept, num_objects), 0)
    rows = []
    for classes in members.values():
        objects = num_objects[classes]
        there = objects.sum(0) > 0
        macro = each[classes].sum(0) / np.maximum((objects > 0).sum(0), 1)
        micro = _compute_f1(found[classes].sum(0), kept[classes].sum(0), objects.sum(0))
        rows.append(np.where(there, np.stack([macro, micro]), np.nan))
    return np.stack(rows)
