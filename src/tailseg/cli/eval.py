"""`tailseg eval`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import tyro

from tailseg.cli.common import output, parse
from tailseg.cli.file_kinds import ANALYSIS, CLASSES, MARKDOWN_MARK, SCORES, SLICES, TABLES
from tailseg.cli.outputs import Kind, check
from tailseg.cli.results import check_groups_option, find_sources, progress_bars
from tailseg.files import Output, write_text
from tailseg.ranges import Range

if TYPE_CHECKING:
    from rich.table import Table

    from tailseg.evaluation import Analysis

KINDS: Final = {
    "metrics.json": ANALYSIS,
    "tables.md": TABLES,
    "scores.csv": SCORES,
    "classes.csv": CLASSES,
    "slices.csv": SLICES,
}
"""The files that the command writes."""


@dataclass(frozen=True)
class Eval:
    """Score a results file of any framework: LVIS AP if the annotation file has LVIS's lists, COCO AP if not.

    The command prints AP by frequency group and size, AP-fixed, the kinds of error and the cost of each kind, and
    whether scores mean precision. --by site prints AP of the images of each site, and whether it differs from that of
    other images by more than chance. Results are COCO-style lists, compressed by gzip or not: detectron2's
    coco_instances_results.json, mmdetection's NAME.bbox.json and NAME.segm.json (name both), ultralytics'
    predictions.json, tailseg's results.json. NaN in boxes, unknown images or classes, and masks of another size than
    their image are errors; the message names the record.

    examples:
      tailseg eval lvis_v1_val.json results.json
      tailseg eval lvis_v1_val.json work.bbox.json work.segm.json --out scores
      tailseg eval my.json predictions.json --only bbox --train my_train.json
      tailseg eval my.json predictions.json --train my_train.json --groups 5 30
      tailseg eval my.json predictions.json --by site --by attributes.night --out scores
      tailseg eval my.json predictions.json --by 'file_name:^[^/]+'      the first folder of each file name
      tailseg eval lvis_v1_val.json results.json --boundary
      tailseg eval lvis_v1_val.json results.json --engine lvis-api      slow: a cross-check
    """

    annotations: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ANNOTATIONS")]
    """The annotation file, in COCO or LVIS format."""
    results: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """One results file, or one with boxes and one with masks."""
    out: Annotated[Path | None, Output("metrics.json, tables.md, scores.csv, classes.csv, slices.csv")] = None
    """Folder for metrics.json (all figures), tables.md (the tables in Markdown), scores.csv, classes.csv (one line for
    each class) and, with --by, slices.csv."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""
    train: Path | None = None
    """Annotation file of the training set. The number of its images with a class makes the class rare, common or
    frequent, unless an annotation file states the groups (LVIS's "frequency")."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups, with --train: 5 30 makes a class rare up to 5 training images, common up to 30
    and frequent above. They replace groups that a file states. None uses stated groups, else 10 100."""
    only: Literal["bbox", "segm"] | None = None
    """Score only boxes or only masks; None scores what the first records have."""
    by: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A field of the image records, such as site, camera or attributes.night: also evaluate the images with each of its
    values. FIELD:PATTERN takes the part of each value that the regular expression fits. Can be given several times."""
    samples: Annotated[int, Range(ge=2)] = 1000
    """With --by: how often images are drawn at random, for the intervals."""
    classes: Annotated[int, Range(ge=0)] = 0
    """Also list this many classes with the lowest AP."""
    boundary: bool = False
    """Also compute boundary AP, which takes some milliseconds for each mask."""
    max_detections: Annotated[int | None, Range(ge=1)] = None
    """How many detections of an image count (LVIS: 300), or of each class in an image (COCO: 100)."""
    engine: Literal["tailseg", "hotcoco", "lvis-api"] = "tailseg"
    """What computes AP and AR. All three agree, except for lvis-api where several detections lie in one crowd region;
    a note says so."""


def run(arguments: Sequence[str]) -> None:
    """Score, print, write."""
    options = parse(Eval, arguments, command="eval")
    if options.out:
        files: dict[Path, Kind | None] = {options.out: None}
        files |= {options.out / name: kind for name, kind in KINDS.items() if options.by or kind is not SLICES}
        check(options, files, instead="name another folder (--out)", overwrite=options.overwrite)
    from tailseg.evaluation import analyze
    from tailseg.evaluation.tables import build_class_table

    check_groups_option(options.groups, options.train)
    with progress_bars() as step:
        analysis = analyze(
            options.annotations,
            find_sources(options.results, options.only),
            train=options.train,
            groups=options.groups,
            max_detections=options.max_detections,
            engine=options.engine,
            boundary=options.boundary,
            by=options.by,
            samples=options.samples,
            step=step,
        )
    tables = [*analysis.tables(), *([build_class_table(analysis, options.classes)] if options.classes else [])]
    for table in tables:
        output().print(table)
    if note := _describe_groups(analysis, options):
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    if options.out:
        written = write(analysis, tables, options.out)
        output().print(f"Written: {', '.join(map(str, written))}", markup=False, soft_wrap=True)


def _describe_groups(analysis: "Analysis", options: Eval) -> str:
    """A note if APr, APc and APf are unknown because nothing states the frequency of the classes, else empty."""
    classes = (entry for entries in analysis.metrics.per_class.values() for entry in entries)
    if options.train or any(entry.group for entry in classes):
        return ""
    return (
        f"{options.annotations} does not state which classes are rare, so there is no APr, APc and APf: name the "
        "annotation file of the training set with --train"
    )


def write(analysis: "Analysis", tables: "Sequence[Table | str]", folder: Path) -> list[Path]:
    """Writes the files of `KINDS`; slices.csv only if there are slices, otherwise an earlier one is removed.

    Args:
        analysis: the figures.
        tables: the printed tables.
        folder: the folder.

    Returns:
        The files.
    """
    from tailseg.evaluation.notebook import to_markdown

    contents = {
        "metrics.json": analysis.to_json(),
        "tables.md": f"{MARKDOWN_MARK}\n{to_markdown(*tables)}\n",
        "scores.csv": analysis.metrics.to_csv(),
        "classes.csv": analysis.to_csv(),
    }
    if analysis.slices:
        contents["slices.csv"] = analysis.slices.to_csv()
    elif (earlier := folder / "slices.csv").is_file() and SLICES.is_own(earlier):
        earlier.unlink()
    for name, text in contents.items():
        write_text(folder / name, text)
    return [folder / name for name in contents]
