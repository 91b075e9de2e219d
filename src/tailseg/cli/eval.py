"""`tailseg eval`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.markup import escape

from tailseg.cli.common import output, parse
from tailseg.cli.file_kinds import ANALYSIS, CLASSES
from tailseg.cli.outputs import check
from tailseg.cli.results import steps, truth_and_groups, what_to_score
from tailseg.files import Output, write_text
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.evaluation import Analysis


@dataclass(frozen=True)
class Eval:
    """Score a results file of any framework: LVIS AP if the annotation file has LVIS's lists, COCO AP if not.

    Prints AP by frequency group and size, AP-fixed, the kinds of error and what each costs, and whether scores mean
    precision. Results are COCO-style lists, packed by gzip or not: detectron2's coco_instances_results.json,
    mmdetection's NAME.bbox.json and NAME.segm.json (name both), ultralytics' predictions.json, tailseg's results.json.
    NaN boxes, unknown images or classes, masks of another size and the like are errors that name the record.

    examples:
      tailseg eval lvis_v1_val.json results.json
      tailseg eval lvis_v1_val.json work.bbox.json work.segm.json --out scores
      tailseg eval my.json predictions.json --only bbox --train my_train.json
      tailseg eval lvis_v1_val.json results.json --boundary
      tailseg eval lvis_v1_val.json results.json --engine lvis-api      slow: a cross-check
    """

    truth: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="GT.json")]
    """The annotation file."""
    results: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS.json")]
    """One results file, or one of boxes and one of masks."""
    out: Annotated[Path | None, Output("metrics.json, classes.csv")] = None
    """Folder for metrics.json (everything), classes.csv (one line a class)."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""
    train: Path | None = None
    """Annotation file of the training set: its image counts make classes rare, common and frequent, where GT.json does
    not state LVIS's groups."""
    only: Literal["bbox", "segm"] | None = None
    """Score boxes or masks alone; what the first record holds unless given."""
    classes: Annotated[int, Range(ge=0)] = 0
    """Also list the classes of lowest AP, this many."""
    boundary: bool = False
    """Boundary AP too: some milliseconds a mask."""
    max_detections: Annotated[int | None, Range(ge=1)] = None
    """An image's detections that count (lvis: 300), or those of each class in an image (coco: 100)."""
    engine: Literal["tailseg", "hotcoco", "lvis-api"] = "tailseg"
    """Who computes AP and AR: all three agree (lvis-api but for several detections in one crowd; a note says so)."""


def run(arguments: Sequence[str]) -> None:
    """Score, print, write."""
    options = parse(Eval, arguments, command="eval")
    if options.out:
        files = {options.out: None, options.out / "metrics.json": ANALYSIS, options.out / "classes.csv": CLASSES}
        check(options, files, instead="name another folder (--out)", overwrite=options.overwrite)
    from tailseg.evaluation import analyze
    from tailseg.evaluation.tables import class_table, tables

    sources = what_to_score(options.results, options.only)
    truth, groups, notes = truth_and_groups(options.truth, options.train)
    with steps() as step:
        analysis = analyze(
            truth,
            sources,
            max_detections=options.max_detections,
            groups=groups,
            engine=options.engine,
            boundary=options.boundary,
            step=step,
        )
    analysis = replace(analysis, metrics=replace(analysis.metrics, notes=(*notes, *analysis.metrics.notes)))
    for table in tables(analysis):
        output().print(table)
    if options.classes:
        output().print(class_table(analysis, options.classes))
    if options.out:
        output().print(escape(f"Written: {', '.join(map(str, write(analysis, options.out)))}"))


def write(analysis: "Analysis", folder: Path) -> list[Path]:
    """metrics.json and classes.csv."""
    files = {folder / "metrics.json": analysis.to_json(), folder / "classes.csv": analysis.to_csv()}
    for file, text in files.items():
        write_text(file, text)
    return list(files)
