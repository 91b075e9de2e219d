"""`tailseg train`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import tyro

from tailseg.cli.common import UsageError, find_recipe, output, parse
from tailseg.cli.file_kinds import LOG, METRICS, PAGE, PART, RECIPE, RECORDS
from tailseg.cli.outputs import Kind, check
from tailseg.ranges import Range
from tailseg.recipes.recipe import Recipe, run_folder

if TYPE_CHECKING:
    from tailseg.evaluation import Metrics

_HELP = """\
usage: tailseg train NAME|FILE.json [--resume] [--devices N] [--boxes-only] [--no-report] [OPTIONS]

Train a recipe, or train on your own COCO- or LVIS-format file.

  NAME        a recipe (`tailseg recipes` lists them), or your own as module:function
  FILE.json   your annotation file: the recipe custom_small with --data.train FILE.json; without --data.val
              a tenth of the images is held out
  --resume    go on from the run's last checkpoint
  --devices N train in N processes on this machine, one a GPU (several machines: torchrun -m tailseg train ...)
  --boxes-only
              learn boxes without masks: the recipe's network without its mask head (Faster R-CNN)
  --no-report leave out report.html, the page that `tailseg report` writes
  OPTIONS     every setting of the recipe: `tailseg train NAME --help` lists them with their values

examples:
  tailseg train tiny_gumbel                            the embedded data set, the Gumbel loss
  tailseg train tiny_gumbel --optim.lr 0.02            the same with another learning rate
  tailseg train my.json                                your data, a small network, any machine
  tailseg train custom_r50 --data.train my.json        your data, Mask R-CNN R50, a GPU
  tailseg train my.json --data.train-images photos     images in another folder
  tailseg train my.json --boxes-only                   annotations that have boxes and no masks
  tailseg train tiny_gumbel --resume                   go on after an interruption
"""


@dataclass(frozen=True)
class Train:
    """Train this recipe. Every setting can be changed here, and is saved with the run for `test` and `predict`."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="", prefix_name=False)]
    resume: bool = False
    """Go on from the run's last checkpoint, with the same settings."""
    devices: Annotated[int, Range(ge=1)] = 1
    """Processes on this machine, one a GPU, that torchrun starts; they share each step and learn what one would."""
    boxes_only: bool = False
    """Learn boxes without masks: the recipe's network without its mask head (Faster R-CNN)."""
    report: bool = True
    """Write report.html into the run's folder at the end."""


def run(arguments: Sequence[str]) -> None:
    """Train what the first argument names, with the options that follow."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        raise SystemExit(0 if arguments else 2)
    options = train_options(arguments[0], arguments[1:])
    from tailseg.recipes.build import require_data

    check_run(options)
    require_data(options.recipe)  # said before torch is imported, which takes seconds
    from tailseg.cli.report import report_of
    from tailseg.training.distributed import is_main_process, is_under_torchrun, joined, start_processes
    from tailseg.training.fit import check_shares
    from tailseg.training.loop import train

    if options.devices != 1 and not is_under_torchrun():
        check_shares(options.recipe, options.devices)  # said once, and not by each of them
        start_processes(options.devices, ["train", *arguments])
    with joined():
        metrics, first = train(options.recipe, resume=options.resume), is_main_process()
    if first:  # the others need not wait for it
        folder = run_folder(options.recipe)
        tell(metrics, folder, report_of(folder, options.recipe) if options.report else None)


def tell(metrics: "Metrics", folder: Path, report: Path | None) -> None:
    """What was reached, and what can be done next."""
    output().print(metrics.table())
    look = f"  open {quote(str(report))}     every class, with pictures\n" if report else ""
    output().print(
        f"\nSaved in {folder}. Next:\n"
        f"{look}"
        f"  tailseg predict {quote(str(folder))} IMAGES...     pictures of what it finds\n"
        f"  tensorboard --logdir {quote(str(folder))}          how it learned",
        markup=False,
        soft_wrap=True,  # commands are pasted, and a line that was broken would be two
    )


def check_run(options: Train) -> None:
    """Looks whether the run's files may be written, before the work.

    Raises:
        UsageError: the folder has no possible name, or holds files that no run wrote.
        OSError: it cannot be written.
    """
    recipe = options.recipe
    check(options, files_of(recipe, report=options.report), instead="name another folder (--run.out)")


def files_of(recipe: Recipe, *, report: bool) -> dict[Path, Kind | None]:
    """The run's folder, and the files in it that may be there without a run.

    Raises:
        UsageError: the folder has no possible name.
    """
    try:
        folder = run_folder(recipe)
    except ValueError as error:
        raise UsageError(str(error)) from None
    files = {"recipe.json": RECIPE, "log.jsonl": LOG, "results.json": RECORDS, "metrics.json": METRICS}
    if report and (folder / "report.html").is_file():  # a folder of this name costs the report alone
        files["report.html"] = PAGE
    if recipe.data.val is None:
        files |= {"data/train.json": PART, "data/val.json": PART}
    return {folder: None, **{folder / name: kind for name, kind in files.items()}}


def train_options(name: str, arguments: Sequence[str]) -> Train:
    """The recipe called ``name`` (or made for the file ``name``), varied by the options in ``arguments``.

    Raises:
        UsageError: no such recipe, one that cannot do without masks, or an option came first.
    """
    if name.startswith("-"):
        raise UsageError(f"the recipe comes first: tailseg train NAME {name} ...; `tailseg recipes` lists the names")
    if name.lower().endswith(".json"):
        recipe = find_recipe("custom_small")
        recipe = replace(recipe, data=replace(recipe.data, train=name))
    else:
        recipe = find_recipe(name)
    if "--boxes-only" in arguments:  # before the options are parsed: a network without masks has no settings of masks
        recipe = without_masks(recipe)
    return parse(Train, arguments, command=f"train {name}", default=Train(recipe))


def without_masks(recipe: Recipe) -> Recipe:
    """The same recipe with a detector that learns boxes alone.

    Raises:
        UsageError: it is a cascade, whose stages learn masks.
    """
    from tailseg.models.config import ModelConfig

    if not isinstance(recipe.model, ModelConfig):
        raise UsageError(
            f"--boxes-only: {recipe.name} has a detector of your own, {type(recipe.model).__name__}: change it"
        )
    if recipe.model.cascade is not None:
        raise UsageError(
            f"--boxes-only: {recipe.name} is a cascade, whose stages learn masks. Recipes without a cascade: "
            "custom_small and custom_r50 for your own data; `tailseg recipes` lists all"
        )
    return replace(recipe, model=replace(recipe.model, mask=None))
