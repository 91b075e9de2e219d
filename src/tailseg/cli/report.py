"""`tailseg report`."""

import os
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.markup import escape

from tailseg.cli.common import UsageError, explain, find_own_code, output, parse, print_error, require_run
from tailseg.cli.file_kinds import PAGE
from tailseg.cli.outputs import check
from tailseg.files import Input, Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.recipes.recipe import Recipe


@dataclass(frozen=True)
class Report:
    """Write a run's report, or that of several runs side by side: one HTML file that opens from the disk.

    The page shows AP by frequency group and by number of training images; every class with pictures of objects that
    were found, missed and confused, and of false detections; precision and recall, scores, training curves, and the
    confusions of rare classes. The file needs no network and stays below 5 MB.

    examples:
      tailseg report runs/tiny_gumbel
      tailseg report runs/tiny_softmax runs/tiny_sigmoid runs/tiny_gumbel --out activations.html
      tailseg report runs/custom_small --score-threshold 0.5 --open
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of evaluated runs, with a results.json, which `train` and `test` write."""
    out: Annotated[Path | None, Output("an HTML file")] = None
    """The HTML file; None writes report.html into the last run's folder."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""
    title: str = ""
    """The page's title; the runs' names if empty."""
    score_threshold: Annotated[float, Range(ge=0, le=1)] = 0.3
    """Detections with lower scores are not shown."""
    val: Annotated[str | None, Input()] = None
    """Annotation file of the results, if it is not the recipe's validation set."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the images of the validation set, unless they lie beside it or where they did in training."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups: 5 30 makes a class rare up to 5 training images, common up to 30 and frequent
    above. None uses the groups of each run."""
    recipe: str | None = None
    """module:function of your own recipe, if the runs were trained with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the runs, such as a loss. Can be given several times."""
    open: bool = False
    """Open it in a browser."""


def run(arguments: Sequence[str]) -> None:
    """Read the runs, write the page."""
    options = parse(Report, arguments, command="report")
    if not options.runs:
        raise UsageError("name at least one run: tailseg report RUN ...")
    for folder in options.runs:
        require_run(folder)
    path = options.out or options.runs[-1] / "report.html"
    check(options, {path: PAGE}, instead="name another file (--out)", overwrite=options.overwrite)
    from tailseg.report.page import write_report
    from tailseg.report.run import EvaluatedRun, read_run

    base, modules = find_own_code(options.recipe, options.module)
    runs: list[EvaluatedRun] = []
    with output().status("reading the runs") as status:
        for folder in options.runs:
            status.update(f"reading {escape(str(folder))}")
            like = runs[0] if runs else None
            runs.append(
                read_run(
                    folder,
                    threshold=options.score_threshold,
                    val=options.val,
                    val_images=options.val_images,
                    groups=options.groups,
                    base=base,
                    modules=modules,
                    like=like,
                )
            )
            if runs[-1].note:
                output().print(f"note: {runs[-1].note}", markup=False, soft_wrap=True)
        status.update("drawing")
        write_report(runs, path, title=options.title)
    output().print(f"Written: [bold]{escape(str(path))}[/] ({path.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)
    if options.open:
        show(path)


def write_run_report(folder: Path, recipe: "Recipe") -> Path | None:
    """Writes the report of a run that has just been trained; an error is printed and does not end the command.

    Args:
        folder: the run's folder.
        recipe: the recipe that was trained.

    Returns:
        The report's file; None if there was an error.
    """
    from tailseg.report.page import write_report
    from tailseg.report.run import read_run

    path = folder / "report.html"
    try:
        with output().status("writing the report"):
            write_report([read_run(folder, base=recipe)], path)
    except Exception as error:  # noqa: BLE001 - the training is done and saved
        from tailseg.recipes.commands import make_run_command

        again = make_run_command("report", recipe)
        print_error(f"no report was written: {explain(error)}\ntry again with `{again}`")
        return None
    return path


def show(path: Path) -> None:
    """Opens the page in a browser, if the terminal is interactive and there is a screen."""
    has_screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.stdout.isatty() and has_screen:
        webbrowser.open(path.resolve().as_uri())
