"""`tailseg data check`: what is wrong with an annotation file, and what that stops."""

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

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.annotations.problems import Problem


@dataclass(frozen=True)
class DataCheck:
    """Check an annotation file and whether its images are there.

    Every kind of problem is listed with its count, the first records, what to do, and which uses of the file it stops:
    training, training of masks, evaluation, evaluation of masks. What stops none of them is a note, and says what is
    done about it. Exit code 1 if a problem stops a use. A file in which no object has a mask is a file of boxes, which
    is no fault.

    examples:
      tailseg data check my.json
      tailseg data check my.json --images photos --decode     read every image as well
      tailseg data check my.json --repair new.json            write a file that can be used
      tailseg data check train.json --val val.json --decode   are images of one in the other?
    """

    data: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file (COCO or LVIS format), or tiny_tail[:preset] for the embedded data set's training draw."""
    images: Path | None = None
    """Folder of the images, unless they lie beside the annotation file."""
    decode: bool = False
    """Read every image, and compare its size with the file's."""
    repair: Annotated[Path | None, Output("an annotation file")] = None
    """Write a file that training and evaluation of masks accept (of boxes, where no object has a mask): records are put
    right or left out, and what was done is listed. A file that is there is not overwritten. Exit code 0 if it was
    written and its images are there."""
    val: Path | None = None
    """Validation file: are images of it in the training file? Looks for the same file names, the same content, frames
    of one video by their names and, with --decode, the same looks; says where the classes differ. What is found is a
    note: it does not change the exit code. The validation file itself is not checked."""
    val_images: Path | None = None
    """Folder of the validation file's images, unless they lie beside it."""


def find_annotation_file(data: str) -> Path:
    """The file that the argument stands for."""
    from tailseg.data.tiny_tail import is_tiny_tail, prepare

    return prepare(data, progress=True)[0] if is_tiny_tail(data) else Path(data)


def check(options: DataCheck) -> bool:
    """Print what is wrong; returns whether nothing stops a use.

    Raises:
        DatasetError: it is no annotation file at all.
    """
    from tailseg.annotations.repair import require_new
    from tailseg.data.check import image_problems, is_fault, read_problems

    if options.repair:
        try:
            require_new(options.repair)
        except FileExistsError as error:
            raise UsageError(str(error)) from error
        check_outputs(options, {options.repair: REPAIRED}, instead="name a new file (--repair)")
    annotations = read_problems(find_annotation_file(options.data), options.images)
    pictures = image_problems(annotations, decode=options.decode, track=track)
    found = sorted((*annotations.problems, *pictures), key=is_fault, reverse=True)
    for problem in found:
        say("\n".join(describe(problem, fault=is_fault(problem))))
    good = not any(map(is_fault, found))
    if good:
        numbers = f"{annotations.num_images:,} images, {annotations.num_objects:,} objects"
        say(f"{annotations.path}: nothing wrong in {numbers}, {annotations.num_classes:,} classes")
    if options.val:
        compare(annotations, options.val, options.val_images, decode=options.decode)
    if options.repair:
        write_repaired(annotations.path, options.repair, options.images)
        return not any(map(is_fault, pictures))
    return good


def compare(train: "Annotations", path: Path, images: Path | None, *, decode: bool) -> None:
    """Print what a validation file has in common with the training file."""
    from tailseg.annotations.leaks import find_leaks
    from tailseg.annotations.read import open_file

    found = find_leaks(train, open_file(path, images=images), decode=decode, track=track)
    for problem in found:
        say("\n".join(describe(problem, fault=False)))
    if not any(problem.kind.name.startswith("leak_") for problem in found):
        looks = "names, contents and looks" if decode else "names and contents"
        say(f"{path}: none of its images is found in {train.path}, by {looks}")


def write_repaired(path: Path, out: Path, images: Path | None) -> None:
    """Write the repaired file, and print what was done."""
    from tailseg.annotations.repair import repair_file

    done = repair_file(path, out, images=images)
    say(f"{out}: written, a repaired copy of {path}" if done else f"{out}: written; there was nothing to repair")
    for what, number in done.items():
        say(f"  {number:,} {what}")


def describe(problem: "Problem", *, fault: bool) -> Iterator[str]:
    """A problem in a few lines: what it is, the first records, what it stops or what is done, what to do."""
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
    """Print lines as they are: a name is neither cut nor wrapped."""
    output().print(escape(text), soft_wrap=True)


def track(items: Iterable[int], title: str, total: int) -> Iterable[int]:
    """The items, with a bar and the time left on the terminal."""
    from rich.progress import track as bar

    yield from bar(items, title, total, console=Console(stderr=True), transient=True)
