"""`tailseg thresholds`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tailseg.cli.common import UsageError, find_own_code, is_labels, output, parse, refuse_options, require_run
from tailseg.cli.file_kinds import THRESHOLDS
from tailseg.cli.outputs import check
from tailseg.cli.results import (
    check_groups_option,
    find_results,
    find_sources,
    is_list,
    progress_bars,
    strip_suffix,
)
from tailseg.files import Input, Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.evaluation import Thresholds as FoundThresholds


@dataclass(frozen=True)
class Thresholds:
    """Find a score threshold for each class: the one with the best F1 on the validation images.

    A rare class has few objects, so its threshold is drawn towards that of its frequency group, the more the fewer
    objects it has. The images are split into two halves (--folds): the thresholds that are found on one half are judged
    on the other one. The command prints macro and micro F1 with them and with one threshold for all classes. The
    thresholds that it writes are found on all images. `predict` and `serve` then use them (--no-class-thresholds does
    not, and --score-threshold replaces them).

    examples:
      tailseg thresholds runs/tiny_gumbel
      tailseg thresholds runs/lvis --images 2000 --device cuda
      tailseg thresholds my.json predictions.json --train my_train.json --folds 5
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN | ANNOTATIONS RESULTS")]
    """Folder of a run; or an annotation file and one results file of any framework, or one of boxes and one of
    masks."""
    out: Annotated[Path | None, Output("thresholds.json")] = None
    """The JSON file; None writes thresholds.json into the run's folder, or NAME.thresholds.json next to the last
    results file NAME.json."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""
    folds: Annotated[int, Range(ge=2)] = 2
    """Parts of the images. Each part is judged with thresholds that are found on the others."""
    samples: Annotated[int, Range(ge=2)] = 1000
    """How often images are drawn at random, for the intervals."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Seed of the parts and samples."""
    only: Literal["bbox", "segm"] | None = None
    """Match boxes or masks; None matches masks, if the results have some."""
    train: Path | None = None
    """For RESULTS: annotation file of the training set, which makes a class rare, common or frequent, unless an
    annotation file states the groups (LVIS's "frequency")."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups: 5 30 makes a class rare up to 5 training images, common up to 30 and frequent
    above. None uses the groups of the run. For RESULTS, with --train."""
    images: Annotated[int | None, Range(ge=2)] = None
    """For a run: the maximum number of validation images, drawn at random; None uses all."""
    checkpoint: Literal["best", "last"] = "best"
    """For a run: the checkpoint with the best AP, or the last one."""
    calibrated: bool = True
    """For a run: with the calibration of the scores that `tailseg calibrate` stored, if there is one."""
    val: Annotated[str | None, Input()] = None
    """For a run: another annotation file for validation. It must have the classes of the model."""
    val_images: Annotated[str | None, Input()] = None
    """For a run: folder of the validation images, if they are neither next to the annotation file nor where they were
    in training."""
    device: str = "auto"
    """For a run: auto uses cuda if it is available, else cpu."""
    recipe: str | None = None
    """module:function of your own recipe, if you trained the run with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


def run(arguments: Sequence[str]) -> None:
    """Finds the thresholds, prints what they are worth, and writes them."""
    options = parse(Thresholds, arguments, command="thresholds")
    if not options.paths:
        raise UsageError("name a run, or an annotation file and results: tailseg thresholds RUN")
    first = options.paths[0]
    if not first.exists() and first.suffix in (".json", ".gz"):
        raise FileNotFoundError(f"no such file: {first}")
    found, out = _of_results(options) if is_labels(first) else _of_run(options)
    for table in found.tables():
        output().print(table)
    if found.class_strength == found.group_strength == float("inf"):
        output().print(
            "No thresholds by class are better than one threshold by more than chance: all classes get the same.",
            soft_wrap=True,
        )
    from tailseg.evaluation.thresholds import save

    save(found, out)
    output().print(f"Written: {out}", markup=False, soft_wrap=True)


def _of_run(options: Thresholds) -> "tuple[FoundThresholds, Path]":
    folder = options.paths[0]
    if len(options.paths) > 1:
        raise UsageError(
            f"{options.paths[1]} would not be used: name one run, or an annotation file (.json) and then results"
        )
    if options.train:
        raise UsageError("--train is for results files; a run knows its training set")
    require_run(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of a run. Name the run's folder")
    out = options.out or folder / "thresholds.json"
    check(options, {out: THRESHOLDS}, instead="name another file (--out)", overwrite=options.overwrite)
    from tailseg.inference.thresholds import find_run_thresholds

    base, modules = find_own_code(options.recipe, options.module)
    with progress_bars() as step:
        found = find_run_thresholds(
            folder,
            images=options.images,
            folds=options.folds,
            samples=options.samples,
            seed=options.seed,
            only=options.only,
            groups=options.groups,
            val=options.val,
            val_images=options.val_images,
            checkpoint=options.checkpoint,
            calibrated=options.calibrated,
            device=options.device,
            base=base,
            modules=modules,
            say=lambda line: output().print(line, markup=False, soft_wrap=True),
            step=step,
        )
    return found, out


def _of_results(options: Thresholds) -> "tuple[FoundThresholds, Path]":
    annotations, *results = options.paths
    unfit = ("images", "val", "val_images", "recipe", "module")
    refuse_options(options, unfit, "for a run; results files have --train and --only")
    if is_list(annotations) or not results:
        raise UsageError(
            f"name the annotation file first, then the results: tailseg thresholds ANNOTATIONS "
            f"{quote(str(annotations)) if is_list(annotations) else 'RESULTS'}"
        )
    check_groups_option(options.groups, options.train)
    files = [find_results(path, hint="Name the annotation file first, then only results files") for path in results]
    out = options.out or files[-1].with_name(f"{strip_suffix(files[-1].name)}.thresholds.json")
    check(options, {out: THRESHOLDS}, instead="name another file (--out)", inputs=files, overwrite=options.overwrite)
    from tailseg.evaluation import find_thresholds

    with progress_bars() as step:
        found = find_thresholds(
            annotations,
            find_sources(files, options.only),
            train=options.train,
            groups=options.groups,
            folds=options.folds,
            samples=options.samples,
            seed=options.seed,
            step=step,
        )
    return found, out
