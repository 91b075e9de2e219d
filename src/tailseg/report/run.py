"""A run as the report needs it: its settings, log, figures, detections and data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tailseg.annotations.dataset import Annotations, get_scored_groups, with_group_bounds
from tailseg.annotations.read import adopt_training_classes
from tailseg.annotations.types import GroupBounds
from tailseg.evaluation import Analysis
from tailseg.evaluation.analysis import analyze_in_detail
from tailseg.evaluation.ground_truth import GroundTruth, read_ground_truth
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.results import find_iou_types
from tailseg.recipes.build import build_training, build_validation, held_out_note
from tailseg.recipes.places import locate_data
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import load_saved
from tailseg.report.evidence import Evidence, collect_evidence
from tailseg.structures import ClassFrequency
from tailseg.training.checkpoint import load
from tailseg.training.fit import with_classes_of_run
from tailseg.training.run_files import choose

Log = tuple[Mapping[str, float | str], ...]
THRESHOLD: Final = 0.3
"""As in `tailseg predict`."""


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """An evaluated run.

    Attributes:
        name: its name in the report.
        recipe: its settings.
        log: the lines of log.jsonl.
        analysis: figures of its results.json.
        evidence: what became of its detections.
        annotations: the validation set.
        frequency: how often the classes occur in the training set.
        train: the training set; None if it is not there any more.
        threshold: the lowest score of a detection that the page shows, in [0, 1].
        note: a note about its data; empty if there is none.
    """

    name: str
    recipe: Recipe
    log: Log
    analysis: Analysis
    evidence: Evidence
    annotations: Annotations
    frequency: ClassFrequency
    train: Annotations | None
    threshold: float
    note: str = ""


def read_run(
    folder: Path,
    *,
    threshold: float = THRESHOLD,
    val: str | None = None,
    val_images: str | None = None,
    groups: GroupBounds | None = None,
    base: Recipe | None = None,
    modules: Sequence[str] = (),
    like: EvaluatedRun | None = None,
) -> EvaluatedRun:
    """Reads a run's folder and analyzes its detections.

    Args:
        folder: with recipe.json and results.json.
        threshold: see `EvaluatedRun`.
        val: another annotation file than the recipe's that the results are of.
        val_images: folder of its images.
        groups: other bounds of the frequency groups than the run has.
        base: your own recipe, if the run was trained with one.
        modules: your own modules, by name, that have classes of the run.
        like: a run that was read before: what both were trained and evaluated on is not read again.

    Returns:
        The run.

    Raises:
        ValueError: the folder holds no evaluated run, or the results are of other data.
    """
    if not (folder / "recipe.json").is_file():
        raise ValueError(f"no run in {folder}: expected a folder that `tailseg train` or `tailseg convert` made")
    if not (folder / "results.json").is_file():
        raise ValueError(f"{folder} has no results.json: evaluate the run first, with `tailseg test {folder}`")
    recipe = locate_data(*load_saved(folder / "recipe.json", base=base, modules=modules), folder)
    if groups is not None:
        recipe = replace(recipe, data=replace(recipe.data, groups=groups))
    train, annotations, frequency = _read_data(recipe, folder, like, val, val_images)
    if groups is not None:
        annotations = with_group_bounds(annotations, groups)
        frequency = ClassFrequency.from_class_counts(annotations.frequency)
    results = folder / "results.json"
    kind = find_kind(results)
    truth = _read_truth(annotations, kind, like)
    sources: dict[IouType, Path] = dict.fromkeys(("bbox", "segm") if kind == "segm" else ("bbox",), results)
    found = analyze_in_detail(truth, sources, least_score=threshold)
    return EvaluatedRun(
        name=folder.resolve().name,
        recipe=recipe,
        log=read_log(folder / "log.jsonl"),
        analysis=found.analysis,
        evidence=collect_evidence(truth, found.found, found.matches, kind=kind, least_score=threshold),
        annotations=annotations,
        frequency=frequency,
        train=train,
        threshold=threshold,
        note=held_out_note(recipe),
    )


def find_kind(results: Path) -> IouType:
    """``"segm"`` if the detections have masks, else ``"bbox"``."""
    return "segm" if "segm" in find_iou_types(results) else "bbox"


def _read_truth(annotations: Annotations, kind: IouType, like: EvaluatedRun | None) -> GroundTruth:
    """The validation set for scoring: that of the run before, where both have the same data and masks."""
    if like and like.annotations is annotations and like.evidence.kind == kind:
        return like.evidence.truth
    return read_ground_truth(annotations, masks=kind == "segm", groups=get_scored_groups(annotations))


def _read_data(
    recipe: Recipe, folder: Path, like: EvaluatedRun | None, val: str | None, val_images: str | None
) -> tuple[Annotations | None, Annotations, ClassFrequency]:
    """The training set if it is there, the validation set, and the classes' frequencies in the former."""
    evaluated = replace(recipe, data=replace(recipe.data, val=val, val_images=None)) if val else recipe
    if like and recipe.data.val is not None and _list_files(like.recipe) == _list_files(recipe):
        return like.train, like.annotations, like.frequency
    annotations = build_validation(evaluated, images=val_images)
    try:
        train = build_training(recipe)
        return train, adopt_training_classes(annotations, train), ClassFrequency.from_class_counts(train.frequency)
    except ValueError:
        saved = load(choose(folder, "best"))
        return None, with_classes_of_run(annotations, saved, folder), saved.frequency


def _list_files(recipe: Recipe) -> tuple[object, ...]:
    """What decides what is read: the files, and what is made of them."""
    data = recipe.data
    files = (data.train, data.train_images, data.val, data.val_images)
    return (*files, data.on_problem, data.crowds, data.groups, recipe.model.has_masks)


def read_log(path: Path) -> Log:
    """The whole lines of a run's log; none if there is no log (a converted run has none)."""
    lines = path.read_text().splitlines() if path.is_file() else []
    kept = []
    for line in lines:
        try:
            kept.append(json.loads(line))
        except ValueError:  # cut short by a crash
            continue
    return tuple(kept)


def check_comparable(runs: list[EvaluatedRun]) -> None:
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
