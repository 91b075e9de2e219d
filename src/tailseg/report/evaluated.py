"""An evaluated run, or the results of another framework, as the report needs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.types import ClassCounts
from tailseg.evaluation.analysis import Analysis
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.results import find_iou_types
from tailseg.recipes.recipe import Recipe
from tailseg.report.evidence import Evidence

Log = tuple[Mapping[str, float | str], ...]
THRESHOLD: Final = 0.3
"""As in `tailseg predict`."""


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """An evaluated run, or the results of another framework.

    Attributes:
        name: its name in the report.
        analysis: figures of its results.
        evidence: what became of its detections.
        annotations: the validation set.
        frequency: how often the classes occur in the training set; None if no training set is known.
        train: the training set; None if it is not there.
        threshold: the lowest score of a detection that the page shows, in [0, 1].
        recipe: its settings; None for the results of another framework.
        log: the lines of log.jsonl.
        note: a note about its data; empty if there is none.
        thresholds: the score thresholds of its classes, in a sentence; empty if there are none.
    """

    name: str
    analysis: Analysis
    evidence: Evidence
    annotations: Annotations
    frequency: ClassCounts | None
    train: Annotations | None
    threshold: float
    recipe: Recipe | None = None
    log: Log = ()
    note: str = ""
    thresholds: str = ""


def count_images(run: EvaluatedRun) -> np.ndarray:
    """Training images of each class, int64 ``[K]``; objects of the annotation file if no training set is known."""
    return run.evidence.truth.object_counts if run.frequency is None else run.frequency.image_counts


def find_kind(results: Path) -> IouType:
    """``"segm"`` if the detections have masks, else ``"bbox"``."""
    return "segm" if "segm" in find_iou_types(results) else "bbox"


def check_comparable(runs: Sequence[EvaluatedRun]) -> None:
    """Raises ValueError unless all runs were evaluated on the same images and classes."""
    first = runs[0].evidence.truth
    for run in runs[1:]:
        other = run.evidence.truth
        if other.categories != first.categories:
            raise ValueError(f"{runs[0].name} and {run.name} have different classes: they cannot be compared")
        if other.sizes != first.sizes or len(other.objects) != len(first.objects):
            raise ValueError(
                f"{runs[0].name} and {run.name} were evaluated on different images ({first.path} and {other.path}): "
                "evaluate them on the same file (`tailseg test RUN --val FILE`) and name it with --val"
            )
        if run.evidence.kind != runs[0].evidence.kind:
            raise ValueError(f"of {runs[0].name} and {run.name} only one has masks: they cannot be compared")
