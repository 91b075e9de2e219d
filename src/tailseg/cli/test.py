"""`tailseg test`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.progress import Progress

from tailseg.cli.common import find_own_code, output, parse, print_error, require_run
from tailseg.cli.file_kinds import METRICS, RECORDS
from tailseg.cli.outputs import check
from tailseg.files import Input, Output
from tailseg.ranges import Range
from tailseg.words import count_noun

if TYPE_CHECKING:
    from tailseg.evaluation import Metrics
    from tailseg.structures import ImageInfo


@dataclass(frozen=True)
class Test:
    """Evaluate a run on its validation set.

    The command prints AP, AP50, AP75, the AP of small, medium and large objects, and the AP of rare, common and
    frequent classes, for boxes and for masks. It writes results.json (COCO-style detections) and metrics.json into the
    folder of the run.

    examples:
      tailseg test runs/tiny_gumbel
      tailseg test runs/tiny_gumbel --checkpoint last
      tailseg test runs/custom_small --val other.json --val-images photos
    """

    run: Annotated[Path, tyro.conf.Positional, Output("results.json, metrics.json")]
    """Folder of the run, which `train` or `convert` wrote, or one checkpoint file (the results go next to it)."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    val: Annotated[str | None, Input()] = None
    """Another annotation file to evaluate on. It must have the classes of the model."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the validation images, if they are neither next to the annotation file nor where they were in
    training."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups: 5 30 makes a class rare up to 5 training images, common up to 30 and frequent
    above. None uses the run's groups."""
    overwrite: bool = False
    """Replace existing files of other kinds. The command never replaces its inputs."""
    device: str = "auto"
    """auto uses cuda if it is available, else cpu."""
    recipe: str | None = None
    """module:function of your own recipe, if you trained the run with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


def run(arguments: Sequence[str]) -> None:
    """Evaluates the run, prints the table, writes the files."""
    options = parse(Test, arguments, command="test")
    require_run(options.run)
    folder = results_folder(options.run)
    files = {folder / "results.json": RECORDS, folder / "metrics.json": METRICS}
    check(options, files, instead="copy the run to where you may write", overwrite=options.overwrite)
    from tailseg.training.distributed import is_main_process, joined

    with joined():
        metrics, unread = evaluate_run(options)
        if is_main_process():
            output().print(metrics.table())
            output().print(f"\nWritten: {folder / 'results.json'}, {folder / 'metrics.json'}", markup=False)
            if options.val:
                note = f"`report` and `compare` take them as results of {options.val}, until the run is tested again"
                output().print(note, markup=False, soft_wrap=True)
            if unread:
                raise ValueError(
                    f"{len(unread)} of {count_noun(metrics.num_images, 'image')} could not be used (see above). They "
                    "count as images without detections. Restore them and call `tailseg test` again"
                )


def results_folder(run: Path) -> Path:
    """Returns the folder for the results of a run's folder or of one checkpoint file."""
    return run if run.is_dir() else run.parent


def evaluate_run(options: Test) -> "tuple[Metrics, list[str]]":
    """Detects objects in the validation set, computes the figures and writes both into the folder of the run.

    Returns:
        The figures, and for each image that could not be used the reason.
    """
    from tailseg.annotations.dataset import with_group_bounds
    from tailseg.data.images import describe_orientations
    from tailseg.detection.testing import describe_unread, detect_all, measure, save_results
    from tailseg.inference import Predictor
    from tailseg.recipes.advice import explain_no_learning
    from tailseg.recipes.build import build_validation, held_out_note
    from tailseg.recipes.places import get_run_folder, locate_data
    from tailseg.recipes.saved import with_absolute_paths
    from tailseg.training.distributed import (
        gather_batches,
        gather_on_all,
        is_main_process,
        on_main_process,
        rank,
        world_size,
    )
    from tailseg.training.fit import with_classes_of_run

    base, modules = find_own_code(options.recipe, options.module)
    predictor = Predictor.from_run(
        options.run, checkpoint=options.checkpoint, device=options.device, base=base, modules=modules, calibrated=False
    )
    recipe = predictor.recipe
    folder = results_folder(options.run)
    recipe = locate_data(recipe, predictor.checkpoint.recipe, get_run_folder(options.run))
    if options.val:
        recipe = replace(recipe, data=replace(recipe.data, val=options.val, val_images=None))
    annotations = build_validation(recipe, images=options.val_images)
    if (note := held_out_note(recipe)) and is_main_process():
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    annotations = with_classes_of_run(annotations, predictor.checkpoint, predictor.file)
    if options.groups is not None:
        annotations = with_group_bounds(annotations, options.groups)
    unread: list[str] = []
    turned: list[ImageInfo] = []
    with Progress(console=output(), transient=True, disable=not is_main_process()) as bar:
        task = bar.add_task("evaluating", total=None)
        results = gather_batches(
            lambda: detect_all(
                predictor.model,
                annotations,
                recipe.data,
                device=predictor.device,
                precision=recipe.run.precision,
                rank=rank(),
                world_size=world_size(),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                say=bar.console.print,
                unread=unread,
                turned=turned,
            )
        )
        unread = [reason for part in gather_on_all(unread) for reason in part]
        turned = [info for part in gather_on_all(turned) for info in part]
        metrics = on_main_process(lambda: measure(predictor.model, annotations, results, unread, own=recipe.metrics))
    progress = predictor.checkpoint.progress
    if options.val is None and progress.epoch >= recipe.optim.epochs:  # as the training noted at its end
        advice = explain_no_learning(recipe, metrics, annotations, steps=progress.step)
        metrics = replace(metrics, notes=(*metrics.notes, *filter(None, [advice])))
    if (note := describe_orientations(turned)) and is_main_process():
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    for line in describe_unread(unread) if is_main_process() else ():
        print_error(line)
    named = with_absolute_paths(replace(recipe, data=replace(recipe.data, val_images=options.val_images))).data
    tested_on = {"val": named.val, "val_images": named.val_images} if options.val else None
    on_main_process(lambda: save_results(folder, annotations, results, metrics, tested_on=tested_on))
    return metrics, unread
