"""A run as the report needs it: its settings, log, figures, detections and data."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tailseg.annotations.dataset import Annotations, get_scored_groups, with_group_bounds
from tailseg.annotations.read import adopt_training_classes
from tailseg.annotations.types import ClassCounts, GroupBounds
from tailseg.evaluation import thresholds
from tailseg.evaluation.analysis import analyze_in_detail
from tailseg.evaluation.ground_truth import GroundTruth, read_ground_truth
from tailseg.evaluation.image_fields import FieldsSource, read_fields
from tailseg.evaluation.metrics import IouType
from tailseg.recipes.build import build_training, build_validation, held_out_note
from tailseg.recipes.places import locate_data, locate_results
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import load_saved
from tailseg.report.evaluated import THRESHOLD, EvaluatedRun, Log, find_kind
from tailseg.report.evidence import collect_evidence
from tailseg.training.checkpoint import load
from tailseg.training.fit import with_classes_of_run
from tailseg.training.run_files import choose


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
    by: FieldsSource = (),
    samples: int = 1000,
) -> EvaluatedRun:
    """Reads a run's folder and analyzes its detections.

    Args:
        folder: with recipe.json and results.json.
        threshold: see `EvaluatedRun`.
        val: the annotation file that the results are of; None is that of the last evaluation.
        val_images: folder of its images.
        groups: other bounds of the frequency groups than the run has.
        base: your own recipe, if the run was trained with one.
        modules: your own modules, by name, that have classes of the run.
        like: a run that was read before: what both were trained and evaluated on is not read again.
        by: fields of the image records, see `tailseg.evaluation.analyze`.
        samples: how often images are drawn at random, for the intervals of ``by``.

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
    if val:
        evaluated = replace(recipe, data=replace(recipe.data, val=val, val_images=None))
    else:
        evaluated = locate_results(recipe, folder)
    train, annotations, frequency = _read_data(recipe, evaluated, folder, like, val_images)
    if groups is not None:
        annotations = with_group_bounds(annotations, groups)
        frequency = annotations.frequency
    results = folder / "results.json"
    kind = find_kind(results)
    truth = _read_truth(annotations, kind, like)
    sources: dict[IouType, Path] = dict.fromkeys(("bbox", "segm") if kind == "segm" else ("bbox",), results)
    fields = read_fields(annotations, annotations, by)
    found = analyze_in_detail(truth, sources, least_score=threshold, fields=fields, samples=samples)
    return EvaluatedRun(
        name=folder.resolve().name,
        recipe=evaluated,
        log=read_log(folder / "log.jsonl"),
        analysis=found.analysis,
        evidence=collect_evidence(truth, found.found, found.matches, kind=kind, least_score=threshold),
        annotations=annotations,
        frequency=frequency,
        train=train,
        threshold=threshold,
        note=held_out_note(evaluated),
        thresholds=_describe_thresholds(folder / thresholds.FILE),
    )


def _describe_thresholds(file: Path) -> str:
    """What `tailseg thresholds` stored, in a sentence; empty if there is nothing."""
    return f"{file.name} has {thresholds.load(file).describe()}" if file.is_file() else ""


def _read_truth(annotations: Annotations, kind: IouType, like: EvaluatedRun | None) -> GroundTruth:
    """The validation set for scoring: that of the run before, where both have the same data and masks."""
    if like and like.annotations is annotations and like.evidence.kind == kind:
        return like.evidence.truth
    return read_ground_truth(annotations, masks=kind == "segm", groups=get_scored_groups(annotations))


def _read_data(
    recipe: Recipe, evaluated: Recipe, folder: Path, like: EvaluatedRun | None, val_images: str | None
) -> tuple[Annotations | None, Annotations, ClassCounts]:
    """The training set if it is there, the validation set, and the classes' frequencies in the former."""
    same = like and like.recipe and _list_files(like.recipe) == _list_files(evaluated) and evaluated.data.val
    if like and like.frequency and same:
        return like.train, like.annotations, like.frequency
    annotations = build_validation(evaluated, images=val_images)
    try:
        train = build_training(recipe)
        return train, adopt_training_classes(annotations, train), train.frequency
    except ValueError:
        saved = load(choose(folder, "best"))
        return None, with_classes_of_run(annotations, saved, folder), saved.frequency.to_class_counts()


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
