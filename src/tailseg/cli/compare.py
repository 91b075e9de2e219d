"""`tailseg compare`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.markup import escape

from tailseg.cli.common import UsageError, find_own_code, output, parse
from tailseg.cli.file_kinds import COMPARISON, DIFFERENCES, MARKDOWN_MARK, TABLES
from tailseg.cli.outputs import check
from tailseg.cli.results import (
    check_groups_option,
    find_results,
    find_sources,
    progress_bars,
    read_validation_set,
    rename_options,
)
from tailseg.files import Output, write_text
from tailseg.ranges import Range
from tailseg.words import count_noun

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.evaluation.comparison import ResultsComparison
    from tailseg.evaluation.ground_truth import GroundTruth


@dataclass(frozen=True)
class Compare:
    """Is B better than A, or was it the luck of the images?

    A paired bootstrap compares each of B, C .. with A: images are resampled, the same ones for both, and every figure
    is computed again. The command prints the differences with their 95 % intervals and says which are larger than
    chance. It also prints the classes whose AP changed most, and the kinds of error before and after.

    A, B .. are folders of runs (their results.json, on the file that A was last evaluated on), or results files with
    --annotations.

    examples:
      tailseg compare runs/tiny_sigmoid runs/tiny_gumbel
      tailseg compare baseline.json ours.json theirs.json --annotations lvis_v1_val.json
      tailseg compare runs/a runs/b --only segm --samples 5000 --out compared.json
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="A B")]
    """Folders of runs, or results files."""
    annotations: Path | None = None
    """The annotation file; None uses the one that run A was last evaluated on."""
    train: Path | None = None
    """Annotation file of the training set, for the frequency groups, unless an annotation file states the groups
    (LVIS's "frequency")."""
    groups: Annotated[tuple[int, int] | None, Range(ge=1, ascending=True)] = None
    """Bounds of the frequency groups: 5 30 makes a class rare up to 5 training images, common up to 30 and frequent
    above. They replace groups that a file states. None uses stated groups, else those of run A, else 10 100."""
    recipe: str | None = None
    """module:function of your own recipe, if run A was trained with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the runs, such as a loss. Can be given several times."""
    only: Literal["bbox", "segm"] | None = None
    """Compare only boxes or only masks."""
    samples: Annotated[int, Range(ge=2)] = 1000
    """How often the images are resampled."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Seed of the samples."""
    classes: Annotated[int, Range(ge=0)] = 10
    """How many classes are listed, those with the largest change of AP."""
    out: Annotated[Path | None, Output("a JSON file, and tables next to it")] = None
    """JSON file of all differences. The tables are written next to it: compared.json, compared.csv and compared.md."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""


def run(arguments: Sequence[str]) -> None:
    """Compare, print, write."""
    options = parse(Compare, rename_options(arguments, {"--truth": "--annotations"}), command="compare")
    if len(options.runs) < 2:
        raise UsageError("name at least two runs or results files: tailseg compare A B")
    files = [find_results(path) for path in options.runs]
    if options.out:
        targets = {
            options.out: COMPARISON,
            options.out.with_suffix(".csv"): DIFFERENCES,
            options.out.with_suffix(".md"): TABLES,
        }
        if len(targets) < 3:
            raise UsageError(f"--out is the JSON file, and the tables are written next to it: got {options.out}")
        instead = "name another file (--out)"
        check(options, targets, instead=instead, inputs=files, overwrite=options.overwrite)
    from tailseg.evaluation.comparison import compare_runs

    sources = [find_sources([file], options.only) for file in files]
    truth = read_truth_of(options, masks=all("segm" in source for source in sources))
    with progress_bars() as step:
        comparisons = compare_runs(truth, sources, samples=options.samples, seed=options.seed, step=step)
    for note in comparisons[0].notes:
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    for other, comparison in zip(options.runs[1:], comparisons, strict=True):
        names = (f"[bold]{escape(str(run))}[/]" for run in (options.runs[0], other))
        output().print(f"{' -> '.join(names)}: {count_noun(len(truth.sizes), 'image')}")
        for table in comparison.tables(options.classes):
            output().print(table)
    if options.out:
        write(options, comparisons)


def write(options: Compare, comparisons: "Sequence[ResultsComparison]") -> None:
    """Writes all differences as JSON, and the tables as CSV and Markdown."""
    from tailseg.evaluation.notebook import escape_markdown, to_csv

    assert options.out is not None
    first, others = str(options.runs[0]), [str(run) for run in options.runs[1:]]
    pairs = [*zip(others, comparisons, strict=True)]
    after = {run: comparison.to_dict() for run, comparison in pairs}
    rows = [(first, run, *row) for run, comparison in pairs for row in [*comparison.list_rows()][1:]]
    header = "before_run", "after_run", *next(comparisons[0].list_rows())
    pages = [
        f"## A: {escape_markdown(first)}, B: {escape_markdown(run)}\n\n{comparison.to_markdown(options.classes)}"
        for run, comparison in pairs
    ]
    contents = {
        options.out: json.dumps({"before": first, "after": after}, indent=1),
        options.out.with_suffix(".csv"): to_csv([header, *rows]),
        options.out.with_suffix(".md"): "\n\n".join([MARKDOWN_MARK.strip(), *pages]) + "\n",
    }
    for path, text in contents.items():
        write_text(path, text)
    output().print(escape(f"Written: {', '.join(map(str, contents))}"))


def read_truth_of(options: Compare, *, masks: bool) -> "GroundTruth":
    """Reads the annotation file that the options name, or the validation set of the first run.

    Raises:
        UsageError: A is a file and no annotation file is named; or the runs have different validation sets.
    """
    if options.annotations:
        check_groups_option(options.groups, options.train)
        from tailseg.evaluation.sources import open_annotations, read_truth

        opened = open_annotations(options.annotations)
        return read_truth(opened, masks=masks, train=options.train, groups=options.groups)
    if not options.runs[0].is_dir():
        raise UsageError(f"{options.runs[0]} is a results file: name its annotation file with --annotations")
    from tailseg.evaluation.ground_truth import read_ground_truth

    own_code = find_own_code(options.recipe, options.module)
    annotations, groups, note = read_validation_set(options.runs[0], options.groups, *own_code)
    if note:
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    for other in options.runs[1:]:
        if other.is_dir():
            check_same_annotations(other, annotations, options.runs[0], own_code[1])
    return read_ground_truth(annotations, masks=masks, groups=groups or None)


def check_same_annotations(other: Path, annotations: "Annotations", first: Path, modules: Sequence[str] = ()) -> None:
    """Raises UsageError if a run was validated on another file, where the same ids may mean other images.

    Args:
        other: the folder of the run.
        annotations: the validation set of the first run.
        first: the folder of the first run.
        modules: the user's own modules, by name, that have classes of the run.
    """
    try:
        own, _, _ = read_validation_set(other, modules=modules)
    except (ValueError, FileNotFoundError):  # its data are elsewhere
        return
    if own.key != annotations.key:
        raise UsageError(
            f"{other} was validated on {own.path} and {first} on {annotations.path}, which differ: test both on one "
            "file (`tailseg test RUN --val FILE`) and name it with --annotations"
        )
