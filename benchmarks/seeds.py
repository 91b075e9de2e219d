"""Figures of finished runs, their mean over seeds, and paired differences with intervals."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student_t

COLUMNS = {
    "AP": ("segm", "AP"),
    "APr": ("segm", "APr"),
    "APc": ("segm", "APc"),
    "APf": ("segm", "APf"),
    "AP50": ("segm", "AP50"),
    "APb": ("bbox", "AP"),
}
"""The columns of the tables: masks, but APb, which is the AP of the boxes."""


def read_figures(folder: Path) -> dict[str, float]:
    """Reads the figures of a finished run in percent; a figure without objects is left out."""
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    values = {column: scores.get(kind, {}).get(name) for column, (kind, name) in COLUMNS.items()}
    return {column: 100 * value for column, value in values.items() if value is not None}


def format_mean(values: Sequence[float]) -> str:
    """Formats the mean and, of two values or more, the standard deviation."""
    if not values:
        return "-"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def compute_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Computes the 95 % interval of the mean of paired differences by Student's t.

    Args:
        differences: the difference of each seed, two or more.

    Returns:
        The lower and the upper bound: mean -+ t(0.975, n - 1) * deviation / sqrt(n).
    """
    count = len(differences)
    reach = float(student_t.ppf(0.975, count - 1)) * stdev(differences) / count**0.5
    return mean(differences) - reach, mean(differences) + reach


def format_difference(differences: Sequence[float]) -> str:
    """Formats the mean of paired differences and, of two or more, its 95 % interval."""
    if not differences:
        return "-"
    if len(differences) == 1:
        return f"{differences[0]:+.1f}"
    low, high = compute_interval(differences)
    return f"{mean(differences):+.1f} ({low:.1f} .. {high:.1f})"
