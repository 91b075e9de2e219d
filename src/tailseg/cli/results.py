"""What `eval`, `compare` and `calibrate` share: which files hold what, whose groups, progress."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress, TaskID

from tailseg.cli.common import UsageError, output

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.evaluation.metrics import IouType
    from tailseg.structures import Group


def what_to_score(files: Sequence[Path], only: "IouType | None" = None) -> "dict[IouType, Path]":
    """Boxes from the first file that holds boxes, masks from the first that holds masks.

    Raises:
        UsageError: no file, more than two, or none that holds what is asked for.
        FileNotFoundError, ValueError: a file cannot be read.
    """
    if not 1 <= len(files) <= 2:
        raise UsageError(f"name one results file, or one of boxes and one of masks; got {len(files)}")
    from tailseg.evaluation.results import holds

    sources: dict[IouType, Path] = {}
    for file in files:
        for iou_type in holds(file):
            sources.setdefault(iou_type, file)
    if not sources:  # a list without records: everything scores 0
        sources = {only or "bbox": files[0]}
    unused = [file for file in files if file not in sources.values()]
    if unused:
        raise UsageError(
            f"{unused[0]} would not be looked at: it has nothing that the other file lacks. Two files are those of "
            "boxes and of masks, in this order; `tailseg compare` compares results"
        )
    if only and only not in sources:
        field = {"bbox": "'bbox'", "segm": "'segmentation'"}[only]
        raise UsageError(f"--only {only} wants records with a {field}; {', '.join(map(str, files))} has none")
    return {iou_type: file for iou_type, file in sources.items() if only in (None, iou_type)}


@contextmanager
def steps() -> "Generator[Callable[[str, int, int], None]]":
    """A progress bar for each step of an analysis, gone when all is done."""
    with Progress(console=output(), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def step(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=total)

        yield step


def truth_and_groups(
    truth: Path, train: Path | None
) -> "tuple[Path | Annotations, Mapping[int, Group] | None, tuple[str, ...]]":
    """An annotation file to score against, with the classes of a training set and their groups by its image counts.

    Many tools write only the classes that a split has objects of, so the training set may know more of them.

    Returns:
        The file or what was read of it, category id -> group, and notes for the reader.

    Raises:
        ValueError: a file is missing or malformed; see `read_dataset`.
    """
    if train is None:
        return truth, None, ()
    from tailseg.annotations.dataset import get_scored_groups
    from tailseg.annotations.read import add_classes, describe_other_names, judge, open_file

    training = judge(open_file(train), ["training"])  # without the pictures, that may hold the sizes
    annotations = open_file(truth)
    groups = get_scored_groups(training)
    beyond = sorted(
        {category.id for category in training.categories} - {category.id for category in annotations.categories}
    )
    some = ", ".join(map(str, beyond[:5])) + (" .." if len(beyond) > 5 else "")
    notes = (f"{len(beyond):,} classes of {train} that {truth} lacks play no part ({some})",) if beyond else ()
    if other := describe_other_names(annotations.categories, training.categories):
        notes += (f"{other} {train}: are the frequency groups those of other classes?",)
    return add_classes(annotations, training.categories), groups, notes


def run_truth(run: Path) -> "tuple[Annotations, Mapping[int, Group], str]":
    """What a run was validated on, by its checkpoint: read as for the run, with its ``on_problem`` and ``crowds``.

    Returns:
        The validation set, the groups of its classes in the training set, and what is to be said about it.

    Raises:
        ValueError: no checkpoint, an unknown recipe, or a validation set that is not there.
    """
    from tailseg.annotations.dataset import get_scored_groups
    from tailseg.recipes.build import build_validation, held_out_note
    from tailseg.recipes.places import found_again
    from tailseg.recipes.saved import from_plain
    from tailseg.training.checkpoint import load
    from tailseg.training.fit import with_classes_of_run
    from tailseg.training.run_files import choose

    file = choose(run, "best")
    checkpoint = load(file)
    recipe = from_plain(checkpoint.recipe, source=str(file))
    recipe = found_again(recipe, checkpoint.recipe, run)
    annotations = build_validation(recipe)
    annotations = with_classes_of_run(annotations, checkpoint, file)
    return annotations, get_scored_groups(annotations), held_out_note(recipe)
