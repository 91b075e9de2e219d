"""`tailseg train`."""

import os
import re
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from tailseg.cli.common import UsageError, find_recipe, is_labels, output, parse
from tailseg.cli.file_kinds import LOG, METRICS, PAGE, PART, RECIPE, RECORDS, is_saved_recipe
from tailseg.cli.outputs import Kind, check
from tailseg.files import Input
from tailseg.models.config import ResNetConfig
from tailseg.ranges import Range, SettingError
from tailseg.recipes.recipe import Recipe, SGDConfig, run_folder

if TYPE_CHECKING:
    from tailseg.evaluation import Metrics

_HELP = """\
usage: tailseg train NAME|FILE.json [OPTIONS]

Train a recipe, or train on your own COCO- or LVIS-format file.

  NAME        a recipe (`tailseg recipes` lists them), or your own recipe as module:function
  FILE.json   your annotation file. tailseg trains the recipe custom_small on it (with --init-from, a recipe that fits
              the weights) and, without --data.val, holds out a tenth of the images for validation. Or a saved recipe,
              such as the winner.json of `tailseg lab`

parts of the recipe, by name or as module:function of your own:
  --loss NAME           gol, gumbel, sigmoid, softmax, seesaw, eqlv2, federated, focal and others
  --optim NAME          sgd, adamw
  --backbone NAME       resnet50, resnet101, swin_t, timm:NAME and others
  --init-from WEIGHTS   coco (torchvision's COCO model), imagenet (the backbone), a weights file, or the folder of a run
  --groups RARE COMMON  a class is rare in up to RARE training images, common in up to COMMON, else frequent

steps of the augmentation; `tailseg train NAME --data.paste --help` lists the settings of a step:
  --data.paste    paste objects of other images, rare classes more often (copy-paste)
  --data.jitter   resize each image by a factor of 0.1 to 2, and crop or pad it (large-scale jitter)
  --data.color    change brightness, contrast and saturation
  --data.crop     crop some images first
  --data.clean-epochs N   the last N epochs have no paste, jitter and color

  --devices N     train in N processes on this machine, one for each GPU
                  (on several machines: torchrun -m tailseg train ...)
  --resume        continue from the last checkpoint of the run, for torchrun and SLURM: the same command starts and
                  continues. Elsewhere `tailseg resume RUN` continues, without the options
  --dry-run       make a few steps, print the time of an epoch and of the run and the memory, and write nothing
  --boxes-only    train boxes without masks: the network of the recipe without its mask head (Faster R-CNN)
  --no-report     do not write report.html, the page of `tailseg report`
  OPTIONS         every setting of the recipe; `tailseg train NAME --help` lists them with their values

examples:
  tailseg train tiny_gumbel                            the embedded data set, the Gumbel loss
  tailseg train tiny_gumbel --optim.lr 0.02            the same with another learning rate
  tailseg train my.json                                your data, a small network, any machine
  tailseg train my.json --init-from coco               your data, Mask R-CNN R50 that was trained on COCO, a GPU
  tailseg train my.json --init-from imagenet           your data, a network for a CPU with ImageNet weights
  tailseg train my.json --loss gol --loss.tail r       the GOL loss; the rare classes alone are the tail
  tailseg train my.json --backbone timm:convnext_tiny --optim adamw
  tailseg train custom_r50 --data.train my.json        your data, Mask R-CNN R50, a GPU
  tailseg train my.json --data.train-images photos     the images are in another folder
  tailseg train my.json --boxes-only                   the annotations have boxes and no masks

The run is in the folder runs/NAME. If that folder has a run, it is in runs/NAME-2, and so on. --run.out names another
folder. Ctrl-C saves the state; `tailseg resume RUN` continues.
"""


@dataclass(frozen=True)
class Train:
    """Train this recipe. Every option changes a setting. The run saves all settings for `test` and `predict`."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="", prefix_name=False)]
    loss: str | None = None
    """Name of a loss (gol, gumbel, softmax, seesaw, ...), or module:function of your own."""
    optim: str | None = None
    """Name of an optimizer (sgd, adamw), or module:function of your own."""
    backbone: str | None = None
    """Name of a backbone (resnet50, swin_t, timm:NAME, ...), or module:function of your own."""
    init_from: Annotated[str | None, Input()] = None
    """Initial weights: coco (torchvision's COCO Mask R-CNN R50-FPN, downloaded), imagenet (the backbone's), a weights
    file of tailseg, torchvision, mmdetection or detectron2, or the folder of a run. Classes of the same name keep
    their rows."""
    detector: str | None = None
    """module:function of a detector of your own."""
    source: str | None = None
    """module:function of a data set of your own in Python, which takes the place of the annotation files."""
    augmentation: str | None = None
    """module:function of an augmentation of your own."""
    metrics: tuple[str, ...] = ()
    """module:function of each metric of your own."""
    resume: bool = False
    """Continue from the last checkpoint of the run, with the same settings; only optim.epochs may be larger. Without a
    checkpoint, start. For torchrun and SLURM; elsewhere use `tailseg resume RUN`."""
    devices: Annotated[int, Range(ge=1)] = 1
    """Processes on this machine, one for each GPU; torchrun starts them. They share the images of each step, and the
    result is that of one process."""
    dry_run: bool = False
    """Make a few steps, print the time of an epoch and of the run and the memory, and write nothing."""
    boxes_only: bool = False
    """Train boxes without masks: the network of the recipe without its mask head (Faster R-CNN)."""
    report: bool = True
    """Write report.html into the folder of the run at the end."""


def run(arguments: Sequence[str]) -> None:
    """Trains the recipe that the first argument names, with the options that follow."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        raise SystemExit(0 if arguments else 2)
    options = train_options(arguments[0], arguments[1:])
    from tailseg.recipes.build import require_data
    from tailseg.recipes.places import number_folder

    asked = options.recipe
    if options.dry_run and options.resume:
        raise UsageError("--dry-run starts from the beginning: leave out --resume")
    if not options.resume and may_number(arguments):
        options = replace(options, recipe=number_folder(asked))
    check_run(options)
    require_data(options.recipe)  # the user reads the error before torch is imported, which takes seconds
    if options.dry_run:
        _dry_run(options, arguments)
        return
    train_run(
        options.recipe,
        ["train", *arguments],
        devices=options.devices,
        resume=options.resume,
        report=options.report,
        asked=asked,
        notes=[recipe_note(arguments[0], options), optimizer_note(options)],
    )


def may_number(arguments: Sequence[str]) -> bool:
    """Whether the run may get a folder with a number if the folder of its recipe has a run.

    A named folder is not changed. Processes that torchrun may restart must find their folder again.
    """
    is_named = any(argument.partition("=")[0] == "--run.out" for argument in arguments)
    return not is_named and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0"


def folder_note(asked: Recipe, recipe: Recipe, *, resume: bool) -> str:
    """Says that the run got a folder with a number, or that there is a newer one with a number; else returns nothing.

    Args:
        asked: the recipe with the folder that the user or the recipe names.
        recipe: the recipe of the run.
        resume: whether the run is continued.

    Returns:
        One sentence, or nothing.
    """
    folder, chosen = run_folder(asked), run_folder(recipe)
    if chosen != folder:
        return (
            f"{folder} has a run already, so this run is in {chosen}. To continue the run in {folder}: "
            f"{shlex.join(['tailseg', 'resume', str(folder)])}"
        )
    second = Path(f"{folder}-2")
    if resume and second.is_dir():
        return f"--resume continues {folder}. To continue {second}: {shlex.join(['tailseg', 'resume', str(second)])}"
    return ""


def train_run(
    recipe: Recipe,
    command: Sequence[str],
    *,
    devices: int,
    resume: bool,
    report: bool,
    asked: Recipe | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Trains a recipe and prints the figures, as `tailseg train` and `tailseg resume` do.

    Args:
        recipe: the recipe of the run.
        command: the command and its arguments, with which torchrun starts each process.
        devices: the number of processes.
        resume: continue from the newest checkpoint.
        report: write the report at the end.
        asked: the recipe with the folder that the user or the recipe names; None for `tailseg resume`.
        notes: lines for the user before the training; empty ones are left out.
    """
    _start_processes(recipe, command, devices)
    is_numbered = not resume and may_number(command)
    try:
        from tailseg.cli.report import write_run_report
        from tailseg.training.distributed import is_main_process, joined
        from tailseg.training.loop import train
        from tailseg.training.run_files import numbered_folder

        with joined(), numbered_folder(asked) if asked and is_numbered else nullcontext(recipe) as recipe:
            folder_notes = [folder_note(asked, recipe, resume=resume)] if asked else []
            recipe, weight_notes = _with_weights_file(recipe, resume=resume)
            for note in filter(None, [*notes, *folder_notes, *weight_notes] if is_main_process() else ()):
                output().print(f"note: {note}", markup=False, soft_wrap=True)
            metrics, first = train(recipe, resume=resume), is_main_process()
        if first:  # the others need not wait for it
            tell(metrics, recipe, write_run_report(run_folder(recipe), recipe) if report else None)
    except KeyboardInterrupt as stop:
        if str(stop):
            raise
        raise KeyboardInterrupt(_describe_interruption(recipe)) from None


def _with_weights_file(recipe: Recipe, *, resume: bool) -> tuple[Recipe, list[str]]:
    """Finds, downloads or converts the initial weights, if the run has some and has no checkpoint yet."""
    from tailseg.training.run_files import get_best, get_latest

    folder = run_folder(recipe)
    if recipe.run.init_from is None or (resume and (get_latest(folder) or get_best(folder))):
        return recipe, []
    from tailseg.interop import prepare_initial_weights
    from tailseg.training.distributed import main_process_first

    with main_process_first():
        return prepare_initial_weights(recipe)


def _start_processes(recipe: Recipe, command: Sequence[str], devices: int) -> None:
    """Replaces this process by torchrun if the user wants several processes and torchrun has not started this one."""
    from tailseg.training.distributed import is_under_torchrun, start_processes
    from tailseg.training.fit import check_shares

    if devices != 1 and not is_under_torchrun():
        check_shares(recipe, devices)  # one error, and not one of each process
        start_processes(devices, command)


def _dry_run(options: Train, arguments: Sequence[str]) -> None:
    """Prints the time and the memory that the training needs."""
    _start_processes(options.recipe, ["train", *arguments], options.devices)
    from tailseg.training.distributed import is_main_process, joined
    from tailseg.training.dry_run import dry_run

    with joined():
        recipe, notes = _with_weights_file(options.recipe, resume=False)
        lines, first = [*notes, *dry_run(recipe)], is_main_process()
    command = shlex.join(["tailseg", "train", *(argument for argument in arguments if argument != "--dry-run")])
    for line in [*lines, "", f"Nothing was written. To train: {command}"] if first else ():
        output().print(line, markup=False, soft_wrap=True)


def _describe_interruption(recipe: Recipe) -> str:
    """Says what is saved of a run that was interrupted between two places where it can save its state."""
    from tailseg.training.run_files import describe_resumption, get_latest

    if latest := get_latest(run_folder(recipe)):
        return f"interrupted without saving. The newest checkpoint is {latest}: {describe_resumption(recipe)}"
    return "interrupted before the first checkpoint, so nothing was saved. Use the same command to start again"


def tell(metrics: "Metrics", recipe: Recipe, report: Path | None) -> None:
    """Prints the figures, and commands that the user may want next.

    Args:
        metrics: the figures of the last evaluation.
        recipe: the recipe of the run.
        report: the report page, if it was written.
    """
    from tailseg.recipes.commands import make_run_command

    folder = run_folder(recipe)
    output().print(metrics.table())
    commands = [
        (shlex.join(["open", str(report)]), "every class, with pictures")
        if report
        else (make_run_command("report", recipe), "every class, with pictures"),
        (make_run_command("predict", recipe, "photos"), "detect objects in your images"),
        (make_run_command("test", recipe), "evaluate again, or on another file with --val"),
        (make_run_command("resume", recipe, "--extend", suggest_extension(recipe)), "train for more epochs"),
        (shlex.join(["tensorboard", "--logdir", str(folder)]), "training curves"),
    ]
    width = max(len(command) for command, _ in commands)
    lines = "\n".join(f"  {command:<{width}}  # {text}" for command, text in commands)
    # users paste commands, so a command must stay on one line
    output().print(f"\nSaved in {folder}. Next:\n{lines}", markup=False, soft_wrap=True)


def suggest_extension(recipe: Recipe) -> str:
    """A number of epochs to extend a run by: half as many as it has."""
    return str(-(-recipe.optim.epochs // 2))


def check_run(options: Train) -> None:
    """Checks before the work that the command may write the files of the run.

    Raises:
        UsageError: the name of the folder is not possible, or the folder holds files that no run wrote.
        OSError: the folder cannot be written.
    """
    recipe = options.recipe
    check(options, files_of(recipe, report=options.report), instead="name another folder (--run.out)")


def files_of(recipe: Recipe, *, report: bool) -> dict[Path, Kind | None]:
    """Lists the folder of the run, and the files in it that may exist without a run.

    Raises:
        UsageError: the name of the folder is not possible.
    """
    try:
        folder = run_folder(recipe)
    except ValueError as error:
        raise UsageError(str(error)) from None
    files = {"recipe.json": RECIPE, "log.jsonl": LOG, "results.json": RECORDS, "metrics.json": METRICS}
    if report and (folder / "report.html").is_file():  # with a folder of this name, only the report fails
        files["report.html"] = PAGE
    if recipe.data.val is None:
        files |= {"data/train.json": PART, "data/val.json": PART}
    return {folder: None, **{folder / name: kind for name, kind in files.items()}}


def train_options(name: str, arguments: Sequence[str]) -> Train:
    """Reads the options of a training.

    Args:
        name: the name of a recipe, ``module:function``, or an annotation file, which custom_small is trained on.
        arguments: the options after the name.

    Returns:
        The options, with the recipe as they change it.

    Raises:
        UsageError: there is no such recipe or part, a cascade cannot be trained without masks, or an option came first.
    """
    if name.startswith("-"):
        raise UsageError(f"the recipe comes first: tailseg train NAME {name} ...; `tailseg recipes` lists the names")
    if (Path(name) / "recipe.json").is_file():
        raise UsageError(
            f"{name} is the folder of a run. To continue the run: {shlex.join(['tailseg', 'resume', name])}"
        )
    if arguments and not arguments[0].startswith("-"):
        hint = ". Name the annotation file with --data.train" if _is_data(arguments[0]) else ""
        raise UsageError(f"`tailseg train {name}` does not expect {arguments[0]!r} here{hint}")
    from tailseg.cli.parts import read_option, with_optional, with_parts
    from tailseg.recipes.initial import with_initial_weights

    init_from = read_option(arguments, "--init-from")
    if init_from is not None and read_option(arguments, "--run.init-from") is not None:
        raise UsageError("--init-from is the short form of --run.init-from. Give one of them")
    # These options change which settings the recipe has, so the recipe must have them before the others are parsed.
    recipe, arguments = with_optional(with_parts(_find_base(name, init_from), arguments), arguments)
    if init_from:
        try:
            recipe = with_initial_weights(recipe, init_from)
        except SettingError as error:
            raise UsageError(str(error)) from None
    if "--boxes-only" in arguments:
        recipe = without_masks(recipe)
    words = [re.sub(r"^--groups(?==|$)", "--data.groups", argument) for argument in arguments]
    return parse(Train, words, command=f"train {name}", default=Train(recipe))


def _find_base(name: str, init_from: str | None) -> Recipe:
    """Finds the recipe that the options change: by its name, or for an annotation file by the initial weights."""
    if is_saved_recipe(Path(name)):
        from tailseg.recipes.saved import load_recipe

        return load_recipe(Path(name))
    if not _is_data(name):
        return find_recipe(name)
    from tailseg.recipes.initial import choose_recipe

    chosen = choose_recipe(init_from) if init_from else "custom_small"
    recipe = find_recipe(chosen) if isinstance(chosen, str) else chosen
    val = None
    if not name.lower().endswith(".json"):
        from tailseg.annotations.formats.registry import find_validation

        val = find_validation(Path(name))
    return replace(recipe, data=replace(recipe.data, train=name, val=val))


def _is_data(name: str) -> bool:
    """Whether a name is the path of labels, and not the name of a recipe."""
    if name.lower().endswith(".json"):
        return True
    from tailseg.recipes import RECIPES

    return name not in RECIPES and is_labels(Path(name))


def recipe_note(name: str, options: Train) -> str:
    """Names the recipe that `train_options` chose for the initial weights; otherwise returns nothing."""
    recipe = options.recipe.name
    is_data = _is_data(name) and not is_saved_recipe(Path(name))
    if not is_data or options.init_from is None or recipe == "custom_small":
        return ""
    return (
        f"the recipe is {recipe}, whose network fits --init-from {options.init_from}. `tailseg train ... --dry-run` "
        "says how long it takes"
    )


def optimizer_note(options: Train) -> str:
    """Says that AdamW may suit the chosen backbone better than the recipe's SGD; otherwise returns nothing."""
    is_main_process = os.environ.get("RANK", "0") == "0"
    usual = isinstance(getattr(options.recipe.model, "backbone", None), ResNetConfig)
    if (
        not (options.backbone and is_main_process)
        or usual
        or options.optim
        or not isinstance(options.recipe.optim, SGDConfig)
    ):
        return ""
    return (
        f"the recipe trains {options.backbone} with SGD. AdamW (--optim adamw) is the usual optimizer for transformers "
        "and ConvNeXt"
    )


def without_masks(recipe: Recipe) -> Recipe:
    """Removes the mask head from the detector of a recipe.

    Raises:
        UsageError: the detector is a cascade, which needs masks, or one without that setting.
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
