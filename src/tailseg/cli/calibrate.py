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

from tailseg.cli.common import UsageError, find_recipe, output, parse
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
    from tailseg.inference import calibrate

    with Bars(console=output(), transient=True) as bars:
        result = calibrate(
            options.run,
            images=options.images,
            by=options.by,
            val=options.val,
            val_images=options.val_images,
            checkpoint=options.checkpoint,
            device=options.device,
            base=find_recipe(options.recipe) if options.recipe else None,
            say=lambda line: output().print(line, markup=False, soft_wrap=True),
            progress=bars.show,
        )
    output().print(table(f"Chosen by {options.by} on one half of the images, in percent", result.tried))
    output().print(table("On the other half", result.tested))
    if len(result.tested) == 1:
        output().print("Nothing is better than the scores as trained: they stay.")
    output().print(f"Stored for predict: {result.calibration.setting} ([bold]{escape(str(stored))}[/])")


class Bars(Progress):
    """A progress bar for each title."""

    def show(self, title: str, done: int, total: int) -> None:
        """Updates the bar of this title."""
        task = next((task.id for task in self.tasks if task.description == title), None)
        if task is None:
            task = self.add_task(title, total=total)
        self.update(task, completed=done)


def table(title: str, measured: "Sequence[tuple[Calibration, Analysis]]") -> Table:
    """Makes a table with a row for each calibration: AP by group, and the expected calibration error by group."""
    from tailseg.evaluation.metrics import percent

    kind = "segm" if "segm" in measured[0][1].metrics else "bbox"
    rows = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows.add_column("scores", no_wrap=True)
    for column in (*COLUMNS, "ECE", "ECEr", "ECEc", "ECEf"):
        rows.add_column(column, justify="right")
    for calibration, analysis in measured:
        parts = analysis.reliability[kind]
        errors = (parts[part].expected_error if part in parts else None for part in ("all", "r", "c", "f"))
        scores = (analysis.metrics[kind][column] for column in COLUMNS)
        rows.add_row(str(calibration.setting), *map(percent, scores), *map(percent, errors))
    return rows
