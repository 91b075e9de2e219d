"""`tailseg eval`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.markup import escape

from tailseg.cli.common import output, parse
from tailseg.cli.file_kinds import ANALYSIS, CLASSES
from tailseg.cli.outputs import check
from tailseg.cli.results import check_groups_option, find_sources, progress_bars
from tailseg.files import Output, write_text
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.evaluation import Analysis


@dataclass(frozen=True)
class Eval:
    """Score a results file of any framework: LVIS AP if the annotation file has LVIS's lists, COCO AP if not.

    The command prints AP by frequency group and size, AP-fixed, the kinds of error and the cost of each kind, and
    whether scores mean precision. Results are COCO-style lists, compressed by gzip or not: detectron2's
    coco_instances_results.json, mmdetection's NAME.bbox.json and NAME.segm.json (name both), ultralytics'
    predictions.json, tailseg's results.json. NaN in boxes, unknown images or classes, and masks of another size than
    their image are errors; the message names the record.

    examples:
      tailseg eval lvis_v1_val.json results.json
      tailseg eval lvis_v1_val.json work.bbox.json work.segm.json --out scores
      tailseg eval my.json predictions.json --only bbox --train my_train.json
      tailseg eval my.json predictions.json --train my_train.json --groups 5 30
      tailseg eval lvis_v1_val.json results.json --boundary
      tailseg eval lvis_v1_val.json results.json --engine lvis-api      slow: a cross-check
    """

    annotations: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ANNOTATIONS")]
    """The annotation file, in COCO or LVIS format."""
    results: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """One results file, or one with boxes and one with masks."""
    out: Annotated[Path | None, Output("metrics.json, classes.csv")] = None
    """Folder for metrics.json (all figures) and classes.csv (one line for each class)."""
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
        files = {options.out: None, options.out / "metrics.json": ANALYSIS, options.out / "classes.csv": CLASSES}
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
            step=step,
        )
    for table in analysis.tables():
        output().print(table)
    if options.classes:
        output().print(build_class_table(analysis, options.classes))
    if options.out:
        output().print(escape(f"Written: {', '.join(map(str, write(analysis, options.out)))}"))


def write(analysis: "Analysis", folder: Path) -> list[Path]:
    """metrics.json and classes.csv."""
    files = {folder / "metrics.json": analysis.to_json(), folder / "classes.csv": analysis.to_csv()}
    for file, text in files.items():
        write_text(file, text)
    return list(files)
