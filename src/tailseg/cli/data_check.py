"""`tailseg data check`: lists the problems of an annotation file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from tailseg.cli.common import UsageError, output
from tailseg.cli.file_kinds import REPAIRED
from tailseg.cli.outputs import check as check_outputs
from tailseg.files import Input, Output
from tailseg.words import count_noun

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.annotations.problems import Problem


@dataclass(frozen=True)
class DataCheck:
    """Check an annotation file and whether its images are there.

    The command lists each kind of problem with its count, the first records, what to do, and the uses that it stops:
    training, training of masks, evaluation, evaluation of masks. A problem that stops no use is a note and says what
    tailseg does about it. The exit code is 1 if a problem stops a use. A file without any mask is a file of boxes; this
    is not an error.

    examples:
      tailseg data check my.json
      tailseg data check my.json --images photos --decode     read every image, too
      tailseg data check my.json --repair new.json            write a repaired file
      tailseg data check train.json --val val.json --decode   find images that are in both files
    """

    data: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file (COCO or LVIS format), or tiny_tail[:preset] for the training set of the embedded data set."""
    images: Path | None = None
    """Folder of the images, if they are not next to the annotation file."""
    decode: bool = False
    """Read every image and compare its size with the annotation file."""
    repair: Annotated[Path | None, Output("an annotation file")] = None
    """Write a file that training and evaluation of masks accept (of boxes, if no object has a mask). Invalid records
    are corrected or left out, and the command lists the repairs. An existing file is not overwritten. The exit code is
    0 if the file was written and its images exist."""
    val: Path | None = None
    """Validation file. The command finds its images that are also in the training file: by file names, by content, by
    the names of video frames and, with --decode, by their looks. It also lists classes that differ. The results are
    notes and do not change the exit code. The validation file itself is not checked."""
    val_images: Path | None = None
    """Folder of the validation file's images, if they are not next to it."""


def find_annotation_file(data: str) -> Path:
    """The annotation file for the argument; draws tiny_tail if necessary."""
    from tailseg.data.tiny_tail import is_tiny_tail, prepare

    return prepare(data, progress=True)[0] if is_tiny_tail(data) else Path(data)


def check(options: DataCheck) -> bool:
    """Prints the problems of a file and returns whether no problem stops a use.

    Raises:
        DatasetError: the file is not an annotation file.
    """
    from tailseg.annotations.repair import require_new
    from tailseg.data.check import find_image_problems, is_fault, read_problems

    if options.repair:
        try:
            require_new(options.repair)
        except FileExistsError as error:
            raise UsageError(str(error)) from error
        check_outputs(options, {options.repair: REPAIRED}, instead="name a new file (--repair)")
    annotations = read_problems(find_annotation_file(options.data), options.images)
    pictures = find_image_problems(annotations, decode=options.decode, track=track)
    problems = sorted((*annotations.problems, *pictures), key=is_fault, reverse=True)
    for problem in problems:
        say("\n".join(describe(problem, fault=is_fault(problem))))
    valid = not any(map(is_fault, problems))
    if valid:
        numbers = f"{count_noun(annotations.num_images, 'image')}, {count_noun(annotations.num_objects, 'object')}"
        say(f"{annotations.path}: nothing wrong in {numbers}, {count_noun(annotations.num_classes, 'class')}")
    if options.val:
        compare(annotations, options.val, options.val_images, decode=options.decode)
    if options.repair:
        write_repaired(annotations.path, options.repair, options.images)
        return not any(map(is_fault, pictures))
    return valid


def compare(train: "Annotations", path: Path, images: Path | None, *, decode: bool) -> None:
    """Prints which images and classes a validation file shares with the training file.

    Args:
        train: the training set.
        path: the validation file.
        images: folder of its images.
        decode: whether the looks of the images are compared, too.
    """
    from tailseg.annotations.leaks import find_leaks
    from tailseg.annotations.read import open_file

    problems = find_leaks(train, open_file(path, images=images), decode=decode, track=track)
    for problem in problems:
        say("\n".join(describe(problem, fault=False)))
    if not any(problem.kind.name.startswith("leak_") for problem in problems):
        looks = "names, contents and looks" if decode else "names and contents"
        say(f"{path}: no image is also in {train.path} (compared by {looks})")


def write_repaired(path: Path, out: Path, images: Path | None) -> None:
    """Writes the repaired file and prints the repairs.

    Args:
        path: the annotation file.
        out: the new file.
        images: folder of the images.
    """
    from tailseg.annotations.repair import repair_file

    repairs = repair_file(path, out, images=images)
    say(f"{out}: written, a repaired copy of {path}" if repairs else f"{out}: written; there was nothing to repair")
    for text, number in repairs.items():
        say(f"  {number:,} {text}")


def describe(problem: "Problem", *, fault: bool) -> Iterator[str]:
    """Describes a problem in a few lines: its name and count, the first records, the stopped uses, and what to do."""
    from tailseg.annotations.kinds import USE_NAMES

    yield f"{'problem' if fault else 'note'}: {problem.counted}"
    lines = [
        ("records", problem.records),
        ("stops", ", ".join(USE_NAMES[use] for use in problem.kind.stops)),
        ("otherwise" if problem.kind.stops else "done", problem.kind.done),
        ("to do", problem.remedy),
    ]
    yield from (f"  {name}: {text}" for name, text in lines if text)


def say(text: str) -> None:
    """Prints lines without wrapping or cutting names."""
    output().print(escape(text), soft_wrap=True)


def track(items: Iterable[int], title: str, total: int) -> Iterable[int]:
    """Shows a progress bar with the remaining time.

    Args:
        items: the items of the loop.
        title: title of the bar.
        total: number of items.

    Returns:
        The items.
    """
    from rich.progress import track as bar

    yield from bar(items, title, total, console=Console(stderr=True), transient=True)
