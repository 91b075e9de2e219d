"""`tailseg test`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.progress import Progress

from tailseg.cli.common import find_recipe, output, parse, print_error, require_run
from tailseg.cli.file_kinds import METRICS, RECORDS
from tailseg.cli.outputs import check
from tailseg.files import Input, Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.evaluation import Metrics
    from tailseg.structures import ImageInfo


@dataclass(frozen=True)
class Test:
    """Evaluate a run on its validation set.

    Prints AP, AP50, AP75 and the AP of small, medium and large objects and of rare, common and frequent classes, for
    boxes and masks; writes results.json (COCO-style detections) and metrics.json into the run's folder.

    examples:
      tailseg test runs/tiny_gumbel
      tailseg test runs/tiny_gumbel --checkpoint last
      tailseg test runs/custom_small --val other.json --val-images photos
    """

    run: Annotated[Path, tyro.conf.Positional, Output("results.json, metrics.json")]
    """Folder of the run, as `train` or `convert` made it, or one checkpoint file (results are written beside it)."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    val: Annotated[str | None, Input()] = None
    """Another annotation file to evaluate on; its classes must be the model's."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the images of the validation set, unless they lie beside it or where they did in training."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups: 5 30 makes a class rare up to 5 training images, common up to 30 and frequent
    above. None uses the run's groups."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""
    device: str = "auto"
    """auto takes cuda when present, else cpu."""
    recipe: str | None = None
    """module:function of your own recipe, if the run was trained with one."""


def run(arguments: Sequence[str]) -> None:
    """Evaluate the run, print the table, write the files."""
    options = parse(Test, arguments, command="test")
    require_run(options.run)
    folder = results_folder(options.run)
    files = {folder / "results.json": RECORDS, folder / "metrics.json": METRICS}
    check(options, files, instead="copy the run to where you may write", overwrite=options.overwrite)
    from tailseg.training.distributed import is_first, joined

    with joined():
        metrics, unread = evaluate_run(options)
        if is_first():
            output().print(metrics.table())
            output().print(f"\nWritten: {folder / 'results.json'}, {folder / 'metrics.json'}", markup=False)
            if unread:
                raise ValueError(
                    f"{len(unread)} of {metrics.num_images} images could not be used (named above) and count as if "
                    "nothing was found in them: bring them back and call `tailseg test` again"
                )


def results_folder(run: Path) -> Path:
    """Where the results of a run's folder, or of one checkpoint file, are written."""
    return run if run.is_dir() else run.parent


def evaluate_run(options: Test) -> "tuple[Metrics, list[str]]":
    """Detections of the run's model on its validation set, and their figures, written into the run's folder.

    Returns:
        The figures, and the reason of each image that could not be used.
    """
    from tailseg.annotations.dataset import with_group_bounds
    from tailseg.data.images import describe_turned
    from tailseg.detection.testing import describe_unread, detect_all, measure, save_results
    from tailseg.inference import Predictor
    from tailseg.recipes.build import build_validation, held_out_note
    from tailseg.recipes.places import folder_of, found_again
    from tailseg.training.distributed import (
        gather_batches,
        gather_everywhere,
        is_first,
        on_main_process,
        rank,
        world_size,
    )
    from tailseg.training.fit import with_classes_of_run

    base = find_recipe(options.recipe) if options.recipe else None
    predictor = Predictor.from_run(
        options.run, checkpoint=options.checkpoint, device=options.device, base=base, calibrated=False
    )
    recipe = predictor.recipe
    folder = results_folder(options.run)
    recipe = found_again(recipe, predictor.checkpoint.recipe, folder_of(options.run))
    if options.val:
        recipe = replace(recipe, data=replace(recipe.data, val=options.val, val_images=None))
    annotations = build_validation(recipe, images=options.val_images)
    if (note := held_out_note(recipe)) and is_first():
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    annotations = with_classes_of_run(annotations, predictor.checkpoint, predictor.file)
    if options.groups is not None:
        annotations = with_group_bounds(annotations, options.groups)
    unread: list[str] = []
    turned: list[ImageInfo] = []
    with Progress(console=output(), transient=True, disable=not is_first()) as bar:
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
        unread = [reason for part in gather_everywhere(unread) for reason in part]
        turned = [info for part in gather_everywhere(turned) for info in part]
        metrics = on_main_process(lambda: measure(predictor.model, annotations, results, unread, own=recipe.metrics))
    if (note := describe_turned(turned)) and is_first():
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    for line in describe_unread(unread) if is_first() else ():
        print_error(line)
    on_main_process(lambda: save_results(folder, annotations, results, metrics))
    return metrics, unread
