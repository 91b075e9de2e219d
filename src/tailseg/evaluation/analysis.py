"""All that is asked of a results file, from one reading of it.

analysis = analyze("lvis_v1_val.json", {"bbox": "results.json", "segm": "results.json"})
print(analysis.metrics["segm"]["APr"], analysis.errors["segm"].parts["r"].cost)
"""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.json_file import pause_garbage_collector
from tailseg.annotations.types import Group
from tailseg.evaluation.average_precision import MAX_DETECTIONS, check_options, metrics, scores
from tailseg.evaluation.boundary import with_boundaries
from tailseg.evaluation.detections import best_of_each_class, best_of_each_image, match_results
from tailseg.evaluation.engines import ENGINES, Engine
from tailseg.evaluation.errors import KINDS, Errors, Part, error_kinds
from tailseg.evaluation.ground_truth import GroundTruth, is_member, read_ground_truth
from tailseg.evaluation.matches import Matches, match
from tailseg.evaluation.metrics import ROW_NAMES, IouType, Metrics
from tailseg.evaluation.precision import Curves, curves_of
from tailseg.evaluation.reading import read_sources
from tailseg.evaluation.reliability import Reliability, reliability
from tailseg.evaluation.results import Results

Step = Callable[[str, int, int], None]
"""Told what is being done, how far it is, and its end."""
FIXED_PER_CLASS = 10_000
_CLASS_COLUMNS = ("category_id", "name", "group", "num_objects", "AP", "AP50", "AR")


@dataclass(frozen=True)
class Analysis:
    """What a results file scores, what it gets wrong, and whether its scores mean what they say.

    Attributes:
        metrics: AP and AR, and those of each class.
        fixed: AP-fixed by kind of overlap, keys as in ``metrics.scores``: the best 10,000 detections of each class over
            the data set count, with no cap per image.
        boundary: boundary AP, keys as in ``metrics.scores``; None if it was not asked for.
        errors: by kind of overlap; see `Errors`.
        reliability: by kind of overlap and part of the classes; empty where scores lie outside [0, 1].
    """

    metrics: Metrics
    fixed: dict[IouType, dict[str, float | None]]
    boundary: dict[str, float | None] | None
    errors: dict[IouType, Errors]
    reliability: dict[IouType, dict[Part, Reliability]]

    def to_json(self) -> str:
        """All of it as a JSON object, indented."""
        errors = {
            iou_type: {
                "parts": {part: asdict(kinds) for part, kinds in found.parts.items()},
                "per_class": [dict(zip(KINDS, row, strict=True)) for row in found.per_class.tolist()],
            }
            for iou_type, found in self.errors.items()
        }
        whole = {
            **asdict(self.metrics),
            "fixed": self.fixed,
            "boundary": self.boundary,
            "errors": errors,
            "reliability": {
                iou_type: {part: asdict(found) for part, found in parts.items()}
                for iou_type, parts in self.reliability.items()
            },
        }
        return json.dumps(whole, indent=1)

    def to_csv(self) -> str:
        """One line for each class and kind of overlap: its scores and the number of its errors of each kind."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("iou_type", *_CLASS_COLUMNS, *KINDS))
        for iou_type, entries in self.metrics.per_class.items():
            for entry, counts in zip(entries, self.errors[iou_type].per_class.tolist(), strict=True):
                table.writerow((iou_type, *(getattr(entry, name) for name in _CLASS_COLUMNS), *counts))
        return text.getvalue()


@dataclass(frozen=True, eq=False)
class Insight:
    """An analysis and what it stands on.

    Attributes:
        analysis: the figures.
        truth: what was to be found.
        kind: of overlap: masks where they were scored, else boxes.
        found, matches: the results, and what became of those that count, by this kind of overlap.
    """

    analysis: Analysis
    truth: GroundTruth
    kind: IouType
    found: Results
    matches: Matches


def analyze(
    annotations_json: str | Path | Annotations,
    results: Mapping[IouType, str | Path | Sequence[Mapping[str, Any]]],
    *,
    max_detections: int | None = None,
    groups: Mapping[int, Group] | None = None,
    engine: Engine = "tailseg",
    boundary: bool = False,
    step: Step = lambda *_: None,
) -> Analysis:
    """Scores results and looks into their errors.

    Args:
        annotations_json: ground truth: the file, or what was read of it; LVIS's lists in it make the scores federated.
        results: by what overlaps (boxes, masks): the results file, or records; most often the same one for both.
        max_detections, groups, engine: see `evaluate`; error kinds, AP-fixed and reliability are tailseg's own.
        boundary: whether boundary AP is wanted, which takes some milliseconds a mask.
        step: told of progress.

    Raises:
        FileNotFoundError, ValueError: as `evaluate`.
    """
    check_options(tuple(results), max_detections)
    step("reading the annotation file", 0, 1)
    truth = read_ground_truth(annotations_json, masks="segm" in results, groups=groups)
    step("reading the annotation file", 1, 1)
    found = look_into(truth, results, max_detections=max_detections, engine=engine, boundary=boundary, step=step)
    return found.analysis


@pause_garbage_collector()
def look_into(
    truth: GroundTruth,
    results: Mapping[IouType, str | Path | Sequence[Mapping[str, Any]]],
    *,
    max_detections: int | None = None,
    engine: Engine = "tailseg",
    boundary: bool = False,
    least_score: float = math.inf,
    step: Step = lambda *_: None,
) -> Insight:
    """`analyze` for those who need the matches too, or have the annotation file already.

    Args:
        truth: the annotation file, with masks if masks are scored.
        results, max_detections, engine, boundary, step: see `analyze`.
        least_score: the run lengths of detections that score as much are kept, though these may not count.

    Raises:
        FileNotFoundError, ValueError: as `evaluate`.
    """
    check_options(tuple(results), max_detections)
    cap = max_detections or MAX_DETECTIONS[truth.protocol]
    found = read_sources(
        results,
        truth,
        cap=cap,
        progress=lambda done, size: step("reading results", done, size),
        least_score=least_score,
    )
    kind: IouType = "segm" if "segm" in found else "bbox"
    done: dict[IouType, _One] = {}
    matches: dict[IouType, Matches] = {}
    for iou_type, records in found.items():
        done[iou_type], matched = _analyze(truth, records, cap, iou_type, engine, boundary, step)
        if iou_type == kind:
            matches[kind] = matched
    analysis = Analysis(
        metrics=metrics(
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
    )
    return Insight(analysis, truth, kind, found[kind], matches[kind])


@dataclass(frozen=True)
class _One:
    """The analysis of boxes, or of masks."""

    curves: Curves
    fixed: dict[str, float | None]
    boundary: dict[str, float | None] | None
    errors: Errors
    reliability: dict[Part, Reliability]


def _analyze(
    truth: GroundTruth,
    found: Results,
    cap: int,
    iou_type: IouType,
    engine: Engine,
    boundary: bool,
    step: Step,
) -> tuple[_One, Matches]:
    name = ROW_NAMES[iou_type]
    capped, best = best_of_each_image(found, truth, cap), best_of_each_class(found, truth, FIXED_PER_CLASS)
    step(f"matching {name}", 0, 1)
    # of each class in an image both keep the best, so that one matching serves both
    either = match_results(truth, found, _either(capped, best, len(found)), iou_type, around=True)
    matches = either.only(capped)
    step(f"matching {name}", 1, 1)
    step(f"scoring {name}", 0, 1)
    own = curves_of(matches)
    curves = own if engine == "tailseg" else Curves.of_all(*ENGINES[engine](truth, found, capped, iou_type))
    among = is_member(either.rows, best)
    fixed = own if either is matches and among.all() else curves_of(either, among)
    step(f"scoring {name}", 1, 1)
    step(f"sorting the errors of {name}", 0, 1)
    errors = error_kinds(truth, found, matches, iou_type)
    step(f"sorting the errors of {name}", 1, 1)
    outlines = None
    if boundary and iou_type == "segm":
        step("comparing outlines", 0, 1)
        outlined = match(truth, with_boundaries(truth, found, matches))
        outlines = scores(curves_of(outlined), truth)
        step("comparing outlines", 1, 1)
    done = _One(
        curves=curves,
        fixed=scores(fixed, truth),
        boundary=outlines,
        errors=errors,
        reliability=reliability(matches, truth.class_groups) if _are_probabilities(found) else {},
    )
    return done, matches


def _either(rows: np.ndarray, others: np.ndarray, num_rows: int) -> np.ndarray:
    chosen = np.zeros(num_rows, dtype=bool)
    chosen[rows] = chosen[others] = True
    return np.flatnonzero(chosen)


def _are_probabilities(found: Results) -> bool:
    return bool(((found.scores >= 0) & (found.scores <= 1)).all())
