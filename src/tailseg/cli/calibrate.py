"""`tailseg calibrate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich import box
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from tailseg.cli.common import UsageError, find_recipe, output, parse
from tailseg.cli.file_kinds import CALIBRATION
from tailseg.cli.outputs import check
from tailseg.files import Input, Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.detection.recalibration import Calibration
    from tailseg.evaluation import Analysis
    from tailseg.inference import Predictor
    from tailseg.structures import Batch

COLUMNS = ("AP", "APr", "APc", "APf")


@dataclass(frozen=True)
class Calibrate:
    """Move a trained run's scores by class, towards the rare ones, without training.

    Logit adjustment, NorCal and FRACAL at several strengths look at one half of the validation images; the one of best
    AP is then measured on the other half, which had no say, beside the scores as trained. It is stored in the run's
    folder, and `predict` uses it from then on (--no-calibrated leaves it out).

    examples:
      tailseg calibrate runs/tiny_softmax
      tailseg calibrate runs/lvis --images 500 --device cuda
      tailseg calibrate runs/mine --by APr
    """

    run: Annotated[Path, tyro.conf.Positional, Output("calibration.json")]
    """Folder of the run."""
    images: Annotated[int, Range(ge=1)] = 300
    """At most so many images in each half; every method and strength looks at each of the first half."""
    by: Literal["AP", "APr", "APc"] = "AP"
    """The figure that chooses: of masks where the run finds masks."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""
    val: Annotated[str | None, Input()] = None
    """Another annotation file to look at; its classes must be the model's."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the images of the validation set, unless they lie beside it or where they did in training."""
    device: str = "auto"
    """auto takes cuda when present, else cpu."""
    recipe: str | None = None
    """module:function of your own recipe, if the run was trained with one."""


def run(arguments: Sequence[str]) -> None:
    """Sweep, choose, measure, store."""
    options = parse(Calibrate, arguments, command="calibrate")
    if not options.run.is_dir():
        raise UsageError(f"{options.run} is no folder of a run: the calibration is stored there")
    stored = options.run / "calibration.json"
    check(options, {stored: CALIBRATION}, instead="copy the run to where you may write", overwrite=options.overwrite)
    from tailseg.detection.recalibration import calibrations, save
    from tailseg.inference import Predictor

    base = find_recipe(options.recipe) if options.recipe else None
    predictor = Predictor.from_run(
        options.run, checkpoint=options.checkpoint, device=options.device, base=base, calibrated=False
    )
    val, train = read_data(predictor, options)
    swept = calibrations(train)
    analyses = measure(predictor, val, swept, half=0, limit=options.images)
    output().print(table(f"Chosen by {options.by} on one half of the images, in percent", swept, analyses))
    kind = "segm" if "segm" in analyses[0].metrics else "bbox"
    best = max(zip(swept, analyses, strict=True), key=lambda pair: pair[1].metrics[kind][options.by] or 0.0)[0]
    chosen = list(dict.fromkeys((swept[0], best)))
    after = measure(predictor, val, chosen, half=1, limit=options.images)
    output().print(table("On the other half", chosen, after))
    save(best, stored)
    if len(chosen) == 1:
        output().print("Nothing is better than the scores as trained: they stay.")
    output().print(f"Stored for predict: {best.setting} ([bold]{escape(str(stored))}[/])")


def read_data(predictor: "Predictor", options: Calibrate) -> "tuple[Annotations, Annotations | None]":
    """The validation set with the run's frequencies, and the training set if it is there as it was."""
    from tailseg.recipes.build import build_training, build_validation, held_out_note
    from tailseg.recipes.places import found_again
    from tailseg.training.fit import with_classes_of_run

    recipe = found_again(predictor.recipe, predictor.checkpoint.recipe, options.run)
    try:
        train = build_training(recipe)
    except (ValueError, FileNotFoundError):
        train = None
        output().print("note: the training set is not there, so FRACAL, which looks at it, is left out")
    if train is not None and train.num_images < predictor.frequency.num_images:
        output().print(
            f"note: {train.path} has {train.num_images:,} images, and the run was trained on "
            f"{predictor.frequency.num_images:,} with objects, so FRACAL, which looks at them, is left out",
            markup=False,
            soft_wrap=True,
        )
        train = None
    if options.val:
        recipe = replace(recipe, data=replace(recipe.data, val=options.val, val_images=None))
    if note := held_out_note(recipe):
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    val = build_validation(recipe, images=options.val_images)
    return with_classes_of_run(val, predictor.checkpoint, predictor.file), train


def measure(
    predictor: "Predictor", val: "Annotations", calibrations: "Sequence[Calibration]", *, half: int, limit: int
) -> "list[Analysis]":
    """What each calibration scores on the first images of a half of the validation set."""
    from tailseg.annotations.dataset import get_scored_groups
    from tailseg.detection.recalibration import results_of
    from tailseg.evaluation import analyze

    groups = get_scored_groups(val)
    with Progress(console=output(), transient=True) as bar:
        total = min(limit, (val.num_images + 1 - half) // 2)
        task = bar.add_task(f"looking at {total} images, {len(calibrations)} times each", total=total)
        image_ids, results = results_of(
            predictor.model,
            batches_of(predictor, val, half, total),
            calibrations,
            predictor.frequency,
            [category.id for category in val.categories],
            device=predictor.device,
            precision=predictor.recipe.run.precision,
            progress=lambda done: bar.update(task, completed=done),
        )
    truth = val.select_images(image_ids)
    kinds: tuple[Any, ...] = ("bbox", "segm") if predictor.recipe.model.has_masks else ("bbox",)
    return [analyze(truth, dict.fromkeys(kinds, records), groups=groups) for records in results]


def batches_of(predictor: "Predictor", val: "Annotations", half: int, limit: int) -> "Iterator[Batch]":
    """The images of every second place, until there are ``limit``."""
    from tailseg.data.loader import DetectionDataset, Loader
    from tailseg.data.sampler import EvaluationSampler
    from tailseg.data.transforms import evaluation_transform

    data = predictor.recipe.data
    dataset = DetectionDataset(val, evaluation_transform(data.test_short_side, data.max_long_side))
    every_second = EvaluationSampler(len(dataset), rank=half, world_size=2)
    done = 0
    for batch in Loader(dataset, every_second, data.batch_size, data.workers):
        if done >= limit:
            return
        left = limit - done
        yield replace(batch, images=batch.images[:left], targets=batch.targets[:left], infos=batch.infos[:left])
        done += len(batch)


def table(title: str, calibrations: "Sequence[Calibration]", analyses: "Sequence[Analysis]") -> Table:
    """One row a calibration: AP by group, and the expected calibration error by group."""
    from tailseg.evaluation.metrics import percent

    kind = "segm" if "segm" in analyses[0].metrics else "bbox"
    rows = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows.add_column("scores", no_wrap=True)
    for column in (*COLUMNS, "ECE", "ECEr", "ECEc", "ECEf"):
        rows.add_column(column, justify="right")
    for calibration, analysis in zip(calibrations, analyses, strict=True):
        parts = analysis.reliability[kind]
        errors = (parts[part].expected_error if part in parts else None for part in ("all", "r", "c", "f"))
        scores = (analysis.metrics[kind][column] for column in COLUMNS)
        rows.add_row(str(calibration.setting), *map(percent, scores), *map(percent, errors))
    return rows
