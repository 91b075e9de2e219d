"""A run as the report needs it: its settings, log, figures, detections and data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tailseg.data.annotations import Annotations
from tailseg.evaluation import Metrics, evaluate, read_results
from tailseg.evaluation.results import read_json
from tailseg.recipes.build import build_data, build_validation
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import load_recipe
from tailseg.report.matching import Matches, match
from tailseg.structures import ClassFrequency
from tailseg.training import checkpoint as checkpoints

Log = tuple[Mapping[str, float | str], ...]


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """An evaluated run.

    Attributes:
        name: how the report calls it.
        recipe: its settings.
        log: the lines of log.jsonl.
        metrics: of its results.json on ``matches.annotations``.
        matches: what became of its detections.
        frequency: of the classes in the training set.
        train: the training set; None if it is not there any more.
    """

    name: str
    recipe: Recipe
    log: Log
    metrics: Metrics
    matches: Matches
    frequency: ClassFrequency
    train: Annotations | None


def read_run(
    folder: Path,
    *,
    val: str | None = None,
    val_images: str | None = None,
    base: Recipe | None = None,
    like: EvaluatedRun | None = None,
) -> EvaluatedRun:
    """Reads a run's folder and looks at its detections.

    Args:
        folder: with recipe.json and results.json.
        val: another annotation file than the recipe's that the results are of.
        val_images: folder of its images.
        base: your own recipe, if the run was trained with one.
        like: a run that was read before: what both were trained and evaluated on is not read again.

    Raises:
        ValueError: the folder holds no evaluated run, or the results are of other data.
    """
    if not (folder / "recipe.json").is_file():
        raise ValueError(f"no run in {folder}: expected a folder that `tailseg train` or `tailseg convert` made")
    if not (folder / "results.json").is_file():
        raise ValueError(f"{folder} has no results.json: evaluate the run first, with `tailseg test {folder}`")
    recipe = load_recipe(folder / "recipe.json", base=base)
    recipe = replace(recipe, run=replace(recipe.run, out=str(folder)))  # it may have been moved
    if val:
        recipe = replace(recipe, data=replace(recipe.data, val=val, val_images=val_images))
    train, annotations, frequency = _data(recipe, folder, like)
    records = read_json(folder / "results.json")
    masks = any("segmentation" in record for record in records[:1])
    groups = {category.id: category.group for category in annotations.categories}
    return EvaluatedRun(
        name=folder.resolve().name,
        recipe=recipe,
        log=read_log(folder / "log.jsonl"),
        metrics=evaluate(annotations.path, records, iou_types=("bbox", "segm") if masks else ("bbox",), groups=groups),
        matches=match(annotations, read_results(records, masks=masks)),
        frequency=frequency,
        train=train,
    )


def _data(
    recipe: Recipe, folder: Path, like: EvaluatedRun | None
) -> tuple[Annotations | None, Annotations, ClassFrequency]:
    """The training set if it is there, the validation set, and the classes' frequencies in the former."""
    if like and recipe.data.val is not None and _files(like.recipe) == _files(recipe):
        return like.train, like.matches.annotations, like.frequency
    try:
        train, annotations = build_data(recipe)
    except ValueError:
        annotations = build_validation(recipe)
        saved = checkpoints.load(checkpoints.choose(folder, "best"))
        checkpoints.check_classes(saved, annotations.categories, folder)
        annotations = replace(annotations, categories=saved.categories, frequency=saved.frequency)
        return None, annotations, saved.frequency
    return train, annotations, train.frequency


def _files(recipe: Recipe) -> tuple[str | None, ...]:
    data = recipe.data
    return data.train, data.train_images, data.val, data.val_images


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
    first = runs[0].matches.annotations
    for run in runs[1:]:
        other = run.matches.annotations
        if [(c.id, c.name) for c in other.categories] != [(c.id, c.name) for c in first.categories]:
            raise ValueError(f"{runs[0].name} and {run.name} have different classes: they cannot be compared")
        if not np.array_equal(other.image_ids, first.image_ids) or len(other.objects) != len(first.objects):
            raise ValueError(
                f"{runs[0].name} and {run.name} were evaluated on different images ({first.path} and {other.path}): "
                "evaluate them on the same file (`tailseg test RUN --val FILE`) and name it with --val"
            )
