"""Is one detector better than another, or was it the luck of the images? A paired bootstrap over images.

Shapes: B samples, K classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tailseg.annotations.json_file import pause_garbage_collector
from tailseg.annotations.types import Group
from tailseg.evaluation.average_precision import MAX_DETECTIONS
from tailseg.evaluation.bootstrap import Resampled, draw_weights, resample
from tailseg.evaluation.detections import match_results, select_best_of_each_image
from tailseg.evaluation.errors import Errors, sort_errors
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.matches import Matches
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.notebook import import_pandas, to_csv, to_html, to_markdown, to_text
from tailseg.evaluation.overlaps import NO_PAIRS
from tailseg.evaluation.plausible import describe_untested_images
from tailseg.evaluation.reading import read_sources
from tailseg.evaluation.sources import (
    AnnotationSource,
    GroupsSource,
    ResultsSource,
    get_sources,
    open_annotations,
    read_truth,
)
from tailseg.evaluation.survey import Source

if TYPE_CHECKING:
    from rich.table import Table

Step = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and its total."""

AT_A_TIME = 100
"""Samples drawn at a time."""
FEWEST_IMAGES = 5
"""With objects, that a class needs for an interval of its own: a class of one image never varies."""


@dataclass(frozen=True)
class Difference:
    """A figure of two detectors on the same images, in 0..1.

    Attributes:
        before, after: the figure of the first and of the second; None where there is no object.
        low, high: the 95 % interval of after - before; None where it cannot be computed.
    """

    before: float | None
    after: float | None
    low: float | None
    high: float | None

    @property
    def difference(self) -> float | None:
        """after - before."""
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def verdict(self) -> str:
        """``better``, ``worse``: larger than chance; ``not larger than chance``; ``unknown``."""
        if self.low is None or self.high is None:
            return "unknown"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not larger than chance"


@dataclass(frozen=True)
class Comparison:
    """The figures of two detectors, compared for boxes or for masks.

    Attributes:
        figures: AP, AP50, AP75, AR, and APr, APc, APf if there are such classes.
        classes: AP of each of the K classes, in order of id; no interval for a class with objects in fewer than 5
            images. Of hundreds of classes one in twenty leaves its interval by chance alone.
    """

    figures: dict[str, Difference]
    classes: tuple[Difference, ...]

    def largest_changes(self, count: int) -> list[int]:
        """Positions of the classes with the largest changes of AP, among those that have an interval."""
        entries = enumerate(self.classes)
        moves = [(-abs(entry.difference or 0.0), index) for index, entry in entries if entry.low is not None]
        return [index for move, index in sorted(moves)[:count] if move < 0]


@dataclass(frozen=True, eq=False, repr=False)
class ResultsComparison:
    """The results of two detectors compared: ``comparison["segm"].figures["APr"].verdict``.

    Attributes:
        by_kind: the differences by kind of overlap.
        errors: the errors of the first and of the second detector by kind of overlap.
        truth: the ground truth.
        notes: what the reader should know about the input.
    """

    by_kind: dict[IouType, Comparison]
    errors: dict[IouType, tuple[Errors, Errors]]
    truth: GroundTruth
    notes: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> Comparison:
        for iou_type, comparison in self.by_kind.items():
            if iou_type == key:
                return comparison
        raise KeyError(f"no comparison of {key!r}, only of {', '.join(self.by_kind)}")

    def __contains__(self, key: str) -> bool:
        return key in self.by_kind

    def tables(self, num_classes: int = 10) -> "list[Table]":
        """The differences, the classes with the largest differences (``num_classes`` of them), and the errors."""
        from tailseg.evaluation.tables import build_comparison_tables  # which imports this module

        return [
            table
            for iou_type, comparison in self.by_kind.items()
            for table in build_comparison_tables(comparison, self.errors[iou_type], self.truth, iou_type, num_classes)
        ]

    def __repr__(self) -> str:
        return to_text(*self.tables(), *(f"note: {note}" for note in self.notes))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return to_html(*self.tables(), *(f"note: {note}" for note in self.notes))

    def to_dict(self) -> dict[str, Any]:
        """All differences and errors as dicts, lists and numbers, by kind of overlap."""
        return {iou_type: self._to_dict(iou_type) for iou_type in self.by_kind}

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas need not be installed
        """The figures as a pandas DataFrame, one row for each figure of boxes and of masks.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        header, *rows = self.list_rows()
        return import_pandas().DataFrame(rows, columns=header)

    def to_csv(self) -> str:
        """One line for each figure of boxes and of masks: before, after, the interval of the difference, a verdict."""
        return to_csv(self.list_rows())

    def to_markdown(self, num_classes: int = 10) -> str:
        """The tables in Markdown, for a paper, an issue or a README."""
        return to_markdown(*self.tables(num_classes), *(f"- {note}" for note in self.notes))

    def list_rows(self) -> Iterator[tuple[Any, ...]]:
        """The header, then one row for each figure of boxes and of masks."""
        yield "iou_type", "figure", "before", "after", "low", "high", "difference", "verdict"
        for iou_type, comparison in self.by_kind.items():
            for name, entry in comparison.figures.items():
                yield iou_type, name, *astuple(entry), entry.difference, entry.verdict

    def _to_dict(self, iou_type: IouType) -> dict[str, Any]:
        comparison = self.by_kind[iou_type]
        classes = zip(self.truth.categories.items(), comparison.classes, strict=True)
        return {
            "figures": {
                name: {**asdict(entry), "difference": entry.difference, "verdict": entry.verdict}
                for name, entry in comparison.figures.items()
            },
            "classes": [{"category_id": key, "name": name, **asdict(entry)} for (key, name), entry in classes],
            "errors": {
                name: {part: asdict(kinds) for part, kinds in errors.parts.items()}
                for name, errors in zip(("before", "after"), self.errors[iou_type], strict=True)
            },
        }


def compare(
    annotations: AnnotationSource,
    before: ResultsSource,
    after: ResultsSource,
    *,
    train: AnnotationSource | None = None,
    groups: GroupsSource | None = None,
    iou_types: Sequence[IouType] | None = None,
    samples: int = 1000,
    seed: int = 0,
    step: Step = lambda *_: None,
) -> ResultsComparison:
    """Says whether the results ``after`` are better than those ``before``, by a paired bootstrap over images.

    Args:
        annotations: the ground truth, see `evaluate`.
        before: the results of the first detector, see `evaluate`.
        after: the results of the second detector.
        train: the training set, see `evaluate`.
        groups: bounds of the frequency groups, or the group of each category id, see `evaluate`.
        iou_types: what is compared: ``"bbox"``, ``"segm"`` or both; None compares what both results have.
        samples: how often the images are resampled.
        seed: the seed of the samples.
        step: called with the name of a step, how much of it is done, and its total.

    Returns:
        The differences with their 95 % intervals, and the errors of both.

    Raises:
        TypeError, FileNotFoundError, ValueError: as `evaluate`; or the results have nothing in common.
    """
    opened = open_annotations(annotations)
    runs = [get_sources(results, iou_types, opened) for results in (before, after)]
    truth = read_truth(opened, masks=all("segm" in run for run in runs), train=train, groups=groups)
    (comparison,) = compare_runs(truth, runs, samples=samples, seed=seed, step=step)
    return comparison


def compare_runs(
    truth: GroundTruth,
    runs: Sequence[Mapping[IouType, Source]],
    *,
    samples: int = 1000,
    seed: int = 0,
    step: Step = lambda *_: None,
) -> list[ResultsComparison]:
    """Compares the results of each run with those of the first one.

    Args:
        truth: the ground truth, with masks if all runs have some.
        runs: the results file or the records for each kind of overlap, of each run.
        samples: how often the images are resampled.
        seed: the seed of the samples.
        step: called with the name of a step, how much of it is done, and its total.

    Returns:
        One comparison for each run but the first.

    Raises:
        FileNotFoundError, ValueError: as `evaluate`; or the runs have nothing in common.
    """
    if samples < 2:
        raise ValueError(f"samples should be at least 2, got {samples}")
    matched = match_runs(truth, runs, step=step)
    compared = {
        iou_type: compare_matches(
            [run.matches for run in matches],
            truth.class_groups,
            samples=samples,
            seed=seed,
            progress=lambda done, total, iou_type=iou_type: step(f"resampling {iou_type}", done, total),
        )
        for iou_type, matches in matched.items()
    }
    notes = dict.fromkeys(note for matches in matched.values() for run in matches for note in run.notes)
    return [
        ResultsComparison(
            by_kind={iou_type: comparisons[index - 1] for iou_type, comparisons in compared.items()},
            errors={iou_type: (matches[0].errors, matches[index].errors) for iou_type, matches in matched.items()},
            truth=truth,
            notes=(*truth.notes, *notes),
        )
        for index in range(1, len(runs))
    ]


def compare_matches(
    runs: Sequence[Matches],
    groups: tuple[Group | None, ...],
    *,
    samples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Comparison]:
    """Compares the figures of each run with those of the first one.

    Images are drawn with replacement, the same ones for all runs, and every figure is computed again. The interval is
    the difference plus and minus 1.96 standard deviations of the samples' differences: AP of resampled images leans to
    one side, which shifts the samples' quantiles but not their spread. The interval is cut at -1 and 1, because no
    difference is beyond. ``benchmarks/bootstrap_coverage.py`` counts how often such intervals hold the true difference.

    Args:
        runs: the matches of each run, for the same images and objects.
        groups: the frequency groups of the K classes.
        samples: the number of samples, B.
        seed: the seed of the samples.
        progress: called with the number of samples that are done, and B.

    Returns:
        One comparison for each run but the first.
    """
    ones = np.ones((runs[0].num_images, 1), dtype=np.float32)
    whole = [resample(run, ones) for run in runs]
    num_images = _count_images(runs[0])
    # Samples of n images vary less than data sets do, by (n - 1) / n: much for a class that has three.
    widening = np.sqrt(np.where(num_images > 1, num_images / np.maximum(num_images - 1, 1), 1))[:, None]
    rng = np.random.default_rng(seed)
    spreads = [_Spread() for _ in runs[1:]]
    for start in range(0, samples, AT_A_TIME):
        weights = draw_weights(runs[0].num_images, min(AT_A_TIME, samples - start), rng)
        first, *others = (resample(run, weights) for run in runs)
        for spread, other, base in zip(spreads, others, whole[1:], strict=True):
            spread.add(_compute_deviations(first, other, whole[0], base, widening, groups))
        progress(min(start + AT_A_TIME, samples), samples)
    scarce = num_images < FEWEST_IMAGES
    pairs = zip(whole[1:], spreads, strict=True)
    return [_build_comparison(whole[0], after, spread.deviation(), scarce, groups) for after, spread in pairs]


@dataclass(frozen=True)
class Matched:
    """One run's matches and errors, of boxes or of masks, and what was read otherwise than it is written."""

    matches: Matches
    errors: Errors
    notes: tuple[str, ...] = ()


@pause_garbage_collector()
def match_runs(
    truth: GroundTruth,
    runs: Sequence[Mapping[IouType, Source]],
    *,
    step: Step = lambda *_: None,
) -> dict[IouType, list[Matched]]:
    """Reads and matches the results of several runs, one after the other.

    Args:
        truth: the ground truth, with masks if all runs have some.
        runs: the results file or the records for each kind of overlap, of each run.
        step: called with the name of a step, how much of it is done, and its total.

    Returns:
        The matches of each run by kind of overlap.

    Raises:
        FileNotFoundError, ValueError: as `evaluate`; or the runs hold nothing in common.
    """
    iou_types = [iou_type for iou_type in runs[0] if all(iou_type in run for run in runs)]
    if not iou_types:
        raise ValueError("the results have neither boxes nor masks in common: there is nothing to compare")
    found: dict[IouType, list[Matched]] = {iou_type: [] for iou_type in iou_types}
    cap = MAX_DETECTIONS[truth.protocol]
    for number, run in enumerate(runs, start=1):
        name = f"run {number}"
        sources: dict[IouType, Source] = {iou_type: run[iou_type] for iou_type in iou_types}
        read = read_sources(sources, truth, cap=cap, progress=lambda done, size, name=name: step(name, done, 2 * size))
        for iou_type, results in read.items():
            matches = match_results(
                truth, results, select_best_of_each_image(results, truth, cap), iou_type, around=True
            )
            errors = sort_errors(truth, results, matches, iou_type)
            notes = *results.notes, *filter(None, [describe_untested_images(results, truth)])
            found[iou_type].append(Matched(replace(matches, pairs=NO_PAIRS, around=None), errors, notes))
        step(name, 1, 1)
    return found


class _Spread:
    """Standard deviations of rows, added up sample by sample; NaN are left out."""

    def __init__(self) -> None:
        self.count = self.total = self.squares = np.zeros(0)

    def add(self, values: np.ndarray) -> None:
        """Adds samples ``[rows, some]``."""
        there = ~np.isnan(values)
        values = np.where(there, values, 0)
        sums = there.sum(1), values.sum(1), (values**2).sum(1)
        if not self.count.size:
            self.count, self.total, self.squares = sums
        else:
            self.count, self.total, self.squares = self.count + sums[0], self.total + sums[1], self.squares + sums[2]

    def deviation(self) -> np.ndarray:
        """NaN where fewer than two samples have a value."""
        count = np.where(self.count > 1, self.count, np.nan)
        return np.sqrt(np.maximum(self.squares - self.total**2 / count, 0) / (count - 1))


def _compute_deviations(
    first: Resampled,
    second: Resampled,
    whole_first: Resampled,
    whole_second: Resampled,
    widening: np.ndarray,
    groups: tuple[Group | None, ...],
) -> np.ndarray:
    """How far the samples' differences lie from the whole data set's, those of each class widened: ``[rows, B]``."""
    columns = {
        name: widening
        * ((getattr(second, name) - getattr(first, name)) - (getattr(whole_second, name) - getattr(whole_first, name)))
        for name in ("AP", "AP50", "AP75", "AR")
    }
    return _stack_figures(Resampled(**columns), groups)


def _stack_figures(resampled: Resampled, groups: tuple[Group | None, ...]) -> np.ndarray:
    """Figures, then AP of each class: ``[rows, B]``."""
    return np.concatenate([np.stack([*resampled.figures(groups).values()]), resampled.AP])


def _count_images(matches: Matches) -> np.ndarray:
    """int64 ``[K]``: images with an object of the class."""
    wanted = matches.wanted[0]
    keys = np.unique(matches.object_classes[wanted] * matches.num_images + matches.object_images[wanted])
    return np.bincount(keys // matches.num_images, minlength=matches.num_classes)


def _build_comparison(
    before: Resampled,
    after: Resampled,
    deviation: np.ndarray,
    scarce: np.ndarray,
    groups: tuple[Group | None, ...],
) -> Comparison:
    first, second = _stack_figures(before, groups)[:, 0], _stack_figures(after, groups)[:, 0]
    reach = 1.959963984540054 * deviation
    reach[len(reach) - len(scarce) :][scarce] = np.nan
    low, high = (np.clip(second - first + sign * reach, -1, 1) for sign in (-1, 1))
    entries = [
        Difference(*(None if np.isnan(value) else float(value) for value in row))
        for row in zip(first, second, low, high, strict=True)
    ]
    names = list(before.figures(groups))
    return Comparison(dict(zip(names, entries[: len(names)], strict=True)), tuple(entries[len(names) :]))
