"""What `eval`, `compare` and `calibrate` share: which files hold what, frequency groups, progress."""

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress, TaskID

from tailseg.cli.common import UsageError, output

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.annotations.types import Group, GroupBounds
    from tailseg.evaluation.metrics import IouType
    from tailseg.recipes.recipe import Recipe


def find_sources(files: Sequence[Path], only: "IouType | None" = None) -> "dict[IouType, Path]":
    """Chooses the files that are scored: the first file with boxes and the first file with masks.

    Raises:
        UsageError: there is no file, there are more than two, or none has what is asked for.
        FileNotFoundError, ValueError: a file cannot be read.
    """
    if not 1 <= len(files) <= 2:
        raise UsageError(f"name one results file, or one of boxes and one of masks; got {len(files)}")
    from tailseg.evaluation.results import find_iou_types

    sources: dict[IouType, Path] = {}
    for file in files:
        for iou_type in find_iou_types(file):
            sources.setdefault(iou_type, file)
    if not sources:  # a list without records: everything scores 0
        sources = {only or "bbox": files[0]}
    unused = [file for file in files if file not in sources.values()]
    if unused:
        raise UsageError(
            f"{unused[0]} would not be used: it has nothing that the other file lacks. Of two files the first one has "
            "boxes and the second one has masks; `tailseg compare` compares results"
        )
    if only and only not in sources:
        field = {"bbox": "'bbox'", "segm": "'segmentation'"}[only]
        raise UsageError(f"--only {only} needs records with a {field}; {', '.join(map(str, files))} has none")
    return {iou_type: file for iou_type, file in sources.items() if only in (None, iou_type)}


def find_results(path: Path, *, hint: str = "") -> Path:
    """The results file of a run's folder, or the file itself.

    Args:
        path: a folder or a file.
        hint: what to do if the file is an annotation file.

    Returns:
        The results file.

    Raises:
        UsageError: there is no results file.
    """
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"no results in {path}: expected a results file, or a run's folder after `tailseg test`")
    if not is_list(file):
        hint = hint or (
            "Name the annotation file with --annotations, and only results files or runs before the options"
        )
        raise UsageError(
            f"{file} is not a results file, because it does not hold a list of records. Is it the annotation file? "
            f"{hint}"
        )
    return file


def is_list(file: Path) -> bool:
    """Whether a JSON file, also one packed by gzip, does not begin as an object: results are a list."""
    from tailseg.evaluation.json_files import read_beginning

    return not read_beginning(file).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def group_models(files: Sequence[Path], only: "IouType | None" = None) -> "dict[str, dict[IouType, Path]]":
    """The results files of each model, by a name for the model.

    A file without masks that is followed by one with masks is the same model: mmdetection writes NAME.bbox.json and
    NAME.segm.json.

    Args:
        files: results files of one or several models.
        only: boxes or masks, if only these are wanted.

    Returns:
        For each model the file of each kind of overlap.

    Raises:
        UsageError, FileNotFoundError, ValueError: as `find_sources`.
    """
    from tailseg.evaluation.results import find_iou_types

    groups: list[list[Path]] = []
    for file in files:
        if groups and len(groups[-1]) == 1 and "segm" in find_iou_types(file):
            is_pair = find_iou_types(groups[-1][0]) == ("bbox",)
            if is_pair:
                groups[-1].append(file)
                continue
        groups.append([file])
    names = [strip_suffix(group[0].name) for group in groups]
    names = [name.removesuffix(".bbox") if len(group) == 2 else name for name, group in zip(names, groups, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{group[0].resolve().parent.name}/{name}" for name, group in zip(names, groups, strict=True)]
    if len(set(names)) < len(names):
        names = [str(group[0]) for group in groups]
    if len(set(names)) < len(names):
        raise UsageError("a results file is named twice: name each file once")
    return {name: find_sources(group, only) for name, group in zip(names, groups, strict=True)}


def strip_suffix(name: str) -> str:
    """The name of a file without ``.json`` or ``.json.gz``."""
    return name.removesuffix(".gz").removesuffix(".json")


@contextmanager
def progress_bars() -> "Generator[Callable[[str, int, int], None]]":
    """Shows a progress bar for each step of an analysis until all steps are done."""
    with Progress(console=output(), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def step(name: str, done: int, total: int) -> None:
            """Shows the progress of a step.

            Args:
                name: what is being done.
                done: how much of it is done.
                total: all of it.
            """
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=total)

        yield step


def check_groups_option(groups: "GroupBounds | None", train: Path | None) -> None:
    """Raises UsageError if the bounds of the groups are given without a training set."""
    if groups is not None and train is None:
        raise UsageError(
            f"--groups {groups[0]} {groups[1]} are numbers of training images: name the training set's annotation file "
            "with --train"
        )


def rename_options(arguments: Sequence[str], old_names: Mapping[str, str]) -> list[str]:
    """The arguments of a command with the new names of options, and a note on standard error for each old name.

    Args:
        arguments: the arguments as they were typed.
        old_names: the new name for each old name, such as ``{"--truth": "--annotations"}``.

    Returns:
        The arguments with the new names.
    """
    renamed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in old_names:
            print(f"note: {name} is now {old_names[name]}", file=sys.stderr)
        renamed.append(f"{old_names.get(name, name)}{equals}{value}")
    return renamed


def read_validation_set(
    run: Path, groups: "GroupBounds | None" = None, base: "Recipe | None" = None, modules: Sequence[str] = ()
) -> "tuple[Annotations, Mapping[int, Group], str]":
    """Reads the validation set of a run's results as the run does: with its ``on_problem``, ``crowds`` and ``groups``.

    Args:
        run: the run's folder.
        groups: other bounds of the frequency groups than the run's.
        base: the user's own recipe, if the run was trained with one.
        modules: the user's own modules, by name, that have classes of the run.

    Returns:
        The validation set, the groups of its classes in the training set, and a note about it.

    Raises:
        ValueError: the run has no checkpoint, its recipe is unknown, or its validation set is not there.
    """
    from tailseg.annotations.dataset import get_scored_groups, with_group_bounds
    from tailseg.recipes.build import build_validation, held_out_note
    from tailseg.recipes.places import locate_data, locate_results
    from tailseg.recipes.saved import from_plain
    from tailseg.training.checkpoint import load
    from tailseg.training.fit import with_classes_of_run
    from tailseg.training.run_files import choose

    file = choose(run, "best")
    checkpoint = load(file)
    recipe = from_plain(checkpoint.recipe, base=base, modules=modules, source=str(file))
    recipe = locate_results(locate_data(recipe, checkpoint.recipe, run), run)
    annotations = build_validation(recipe)
    annotations = with_classes_of_run(annotations, checkpoint, file)
    if groups is not None:
        annotations = with_group_bounds(annotations, groups)
    return annotations, get_scored_groups(annotations), held_out_note(recipe)
