"""`tailseg lab`."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich import box
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from tailseg.cli.common import UsageError, find_own_code, find_recipe, output, parse, require_run, suggestion
from tailseg.cli.file_kinds import LAB, PAGE, SAVED_RECIPE, TRIALS
from tailseg.cli.outputs import check
from tailseg.cli.train import without_masks
from tailseg.data.tiny_tail import is_tiny_tail
from tailseg.files import Input, Output
from tailseg.losses.settings import LOSSES
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.lab import LabResult
    from tailseg.recipes.recipe import Recipe


MAX_ROWS = 20
"""The largest number of candidates, next to the baseline, that the command prints. The page has all."""


@dataclass(frozen=True)
class Lab:
    """Which loss, classifier, sampling and calibration suit my data? An answer without a training of each.

    The command trains one network (custom_small; tiny_gumbel for tiny_tail), or takes the network of a run. It keeps
    the features of the regions that this network proposes. On them it trains a new box head with every loss, with a
    plain and with a normalized classifier, with several seeds. It tries samplings and calibrations on the best ones.

    The command prints the ranking by AP of boxes on the validation set, with paired intervals. It writes the page
    lab.html and the recipe of the winner, winner.json: `tailseg train runs/lab/winner.json`. After an interruption, use
    the same command again: it continues.

    examples:
      tailseg lab my.json
      tailseg lab my.json --minutes 60 --by APr
      tailseg lab train.json --val val.json --boxes-only
      tailseg lab --run runs/custom_small
      tailseg lab --run runs/custom_small --losses gumbel gol ecm --seeds 5
    """

    data: Annotated[str, tyro.conf.Positional, Input()] = ""
    """Annotation file, or tiny_tail[:preset]. Without --val, a tenth of the images is held out for validation."""
    run: Path | None = None
    """Folder of a trained run of Mask R-CNN or Faster R-CNN, in place of DATA: its network and its data are used."""
    out: Annotated[Path, Output("lab.html, lab.json, winner.json, trials.jsonl, network, features")] = Path("runs/lab")
    """Folder of all files of the lab."""
    minutes: Annotated[float, Range(gt=0)] = 30.0
    """Time to train the network. The epochs of its recipe are lowered to fit; one epoch is always trained."""
    by: Literal["AP", "APr", "APc", "APf"] = "AP"
    """The figure that decides."""
    losses: tuple[str, ...] = ()
    """Names of the losses to compare; all losses if none is named."""
    seeds: Annotated[int, Range(ge=1)] = 3
    """Fits of each candidate."""
    steps: Annotated[int | None, Range(ge=10)] = None
    """Steps of each fit. None is half the steps of the network's training, at most 1,000."""
    best: Annotated[int, Range(ge=1)] = 3
    """Number of the best candidates that samplings and calibrations are tried on."""
    views: Annotated[int, Range(ge=1)] = 1
    """Augmentations of each training image whose features are kept."""
    directions: Annotated[int, Range(ge=1)] = 512
    """Values that are kept of each region: its features along their principal directions."""
    images: Annotated[int, Range(ge=1)] = 10_000
    """Maximum number of training images whose features are kept."""
    workers: Annotated[int, Range(ge=1)] = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that fit, each on one thread."""
    overwrite: bool = False
    """Replace existing files of other kinds. The command never replaces its inputs."""
    device: str = "auto"
    """Device of the network; auto uses cuda if it is available, else cpu. The fits run on the CPU."""
    train_images: Annotated[str | None, Input()] = None
    """Folder of the images of DATA, unless they lie next to it."""
    val: Annotated[str | None, Input()] = None
    """Annotation file of the validation set of DATA."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the images of --val, unless they lie next to it."""
    boxes_only: bool = False
    """DATA has boxes without masks: the network is trained without its mask head."""
    recipe: str | None = None
    """Recipe of the network in place of custom_small, or module:function of your own; with --run, your own recipe of
    the run."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


def run(arguments: Sequence[str]) -> None:
    """Trains the network, fits the candidates, prints the ranking, writes the page and the winner's recipe."""
    options = parse(Lab, arguments, command="lab")
    if bool(options.data) == bool(options.run):
        raise UsageError("name an annotation file, or a run with --run: tailseg lab my.json, tailseg lab --run RUN")
    if options.run and (options.val or options.boxes_only):
        raise UsageError("--run has its own data and network: --val and --boxes-only belong to an annotation file")
    for name in options.losses:
        if name not in LOSSES:
            raise UsageError(f"--losses {name}: no such loss{suggestion(name, LOSSES)}. There are {', '.join(LOSSES)}")
    recipe = None
    if options.run:
        require_run(options.run)
    else:
        recipe = _make_recipe(options)
        from tailseg.recipes.build import require_data

        require_data(recipe)
    files = {
        "lab.html": PAGE,
        "lab.json": LAB,
        "winner.json": SAVED_RECIPE,
        "trials.jsonl": TRIALS,
    }
    targets = {options.out: None, **{options.out / name: kind for name, kind in files.items()}}
    check(options, targets, instead="name another folder (--out)", overwrite=options.overwrite)
    trials = options.out / "trials.jsonl"
    if trials.exists() and not TRIALS.is_own(trials):  # replaced, as --overwrite says
        trials.unlink()
    from tailseg.lab import LabSettings, run_lab, train_network

    def say(line: str) -> None:
        output().print(line, markup=False, soft_wrap=True)

    base, modules = find_own_code(options.recipe if options.run else None, options.module)
    if recipe:
        train_network(recipe, options.out / "network", minutes=options.minutes, say=say)
    settings = LabSettings(
        losses=options.losses or tuple(LOSSES),
        seeds=options.seeds,
        steps=options.steps,
        best=options.best,
        by=options.by,
        views=options.views,
        directions=options.directions,
        images=options.images,
        workers=options.workers,
    )
    try:
        with Bars(console=output(), transient=True) as bars:
            result = run_lab(
                options.run or options.out / "network",
                options.out,
                settings,
                device=options.device,
                base=base or recipe,
                modules=modules,
                full=recipe,
                say=say,
                step=bars.show,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted. The same command continues; finished fits are not repeated") from None
    _tell(result, options.out)


def _make_recipe(options: Lab) -> "Recipe":
    """The recipe of the network for the data."""
    tiny = is_tiny_tail(options.data)
    recipe = find_recipe(options.recipe or ("tiny_gumbel" if tiny else "custom_small"))
    if options.boxes_only:
        recipe = without_masks(recipe)
    data = replace(
        recipe.data,
        train=options.data,
        train_images=options.train_images,
        val=options.val or (options.data if tiny else None),
        val_images=options.val_images,
    )
    return replace(recipe, data=data, run=replace(recipe.run, device=options.device))


class Bars(Progress):
    """A progress bar for each title."""

    def show(self, title: str, done: int, total: int) -> None:
        """Updates the bar of this title.

        Args:
            title: what is done.
            done: how much of it.
            total: all of it.
        """
        task = next((task.id for task in self.tasks if task.description == title), None)
        if task is None:
            task = self.add_task(title, total=total)
        self.update(task, completed=done, total=total)


def _tell(result: "LabResult", folder: Path) -> None:
    """Prints the ranking and the winner."""
    from tailseg.lab.page import LIMITS, describe_table, describe_winner, format_figure, format_gain, list_gains

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=describe_table(result), caption_justify="left")
    table.add_column("candidate", overflow="fold")
    gains = list_gains(result.by)
    for name in gains:
        table.add_column(name, justify="right")
        table.add_column("to the baseline", justify="right", no_wrap=True)
    shown = [entry for place, entry in enumerate(result.entries) if place < MAX_ROWS or not entry.gains]
    for entry in shown:
        cells = [(format_figure(entry.figures[name]), format_gain(entry.gains.get(name))) for name in gains]
        table.add_row(escape(entry.name), *(cell for pair in cells for cell in pair))
    output().print(table)
    more = f" (all {len(result.entries)} candidates)" if len(shown) < len(result.entries) else ""
    lines = [
        f"The winner: {result.winner.name}{describe_winner(result.winner, result.by)}",
        *LIMITS,
        "",
        f"Page{more}: {folder / 'lab.html'}",
    ]
    lines.append(f"Train the winner: {shlex.join(['tailseg', 'train', str(folder / 'winner.json')])}")
    if result.winner.calibration.method != "none":
        run = result.recipe.run.out.format(name=result.recipe.name)
        lines.append(f"Then choose a calibration for its scores: {shlex.join(['tailseg', 'calibrate', run])}")
    output().print("\n".join(lines), markup=False, soft_wrap=True)
