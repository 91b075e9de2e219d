"""The analysis as tables for the terminal, 76 characters wide or less."""

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from tailseg.evaluation.analysis import Analysis
from tailseg.evaluation.comparison import Comparison, Difference
from tailseg.evaluation.errors import KINDS, Errors, Kind, Part
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.metrics import COLUMNS, ROW_NAMES, IouType, format_percent
from tailseg.evaluation.slices import Slices
from tailseg.evaluation.thresholds import Thresholds

SHORT: dict[Kind, str] = {
    "classification": "Cls",
    "localization": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}
"""TIDE's names of the kinds."""
SLICE_NOTES = (
    "interval: of AP, 95 %. expected: AP of as many images drawn at random, over the same classes. chance: the "
    "difference is not larger than chance. By chance alone 1 value in 20 is called better or worse"
)
SHORT_VERDICTS = {"better": "better", "worse": "worse", "not larger than chance": "chance", "unknown": "-"}
PART_NAMES: dict[Part, str] = {"all": "all", "r": "rare", "c": "common", "f": "frequent"}


def build_tables(analysis: Analysis) -> Iterator[Table]:
    """Scores, then errors by group, reliability by group and slices, of masks where there are any."""
    yield build_scores_table(analysis)
    iou_type = "segm" if "segm" in analysis.errors else "bbox"
    parts = analysis.errors[iou_type].parts
    title = f"Errors of {ROW_NAMES[iou_type]} at IoU 0.5, and the AP50 that they cost"
    errors = _build_table(title, "classes", "objects", "found", *SHORT.values())
    for part, kinds in parts.items():
        counts = (f"{kinds.counts[kind]:,}\n{_format_signed(kinds.cost[kind])}" for kind in KINDS)
        errors.add_row(PART_NAMES[part], f"{kinds.num_objects:,}", f"{kinds.found:,}", *counts)
    yield errors
    if analysis.reliability[iou_type]:
        columns = "detections", "expected error", "score - precision"
        calibration = _build_table("Do scores mean precision? (IoU 0.5, in percent)", "classes", *columns)
        for part, found in analysis.reliability[iou_type].items():
            calibration.add_row(
                PART_NAMES[part], f"{found.count:,}", format_percent(found.expected_error), _format_signed(found.bias)
            )
        yield calibration
    if analysis.slices:
        yield from build_slice_tables(analysis.slices)


def build_slice_tables(slices: Slices) -> Iterator[Table]:
    """A table for each field, of masks where there are any."""
    iou_type: IouType = "segm" if "segm" in slices else "bbox"
    fields = dict.fromkeys(entry.field for entry in slices[iou_type])
    for number, field in enumerate(fields, start=1):
        entries = [entry for entry in slices[iou_type] if entry.field == field]
        groups = [name for name in ("APr", "APc", "APf") if name in entries[0].figures]
        columns = "images", "classes", "AP", "interval", *(groups or ("AP50", "AR")), "expected", "AP is"
        table = _build_table(f"{ROW_NAMES[iou_type].capitalize()} by {field}, in percent", "value", *columns)
        for entry in entries:
            AP, others = entry.figures["AP"], [entry.figures[name] for name in groups or ("AP50", "AR")]
            table.add_row(
                format_name(entry.value),
                *(f"{count:,}" for count in (entry.num_images, entry.num_classes)),
                format_percent(AP.value),
                "-" if AP.low is None else f"{format_percent(AP.low)} .. {format_percent(AP.high)}",
                *(format_percent(figure.value) for figure in others),
                format_percent(AP.expected),
                SHORT_VERDICTS[AP.difference.verdict],
            )
        if number == len(fields):
            notes = SLICE_NOTES, *slices.notes
            table.caption, table.caption_justify = Text("\n".join(notes), "table.caption"), "left"
        yield table


def build_threshold_table(thresholds: Thresholds) -> Table:
    """Macro and micro F1 of each part of the classes, with one threshold and with one for each class."""
    title = f"F1 of {ROW_NAMES[thresholds.iou_type]} at IoU 0.5, in percent, with 95 % intervals"
    table = _build_table(title, "", "classes", "one", "by class", "gain", "interval", "by class is")
    members = {part: [entry for entry in thresholds.classes if part in ("all", entry.group)] for part in thresholds.f1}
    for average in ("macro", "micro"):
        for part, found in thresholds.f1.items():
            entry, count = found[average], sum(one.num_objects > 0 for one in members[part])
            table.add_row(
                f"{average}, {PART_NAMES[part]}",
                f"{count:,}",
                *_format_difference(entry),
                SHORT_VERDICTS[entry.verdict],
            )
    caption = (
        f"one: the threshold with the best micro F1. Each of {thresholds.folds} parts of the images is judged with "
        "thresholds found on the others.\nmacro: mean over the classes with objects; micro: all detections together"
    )
    table.caption, table.caption_justify = Text(caption, "table.caption"), "left"
    return table


def build_scores_table(analysis: Analysis) -> Table:
    """`Metrics.table`, with AP-fixed below each row and boundary AP at the end."""
    table = analysis.metrics.table()
    for iou_type, scores in analysis.fixed.items():
        table.add_row(f"{ROW_NAMES[iou_type][0]}. fixed", *(format_percent(scores[column]) for column in COLUMNS))
    if analysis.boundary:
        table.add_row("outline", *(format_percent(analysis.boundary[column]) for column in COLUMNS))
    return table


def _build_table(title: str, first: str, *columns: str) -> Table:
    """A table of figures, which are never cut; where it gets narrow, the first column is folded."""
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def format_name(name: str) -> Text:
    """A class's name, whatever it holds: brackets are no markup, and nothing in it moves the cursor."""
    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name))


def _format_signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def build_class_table(analysis: Analysis, count: int) -> Table:
    """The classes of lowest AP, of masks where there are any; classes without objects are left out."""
    iou_type = "segm" if "segm" in analysis.errors else "bbox"
    entries = zip(analysis.metrics.per_class[iou_type], analysis.errors[iou_type].per_class.tolist(), strict=True)
    scored = sorted(
        ((entry.AP, entry, counts) for entry, counts in entries if entry.AP is not None), key=lambda x: x[0]
    )
    columns = "", "obj.", "AP", "AP50", "AR", *SHORT.values()  # names are long, and want the room
    table = _build_table(f"Classes of lowest AP, {ROW_NAMES[iou_type]}", "class", *columns)
    for _, entry, counts in scored[:count]:
        scores = (format_percent(value) for value in (entry.AP, entry.AP50, entry.AR))
        table.add_row(format_name(entry.name), entry.group or "-", f"{entry.num_objects:,}", *scores, *map(str, counts))
    return table


def build_comparison_tables(
    comparison: Comparison, errors: tuple[Errors, Errors], truth: GroundTruth, iou_type: IouType, count: int
) -> Iterator[Table]:
    """Builds the tables of differences, of the classes whose AP changed most, and of the errors before and after.

    Args:
        comparison: the differences of the figures.
        errors: the errors of the first and of the second run.
        truth: the ground truth.
        iou_type: what overlaps: boxes or masks.
        count: how many classes are listed.

    Returns:
        The tables, one after the other.
    """
    title = f"{ROW_NAMES[iou_type].capitalize()}, in percent, with 95 % intervals"
    figures = _build_table(title, "", "A", "B", "B - A", "interval", "B is")
    for name, entry in comparison.figures.items():
        figures.add_row(name, *_format_difference(entry), entry.verdict)
    yield figures
    moved = comparison.largest_changes(count)
    if moved:
        title = f"Classes whose AP changed most, {ROW_NAMES[iou_type]} (by chance alone 1 in 20 leaves its interval)"
        classes = _build_table(title, "class", "group", "objects", "A", "B", "B - A", "interval")
        names = list(truth.categories.values())
        for index in moved:
            objects = f"{int(truth.object_counts[index]):,}"
            entry = comparison.classes[index]
            classes.add_row(
                format_name(names[index]), truth.class_groups[index] or "-", objects, *_format_difference(entry)
            )
        yield classes
    kinds = _build_table(f"Errors of {ROW_NAMES[iou_type]} at IoU 0.5, A and B", "classes", "found", *SHORT.values())
    before, after = (each.parts for each in errors)
    for part, first in before.items():
        second = after[part]
        pairs = [(first.found, second.found), *((first.counts[kind], second.counts[kind]) for kind in SHORT)]
        kinds.add_row(PART_NAMES[part], *(f"{a:,}\n{b:,}" for a, b in pairs))
    yield kinds


def _format_difference(entry: Difference) -> tuple[str, str, str, str]:
    interval = (
        "-"
        if entry.low is None or entry.high is None
        else f"{_format_signed(entry.low)} .. {_format_signed(entry.high)}"
    )
    return format_percent(entry.before), format_percent(entry.after), _format_signed(entry.difference), interval
