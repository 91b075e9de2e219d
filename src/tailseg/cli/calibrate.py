"""`tailseg calibrate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich import box
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from tailseg.cli.common import UsageError, find_own_code, output, parse
from tailseg.cli.file_kinds import CALIBRATION
from tailseg.cli.outputs import check
from tailseg.files import Input, Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.detection.recalibration import Calibration
    from tailseg.evaluation import Analysis

COLUMNS = ("AP", "APr", "APc", "APf")


@dataclass(frozen=True)
class Calibrate:
    """Raise the scores of rare classes of a trained run, without training.

    The command measures logit adjustment, NorCal, FRACAL and LogN at several strengths on one half of the validation
    images. It chooses the one with the best AP, and measures this one and the scores as trained on the other half. It
    stores the choice in the folder of the run. `predict` then uses it (--no-calibrated does not).

    examples:
      tailseg calibrate runs/tiny_softmax
      tailseg calibrate runs/lvis --images 500 --device cuda
      tailseg calibrate runs/mine --by APr
    """

    run: Annotated[Path, tyro.conf.Positional, Output("calibration.json")]
    """Folder of the run."""
    images: Annotated[int, Range(ge=1)] = 300
    """Maximum number of images in each half. Every method and strength is measured on each image of the first half."""
    train_images: Annotated[int, Range(ge=0)] = 300
    """Maximum number of training images, drawn at random, over which LogN takes the mean and the deviation of each
    class's logits. 0 leaves LogN out."""
    least_grids: Annotated[int, Range(ge=2)] = 2
    """The grids that FRACAL needs for the dimension of a class; one that has fewer gets 1. 2 is as published. With 3,
    classes of 4 to 8 objects get 1, whose two grids say little."""
    by: Literal["AP", "APr", "APc"] = "AP"
    """The figure that decides: the figure of the masks if the run has masks, else of the boxes."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    overwrite: bool = False
    """Replace existing files of other kinds. The command never replaces its inputs."""
    val: Annotated[str | None, Input()] = None
    """Another annotation file to measure on. It must have the classes of the model."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the validation images, if they are neither next to the annotation file nor where they were in
    training."""
    device: str = "auto"
    """auto uses cuda if it is available, else cpu."""
    recipe: str | None = None
    """module:function of your own recipe, if you trained the run with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


def run(arguments: Sequence[str]) -> None:
    """Measures the calibrations, chooses one, and stores it."""
    options = parse(Calibrate, arguments, command="calibrate")
    if not options.run.is_dir():
        raise UsageError(f"{options.run} is not a folder of a run. The command stores the calibration in this folder")
    stored = options.run / "calibration.json"
    check(options, {stored: CALIBRATION}, instead="copy the run to where you may write", overwrite=options.overwrite)
    from tailseg.inference import calibrate

    base, modules = find_own_code(options.recipe, options.module)

    with Bars(console=output(), transient=True) as bars:
        result = calibrate(
            options.run,
            images=options.images,
            train_images=options.train_images,
            least_grids=options.least_grids,
            by=options.by,
            val=options.val,
            val_images=options.val_images,
            checkpoint=options.checkpoint,
            device=options.device,
            base=base,
            modules=modules,
            say=lambda line: output().print(line, markup=False, soft_wrap=True),
            progress=bars.show,
        )
    output().print(table(f"Chosen by {options.by} on one half of the images, in percent", result.tried))
    output().print(table("On the other half", result.tested))
    if len(result.tested) == 1:
        output().print("No calibration is better than the scores as trained. The scores stay as trained.")
    output().print(f"Stored for predict: {result.calibration.setting} ([bold]{escape(str(stored))}[/])")


class Bars(Progress):
    """A progress bar for each title."""

    def show(self, title: str, done: int, total: int) -> None:
        """Updates the bar of this title.

        Args:
            title: what is measured.
            done: images that are done.
            total: all images.
        """
        task = next((task.id for task in self.tasks if task.description == title), None)
        if task is None:
            task = self.add_task(title, total=total)
        self.update(task, completed=done)


def table(title: str, measured: "Sequence[tuple[Calibration, Analysis]]") -> Table:
    """Makes a table with a row for each calibration: AP by group, and the expected calibration error by group."""
    from tailseg.evaluation.metrics import format_percent

    kind = "segm" if "segm" in measured[0][1].metrics else "bbox"
    rows = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows.add_column("scores", no_wrap=True)
    for column in (*COLUMNS, "ECE", "ECEr", "ECEc", "ECEf"):
        rows.add_column(column, justify="right")
    for calibration, analysis in measured:
        parts = analysis.reliability[kind]
        errors = (parts[part].expected_error if part in parts else None for part in ("all", "r", "c", "f"))
        scores = (analysis.metrics[kind][column] for column in COLUMNS)
        rows.add_row(str(calibration.setting), *map(format_percent, scores), *map(format_percent, errors))
    return rows
