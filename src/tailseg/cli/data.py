"""`tailseg data`: show; check stands in `tailseg.cli.data_check`."""

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
from tailseg.cli.data_check import DataCheck, annotation_file, check
from tailseg.cli.file_kinds import SHEET
from tailseg.cli.outputs import check as check_outputs
from tailseg.files import EXAMPLES, PICTURE_FORMATS, Input, Output, write_picture
from tailseg.ranges import Range

if TYPE_CHECKING:
    from PIL import Image

    from tailseg.annotations.dataset import Annotations
    from tailseg.annotations.summary import ClassCount, Summary
    from tailseg.annotations.types import Group

_HELP = """\
usage: tailseg data show|check PATH|tiny_tail[:preset] [OPTIONS]

  show    what a data set contains: counts, frequency groups, sizes, the most and least frequent classes
  check   what is wrong with it: malformed records and missing images, what they stop and what to do about them

`tailseg data show --help` and `tailseg data check --help` say more.
"""
SHEET_COLUMNS = 4
UNLIMITED = 100_000
"""Columns of an output that is no terminal."""
GROUP_NAMES: "dict[Group, str]" = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass(frozen=True)
class DataShow:
    """Show what a data set contains.

    Counts, frequency groups (LVIS's bounds: rare in 1 to 10 images, common in 11 to 100, frequent in more), sizes, and
    the most and least frequent classes. Reading checks the file: what is malformed in it is named.

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
    classes: Annotated[int, Range(ge=0)] = 10
    """How many of the most and of the least frequent classes are listed."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups: 5 30 makes a class rare up to 5 images, common up to 30 and frequent above. They
    replace groups that the file states (LVIS's "frequency"). None uses stated groups, else 10 100."""
    pictures: Annotated[Path | None, Output("a picture")] = None
    """Draw examples of each frequency group into this picture file (.png, .jpg, .webp)."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""


def run(arguments: Sequence[str]) -> None:
    """Carry out `data show` or `data check`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        raise SystemExit(0 if arguments else 2)
    command, *rest = arguments
    if command == "show":
        show(parse(DataShow, rest, command="data show"))
    elif command == "check":
        if not check(parse(DataCheck, rest, command="data check")):
            raise SystemExit(1)
    else:
        raise UsageError(
            f"no command `data {command}`{suggestion(command, ['show', 'check'])}; there are `data show`, `data check`"
        )


def show(options: DataShow) -> None:
    """Print what the data set contains, and draw examples."""
    from tailseg.annotations.dataset import with_group_bounds
    from tailseg.annotations.read import read_dataset
    from tailseg.annotations.summary import summary

    if options.pictures:
        check_pictures(options)
    annotations = read_dataset(annotation_file(options.data), images=options.images)
    if options.groups is not None:
        annotations = with_group_bounds(annotations, options.groups)
    if options.pictures and options.pictures.exists():
        check_pictures(options, images_of(annotations))
    found = summary(annotations)
    console = output()
    if not console.is_terminal:
        console.width = UNLIMITED  # names in a file or a pipe are neither cut nor wrapped
    for part in describe(annotations, found, options.classes, cut=console.is_terminal):
        console.print(part)
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


def describe(annotations: "Annotations", found: "Summary", classes: int, *, cut: bool) -> list[RenderableType]:
    """The summary as tables and lines; ``cut``: names are, to fit a terminal."""
    (width, height), share = found.image_sizes
    title = f"[italic]{escape(str(annotations.path))}[/]"
    overview = Table(box=None, show_header=False, pad_edge=False)
    overview.add_row("format", annotations.format.upper() + ("" if found.with_masks else ", boxes without masks"))
    overview.add_row("images", f"{found.images:,}, of which {found.annotated_images:,} have objects")
    overview.add_row("objects", f"{found.objects:,}, and {found.ignored:,} crowd or ignore regions")
    overview.add_row("image size", f"{width} x {height} in {share:.0%} of the images")
    overview.add_row("objects an image", _quantiles(found.objects_per_image))
    overview.add_row("object size", _quantiles(found.object_sizes) + " pixels (root of the box's area)")
    groups = Table(box=box.SIMPLE_HEAD)
    for column in ("group", "in training images", "classes", "present", "objects", "share"):
        groups.add_column(column, justify="left" if column in ("group", "in training images") else "right")
    rare, common = annotations.group_bounds
    ranges = f"more than {common:,}", f"{rare + 1:,} to {common:,}", f"up to {rare:,}"
    for group, range_ in zip(("f", "c", "r"), ranges, strict=True):
        count = found.groups[group]
        part = f"{count.objects / max(found.objects, 1):.1%}"
        groups.add_row(GROUP_NAMES[group], range_, str(count.classes), str(count.present), f"{count.objects:,}", part)
    columns = Table.grid(padding=(0, 2))
    columns.add_row(
        _class_table("most frequent", found.most_frequent(classes), cut=cut),
        _class_table("least frequent", found.least_frequent(classes), cut=cut),
    )
    return [title, overview, groups, columns, *(f"note: {note}" for note in found.notes)]


def _quantiles(values: Sequence[float]) -> str:
    low, _, middle, _, high = values
    return f"median {middle:.0f}, nine in ten from {low:.0f} to {high:.0f}"


def _class_table(title: str, counts: "Sequence[ClassCount]", *, cut: bool) -> Table:
    from tailseg.evaluation.tables import format_name

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", max_width=20 if cut else None, overflow="ellipsis", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("objects", justify="right")
    for count in counts:
        table.add_row(format_name(count.category.name), count.category.group, f"{count.images:,}", f"{count.objects:,}")
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
    """Image ``index`` with its objects of one class drawn in, in the color of the class's group."""
    from PIL import Image

    from tailseg.data.images import read_image
    from tailseg.drawing import draw, read_ground_truth

    image = Image.fromarray(read_image(annotations.info(index)).permute(1, 2, 0).numpy())
    truth = read_ground_truth(annotations, index)
    names = [category.name for category in annotations.categories]
    groups = [category.group for category in annotations.categories]
    return draw(image, truth.select(truth.labels == label), names, groups, color_by="group", show_scores=False)
