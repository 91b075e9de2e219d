"""Finds a score threshold for each class of a trained run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from tailseg.annotations.dataset import get_scored_groups, with_group_bounds
from tailseg.annotations.types import GroupBounds
from tailseg.detection.testing import detect_all
from tailseg.evaluation import find_thresholds
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.thresholds import Thresholds
from tailseg.inference.predictor import Predictor
from tailseg.recipes import build
from tailseg.recipes.places import locate_data
from tailseg.recipes.recipe import Recipe
from tailseg.training.fit import with_classes_of_run


def find_run_thresholds(
    run: str | Path,
    *,
    images: int | None = None,
    folds: int = 2,
    samples: int = 1000,
    seed: int = 0,
    only: IouType | None = None,
    groups: GroupBounds | None = None,
    val: str | None = None,
    val_images: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    calibrated: bool = True,
    device: str = "auto",
    base: Recipe | None = None,
    modules: Sequence[str] = (),
    say: Callable[[str], None] = lambda _line: None,
    step: Callable[[str, int, int], None] = lambda *_: None,
) -> Thresholds:
    """Runs the detector on the validation images and finds a score threshold for each class.

    `tailseg.evaluation.find_thresholds` has the method. Nothing is written: `tailseg.evaluation.thresholds.save` does.

    Args:
        run: the folder of the run.
        images: the largest number of images, drawn at random; None uses all.
        folds: parts of the images; each is judged with thresholds found on the others.
        samples: how often the images are resampled for the intervals.
        seed: of the images, folds and samples.
        only: matches boxes or masks; None matches masks if the model finds masks.
        groups: other bounds of the frequency groups than the run's.
        val: another annotation file for validation; its classes must be the model's.
        val_images: the folder of the validation images, if they are neither next to the annotation file nor where they
            were in training.
        checkpoint: the best checkpoint or the last one.
        calibrated: with the calibration that `calibrate` stored, if there is one.
        device: auto is cuda if present, else cpu.
        base: your own recipe, if the run was trained with one.
        modules: your own modules, by name, if the run's settings have classes of yours.
        say: called with a line for each thing that the user should know.
        step: called with the name of a step, how much of it is done, and its total.

    Returns:
        The thresholds; their ``source`` names the calibration and the step of the checkpoint.

    Raises:
        CheckpointError: there is no run in the folder.
        ValueError: the validation set is missing or does not fit the run, or no object is found.
    """
    folder = Path(run)
    predictor = Predictor.from_run(
        folder, checkpoint=checkpoint, device=device, base=base, modules=modules, calibrated=calibrated
    )
    recipe = locate_data(predictor.recipe, predictor.checkpoint.recipe, folder)
    if val:
        recipe = replace(recipe, data=replace(recipe.data, val=val, val_images=None))
    if note := build.held_out_note(recipe):
        say(f"note: {note}")
    annotations = with_classes_of_run(
        build.build_validation(recipe, images=val_images), predictor.checkpoint, predictor.file
    )
    if groups is not None:
        annotations = with_group_bounds(annotations, groups)
    scored_groups = get_scored_groups(annotations)
    if images is not None and images < annotations.num_images:
        drawn = np.random.default_rng(seed).choice(annotations.num_images, size=images, replace=False)
        annotations = annotations.select_images(annotations.image_ids[np.sort(drawn)].tolist())
    batches = detect_all(
        predictor.model,
        annotations,
        recipe.data,
        device=predictor.device,
        precision=predictor.precision,
        progress=lambda done, total: step("detecting", done, total),
        say=say,
    )
    kind: IouType = only or ("segm" if predictor.model.has_masks else "bbox")
    found = find_thresholds(
        annotations,
        [record for records in batches for record in records],
        groups=scored_groups,
        iou_types=(kind,),
        folds=folds,
        samples=samples,
        seed=seed,
        step=step,
    )
    return replace(found, source=predictor.describe_scores())
