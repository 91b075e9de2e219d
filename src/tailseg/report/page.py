"""The report's page: the figures as JSON, the pictures, and the script that draws them, in one HTML file."""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, select_autoescape
from markupsafe import Markup

from tailseg import __version__
from tailseg.evaluation.metrics import ROW_NAMES, IouType, Metrics, format_percent
from tailseg.files import write_text
from tailseg.recipes.saved import to_plain
from tailseg.report.figures import (
    Outcomes,
    compute_precision_curves,
    compute_score_histograms,
    count_confusions,
    count_outcomes,
    find_false_alarms,
    sort_outcomes,
)
from tailseg.report.gallery import Galleries, build_galleries
from tailseg.report.run import EvaluatedRun, Log, check_comparable
from tailseg.words import count_noun

LARGEST_FILE: Final = 5_000_000
"""Bytes of the whole page; pictures take what the figures leave."""
COLUMNS: Final = ("AP", "APr", "APc", "APf", "AP50", "AP75", "AR")
LOG_POINTS: Final = 300
FEW_CLASSES: Final = 300
"""Up to so many classes there is room for larger pictures."""
NEVER: Final = "n"
"""Stands for the group of a class that training never shows."""
SCRIPT: Final = (
    "elements",
    "words",
    "charts",
    "state",
    "table",
    "scatter",
    "precision",
    "detections",
    "objects",
    "training",
    "gallery",
    "class_page",
    "start",
)
"""The parts of the page's script, in ``script/``: first what others use while they are read, last what begins."""


def write_report(runs: Sequence[EvaluatedRun], path: Path, *, title: str = "") -> None:
    """Writes the report of one run, or of several side by side; whole or not at all.

    Args:
        runs: all evaluated on the same file.
        path: of the HTML file.
        title: the page's; the runs' names unless given.

    Raises:
        ValueError: the runs cannot be compared.
    """
    check_comparable(list(runs))
    write_text(path, render(list(runs), title=title or ", ".join(run.name for run in runs)))


def render(runs: Sequence[EvaluatedRun], *, title: str) -> str:
    """The page's text."""
    results = [sort_outcomes(run.evidence, threshold=run.threshold) for run in runs]
    figures = collect_data(runs, results)
    packed = _pack(figures)
    template, style = _read_text("page.html"), _read_text("page.css")
    script = "\n".join(_read_text(f"script/{name}.js") for name in SCRIPT)
    room = LARGEST_FILE - len(packed) - len(template + style + script) - 250 * len(runs[0].frequency.groups) - 20_000
    longest = 144 if len(runs[0].frequency.groups) <= FEW_CLASSES else 96
    galleries = build_galleries(runs, results, room=room, longest=longest)
    while True:  # how long an outline becomes is known when it is packed
        text = _fill_template(
            runs, galleries, title=title, packed=packed, template=template, style=style, script=script
        )
        if (size := len(text.encode())) <= LARGEST_FILE or not galleries.order:
            return text
        galleries.drop(-(-len(galleries.order) * (size - LARGEST_FILE) // size) + 1)


def _fill_template(
    runs: Sequence[EvaluatedRun],
    galleries: Galleries,
    *,
    title: str,
    packed: str,
    template: str,
    style: str,
    script: str,
) -> str:
    """The template with all that belongs into it."""
    truth = runs[0].evidence.truth
    environment = Environment(autoescape=select_autoescape(default=True), keep_trailing_newline=True)
    return environment.from_string(template).render(
        title=title,
        subtitle=f"{count_noun(len(truth.sizes), 'image')}, {count_noun(len(truth.categories), 'class')} of "
        f"{truth.path.name}; {truth.protocol.upper()} AP in percent",
        columns=COLUMNS,
        runs=[{"name": run.name, "rows": _collect_rows(run.analysis.metrics)} for run in runs],
        notes=[*_collect_notes(runs), *_describe_pictures(galleries)],
        group_note=f"AP of {ROW_NAMES[runs[0].evidence.kind]} in percent.",
        fate_note=_describe_fates(runs[0]),
        version=__version__,
        data=packed,
        galleries=[(label, _pack(gallery)) for label, gallery in galleries.of.items()],
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}",
    )


def _read_text(name: str) -> str:
    return files("tailseg.report").joinpath(name).read_text("utf-8")


def collect_data(runs: Sequence[EvaluatedRun], results: Sequence[Outcomes]) -> dict[str, Any]:
    """All that the page draws except the pictures, in JSON's types; the lists of a class are in order of label."""
    truth, frequency = runs[0].evidence.truth, runs[0].frequency
    return {
        "kind": runs[0].evidence.kind,
        "threshold": runs[0].threshold,
        "classes": {
            "name": list(truth.categories.values()),
            "group": [group or NEVER for group in truth.class_groups],
            "images": frequency.image_counts.tolist(),
            "instances": frequency.instance_counts.tolist(),
            "objects": truth.object_counts.tolist(),
        },
        "bounds": list(runs[0].annotations.group_bounds),
        "runs": [_collect_run_data(run, result) for run, result in zip(runs, results, strict=True)],
    }


def _collect_run_data(run: EvaluatedRun, result: Outcomes) -> dict[str, Any]:
    evidence = run.evidence
    per_class = run.analysis.metrics.per_class[evidence.kind]
    right, wrong = compute_score_histograms(evidence)
    return {
        "name": run.name,
        "scores": run.analysis.metrics.scores,
        "settings": _flatten(to_plain(run.recipe)["resolved"]),
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
        "errors": _collect_errors(run),
        "reliability": _collect_reliability(run),
        "train": thin_log(run.log, "train"),
        "val": thin_log(run.log, "val"),
    }


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


def _pack(content: object) -> str:
    """JSON, gzip, base64: nothing of it can be taken for markup, and it is a third as long."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


def _collect_rows(metrics: Metrics) -> list[dict[str, Any]]:
    def row(kind: IouType) -> dict[str, Any]:
        return {"name": ROW_NAMES[kind], "values": [format_percent(metrics.scores[kind][column]) for column in COLUMNS]}

    return [row(kind) for kind in reversed(metrics.scores)]


def _collect_notes(runs: Sequence[EvaluatedRun]) -> list[str]:
    notes = [f"{run.name}: {note}" for run in runs for note in run.analysis.metrics.notes]
    if runs[0].train is None:
        notes.append(
            "The training set was not found: the page has no training examples, and the counts are those of the "
            "checkpoint."
        )
    return notes


def _describe_fates(run: EvaluatedRun) -> str:
    what = ROW_NAMES[run.evidence.kind]
    return (
        f"Found: a detection of its class with a score of at least {run.threshold:g} matches it at an IoU of {what} of "
        "0.5 or more. Taken for another class: not found, but covered by a detection of another class with at least "
        "this score."
    )


def _describe_pictures(galleries: Galleries) -> list[str]:
    notes = []
    if galleries.problem:
        notes.append(f"{'Some' if galleries.shown else 'All'} pictures are missing: {galleries.problem}")
    if galleries.left_out:
        notes.append(f"The file is full: there was no room for {count_noun(galleries.left_out, 'more picture')}.")
    return notes
