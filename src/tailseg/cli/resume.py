"""`tailseg resume`."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tailseg.cli.common import UsageError, find_own_code, output, parse, require_run
from tailseg.cli.outputs import check
from tailseg.cli.train import files_of, suggest_extension, train_run
from tailseg.files import Input, Output
from tailseg.ranges import Range
from tailseg.words import count_noun

if TYPE_CHECKING:
    from tailseg.recipes.recipe import Recipe
    from tailseg.recipes.saved import Plain


@dataclass(frozen=True)
class ChangedData:
    """Settings of the data that may change; None keeps the run's."""

    train: Annotated[str | None, Input()] = None
    """The training set where it is now. It must have the same images, objects and classes."""
    val: Annotated[str | None, Input()] = None
    """The validation set where it is now, if the run has a file for it."""
    train_images: Annotated[str | None, Input()] = None
    """Folder of the training images."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the validation images."""
    workers: Annotated[int | None, Range(ge=0)] = None
    """Number of loader processes."""
    max_bad_images: Annotated[float | None, Range(ge=0, le=1)] = None
    """Largest share of the training images that may be missing or unreadable."""


@dataclass(frozen=True)
class ChangedOptim:
    """Settings of the schedule that may change; None keeps the run's."""

    milestones: Annotated[tuple[int, ...] | None, Range(ge=1)] = None
    """Epochs after which the learning rate is multiplied by gamma, with those that the run has passed."""


@dataclass(frozen=True)
class ChangedRun:
    """Settings of the run that may change; None keeps the run's."""

    device: str | None = None
    """auto is cuda if present, else cpu."""
    compile: bool | None = None
    """Compile the backbone and the feature pyramid."""
    log_every: Annotated[int | None, Range(ge=1)] = None
    """Steps between two lines of log.jsonl and TensorBoard."""
    eval_every: Annotated[int | None, Range(ge=0)] = None
    """Epochs between two evaluations; 0 evaluates after the last epoch only."""
    checkpoint_every: Annotated[int | None, Range(ge=0)] = None
    """Epochs between two checkpoints; 0 saves only after epochs that are evaluated."""
    checkpoint_steps: Annotated[int | None, Range(ge=1)] = None
    """Steps between two checkpoints within an epoch."""
    keep_checkpoints: Annotated[int | None, Range(ge=0)] = None
    """Number of checkpoints to keep in addition to the best one."""


@dataclass(frozen=True)
class Resume:
    """Continue a run after an interruption, or train it for more epochs. The settings are those of the run.

    The run continues from its newest checkpoint. On a CPU the result is that of a run without an interruption, to the
    bit. A run without a checkpoint starts from the beginning. The data are found from any working directory.

    --extend trains for more epochs. The learning rate follows the schedule with the new end: milestones that were
    passed stay, and --optim.milestones may add later ones. Settings that would make another run cannot change; use
    `tailseg train ... --run.init-from RUN/checkpoints/best.pt` for those.

    examples:
      tailseg resume runs/custom_small
      tailseg resume runs/custom_small --extend 6      train for 6 more epochs
      tailseg resume runs/mine --devices 4             in 4 processes, one for each GPU
      tailseg resume runs/mine --module own_loss       the run has a loss of your own
      tailseg resume runs/mine --data.train moved.json --data.train-images photos
    """

    run: Annotated[Path, tyro.conf.Positional, Output("the run")]
    """Folder of the run."""
    extend: Annotated[int | None, Range(ge=1)] = None
    """Train for this many epochs more than the run has so far."""
    devices: Annotated[int, Range(ge=1)] = 1
    """Processes on this machine, one for each GPU. The number may be another one than before."""
    data: ChangedData = field(default_factory=ChangedData)
    optim: ChangedOptim = field(default_factory=ChangedOptim)
    settings: Annotated[ChangedRun, tyro.conf.arg(name="run")] = field(default_factory=ChangedRun)
    report: bool = True
    """Write report.html into the folder of the run at the end."""
    recipe: str | None = None
    """module:function of your own recipe, if you trained the run with one that has classes of yours."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


def run(arguments: Sequence[str]) -> None:
    """Continues the run."""
    refuse_other_settings(arguments)
    options = parse(Resume, arguments, command="resume")
    require_run(options.run)
    recipe = find_run(options, arguments)
    inputs = [Path(path) for path in (recipe.data.train, recipe.data.val) if path and recipe.data.source is None]
    files = files_of(recipe, report=options.report)
    check(options, files, instead="copy the run to where you may write", inputs=inputs)
    from tailseg.training.run_files import load_newest

    newest = load_newest(options.run)
    if newest and newest[0].progress.epoch >= recipe.optim.epochs:
        from tailseg.recipes.commands import make_run_command

        epochs = count_noun(recipe.optim.epochs, "epoch")
        extend = make_run_command("resume", recipe, "--extend", suggest_extension(recipe))
        if os.environ.get("RANK", "0") == "0":
            output().print(
                f"{options.run} is finished, after {epochs}. To train for more epochs: {extend}",
                markup=False,
                soft_wrap=True,
            )
        return
    train_run(recipe, ["resume", *arguments], devices=options.devices, resume=True, report=options.report)


def refuse_other_settings(arguments: Sequence[str]) -> None:
    """Says which setting would make another run; a misspelled name of a setting that may change is left to the parser.

    Raises:
        UsageError: an option names such a setting.
    """
    groups = {"data": ChangedData, "optim": ChangedOptim, "run": ChangedRun}
    free = [f"--{group}.{each.name.replace('_', '-')}" for group, kind in groups.items() for each in fields(kind)]
    for argument in arguments:
        name = argument.partition("=")[0]
        is_setting = name.startswith(("--data.", "--loss", "--model.", "--optim", "--run."))
        if is_setting and not get_close_matches(name, free, cutoff=0.85):
            raise UsageError(
                f"{name}: a run keeps this setting. Begin another run with it: tailseg train NAME ... {name} VALUE. "
                "Add --run.init-from RUN/checkpoints/best.pt to start from the weights of this run. "
                "`tailseg resume --help` lists the settings that may change"
            )


def find_run(options: Resume, arguments: Sequence[str]) -> "Recipe":
    """Reads the recipe of the run, finds its data, and changes the settings that the options name.

    Args:
        options: of the command.
        arguments: of the command, which messages repeat.

    Returns:
        The recipe to continue with.

    Raises:
        UsageError: the folder is not the folder of a training, or an option does not fit.
        ValueError: the recipe cannot be read, or the data are not there.
    """
    from tailseg.recipes.places import get_best, get_latest, get_run_folder, locate_data
    from tailseg.recipes.saved import load_saved

    folder = options.run
    if not folder.is_dir():
        run_folder = get_run_folder(folder)
        is_run = (run_folder / "recipe.json").is_file()
        raise UsageError(f"{folder} is a file. Name the folder of the run{is_run * f': {_resume(str(run_folder))}'}")
    converted = next((folder / "checkpoints").glob("converted.*"), None)
    if converted and not (get_latest(folder) or get_best(folder)):
        raise UsageError(
            f"{folder} has converted weights and no training. To train from these weights: tailseg train NAME "
            f"--run.init-from {shlex.quote(str(converted))}"
        )
    base, modules = find_own_code(options.recipe, options.module)
    recipe, saved = load_saved(folder / "recipe.json", base=base, modules=modules)
    located = locate_data(recipe, saved, folder)
    changed = {name: value for name, value in _given(options.data).items() if value is not None}
    for part in ("train", "val"):
        images = getattr(located.data, f"{part}_images")
        if part in changed and images and not Path(images).exists():
            changed.setdefault(f"{part}_images", None)  # the images are next to the new file
    if "val" in changed and recipe.data.val is None:
        raise UsageError(
            "--data.val: this run holds out a part of its training set, and keeps it. To evaluate on another file: "
            f"{shlex.join(['tailseg', 'test', str(folder), '--val', changed['val']])}"
        )
    optim, settings = _given(options.optim), _given(options.settings)
    if options.extend:
        _refuse_restarts(recipe)
        optim["epochs"] = recipe.optim.epochs + options.extend
    located = replace(
        located,
        data=replace(located.data, **changed),
        optim=replace(located.optim, **optim),
        run=replace(located.run, **settings),
    )
    require_files(recipe, located, saved, folder, arguments)
    return located


def require_files(recipe: "Recipe", located: "Recipe", saved: "Plain", folder: Path, arguments: Sequence[str]) -> None:
    """Checks that the annotation files of a run exist.

    Args:
        recipe: as the run saved it.
        located: with the present paths.
        saved: the recipe as the run saved it, as JSON.
        folder: the folder of the run.
        arguments: of the command, which the message repeats.

    Raises:
        ValueError: a file is not there; says where it was searched and how to name it.
    """
    from tailseg.annotations.formats.registry import exists
    from tailseg.data.tiny_tail import is_tiny_tail
    from tailseg.recipes.build import find_annotation_file, require_data
    from tailseg.recipes.places import get_best, get_latest, list_places

    if located.data.source is not None:
        return
    if located.data.val is None and (get_latest(folder) or get_best(folder)):
        return  # the run has its two parts in its folder
    for number, part in enumerate(("train", "val")):
        path, now = getattr(recipe.data, part), getattr(located.data, part)
        if not path or now != path or is_tiny_tail(path):
            continue
        if not exists(find_annotation_file(now, number)):
            places = ", ".join(str(Path(place).absolute()) for place in list_places(path, recipe, saved, folder))
            raise ValueError(
                f"the {'training' if part == 'train' else 'validation'} set of the run is not there (searched: "
                f"{places}). Name the file where it is now: {_resume(*arguments, f'--data.{part}', 'FILE')}"
            )
    require_data(located)


def _refuse_restarts(recipe: "Recipe") -> None:
    """Raises an error if torchrun may start the command again, because each start would add epochs."""
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise UsageError(
            "--extend would add epochs again when torchrun restarts the processes. Repeat the command of the training "
            f"with --resume and --optim.epochs NUMBER instead, a number above {recipe.optim.epochs}"
        )


def _given(options: Any) -> dict[str, Any]:  # noqa: ANN401 - a group of options
    """The options of a group that the user gave."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


def _resume(*words: str) -> str:
    return shlex.join(["tailseg", "resume", *words])
