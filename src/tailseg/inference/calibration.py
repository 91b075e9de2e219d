"""Chooses a calibration for a trained run, measures it, and stores it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from tailseg.annotations.dataset import Annotations, get_scored_groups
from tailseg.annotations.image_files import ImageError
from tailseg.data.loader import DetectionDataset, Loader
from tailseg.data.sampler import EvaluationSampler
from tailseg.data.transforms import evaluation_transform
from tailseg.detection import recalibration
from tailseg.detection.recalibration import Calibration, LogitStatistics
from tailseg.evaluation import Analysis, analyze
from tailseg.evaluation.metrics import IouType
from tailseg.inference.predictor import Predictor
from tailseg.recipes import build
from tailseg.recipes.places import locate_data
from tailseg.recipes.recipe import Recipe
from tailseg.structures import Batch
from tailseg.training.fit import with_classes_of_run
from tailseg.words import count_noun

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Called with a title, the images done, and their total."""


def _say_nothing(_line: str) -> None:
    pass


def _show_nothing(_title: str, _done: int, _total: int) -> None:
    pass


@dataclass(frozen=True)
class CalibrationResult:
    """What `calibrate` measured.

    Attributes:
        calibration: the chosen one; its method is "none" if no other is better.
        tried: each calibration, none first, and its figures on the first half of the validation images.
        tested: no calibration and the chosen one, and their figures on the other half.
        iou_type: which figures chose: masks ("segm") if the model finds masks, else boxes ("bbox").
    """

    calibration: Calibration
    tried: tuple[tuple[Calibration, Analysis], ...]
    tested: tuple[tuple[Calibration, Analysis], ...]
    iou_type: IouType


def calibrate(
    run: str | Path,
    *,
    images: int = 300,
    train_images: int = 300,
    least_grids: int = 2,
    by: Literal["AP", "APr", "APc"] = "AP",
    val: str | None = None,
    val_images: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    device: str = "auto",
    base: Recipe | None = None,
    modules: Sequence[str] = (),
    store: bool = True,
    say: Say = _say_nothing,
    progress: Progress = _show_nothing,
) -> CalibrationResult:
    """Chooses the calibration with the best AP and stores it in the run's folder, where `Predictor.from_run` finds it.

    Logit adjustment, NorCal, FRACAL and LogN are tried at several strengths on one half of the validation images. The
    best one is measured on the other half, which had no influence on the choice.

    Args:
        run: the folder of the run.
        images: the largest number of images in each half. Each calibration needs a pass over the first half.
        train_images: the largest number of training images, drawn at random, over which LogN takes the mean and the
            standard deviation of the logits; 0 leaves LogN out.
        least_grids: the grids that FRACAL's dimension of a class needs; 2 as published, and 3 gives classes of 4 to 8
            objects the dimension 1.
        by: the figure that decides.
        val: another annotation file for validation; its classes must be the model's.
        val_images: the folder of the validation images, if they are neither next to the annotation file nor where they
            were in training.
        checkpoint: the best checkpoint or the last one.
        device: auto is cuda if present, else cpu.
        base: your own recipe, if the run was trained with one.
        modules: your own modules, by name, if the run's settings have classes of yours.
        store: write ``calibration.json`` into the run's folder.
        say: called with a line for each thing that the user should know.
        progress: called after each batch.

    Returns:
        The chosen calibration and all figures.

    Raises:
        CheckpointError: there is no run in the folder.
        ValueError: the validation set is missing or does not fit the run.
    """
    folder = Path(run)
    predictor = Predictor.from_run(
        folder, checkpoint=checkpoint, device=device, base=base, modules=modules, calibrated=False
    )
    recipe = locate_data(predictor.recipe, predictor.checkpoint.recipe, folder)
    train, statistics = _read_training_set(recipe, predictor, train_images, say, progress)
    if val:
        recipe = replace(recipe, data=replace(recipe.data, val=val, val_images=None))
    if note := build.held_out_note(recipe):
        say(f"note: {note}")
    annotations = build.build_validation(recipe, images=val_images)
    annotations = with_classes_of_run(annotations, predictor.checkpoint, predictor.file)
    iou_types: tuple[IouType, ...] = ("bbox", "segm") if predictor.recipe.model.has_masks else ("bbox",)

    def measure(calibrations: Sequence[Calibration], half: int) -> tuple[tuple[Calibration, Analysis], ...]:
        analyses = _measure(predictor, annotations, calibrations, iou_types, half, images, progress)
        return tuple(zip(calibrations, analyses, strict=True))

    tried = measure(recalibration.list_calibrations(train, statistics, least_grids=least_grids), half=0)
    best = _choose(tried, iou_types[-1], by)
    tested = measure(list(dict.fromkeys((tried[0][0], best))), half=1)
    if store:
        recalibration.save(best, folder / recalibration.FILE)
    return CalibrationResult(best, tried, tested, iou_types[-1])


def _choose(tried: Sequence[tuple[Calibration, Analysis]], iou_type: IouType, by: str) -> Calibration:
    """The first of those with the best figure."""
    best, _ = max(tried, key=lambda pair: pair[1].metrics[iou_type][by] or 0.0)
    return best


def _read_training_set(
    recipe: Recipe, predictor: Predictor, limit: int, say: Say, progress: Progress
) -> tuple[Annotations | None, LogitStatistics | None]:
    """Reads what FRACAL and LogN need of the training set; None, with the reason said, if it is not there."""
    try:
        train = build.build_training(recipe)
    except (ValueError, FileNotFoundError):
        say("note: FRACAL and LogN are left out, because the training set was not found")
        return None, None
    statistics = _measure_logits(predictor, train, recipe, limit, say, progress)
    if train.num_images < predictor.frequency.num_images:
        say(
            f"note: FRACAL is left out, because it needs the whole training set: {train.path} has "
            f"{count_noun(train.num_images, 'image')}, and the run was trained on {predictor.frequency.num_images:,} "
            "with objects"
        )
        return None, statistics
    return train, statistics


def _measure_logits(
    predictor: Predictor, train: Annotations, recipe: Recipe, limit: int, say: Say, progress: Progress
) -> LogitStatistics | None:
    """Measures the logits for LogN on training images drawn at random; None if an image cannot be read."""
    total = min(limit, train.num_images)
    if not total:
        return None
    drawn = np.random.default_rng(0).choice(train.num_images, size=total, replace=False)
    selected = train.select_images(sorted(train.image_ids[drawn].tolist()))
    title = f"{count_noun(total, 'training image')} for LogN"
    try:
        return recalibration.measure_logits(
            predictor.model,
            _read_part(recipe, selected, total),
            device=predictor.device,
            precision=predictor.precision,
            progress=lambda done: progress(title, done, total),
        )
    except ImageError as error:
        say(f"note: LogN is left out, because a training image cannot be read: {error}")
        return None


def _measure(
    predictor: Predictor,
    annotations: Annotations,
    calibrations: Sequence[Calibration],
    iou_types: tuple[IouType, ...],
    half: int,
    limit: int,
    progress: Progress,
) -> list[Analysis]:
    """Computes the figures of each calibration on the first images of a half of the validation set."""
    total = min(limit, (annotations.num_images + 1 - half) // 2)
    title = f"{count_noun(total, 'image')}, {count_noun(len(calibrations), 'calibration')}"
    image_ids, results = recalibration.detect_with_calibrations(
        predictor.model,
        _read_part(predictor.recipe, annotations, total, half, parts=2),
        calibrations,
        predictor.frequency,
        [category.id for category in annotations.categories],
        device=predictor.device,
        precision=predictor.precision,
        progress=lambda done: progress(title, done, total),
    )
    selected = annotations.select_images(image_ids)
    groups = get_scored_groups(annotations)
    return [analyze(selected, dict.fromkeys(iou_types, records), groups=groups) for records in results]


def _read_part(
    recipe: Recipe, annotations: Annotations, limit: int, first: int = 0, *, parts: int = 1
) -> Iterator[Batch]:
    """Reads every image of ``parts``, from the one at ``first`` on, at most ``limit`` of them."""
    data = recipe.data
    dataset = DetectionDataset(annotations, evaluation_transform(data.test_short_side, data.max_long_side))
    sampler = EvaluationSampler(len(dataset), rank=first, world_size=parts)
    done = 0
    for batch in Loader(dataset, sampler, data.batch_size, data.workers):
        if done >= limit:
            return
        rest = limit - done
        yield replace(batch, images=batch.images[:rest], targets=batch.targets[:rest], infos=batch.infos[:rest])
        done += len(batch)
