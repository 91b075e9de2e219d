"""`tailseg compare`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.markup import escape

from tailseg.cli.common import UsageError, output, parse
from tailseg.cli.file_kinds import COMPARISON
from tailseg.cli.outputs import check
from tailseg.cli.results import run_truth, steps, truth_and_groups, what_to_score
from tailseg.files import Output, write_text
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.annotations.types import Group
    from tailseg.evaluation.comparison import Comparison, Matched
    from tailseg.evaluation.ground_truth import GroundTruth


@dataclass(frozen=True)
class Compare:
    """Is B better than A, or was it the luck of the images?

    Each of B, C .. is compared with A by a paired bootstrap: images are drawn anew, the same ones for both, and every
    figure is computed again. Prints the differences with their 95 % intervals and says which are larger than chance,
    the classes that moved most, and the kinds of error before and after.

    A, B .. are folders of runs (their results.json, on the validation set of A), or results files with --truth.

    examples:
      tailseg compare runs/tiny_sigmoid runs/tiny_gumbel
      tailseg compare baseline.json ours.json theirs.json --truth lvis_v1_val.json
      tailseg compare runs/a runs/b --only segm --samples 5000 --out compared.json
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="A B")]
    """Folders of runs, or results files."""
    truth: Path | None = None
    """The annotation file; the validation set of run A unless given."""
    train: Path | None = None
    """Annotation file of the training set, for the frequency groups where --truth does not state LVIS's."""
    only: Literal["bbox", "segm"] | None = None
    """Compare boxes or masks alone."""
    samples: Annotated[int, Range(ge=2)] = 1000
    """How often images are drawn anew."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of the draws."""
    classes: Annotated[int, Range(ge=0)] = 10
    """How many of the classes that moved most are listed."""
    out: Annotated[Path | None, Output("a JSON file")] = None
    """JSON file of all differences."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""


def run(arguments: Sequence[str]) -> None:
    """Compare, print, write."""
    options = parse(Compare, arguments, command="compare")
    if len(options.runs) < 2:
        raise UsageError("name at least two runs or results files: tailseg compare A B")
    files = [results_file(path) for path in options.runs]
    if options.out:
        instead = "name another file (--out)"
        check(options, {options.out: COMPARISON}, instead=instead, inputs=files, overwrite=options.overwrite)
    source, groups = find_truth(options)
    from tailseg.evaluation.comparison import compare, match_runs
    from tailseg.evaluation.ground_truth import read_ground_truth
    from tailseg.evaluation.tables import comparison_tables

    sources = [what_to_score([file], options.only) for file in files]
    with_masks = all("segm" in source for source in sources)
    truth = read_ground_truth(source, masks=with_masks, groups=groups or None)
    written: dict[str, Any] = {}
    with steps() as step:
        matched = match_runs(truth, sources, step=step)
        found = {
            iou_type: compare(
                [one.matches for one in runs],
                truth.class_groups,
                samples=options.samples,
                seed=options.seed,
                progress=lambda done, total, iou_type=iou_type: step(f"resampling {iou_type}", done, total),
            )
            for iou_type, runs in matched.items()
        }
    for note in dict.fromkeys(note for runs in matched.values() for one in runs for note in one.notes):
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    for index, other in enumerate(options.runs[1:], start=1):
        names = (f"[bold]{escape(str(run))}[/]" for run in (options.runs[0], other))
        output().print(f"{' -> '.join(names)}: {len(truth.sizes):,} images")
        for iou_type, comparisons in found.items():
            errors = matched[iou_type][0].errors, matched[iou_type][index].errors
            for part in comparison_tables(comparisons[index - 1], errors, truth, iou_type, options.classes):
                output().print(part)
        written[str(other)] = {
            iou_type: as_json(comparisons[index - 1], matched[iou_type], index, truth)
            for iou_type, comparisons in found.items()
        }
    if options.out:
        write_text(options.out, json.dumps({"before": str(options.runs[0]), "after": written}, indent=1))
        output().print(escape(f"Written: {options.out}"))


def results_file(path: Path) -> Path:
    """The results file of a run's folder, or the file itself.

    Raises:
        UsageError: there is none.
    """
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"no results in {path}: expected a results file, or a run's folder after `tailseg test`")
    from tailseg.evaluation.json_files import beginning

    if beginning(file).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        raise UsageError(
            f"{file} is no results file, for it holds no list of records: is it the annotation file? Name that with "
            "--truth, and results files or runs alone before the options"
        )
    return file


def find_truth(options: Compare) -> "tuple[Path | Annotations, Mapping[int, Group] | None]":
    """The annotation file as given, or what the first run was validated on; and the groups of its classes.

    Raises:
        UsageError: A is a file, and nothing is given; or another run has another validation set.
    """
    if options.truth:
        truth, groups, notes = truth_and_groups(options.truth, options.train)
        for note in notes:
            output().print(escape(note))
        return truth, groups
    if not options.runs[0].is_dir():
        raise UsageError(f"{options.runs[0]} is a results file: name its annotation file with --truth")
    truth, groups, note = run_truth(options.runs[0])
    if note:
        output().print(f"note: {note}", markup=False, soft_wrap=True)
    for other in options.runs[1:]:
        if other.is_dir():
            check_same_truth(other, truth, options.runs[0])
    return truth, groups


def check_same_truth(other: Path, truth: "Annotations", first: Path) -> None:
    """Raises UsageError if a run was validated on another file, where the same ids may be those of other images."""
    try:
        own, _, _ = run_truth(other)
    except (ValueError, FileNotFoundError):  # its data are elsewhere
        return
    if own.key != truth.key:
        raise UsageError(
            f"{other} was validated on {own.path} and {first} on {truth.path}, which differ: test both on one file "
            "(`tailseg test RUN --val FILE`) and name it with --truth"
        )


def as_json(
    comparison: "Comparison", runs: "Sequence[Matched]", index: int, truth: "GroundTruth"
) -> Mapping[str, object]:
    """Everything about one pair of runs."""
    classes = zip(truth.categories.items(), comparison.classes, strict=True)
    return {
        "figures": {
            name: {**asdict(entry), "difference": entry.difference, "verdict": entry.verdict}
            for name, entry in comparison.figures.items()
        },
        "classes": [{"category_id": key, "name": name, **asdict(entry)} for (key, name), entry in classes],
        "errors": {
            name: {part: asdict(kinds) for part, kinds in run.errors.parts.items()}
            for name, run in (("before", runs[0]), ("after", runs[index]))
        },
    }
