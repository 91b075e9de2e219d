"""`tailseg data`: show, check."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import tyro
from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from tailseg.cli.common import UsageError, output, parse, suggestion
from tailseg.cli.file_kinds import SHEET
from tailseg.cli.outputs import check as check_outputs
from tailseg.files import EXAMPLES, PICTURE_FORMATS, Input, Output, write_picture

if TYPE_CHECKING:
    from PIL import Image

    from tailseg.annotations.dataset import Annotations
    from tailseg.annotations.problems import Problem
    from tailseg.annotations.summary import ClassCount, Summary
    from tailseg.annotations.types import Group

_HELP = """\
usage: tailseg data show|check PATH|tiny_tail[:preset] [OPTIONS]

  show    what a data set contains: counts, frequency groups, sizes, the most and least frequent classes
  check   what is wrong with it: malformed records and missing images, by kind, with counts and remedies

`tailseg data show --help` says more.
"""
SHEET_COLUMNS = 4
GROUP_NAMES: "dict[Group, str]" = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass(frozen=True)
class DataShow:
    """Show what a data set contains.

    Counts, LVIS's frequency groups (rare: in 1 to 10 images, common: 11 to 100, frequent: more), sizes, and the most
    and least frequent classes. Reading checks the file: what is malformed in it is named.

    examples:
      tailseg data show my.json
      tailseg data show my.json --pictures examples.png       objects of each frequency group
      tailseg data show my.json --images photos --pictures examples.png
      tailseg data show tiny_tail:demo                        the data of `tailseg demo`
    """

    data: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file (COCO or LVIS format), or tiny_tail[:preset] for the embedded data set's training draw."""
    images: Path | None = None
    """Folder of the images, unless they lie beside the annotation file."""
    classes: int = 10
    """How many of the most and of the least frequent classes are listed."""
    pictures: Annotated[Path | None, Output("a picture")] = None
    """Draw examples of each frequency group into this picture file (.png, .jpg, .webp)."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""


@dataclass(frozen=True)
class DataCheck:
    """Check an annotation file and whether its images are there; exit code 1 if anything is wrong.

    Every kind of problem is listed with its count, the first records and what to do.

    examples:
      tailseg data check my.json
      tailseg data check my.json --images photos --decode     read every image as well
    """

    data: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file (COCO or LVIS format), or tiny_tail[:preset] for the embedded data set's training draw."""
    images: Path | None = None
    """Folder of the images, unless they lie beside the annotation file."""
    decode: bool = False
    """Read every image, and compare its size with the file's."""


def run(arguments: Sequence[str]) -> None:
    """Carry out `data show` or `data check`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        raise SystemExit(0 if arguments else 2)
    command, *rest = arguments
    if command == "show":
        show(parse(DataShow, rest, command="data show"))
    elif command == "check":
        if problems := check(parse(DataCheck, rest, command="data check")):
            output().print(problem_table(problems))
            raise SystemExit(1)
    else:
        raise UsageError(
            f"no command `data {command}`{suggestion(command, ['show', 'check'])}; there are `data show`, `data check`"
        )


def annotation_file(data: str) -> Path:
    """The file that the argument stands for."""
    from tailseg.data.tiny_tail import is_tiny_tail, prepare

    return prepare(data, progress=True)[0] if is_tiny_tail(data) else Path(data)


def check(options: DataCheck) -> "Sequence[Problem]":
    """What is wrong; nothing, after one line that says so, if all is well.

    Raises:
        DatasetError: it is no annotation file at all.
    """
    from tailseg.annotations.problems import DatasetError
    from tailseg.annotations.read import read_dataset
    from tailseg.data.check import image_problems

    try:
        annotations = read_dataset(annotation_file(options.data), images=options.images)
    except DatasetError as error:
        if not error.problems:
            raise
        return error.problems
    problems = image_problems(annotations, decode=options.decode)
    if not problems:
        numbers = f"{annotations.num_images:,} images, {annotations.num_objects:,} objects"
        output().print(
            f"{escape(str(annotations.path))}: nothing wrong in {numbers}, {annotations.num_classes:,} classes"
        )
    for note in annotations.notes:
        output().print(f"note: {escape(note)}")
    return problems


def problem_table(problems: "Sequence[Problem]") -> Table:
    """The kinds of problems, a row each."""
    table = Table(box=box.SIMPLE_HEAD, show_lines=True)
    for column in ("count", "problem", "first records", "what to do"):
        table.add_column(column, justify="right" if column == "count" else "left")
    for problem in problems:
        table.add_row(*map(escape, (f"{problem.count:,}", problem.what, "\n".join(problem.examples), problem.remedy)))
    return table


def show(options: DataShow) -> None:
    """Print what the data set contains, and draw examples."""
    from tailseg.annotations.read import read_dataset
    from tailseg.annotations.summary import summary

    if options.pictures:
        check_pictures(options)
    annotations = read_dataset(annotation_file(options.data), images=options.images)
    if options.pictures and options.pictures.exists():
        check_pictures(options, images_of(annotations))
    found = summary(annotations)
    for part in describe(annotations, found, options.classes):
        output().print(part)
    if options.pictures:
        write_picture(options.pictures, example_sheet(annotations, found), EXAMPLES)
        output().print(f"Examples: [bold]{escape(str(options.pictures))}[/]")


def check_pictures(options: DataShow, images: Iterable[Path] = ()) -> None:
    """Looks whether the picture may be written.

    Args:
        options: of the command.
        images: of the data set.
    """
    path = cast("Path", options.pictures)
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise UsageError(f"--pictures is a name that ends in {', '.join(PICTURE_FORMATS)}, got {path}")
    instead = "name another file (--pictures)"
    check_outputs(options, {path: SHEET}, instead=instead, inputs=images, overwrite=options.overwrite)


def images_of(annotations: "Annotations") -> Iterator[Path]:
    """The images of a data set that are there."""
    from tailseg.annotations.image_files import ImageError

    for index in range(annotations.num_images):
        with suppress(ImageError):
            yield Path(annotations.info(index).file)


def describe(annotations: "Annotations", found: "Summary", classes: int) -> list[RenderableType]:
    """The summary as tables and lines."""
    (width, height), share = found.image_sizes
    title = escape(str(annotations.path))
    overview = Table(title=title, box=None, show_header=False, title_justify="left", pad_edge=False)
    overview.add_row("format", annotations.format.upper() + ("" if found.with_masks else ", boxes without masks"))
    overview.add_row("images", f"{found.images:,}, of which {found.annotated_images:,} have objects")
    overview.add_row("objects", f"{found.objects:,}, and {found.ignored:,} crowd or ignore regions")
    overview.add_row("image size", f"{width} x {height} in {share:.0%} of the images")
    overview.add_row("objects an image", _quantiles(found.objects_per_image))
    overview.add_row("object size", _quantiles(found.object_sizes) + " pixels (root of the box's area)")
    groups = Table(box=box.SIMPLE_HEAD)
    for column in ("group", "in training images", "classes", "present", "objects", "share"):
        groups.add_column(column, justify="left" if column in ("group", "in training images") else "right")
    for group, range_ in zip(("f", "c", "r"), ("more than 100", "11 to 100", "up to 10"), strict=True):
        count = found.groups[group]
        part = f"{count.objects / max(found.objects, 1):.1%}"
        groups.add_row(GROUP_NAMES[group], range_, str(count.classes), str(count.present), f"{count.objects:,}", part)
    columns = Table.grid(padding=(0, 2))
    columns.add_row(
        _class_table("most frequent", found.most_frequent(classes)),
        _class_table("least frequent", found.least_frequent(classes)),
    )
    return [overview, groups, columns, *(f"note: {note}" for note in found.notes)]


def _quantiles(values: Sequence[float]) -> str:
    low, _, middle, _, high = values
    return f"median {middle:.0f}, nine in ten from {low:.0f} to {high:.0f}"


def _class_table(title: str, counts: "Sequence[ClassCount]") -> Table:
    from tailseg.evaluation.tables import name_text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", max_width=20, overflow="ellipsis", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("objects", justify="right")
    for count in counts:
        table.add_row(name_text(count.category.name), count.category.group, f"{count.images:,}", f"{count.objects:,}")
    return table


def example_sheet(annotations: "Annotations", found: "Summary") -> "Image.Image":
    """Frequent, common and rare classes, a row each: of a class the image with its largest object.

    Raises:
        ValueError: the data set has no objects.
        ImageError: an image is missing or cannot be read.
    """
    from tailseg.drawing import contact_sheet

    largest = largest_objects(annotations)
    labels = {category.id: label for label, category in enumerate(annotations.categories)}
    pictures, captions = [], []
    for group, name in reversed(GROUP_NAMES.items()):
        counts = [count for count in found.counts if count.category.group == group and count.objects]
        for count in counts[:: max(1, len(counts) // SHEET_COLUMNS)][:SHEET_COLUMNS]:
            label = labels[count.category.id]
            pictures.append(draw_class(annotations, largest[label], label))
            captions.append(f"{name}: {count.category.name}, {count.images:,} images")
    if not pictures:
        raise ValueError(f"{annotations.path} has no objects to draw")
    return contact_sheet(pictures, captions, columns=SHEET_COLUMNS, cell=(320, 320))


def largest_objects(annotations: "Annotations") -> dict[int, int]:
    """For each label that occurs, the image with its largest object."""
    objects = annotations.objects
    areas = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(axis=1)
    rows = [row for row in areas.argsort(kind="stable").tolist() if not objects.ignored[row]]
    images = objects.images
    return {int(objects.labels[row]): int(images[row]) for row in rows}


def draw_class(annotations: "Annotations", index: int, label: int) -> "Image.Image":
    """Image ``index`` with its objects of one class drawn in, in the colour of the class's group."""
    from PIL import Image

    from tailseg.data.images import read_image
    from tailseg.drawing import draw, ground_truth, select

    image = Image.fromarray(read_image(annotations.info(index)).permute(1, 2, 0).numpy())
    truth = ground_truth(annotations, index)
    names = [category.name for category in annotations.categories]
    groups = [category.group for category in annotations.categories]
    return draw(image, select(truth, truth.labels == label), names, groups, color_by="group", show_scores=False)
