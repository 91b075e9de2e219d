"""`tailseg data`: the command show; check is in `tailseg.cli.data_check`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from tailseg.cli import data_edit, data_errors
from tailseg.cli.common import UsageError, output, parse, suggestion
from tailseg.cli.data_check import DataCheck, check, find_annotation_file, say
from tailseg.cli.data_convert import DataExport, DataImport, export_labels, import_labels
from tailseg.cli.data_edit import DataFederate, DataFilter, DataMerge, DataRemap, DataSample, DataSplit
from tailseg.cli.data_errors import DataApply, DataErrors, DataNext
from tailseg.cli.file_kinds import PAGE, SHEET
from tailseg.cli.outputs import check as check_outputs
from tailseg.data.settings import RepeatThreshold, Sampling
from tailseg.files import EXAMPLES, PICTURE_FORMATS, Input, Output, write_picture, write_text
from tailseg.ranges import Range
from tailseg.words import count_noun

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.annotations.summary import ClassCount, Summary
    from tailseg.annotations.types import Group
    from tailseg.data.epoch_plan import Exposure

_HELP = """\
usage: tailseg data COMMAND PATH|tiny_tail[:preset] [OPTIONS]

  show    show the content of a data set: counts, frequency groups, sizes, the most and the least frequent classes
  check   check a data set: lists malformed records and missing images, and says what to do
  import  convert labels of another format (YOLO, VOC, LabelMe, CVAT, ...) to a COCO or LVIS file
  export  write a data set, or detections, in another format (YOLO, VOC, LabelMe, CVAT, ...)
  split   split a data set into training, validation and test files, or into folds: every class on both sides
  merge, filter, remap, sample, federate     new annotation files from others
  errors  find label errors with a trained run: wrong classes, missing objects, bad outlines and duplicates
  apply   write a copy of a file with the label errors repaired that you confirmed
  next    rank unlabeled images by the rare objects that they probably hold

See `tailseg data COMMAND --help`.
"""
COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "import": (DataImport, import_labels),
    "export": (DataExport, export_labels),
    "split": (DataSplit, data_edit.split),
    "merge": (DataMerge, data_edit.merge),
    "filter": (DataFilter, data_edit.keep),
    "remap": (DataRemap, data_edit.remap),
    "sample": (DataSample, data_edit.sample),
    "federate": (DataFederate, data_edit.federate),
    "errors": (DataErrors, data_errors.errors),
    "apply": (DataApply, data_errors.apply),
    "next": (DataNext, data_errors.rank_next),
}
"""The commands besides show and check: their options and functions."""
PAGE_FORMATS = (".html", ".htm")
UNLIMITED = 100_000
"""Width in columns of an output that is not a terminal."""
GROUP_NAMES: "dict[Group, str]" = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass(frozen=True)
class DataShow:
    """Show the content of a data set.

    The command prints counts, frequency groups (LVIS's bounds: rare in 1 to 10 images, common in 11 to 100, frequent in
    more), sizes, and the most and the least frequent classes. It also checks the file and names malformed records.
    For each group and each listed class it prints how often an epoch shows them. The defaults are those of
    `tailseg train my.json`, which holds out a tenth of the images first.

    examples:
      tailseg data show my.json
      tailseg data show my.json --sampling class_aware        how often would an epoch show each group?
      tailseg data show my.json --repeat-threshold auto --classes 1000
      tailseg data show my.json --pictures examples.png       objects of each frequency group
      tailseg data show my.json --page show.html              all of it as a page, with charts and the rarest classes
      tailseg data show my.json --images photos --pictures examples.png
      tailseg data show tiny_tail:demo                        the data of `tailseg demo`
    """

    data: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file (COCO or LVIS format), or tiny_tail[:preset] for the training set of the embedded data set."""
    images: Path | None = None
    """Folder of the images, if they are not next to the annotation file."""
    classes: Annotated[int, Range(ge=0)] = 10
    """Number of the most and of the least frequent classes to list."""
    sampling: Sampling = "repeat"
    """The sampling that the last columns describe, see data.sampling of `tailseg train`."""
    repeat_threshold: Annotated[RepeatThreshold, Range(ge=0, le=1)] = 0.01
    """Threshold of the repeat factors: a share of the images, or auto; 0 is plain random sampling."""
    repeat_exponent: Annotated[float | None, Range(ge=0)] = None
    """Exponent of the sampling; None is the published one."""
    repeat_rounding: Literal["ceil", "stochastic"] = "ceil"
    """Rounding of the repeat factors."""
    batch_size: Annotated[int, Range(ge=1)] = 8
    """Images per step. The last step of an epoch is filled up."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups: 5 30 makes a class rare up to 5 images, common up to 30 and frequent above. They
    replace groups that the file states (LVIS's "frequency"). None uses stated groups, else 10 100."""
    pictures: Annotated[Path | None, Output("a picture")] = None
    """Draw examples of each frequency group into this picture file (.png, .jpg, .webp)."""
    page: Annotated[Path | None, Output("an HTML file")] = None
    """Write a page into this HTML file: counts, sizes and positions of all classes, pictures of the rarest ones, which
    classes come together, and what the sampling shows. The file opens in a browser and needs no network."""
    overwrite: bool = False
    """Replace existing files of other kinds; input files are never replaced."""


def run(arguments: Sequence[str]) -> None:
    """Runs a command of `tailseg data`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        raise SystemExit(0 if arguments else 2)
    command, *rest = arguments
    if command == "show":
        show(parse(DataShow, rest, command="data show"))
    elif command == "check":
        if not check(parse(DataCheck, rest, command="data check")):
            raise SystemExit(1)
    elif command in COMMANDS:
        options, work = COMMANDS[command]
        work(parse(options, rest, command=f"data {command}"))
    else:
        names = ["show", "check", *COMMANDS]
        there = ", ".join(f"`data {name}`" for name in names)
        raise UsageError(f"no command `data {command}`{suggestion(command, names)}; there are {there}")


def show(options: DataShow) -> None:
    """Prints the content of a data set and draws examples."""
    from tailseg.annotations.dataset import with_group_bounds
    from tailseg.annotations.read import read_dataset
    from tailseg.annotations.summary import summarize

    if options.sampling in ("instance_repeat", "exponential_repeat") and options.repeat_threshold == 0:
        raise UsageError(f"--sampling {options.sampling} repeats no image with --repeat-threshold 0: give a threshold")
    check_targets(options)
    annotations = read_dataset(find_annotation_file(options.data), images=options.images)
    if options.groups is not None:
        annotations = with_group_bounds(annotations, options.groups)
    if any(path is not None and path.exists() for path in (options.pictures, options.page)):
        check_targets(options, list_image_files(annotations))
    content = summarize(annotations)
    console = output()
    if not console.is_terminal:
        console.width = UNLIMITED  # names in a file or a pipe are not cut or wrapped
    exposure = plan_exposure(annotations, options)
    for part in describe(annotations, content, options, exposure, cut=console.is_terminal):
        console.print(part)
    if options.pictures:
        from tailseg.report.example_sheet import draw_example_sheet

        write_picture(options.pictures, draw_example_sheet(annotations, content), EXAMPLES)
        output().print(f"Examples: [bold]{escape(str(options.pictures))}[/]")
    if options.page:
        write_page(options.page, annotations, content, options)


def write_page(path: Path, annotations: "Annotations", content: "Summary", options: DataShow) -> None:
    """Writes the page, and prints its name and why pictures are missing.

    Args:
        path: the file.
        annotations: the data set.
        content: its summary.
        options: the options of the command.
    """
    from tailseg.report.data_page import render, sample

    sampled = None
    if annotations.objects.trainable.any():
        sampled = sample(annotations, describe_sampling(options), options.batch_size, **list_plan_options(options))
    text, problem, num_pictures = render(annotations, content, sampled, options.batch_size)
    write_text(path, text)
    if problem:
        missing = "some pictures of" if num_pictures else "pictures of"
        say(f"note: the page is without {missing} the rarest classes: {problem}")
    output().print(f"Page: [bold]{escape(str(path))}[/]")


def check_targets(options: DataShow, images: Iterable[Path] = ()) -> None:
    """Checks that the picture and the page may be written.

    Args:
        options: the options of the command.
        images: the image files of the data set.
    """
    if options.pictures and options.pictures.suffix.lower() not in PICTURE_FORMATS:
        raise UsageError(f"--pictures must end in {', '.join(PICTURE_FORMATS)}, got {options.pictures}")
    if options.page and options.page.suffix.lower() not in PAGE_FORMATS:
        raise UsageError(f"--page must end in {' or '.join(PAGE_FORMATS)}, got {options.page}")
    images = list(images)
    for path, kind, name in ((options.pictures, SHEET, "--pictures"), (options.page, PAGE, "--page")):
        if path:
            instead = f"name another file ({name})"
            check_outputs(options, {path: kind}, instead=instead, inputs=images, overwrite=options.overwrite)


def list_image_files(annotations: "Annotations") -> Iterator[Path]:
    """Lists the image files of a data set that exist."""
    from tailseg.annotations.image_files import ImageError

    for index in range(annotations.num_images):
        with suppress(ImageError):
            yield Path(annotations.get_info(index).file)


def plan_exposure(annotations: "Annotations", options: DataShow) -> "Exposure | None":
    """Computes how often an epoch shows each class; None without an object to train on.

    Args:
        annotations: the data set.
        options: the options of the command.

    Returns:
        The expected numbers of an epoch.
    """
    from tailseg.data.epoch_plan import compute_exposure, plan_epoch

    if not annotations.objects.trainable.any():
        return None
    return compute_exposure(annotations, plan_epoch(annotations, **list_plan_options(options)), options.batch_size)


def list_plan_options(options: DataShow) -> dict[str, Any]:
    """The arguments of `plan_epoch` in the options."""
    return {
        "sampling": options.sampling,
        "threshold": options.repeat_threshold,
        "exponent": options.repeat_exponent,
        "rounding": options.repeat_rounding,
    }


def describe(
    annotations: "Annotations", content: "Summary", options: DataShow, exposure: "Exposure | None", *, cut: bool
) -> list[RenderableType]:
    """Formats a summary as tables and lines.

    Args:
        annotations: the data set.
        content: its summary.
        options: the options of the command.
        exposure: how often an epoch shows each class; None if nothing can be trained.
        cut: whether names are cut to fit a terminal.

    Returns:
        The parts to print.
    """
    (width, height), share = content.image_sizes
    title = f"[italic]{escape(str(annotations.path))}[/]"
    overview = Table(box=None, show_header=False, pad_edge=False)
    read_as = [problem.detail for problem in annotations.problems if problem.kind.name == "other_format"]
    form = read_as[0] if read_as else annotations.format.upper()
    overview.add_row("format", form + ("" if content.with_masks else ", boxes without masks"))
    overview.add_row("images", f"{content.images:,}; {content.annotated_images:,} with objects")
    overview.add_row("objects", f"{content.objects:,}, and {count_noun(content.ignored, 'crowd or ignore region')}")
    overview.add_row("image size", f"{width} x {height} in {share:.0%} of the images")
    overview.add_row("objects per image", _format_quantiles(content.objects_per_image))
    overview.add_row("object size", _format_quantiles(content.object_sizes) + " pixels (square root of the box's area)")
    if exposure is not None:
        overview.add_row("an epoch", _describe_epoch(exposure, options))
    shown = {} if exposure is None else _map_to_categories(annotations, exposure)
    groups = Table(box=box.SIMPLE_HEAD)
    for column in ("group", "in training images", "classes", "present", "objects", "share", "in an epoch", "times"):
        groups.add_column(column, justify="left" if column in ("group", "in training images") else "right")
    rare, common = annotations.group_bounds
    ranges = f"more than {common:,}", f"{rare + 1:,} to {common:,}", f"up to {rare:,}"
    for group, range_ in zip(("f", "c", "r"), ranges, strict=True):
        count = content.groups[group]
        part = f"{count.objects / max(content.objects, 1):.1%}"
        in_epoch = sum(shown.get(c.category.id, 0.0) for c in content.counts if c.category.group == group)
        times = _format_times(in_epoch, count.objects)
        names = GROUP_NAMES[group], range_, str(count.classes), str(count.present)
        groups.add_row(*names, f"{count.objects:,}", part, f"{in_epoch:,.0f}", times)
    columns = Table.grid(padding=(0, 2))
    columns.add_row(
        _make_class_table("most frequent", content.most_frequent(options.classes), shown, cut=cut),
        _make_class_table("least frequent", content.least_frequent(options.classes), shown, cut=cut),
    )
    return [title, overview, groups, columns, *(f"note: {note}" for note in content.notes)]


def _describe_epoch(exposure: "Exposure", options: DataShow) -> str:
    steps = round(float(exposure.draws.sum()) / options.batch_size)
    images = count_noun(options.batch_size, "image")
    return f"{count_noun(steps, 'step')} of {images}, sampling {describe_sampling(options)}"


def describe_sampling(options: DataShow) -> str:
    """The chosen sampling in words."""
    exponent = "" if options.repeat_exponent is None else f", exponent {options.repeat_exponent:g}"
    threshold = options.repeat_threshold
    by_threshold = f", threshold {threshold}" if options.sampling not in ("class_aware", "balanced") else ""
    return f"{options.sampling}{by_threshold}{exponent}"


def _map_to_categories(annotations: "Annotations", exposure: "Exposure") -> dict[int, float]:
    """The objects that an epoch shows, by category id."""
    ids = [category.id for category in annotations.categories]
    return dict(zip(ids, exposure.objects.tolist(), strict=True))


def _format_times(in_epoch: float, objects: int) -> str:
    return f"{in_epoch / objects:.2f}" if objects else ""


def _format_quantiles(values: Sequence[float]) -> str:
    low, _, middle, _, high = values
    return f"median {middle:.0f}, 90 % from {low:.0f} to {high:.0f}"


def _make_class_table(title: str, counts: "Sequence[ClassCount]", shown: dict[int, float], *, cut: bool) -> Table:
    from tailseg.evaluation.tables import format_name

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", max_width=20 if cut else None, overflow="ellipsis", no_wrap=True)
    table.add_column("", no_wrap=True)
    for column in ("images", "objects", "times"):
        table.add_column(column, justify="right")
    for count in counts:
        category = count.category
        times = _format_times(shown.get(category.id, 0.0), count.objects)
        table.add_row(format_name(category.name), category.group, f"{count.images:,}", f"{count.objects:,}", times)
    return table
