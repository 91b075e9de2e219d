"""`tailseg report`."""

import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.markup import escape

from tailseg.cli.common import (
    UsageError,
    explain,
    find_own_code,
    is_labels,
    output,
    parse,
    print_error,
    refuse_options,
    require_run,
)
from tailseg.cli.file_kinds import PAGE
from tailseg.cli.outputs import check
from tailseg.cli.results import check_groups_option, find_results, group_models, is_list, strip_suffix
from tailseg.files import Input, Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.evaluation.metrics import IouType
    from tailseg.recipes.recipe import Recipe
    from tailseg.report.evaluated import EvaluatedRun


@dataclass(frozen=True)
class Report:
    """Write a report: one HTML file that opens from the disk. Several runs or results files are shown side by side.

    The report shows a run that tailseg trained, or the results of any framework: name the annotation file, then the
    results files that `tailseg eval` takes.

    The page shows AP by frequency group and by number of training images; every class with pictures of objects that
    were found, missed, confused, split and merged, and of false detections; the images with the most errors; precision
    and recall, scores, training curves, and the confusions of rare classes. The file needs no network and stays below
    5 MB.

    A results file without masks that is followed by one with masks is the same model (mmdetection's NAME.bbox.json
    NAME.segm.json). Any other results file is a model of its own.

    examples:
      tailseg report runs/tiny_gumbel
      tailseg report runs/tiny_softmax runs/tiny_sigmoid runs/tiny_gumbel --out activations.html
      tailseg report runs/custom_small --score-threshold 0.5 --open
      tailseg report my.json predictions.json --images photos
      tailseg report lvis_v1_val.json work.bbox.json work.segm.json --train lvis_v1_train.json
      tailseg report my.json baseline.json runs/ours/results.json --out compared.html
      tailseg report my.json predictions.json --by site --by attributes.night
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN | ANNOTATIONS RESULTS")]
    """Folders of evaluated runs, with a results.json, which `train` and `test` write; or an annotation file and one
    results file or more."""
    out: Annotated[Path | None, Output("an HTML file")] = None
    """The HTML file; None writes report.html into the last run's folder, or NAME.report.html next to the last results
    file NAME.json."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""
    title: str = ""
    """The page's title; the names of the runs or results files if empty."""
    score_threshold: Annotated[float, Range(ge=0, le=1)] = 0.3
    """Detections with lower scores are not shown."""
    images: Path | None = None
    """Folder of the images of ANNOTATIONS, unless they lie next to it. Without images, the pictures are outlines on
    empty frames."""
    train: Path | None = None
    """Annotation file of the training set of RESULTS: for training examples, and for the frequency groups, unless an
    annotation file states the groups (LVIS's "frequency")."""
    only: Literal["bbox", "segm"] | None = None
    """Show only boxes or only masks of RESULTS; None shows masks, if all models have them."""
    val: Annotated[str | None, Input()] = None
    """Annotation file of a run's results; None is the one that the run was last evaluated on."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the images of a run's validation set, unless they lie beside it or where they did in training."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups: 5 30 makes a class rare up to 5 training images, common up to 30 and frequent
    above. None uses the groups of each run. For RESULTS, with --train."""
    by: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A field of the image records, such as site, camera or attributes.night: also show AP of the images with each of
    its values. FIELD:PATTERN takes the part of each value that the regular expression fits. Can be given several
    times."""
    samples: Annotated[int, Range(ge=2)] = 1000
    """With --by: how often images are drawn at random, for the intervals."""
    recipe: str | None = None
    """module:function of your own recipe, if the runs were trained with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the runs, such as a loss. Can be given several times."""
    open: bool = False
    """Open it in a browser."""


def run(arguments: Sequence[str]) -> None:
    """Read the runs or results, write the page."""
    options = parse(Report, arguments, command="report")
    if not options.runs:
        raise UsageError("name at least one run, or an annotation file and results: tailseg report RUN ...")
    first = options.runs[0]
    if not first.exists() and first.suffix in (".json", ".gz"):
        raise FileNotFoundError(f"no such file: {first}")
    path = _report_results(options) if is_labels(first) else _report_runs(options)
    output().print(f"Written: [bold]{escape(str(path))}[/] ({path.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)
    if options.open:
        show(path)


def _report_runs(options: Report) -> Path:
    """Writes the report of runs, and returns its file."""
    refuse_options(
        options, ("images", "train", "only"), "for results files; a run has --val, --val-images and --groups"
    )
    for folder in options.runs:
        require_run(folder)
        if folder.is_file():
            raise UsageError(
                f"{folder} is a file, and {options.runs[0]} is the folder of a run. To show results files, name the "
                "annotation file first: tailseg report ANNOTATIONS RESULTS; a run may be one of the RESULTS"
            )
    path = options.out or options.runs[-1] / "report.html"
    check(options, {path: PAGE}, instead="name another file (--out)", overwrite=options.overwrite)
    from tailseg.report.page import write_report
    from tailseg.report.run import read_run

    base, modules = find_own_code(options.recipe, options.module)
    runs: list[EvaluatedRun] = []
    with output().status("reading the runs") as status:
        for folder in options.runs:
            status.update(f"reading {escape(str(folder))}")
            like = runs[0] if runs else None
            runs.append(
                read_run(
                    folder,
                    threshold=options.score_threshold,
                    val=options.val,
                    val_images=options.val_images,
                    groups=options.groups,
                    base=base,
                    modules=modules,
                    like=like,
                    by=options.by,
                    samples=options.samples,
                )
            )
            if runs[-1].note:
                output().print(f"note: {runs[-1].note}", markup=False, soft_wrap=True)
        status.update("drawing")
        problem = write_report(runs, path, title=options.title)
    if problem:
        output().print(f"note: {problem[0].lower()}{problem[1:]}", markup=False, soft_wrap=True)
    return path


def _report_results(options: Report) -> Path:
    """Writes the report of an annotation file and results, and returns its file."""
    annotations, *results = options.runs
    unfit = ("val", "val_images", "recipe", "module")
    refuse_options(options, unfit, "for runs; results files have --images, --train and --only")
    check_groups_option(options.groups, options.train)
    if options.images and not options.images.is_dir():
        raise UsageError(f"--images {options.images} is not a folder: name the folder of the image files")
    files = _list_results(annotations, results)
    path = options.out or files[-1].with_name(f"{strip_suffix(files[-1].name)}.report.html")
    instead = "name another file (--out)"
    check(options, {path: PAGE}, instead=instead, inputs=files, overwrite=options.overwrite)
    from tailseg.report.models import open_with_sizes, read_models
    from tailseg.report.page import write_report

    opened = open_with_sizes(annotations, options.images)
    models = _choose_kinds(group_models(files, options.only), opened)
    for name, sources in models.items():
        if len(set(sources.values())) > 1:
            boxes, masks = sources["bbox"], sources["segm"]
            note = f"note: {name} has the boxes of {boxes.name} and the masks of {masks.name}"
            output().print(note, markup=False, soft_wrap=True)
    with output().status("reading the results") as status:
        runs = read_models(
            opened,
            models,
            train=options.train,
            groups=options.groups,
            threshold=options.score_threshold,
            by=options.by,
            samples=options.samples,
            start=lambda text: status.update(escape(text)),
        )
        for note in dict.fromkeys(note for run in runs for note in run.analysis.metrics.notes):
            output().print(f"note: {note}", markup=False, soft_wrap=True)
        status.update("drawing")
        problem = write_report(runs, path, title=options.title)
    if problem:
        output().print(f"note: {problem[0].lower()}{problem[1:]}", markup=False, soft_wrap=True)
    return path


def _list_results(annotations: Path, results: Sequence[Path]) -> list[Path]:
    """The results files, when the first argument is the annotation file.

    Raises:
        UsageError: there is no results file, the first argument is one, or another argument is none.
    """
    if is_list(annotations):
        raise UsageError(
            f"{annotations} is a list, so it is a results file and not the annotation file: name the annotation file "
            f"first, tailseg report ANNOTATIONS {quote(str(annotations))}"
        )
    if not results:
        raise UsageError(
            f"{annotations} is a file, not the folder of a run. If it is an annotation file, name a results file too: "
            f"tailseg report {quote(str(annotations))} RESULTS"
        )
    return [
        find_results(path, hint="Name the annotation file first, then only results files or runs") for path in results
    ]


def _choose_kinds(
    models: "Mapping[str, Mapping[IouType, Path]]", annotations: "Annotations"
) -> "dict[str, dict[IouType, Path]]":
    """The kinds of overlap that all models and the annotation file have; a note if masks are left out.

    Raises:
        UsageError: the models have nothing in common.
    """
    kinds: tuple[IouType, ...] = ("bbox", "segm")
    common: list[IouType] = [kind for kind in kinds if all(kind in sources for sources in models.values())]
    if not common:
        raise UsageError("some results have only boxes and others only masks: there is nothing to compare")
    with_masks = [name for name, sources in models.items() if "segm" in sources]
    reason = ""
    if with_masks and "segm" not in common:
        reason = f"{', '.join(name for name in models if name not in with_masks)} has no masks"
    elif "segm" in common and "bbox" in common and not annotations.has_masks:
        reason = f"{annotations.path} has no masks for some objects"
    if reason:
        output().print(f"note: {reason}: the report shows boxes only", markup=False, soft_wrap=True)
        common = ["bbox"]
    return {name: {kind: sources[kind] for kind in common} for name, sources in models.items()}


def write_run_report(folder: Path, recipe: "Recipe") -> Path | None:
    """Writes the report of a run that has just been trained; an error is printed and does not end the command.

    Args:
        folder: the run's folder.
        recipe: the recipe that was trained.

    Returns:
        The report's file; None if there was an error.
    """
    from tailseg.report.page import write_report
    from tailseg.report.run import read_run

    path = folder / "report.html"
    try:
        with output().status("writing the report"):
            write_report([read_run(folder, base=recipe)], path)
    except Exception as error:  # noqa: BLE001 - the training is done and saved
        from tailseg.recipes.commands import make_run_command

        again = make_run_command("report", recipe)
        print_error(f"no report was written: {explain(error)}\ntry again with `{again}`")
        return None
    return path


def show(path: Path) -> None:
    """Opens the page in a browser, if the terminal is interactive and there is a screen."""
    has_screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.stdout.isatty() and has_screen:
        webbrowser.open(path.resolve().as_uri())
