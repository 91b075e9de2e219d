"""All figures of a results file, from one reading of it.

analysis = analyze("lvis_v1_val.json", {"bbox": "results.json", "segm": "results.json"})
print(analysis.metrics["segm"]["APr"], analysis.errors["segm"].parts["r"].cost)
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tailseg.annotations.json_file import pause_garbage_collector
from tailseg.deprecated import renamed_arguments
from tailseg.evaluation.average_precision import MAX_DETECTIONS, check_max_detections, compute_metrics, compute_scores
from tailseg.evaluation.boundary import with_boundaries
from tailseg.evaluation.detections import match_results, select_best_of_each_class, select_best_of_each_image
from tailseg.evaluation.engines import ENGINES, Engine
from tailseg.evaluation.errors import KINDS, Errors, Part, sort_errors
from tailseg.evaluation.ground_truth import GroundTruth, is_member
from tailseg.evaluation.image_fields import FieldsSource, read_fields
from tailseg.evaluation.matches import Matches, match
from tailseg.evaluation.metrics import ROW_NAMES, IouType, Metrics
from tailseg.evaluation.notebook import import_pandas, to_csv, to_html, to_markdown, to_text
from tailseg.evaluation.precision import Curves, compute_curves
from tailseg.evaluation.reading import read_sources
from tailseg.evaluation.reliability import Reliability, compute_reliability
from tailseg.evaluation.results import Results
from tailseg.evaluation.slices import Slice, Slices, compute_slices, describe_slices
from tailseg.evaluation.sources import (
    AnnotationSource,
    GroupsSource,
    ResultsSource,
    check_iou_types,
    get_sources,
    open_annotations,
    read_truth,
)
from tailseg.evaluation.splits import Splits, find_splits
from tailseg.evaluation.survey import Source

if TYPE_CHECKING:
    from rich.table import Table

Step = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and its total."""
FIXED_PER_CLASS = 10_000
_CLASS_COLUMNS = ("category_id", "name", "group", "num_objects", "AP", "AP50", "AR")


@dataclass(frozen=True, repr=False)
class Analysis:
    """The scores of results, their errors, and whether their scores mean precision.

    Attributes:
        metrics: AP and AR, and those of each class.
        fixed: AP-fixed by kind of overlap, keys as in ``metrics.scores``: the best 10,000 detections of each class over
            the data set count, with no cap per image.
        boundary: boundary AP, keys as in ``metrics.scores``; None if it was not computed.
        errors: by kind of overlap; see `Errors`.
        reliability: by kind of overlap and part of the classes; empty where scores lie outside [0, 1].
        splits: by kind of overlap, the objects that were split and those that were merged, by detections that score at
            least 0.3.
        slices: the figures by the fields of ``by``; None without.
    """

    metrics: Metrics
    fixed: dict[IouType, dict[str, float | None]]
    boundary: dict[str, float | None] | None
    errors: dict[IouType, Errors]
    reliability: dict[IouType, dict[Part, Reliability]]
    splits: dict[IouType, Splits]
    slices: Slices | None = None

    def __getitem__(self, key: str) -> dict[str, float | None]:
        return self.metrics[key]

    def __contains__(self, key: str) -> bool:
        return key in self.metrics

    def tables(self) -> "list[Table]":
        """The scores, the errors by kind and group, how well scores mean precision, and the slices."""
        from tailseg.evaluation.tables import build_tables  # which imports this module

        return [*build_tables(self)]

    def __repr__(self) -> str:
        return to_text(*self.tables())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return to_html(*self.tables())

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas need not be installed
        """One row for each class and kind of overlap, as a pandas DataFrame: the columns of `to_csv`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        header, *rows = self._class_rows()
        return import_pandas().DataFrame(rows, columns=header)

    def to_dict(self) -> dict[str, Any]:
        """All attributes as dicts, lists and numbers; ``slices`` only where there are some."""
        errors = {
            iou_type: {
                "parts": {part: asdict(kinds) for part, kinds in found.parts.items()},
                "per_class": [dict(zip(KINDS, row, strict=True)) for row in found.per_class.tolist()],
            }
            for iou_type, found in self.errors.items()
        }
        return {
            **self.metrics.to_dict(),
            "fixed": self.fixed,
            "boundary": self.boundary,
            "errors": errors,
            "reliability": {
                iou_type: {part: asdict(found) for part, found in parts.items()}
                for iou_type, parts in self.reliability.items()
            },
            "splits": {
                iou_type: found.to_dict(tuple(entry.group for entry in self.metrics.per_class[iou_type]))
                for iou_type, found in self.splits.items()
            },
            **({"slices": self.slices.to_dict()} if self.slices else {}),
        }

    def to_json(self) -> str:
        """All attributes as a JSON object, indented."""
        return json.dumps(self.to_dict(), indent=1)

    def to_csv(self) -> str:
        """One line for each class and kind of overlap: its scores and the number of its errors of each kind."""
        return to_csv(self._class_rows())

    def to_markdown(self) -> str:
        """The tables in Markdown, for a paper, an issue or a README."""
        return to_markdown(*self.tables())

    def _class_rows(self) -> Iterator[tuple[Any, ...]]:
        """The header, then one row for each class and kind of overlap."""
        yield "iou_type", *_CLASS_COLUMNS, *KINDS
        for iou_type, entries in self.metrics.per_class.items():
            for entry, counts in zip(entries, self.errors[iou_type].per_class.tolist(), strict=True):
                yield iou_type, *(getattr(entry, name) for name in _CLASS_COLUMNS), *counts


@dataclass(frozen=True, eq=False)
class DetailedAnalysis:
    """An analysis and what it was computed from.

    Attributes:
        analysis: the figures.
        truth: the ground truth.
        kind: of overlap: masks where they were scored, else boxes.
        found, matches: the results, and the matches of those that count, for this kind of overlap.
    """

    analysis: Analysis
    truth: GroundTruth
    kind: IouType
    found: Results
    matches: Matches


@renamed_arguments(annotations_json="annotations")
def analyze(
    annotations: AnnotationSource,
    results: ResultsSource,
    *,
    train: AnnotationSource | None = None,
    groups: GroupsSource | None = None,
    max_detections: int | None = None,
    engine: Engine = "tailseg",
    boundary: bool = False,
    by: FieldsSource = (),
    samples: int = 1000,
    seed: int = 0,
    step: Step = lambda *_: None,
) -> Analysis:
    """Scores results and analyzes their errors.

    Args:
        annotations: the ground truth, see `evaluate`.
        results: the results, see `evaluate`.
        train: the training set, see `evaluate`.
        groups: bounds of the frequency groups, or the group of each category id, see `evaluate`.
        max_detections: how many detections count, see `evaluate`.
        engine: what computes AP and AR; the other figures are always computed by tailseg.
        boundary: computes boundary AP too, which takes some milliseconds for each mask.
        by: fields of the image records, such as ``"site"`` or ``("site", "attributes.camera")``: the figures of the
            images with each value, see `tailseg.evaluation.slices`. ``"file_name:^[^/]+"`` takes the part of each value
            that fits a pattern. Or the values themselves: ``{"site": {1: "north", 2: "south"}}`` by image id.
        samples: how often the values are given to the images at random, for the intervals.
        seed: the seed of the samples.
        step: called with the name of a step, how much of it is done, and its total.

    Returns:
        The scores, the errors by kind, the reliability of the scores, and the figures by field.

    Raises:
        TypeError, FileNotFoundError, ValueError: as `evaluate`.
    """
    check_max_detections(max_detections)
    step("reading the annotation file", 0, 1)
    opened = open_annotations(annotations)
    sources = get_sources(results, None, opened)
    truth = read_truth(opened, masks="segm" in sources, train=train, groups=groups)
    fields = read_fields(annotations, opened, by)
    step("reading the annotation file", 1, 1)
    details = analyze_in_detail(
        truth,
        sources,
        max_detections=max_detections,
        engine=engine,
        boundary=boundary,
        fields=fields,
        samples=samples,
        seed=seed,
        step=step,
    )
    return details.analysis


@pause_garbage_collector()
def analyze_in_detail(
    truth: GroundTruth,
    results: Mapping[IouType, Source],
    *,
    max_detections: int | None = None,
    engine: Engine = "tailseg",
    boundary: bool = False,
    least_score: float = math.inf,
    fields: Mapping[str, np.ndarray] | None = None,
    samples: int = 1000,
    seed: int = 0,
    step: Step = lambda *_: None,
) -> DetailedAnalysis:
    """Does the work of `analyze`, and returns the matches too.

    Args:
        truth: the ground truth, with masks if masks are scored.
        results: the results file or the records for each kind of overlap.
        max_detections: how many detections count, see `evaluate`.
        engine: what computes AP and AR.
        boundary: computes boundary AP too.
        least_score: keeps the masks of detections with at least this score, even if the detections do not count.
        fields: the values of fields, by `read_fields`.
        samples: how often the values are given to the images at random.
        seed: the seed of the samples.
        step: called with the name of a step, how much of it is done, and its total.

    Returns:
        The analysis, the results and their matches.

    Raises:
        FileNotFoundError, ValueError: as `evaluate`.
    """
    check_iou_types(tuple(results))
    check_max_detections(max_detections)
    if samples < 2:
        raise ValueError(f"samples should be at least 2, got {samples}")
    cap = max_detections or MAX_DETECTIONS[truth.protocol]
    found = read_sources(
        results,
        truth,
        cap=cap,
        progress=lambda done, size: step("reading results", done, size),
        least_score=least_score,
    )
    kind: IouType = "segm" if "segm" in found else "bbox"
    done: dict[IouType, _KindAnalysis] = {}
    matches: dict[IouType, Matches] = {}
    slices: dict[IouType, tuple[Slice, ...]] = {}
    for iou_type, records in found.items():
        done[iou_type], matched = _analyze_kind(truth, records, cap, iou_type, engine, boundary, step)
        if fields:
            name = f"evaluating {ROW_NAMES[iou_type]} by {', '.join(fields)}"
            slices[iou_type] = compute_slices(
                matched, truth, fields, samples=samples, seed=seed, progress=partial(step, name)
            )
        if iou_type == kind:
            matches[kind] = matched
    analysis = Analysis(
        metrics=compute_metrics(
            truth,
            found,
            {iou_type: one.curves for iou_type, one in done.items()},
            sources=results,
            max_detections=cap,
            engine=engine,
        ),
        fixed={iou_type: one.fixed for iou_type, one in done.items()},
        boundary=done["segm"].boundary if "segm" in done else None,
        errors={iou_type: one.errors for iou_type, one in done.items()},
        reliability={iou_type: one.reliability for iou_type, one in done.items()},
        splits={iou_type: one.splits for iou_type, one in done.items()},
        slices=Slices(slices, describe_slices(slices[kind])) if slices else None,
    )
    return DetailedAnalysis(analysis, truth, kind, found[kind], matches[kind])


@dataclass(frozen=True)
class _KindAnalysis:
    """The analysis of boxes, or of masks."""

    curves: Curves
    fixed: dict[str, float | None]
    boundary: dict[str, float | None] | None
    errors: Errors
    reliability: dict[Part, Reliability]
    splits: Splits


def _analyze_kind(
    truth: GroundTruth,
    found: Results,
    cap: int,
    iou_type: IouType,
    engine: Engine,
    boundary: bool,
    step: Step,
) -> tuple[_KindAnalysis, Matches]:
    name = ROW_NAMES[iou_type]
    capped, best = (
        select_best_of_each_image(found, truth, cap),
        select_best_of_each_class(found, truth, FIXED_PER_CLASS),
    )
    step(f"matching {name}", 0, 1)
    # of each class in an image both keep the best, so that one matching serves both
    either = match_results(truth, found, _unite_rows(capped, best, len(found)), iou_type, around=True)
    matches = either.select(capped)
    step(f"matching {name}", 1, 1)
    step(f"scoring {name}", 0, 1)
    own = compute_curves(matches)
    curves = own if engine == "tailseg" else Curves.of_all(*ENGINES[engine](truth, found, capped, iou_type))
    among = is_member(either.rows, best)
    fixed = own if either is matches and among.all() else compute_curves(either, among)
    step(f"scoring {name}", 1, 1)
    step(f"sorting the errors of {name}", 0, 1)
    errors = sort_errors(truth, found, matches, iou_type)
    splits = find_splits(truth, found, matches, iou_type)
    step(f"sorting the errors of {name}", 1, 1)
    outlines = None
    if boundary and iou_type == "segm":
        step("comparing outlines", 0, 1)
        outlined = match(truth, with_boundaries(truth, found, matches))
        outlines = compute_scores(compute_curves(outlined), truth)
        step("comparing outlines", 1, 1)
    done = _KindAnalysis(
        curves=curves,
        fixed=compute_scores(fixed, truth),
        boundary=outlines,
        errors=errors,
        reliability=compute_reliability(matches, truth.class_groups) if _are_probabilities(found) else {},
        splits=splits,
    )
    return done, matches


def _unite_rows(rows: np.ndarray, others: np.ndarray, num_rows: int) -> np.ndarray:
    chosen = np.zeros(num_rows, dtype=bool)
    chosen[rows] = chosen[others] = True
    return np.flatnonzero(chosen)


def _are_probabilities(found: Results) -> bool:
    return bool(((found.scores >= 0) & (found.scores <= 1)).all())
