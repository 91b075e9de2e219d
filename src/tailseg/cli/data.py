"""`tailseg data`: the command show; check is in `tailseg.cli.data_check`."""

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
from tailseg.cli.data_check import DataCheck, check, find_annotation_file
from tailseg.cli.file_kinds import SHEET
from tailseg.cli.outputs import check as check_outputs
from tailseg.files import EXAMPLES, PICTURE_FORMATS, Input, Output, write_picture
from tailseg.ranges import Range
from tailseg.words import count_noun

if TYPE_CHECKING:
    from PIL import Image

    from tailseg.annotations.dataset import Annotations
    from tailseg.annotations.summary import ClassCount, Summary
    from tailseg.annotations.types import Group

_HELP = """\
usage: tailseg data show|check PATH|tiny_tail[:preset] [OPTIONS]

  show    show the content of a data set: counts, frequency groups, sizes, the most and the least frequent classes
  check   check a data set: lists malformed records and missing images, and says what to do

See `tailseg data show --help` and `tailseg data check --help`.
"""
SHEET_COLUMNS = 4
UNLIMITED = 100_000
"""Width in columns of an output that is not a terminal."""
GROUP_NAMES: "dict[Group, str]" = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass(frozen=True)
class DataShow:
    """Show the content of a data set.

    The command prints counts, frequency groups (LVIS's bounds: rare in 1 to 10 images, common in 11 to 100, frequent in
    more), sizes, and the most and the least frequent classes. It also checks the file and names malformed records.

    examples:
      tailseg data show my.json
      tailseg data show my.json --pictures examples.png       objects of each frequency group
      tailseg data show my.json --images photos --pictures examples.png
      tailseg data show tiny_tail:demo                        the data of `tailseg demo`
    """

    data: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file (COCO or LVIS format), or tiny_tail[:preset] for the training set of the embedded data set."""
    images: Path | None = None
    """Folder of the images, if they are not next to the annotation file."""
    classes: Annotated[int, Range(ge=0)] = 10
    """Number of the most and of the least frequent classes to list."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups: 5 30 makes a class rare up to 5 images, common up to 30 and frequent above. They
    replace groups that the file states (LVIS's "frequency"). None uses stated groups, else 10 100."""
    pictures: Annotated[Path | None, Output("a picture")] = None
    """Draw examples of each frequency group into this picture file (.png, .jpg, .webp)."""
    overwrite: bool = False
    """Replace existing files of other kinds; input files are never replaced."""


def run(arguments: Sequence[str]) -> None:
    """Runs `data show` or `data check`."""
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
    """Prints the content of a data set and draws examples."""
    from tailseg.annotations.dataset import with_group_bounds
    from tailseg.annotations.read import read_dataset
    from tailseg.annotations.summary import summarize

    if options.pictures:
        check_pictures(options)
    annotations = read_dataset(find_annotation_file(options.data), images=options.images)
    if options.groups is not None:
        annotations = with_group_bounds(annotations, options.groups)
    if options.pictures and options.pictures.exists():
        check_pictures(options, list_image_files(annotations))
    content = summarize(annotations)
    console = output()
    if not console.is_terminal:
        console.width = UNLIMITED  # names in a file or a pipe are not cut or wrapped
    for part in describe(annotations, content, options.classes, cut=console.is_terminal):
        console.print(part)
    if options.pictures:
        write_picture(options.pictures, draw_example_sheet(annotations, content), EXAMPLES)
        output().print(f"Examples: [bold]{escape(str(options.pictures))}[/]")


def check_pictures(options: DataShow, images: Iterable[Path] = ()) -> None:
    """Checks that the picture may be written.

    Args:
        options: the options of the command.
        images: the image files of the data set.
    """
    path = cast("Path", options.pictures)
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise UsageError(f"--pictures must end in {', '.join(PICTURE_FORMATS)}, got {path}")
    instead = "name another file (--pictures)"
    check_outputs(options, {path: SHEET}, instead=instead, inputs=images, overwrite=options.overwrite)


def list_image_files(annotations: "Annotations") -> Iterator[Path]:
    """Lists the image files of a data set that exist."""
    from tailseg.annotations.image_files import ImageError

    for index in range(annotations.num_images):
        with suppress(ImageError):
            yield Path(annotations.get_info(index).file)


def describe(annotations: "Annotations", content: "Summary", classes: int, *, cut: bool) -> list[RenderableType]:
    """Formats a summary as tables and lines.

    Args:
        annotations: the data set.
        content: its summary.
        classes: number of the most and of the least frequent classes.
        cut: whether names are cut to fit a terminal.

    Returns:
        The parts to print.
    """
    (width, height), share = content.image_sizes
    title = f"[italic]{escape(str(annotations.path))}[/]"
    overview = Table(box=None, show_header=False, pad_edge=False)
    overview.add_row("format", annotations.format.upper() + ("" if content.with_masks else ", boxes without masks"))
    overview.add_row("images", f"{content.images:,}; {content.annotated_images:,} with objects")
    overview.add_row("objects", f"{content.objects:,}, and {count_noun(content.ignored, 'crowd or ignore region')}")
    overview.add_row("image size", f"{width} x {height} in {share:.0%} of the images")
    overview.add_row("objects per image", _format_quantiles(content.objects_per_image))
    overview.add_row("object size", _format_quantiles(content.object_sizes) + " pixels (square root of the box's area)")
    groups = Table(box=box.SIMPLE_HEAD)
    for column in ("group", "in training images", "classes", "present", "objects", "share"):
        groups.add_column(column, justify="left" if column in ("group", "in training images") else "right")
    rare, common = annotations.group_bounds
    ranges = f"more than {common:,}", f"{rare + 1:,} to {common:,}", f"up to {rare:,}"
    for group, range_ in zip(("f", "c", "r"), ranges, strict=True):
        count = content.groups[group]
        part = f"{count.objects / max(content.objects, 1):.1%}"
        groups.add_row(GROUP_NAMES[group], range_, str(count.classes), str(count.present), f"{count.objects:,}", part)
    columns = Table.grid(padding=(0, 2))
    columns.add_row(
        _make_class_table("most frequent", content.most_frequent(classes), cut=cut),
        _make_class_table("least frequent", content.least_frequent(classes), cut=cut),
    )
    return [title, overview, groups, columns, *(f"note: {note}" for note in content.notes)]


def _format_quantiles(values: Sequence[float]) -> str:
    low, _, middle, _, high = values
    return f"median {middle:.0f}, 90 % from {low:.0f} to {high:.0f}"


def _make_class_table(title: str, counts: "Sequence[ClassCount]", *, cut: bool) -> Table:
    from tailseg.evaluation.tables import format_name

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", max_width=20 if cut else None, overflow="ellipsis", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("objects", justify="right")
    for count in counts:
        table.add_row(format_name(count.category.name), count.category.group, f"{count.images:,}", f"{count.objects:,}")
    return table


def draw_example_sheet(annotations: "Annotations", content: "Summary") -> "Image.Image":
    """Draws an example image of frequent, common and rare classes, one row per group.

    Each class shows the image with its largest object.

    Raises:
        ValueError: the data set has no objects.
        ImageError: an image is missing or cannot be read.
    """
    from tailseg.drawing import contact_sheet

    largest = find_largest_objects(annotations)
    labels = {category.id: label for label, category in enumerate(annotations.categories)}
    pictures, captions = [], []
    for group, name in reversed(GROUP_NAMES.items()):
        counts = [count for count in content.counts if count.category.group == group and count.objects]
        for count in counts[:: max(1, len(counts) // SHEET_COLUMNS)][:SHEET_COLUMNS]:
            label = labels[count.category.id]
            pictures.append(draw_class(annotations, largest[label], label))
            captions.append(f"{name}: {count.category.name}, {count_noun(count.images, 'image')}")
    if not pictures:
        raise ValueError(f"{annotations.path} has no objects to draw")
    return contact_sheet(pictures, captions, columns=SHEET_COLUMNS, cell=(320, 320))


def find_largest_objects(annotations: "Annotations") -> dict[int, int]:
    """Finds the image with the largest object of each class, by label."""
    objects = annotations.objects
    areas = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(axis=1)
    rows = [row for row in areas.argsort(kind="stable").tolist() if not objects.ignored[row]]
    images = objects.images
    return {int(objects.labels[row]): int(images[row]) for row in rows}


def draw_class(annotations: "Annotations", index: int, label: int) -> "Image.Image":
    """Draws the objects of one class into an image, in the color of the class's group.

    Args:
        annotations: the data set.
        index: index of the image.
        label: label of the class.

    Returns:
        The picture.
    """
    from PIL import Image

    from tailseg.data.images import read_image
    from tailseg.drawing import draw, read_ground_truth

    image = Image.fromarray(read_image(annotations.get_info(index)).permute(1, 2, 0).numpy())
    truth = read_ground_truth(annotations, index)
    names = [category.name for category in annotations.categories]
    groups = [category.group for category in annotations.categories]
    return draw(image, truth.select(truth.labels == label), names, groups, color_by="group", show_scores=False)
