"""The report's page: the figures as JSON, the pictures, and the script that draws them, in one HTML file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tailseg.evaluation.metrics import ROW_NAMES, IouType, Metrics, format_percent
from tailseg.evaluation.slices import Slice
from tailseg.evaluation.splits import MIN_SHARE
from tailseg.files import write_text
from tailseg.recipes.advice import explain_no_learning
from tailseg.recipes.saved import to_plain
from tailseg.report import builder
from tailseg.report.evaluated import EvaluatedRun, Log, check_comparable, count_images
from tailseg.report.examples import add_examples
from tailseg.report.figures import (
    Outcomes,
    compute_precision_curves,
    compute_score_histograms,
    count_confusions,
    count_outcomes,
    find_false_alarms,
    sort_outcomes,
)
from tailseg.report.galleries import Galleries, Photographs, fit, remove_folders
from tailseg.report.images import GALLERY, add_images, count_image_errors
from tailseg.words import count_noun

LARGEST_FILE: Final = builder.MAX_BYTES
"""Bytes of the whole page; pictures take what the figures leave."""
COLUMNS: Final = ("AP", "APr", "APc", "APf", "AP50", "AP75", "AR")
LOG_POINTS: Final = 300
FEW_CLASSES: Final = 300
"""Up to so many classes there is room for larger pictures."""
IMAGES_SHARE: Final = 0.3
"""The share of the pictures' room that the images with the most errors take at most."""
LONGEST_IMAGE: Final = 320
"""The longest side of such an image in pixels."""
GROUPS: Final = {"r": "rare", "c": "common", "f": "frequent"}
NEVER: Final = {"n": "never trained on"}
"""The group of a class that training never shows."""
NO_GROUPS: Final = {"all": "all classes"}
"""Instead of groups, if they are unknown."""
SCRIPT: Final = (
    "elements",
    "words",
    "charts",
    "state",
    "table",
    "scatter",
    "slices",
    "precision",
    "detections",
    "objects",
    "training",
    "gallery",
    "images",
    "class_page",
    "start",
)
"""The parts of the page's script, in ``script/``: first what others use while they are read, last what begins."""


def write_report(runs: Sequence[EvaluatedRun], path: Path, *, title: str = "") -> str:
    """Writes the report of one run, or of several side by side; whole or not at all.

    Args:
        runs: all evaluated on the same file.
        path: of the HTML file.
        title: the page's; the runs' names unless given.

    Returns:
        What the user should know about photographs that the page does not show; empty if it shows all.

    Raises:
        ValueError: the runs cannot be compared.
    """
    check_comparable(list(runs))
    text, problem = render(list(runs), title=title or ", ".join(run.name for run in runs))
    write_text(path, text)
    return problem


def render(runs: Sequence[EvaluatedRun], *, title: str) -> tuple[str, str]:
    """The page's text, and a note about photographs that it does not show."""
    results = [sort_outcomes(run.evidence, threshold=run.threshold) for run in runs]
    packed = builder.pack(collect_data(runs, results))
    num_classes = runs[0].annotations.num_classes
    empty = Galleries((), room=0)
    room = LARGEST_FILE - len(_build(runs, empty, "", title=title, packed=packed).encode()) - 250 * (num_classes + 1)
    galleries = Galleries([*range(num_classes), GALLERY], room=round(room * IMAGES_SHARE))
    photographs = Photographs(runs[0].annotations)
    add_images(galleries, runs, results, photographs=photographs, longest=LONGEST_IMAGE)
    galleries.room += room - round(room * IMAGES_SHARE)
    longest = 144 if num_classes <= FEW_CLASSES else 96
    add_examples(galleries, runs, results, photographs=photographs, longest=longest)
    problem = _describe_problem(photographs, galleries)
    text = fit(galleries, lambda: _build(runs, galleries, problem, title=title, packed=packed), limit=LARGEST_FILE)
    return text, problem


def _build(runs: Sequence[EvaluatedRun], galleries: Galleries, problem: str, *, title: str, packed: str) -> str:
    """The page with what the galleries hold."""
    truth = runs[0].evidence.truth
    blocks = {"data": packed} | {f"gallery-{key}": builder.pack(gallery) for key, gallery in galleries.of.items()}
    columns = COLUMNS if truth.groups else tuple(name for name in COLUMNS if name not in ("APr", "APc", "APf"))
    return builder.build_page(
        "report.html",
        styles=["base", "report"],
        scripts=SCRIPT,
        blocks=blocks,
        title=title,
        subtitle=f"{count_noun(len(truth.sizes), 'image')}, {count_noun(len(truth.categories), 'class')} of "
        f"{truth.path.name}; {truth.protocol.upper()} AP in percent",
        columns=columns,
        has_groups=bool(truth.groups),
        has_settings=any(run.recipe for run in runs),
        has_log=any(run.log for run in runs),
        counted="training images" if runs[0].frequency else "objects",
        runs=[{"name": run.name, "rows": _collect_rows(run.analysis.metrics, columns)} for run in runs],
        notes=[*_collect_notes(runs), *filter(None, [problem]), *_describe_room(galleries)],
        fields=list_fields(runs),
        slice_note=_describe_slices(runs[0]),
        group_note=f"AP of {ROW_NAMES[runs[0].evidence.kind]} in percent.",
        fate_note=_describe_fates(runs[0]),
        split_note=_describe_splits(runs[0]),
    )


def collect_data(runs: Sequence[EvaluatedRun], results: Sequence[Outcomes]) -> dict[str, Any]:
    """All that the page draws except the pictures, in JSON's types; the lists of a class are in order of label."""
    truth, frequency = runs[0].evidence.truth, runs[0].frequency
    groups = (GROUPS | (NEVER if None in truth.class_groups else {})) if truth.groups else NO_GROUPS
    return {
        "kind": runs[0].evidence.kind,
        "threshold": runs[0].threshold,
        "groups": groups,
        "counted": "training images" if frequency else "objects",
        "numImages": len(truth.sizes),
        "classes": {
            "name": list(truth.categories.values()),
            "group": [group or next(reversed(groups)) for group in truth.class_groups],
            "count": count_images(runs[0]).tolist(),
            "images": frequency.image_counts.tolist() if frequency else None,
            "instances": frequency.instance_counts.tolist() if frequency else None,
            "objects": truth.object_counts.tolist(),
        },
        "bounds": list(runs[0].annotations.group_bounds),
        "fields": list_fields(runs),
        "runs": [_collect_run_data(run, result) for run, result in zip(runs, results, strict=True)],
    }


def _collect_run_data(run: EvaluatedRun, result: Outcomes) -> dict[str, Any]:
    evidence = run.evidence
    per_class = run.analysis.metrics.per_class[evidence.kind]
    right, wrong = compute_score_histograms(evidence)
    return {
        "name": run.name,
        "scores": run.analysis.metrics.scores,
        "settings": _flatten(to_plain(run.recipe)["resolved"]) if run.recipe else {},
        **{name: [_round(getattr(score, name)) for score in per_class] for name in ("AP", "AP50", "AR")},
        "outcomes": count_outcomes(evidence, result).tolist(),
        "alarms": [len(alarms) for alarms in find_false_alarms(evidence, threshold=run.threshold)],
        "precision": [
            None if curve is None else (1000 * curve).round().astype(int).tolist()
            for curve in compute_precision_curves(evidence)
        ],
        "right": right.tolist(),
        "wrong": wrong.tolist(),
        "confusions": count_confusions(evidence, result),
        "splits": evidence.splits.per_class.tolist(),
        "clean": int((count_image_errors(evidence, result).errors == 0).sum()),
        "slices": _collect_slices(run),
        "errors": _collect_errors(run),
        "reliability": _collect_reliability(run),
        "train": thin_log(run.log, "train"),
        "val": thin_log(run.log, "val"),
    }


def list_fields(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The fields of the image records by which the runs are evaluated."""
    return [*dict.fromkeys(entry.field for entry in _get_slices(runs[0]))]


def _get_slices(run: EvaluatedRun) -> tuple[Slice, ...]:
    slices = run.analysis.slices
    return slices[run.evidence.kind] if slices else ()


def _collect_slices(run: EvaluatedRun) -> list[list[dict[str, Any]]]:
    """For each field a row for each value."""
    entries = _get_slices(run)
    return [
        [
            {
                "value": entry.value,
                "images": entry.num_images,
                "objects": entry.num_objects,
                "classes": entry.num_classes,
                "AP": _round(entry["AP"].value),
                "low": _round(entry["AP"].low),
                "high": _round(entry["AP"].high),
                "expected": _round(entry["AP"].expected),
                "verdict": entry["AP"].difference.verdict,
            }
            for entry in entries
            if entry.field == field
        ]
        for field in list_fields([run])
    ]


def _collect_errors(run: EvaluatedRun) -> dict[str, Any]:
    """By part of the classes, by kind of error: how many, and the AP50 that they cost."""
    return {
        part: {kind: [found.counts[kind], _round(found.cost[kind])] for kind in found.counts}
        for part, found in run.analysis.errors[run.evidence.kind].parts.items()
    }


def _collect_reliability(run: EvaluatedRun) -> dict[str, Any]:
    """By part of the classes: ``[mean score, precision, detections]`` of each bin that is not empty, and the error."""
    return {
        part: {
            "bins": [[_round(b.score), _round(b.precision), b.count] for b in found.bins if b.count],
            "error": _round(found.expected_error),
        }
        for part, found in run.analysis.reliability[run.evidence.kind].items()
    }


def thin_log(log: Log, kind: str, *, points: int = LOG_POINTS) -> dict[str, list[float | None]]:
    """The log's lines of one kind as columns, consecutive lines averaged so that at most ``points`` are left.

    Args:
        log: the lines of the log.
        kind: the kind of the lines: ``train`` or ``val``.
        points: how many values a column has at most.

    Returns:
        The columns by name.
    """
    lines = [line for line in log if line.get("kind") == kind]
    size = -(-len(lines) // points) or 1
    parts = [lines[first : first + size] for first in range(0, len(lines), size)]
    names = dict.fromkeys(name for line in lines for name, value in line.items() if not isinstance(value, str))
    return {name: [_mean([line[name] for line in part if name in line]) for part in parts] for name in names}


def _mean(values: Sequence[Any]) -> float | None:
    return float(f"{sum(values) / len(values):.5g}") if values else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"optim.lr": "0.02", ...}``."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value) if isinstance(value, list) else str(value)
    return flat


def _collect_rows(metrics: Metrics, columns: Sequence[str]) -> list[dict[str, Any]]:
    def row(kind: IouType) -> dict[str, Any]:
        return {"name": ROW_NAMES[kind], "values": [format_percent(metrics.scores[kind][column]) for column in columns]}

    return [row(kind) for kind in reversed(metrics.scores)]


def _collect_notes(runs: Sequence[EvaluatedRun]) -> list[str]:
    notes = [f"{run.name}: {note}" for run in runs for note in (*_advise(run), *run.analysis.metrics.notes)]
    notes += [f"{run.name}: {run.thresholds}." for run in runs if run.thresholds]
    notes += runs[0].analysis.slices.notes if runs[0].analysis.slices else ()
    if runs[0].frequency is None:
        notes.append(
            "No training set was given: classes are ordered by their objects in the annotation file, and there are no "
            "training examples. Name its annotation file with --train."
        )
    elif runs[0].train is None:
        notes.append(
            "The training set was not found: the page has no training examples, and the counts are those of the "
            "checkpoint."
        )
    return notes


def _advise(run: EvaluatedRun) -> list[str]:
    """Says what to try if the model of a finished run has learned nothing."""
    epochs, steps = (
        max((int(line[name]) for line in run.log if name in line), default=0) for name in ("epoch", "step")
    )
    if run.recipe is None or epochs < run.recipe.optim.epochs:
        return []
    advice = explain_no_learning(run.recipe, run.analysis.metrics, run.annotations, steps=steps)
    return [advice] if advice else []


def _describe_fates(run: EvaluatedRun) -> str:
    what = ROW_NAMES[run.evidence.kind]
    return (
        f"Found: a detection of its class with a score of at least {run.threshold:g} matches it at an IoU of {what} of "
        "0.5 or more. Taken for another class: not found, but covered by a detection of another class with at least "
        "this score."
    )


def _describe_slices(run: EvaluatedRun) -> str:
    return (
        f"AP of {ROW_NAMES[run.evidence.kind]} in percent: the dot, with its 95 % interval. The upright line is the AP "
        "that is expected of as many images drawn at random, over the same classes. Better, worse: AP differs from it "
        "by more than chance. By chance alone, 1 value in 20 is called better or worse."
    )


def _describe_splits(run: EvaluatedRun) -> str:
    share = f"{MIN_SHARE:.0%}".replace("%", " %")
    return (
        f"Split: two or more detections of its class with a score of at least {run.threshold:g} lie in the object with "
        f"{share} or more of their area, and cover {share} or more of it together. Merged: a detection covers {share} "
        f"or more of each of two or more objects of its class, and {share} or more of the detection lies in them."
    )


def _describe_problem(photographs: Photographs, galleries: Galleries) -> str:
    if not photographs.problem:
        return ""
    reason = remove_folders(photographs.problem, "--images (for a run, --val-images)")
    state = "cannot be shown" if reason == photographs.problem else "are missing"
    if not photographs.missing:
        return f"Some training examples are missing: {reason}"
    some = "All" if photographs.missing >= galleries.shown else "Some"
    return f"{some} photographs {state}, and outlines are drawn on empty frames: {reason}"


def _describe_room(galleries: Galleries) -> list[str]:
    if not galleries.left_out:
        return []
    return [f"The file is full: there was no room for {count_noun(galleries.left_out, 'more picture')}."]
