"""The lab's page and its table: the ranking with intervals, and what it cannot say."""

import math
from typing import TYPE_CHECKING, Final

from tailseg.evaluation.metrics import format_percent
from tailseg.lab.ranking import Entry, Figure, Gain
from tailseg.lab.trials import FIGURES
from tailseg.recipes.advice import MIN_AP
from tailseg.report.builder import build_page
from tailseg.words import count_noun

if TYPE_CHECKING:
    from tailseg.lab.lab import LabResult

GAINS: Final[tuple[Figure, ...]] = ("AP", "APr")
"""The figures whose difference to the baseline is always shown."""
LIMITS: Final = (
    "The features are fixed. What a loss does to the backbone, the FPN and the RPN in a full training is not seen.",
    "AP is that of boxes. The mask head is not fitted.",
    "The features come from a network that was trained with one loss. This loss may be ranked too high.",
    "The winner was chosen by these figures, so its own figures are too high. Its interval does not correct this.",
    "A gain whose interval holds 0 may be chance. Train the candidates that the intervals do not separate.",
)


def list_gains(by: Figure) -> tuple[Figure, ...]:
    """The figures whose difference to the baseline is shown: `GAINS`, and the one that decided."""
    return tuple(dict.fromkeys((*GAINS, by)))


def render(result: "LabResult") -> str:
    """Writes the page.

    Args:
        result: the ranking.

    Returns:
        The HTML text.
    """
    gains = list_gains(result.by)
    rows = [
        {
            "name": entry.name,
            "is_baseline": not entry.gains,
            "figures": [format_figure(entry.figures[name]) for name in FIGURES],
            "gains": [
                {"text": format_gain(entry.gains.get(name)), "kind": judge(entry.gains.get(name))} for name in gains
            ],
        }
        for entry in result.entries
    ]
    return build_page(
        "lab.html",
        styles=["base", "lab"],
        scripts=[],
        title=f"Lab: {result.recipe.data.train}",
        subtitle=f"{count_noun(len(rows), 'candidate')}, fitted on the region features of one network",
        winner=result.winner.name,
        verdict=describe_winner(result.winner, result.by),
        command=result.command,
        caption=describe_table(result),
        columns=FIGURES,
        gain_columns=gains,
        rows=rows,
        limits=LIMITS,
    )


def describe_table(result: "LabResult") -> str:
    """Says what the figures and the intervals are."""
    seeds = result.winner.seeds
    return (
        f"AP of boxes on the validation set in percent, the mean of {count_noun(seeds, 'seed')}, in the order of "
        f"{result.by}. The baseline is {result.baseline}. The intervals are paired: the same seeds and the same images "
        "for both. They have two parts, the spread over drawn images (bootstrap) and the spread over the seeds "
        "(Student's t)."
    )


def describe_winner(winner: Entry, by: Figure = "AP") -> str:
    """Says how much the winner gains, or that the figures are too low to rank anything.

    Args:
        winner: the first entry of the ranking.
        by: the figure that decided.

    Returns:
        The rest of a sentence that begins with the winner's name.
    """
    if winner.figures["AP"] < MIN_AP:
        return (
            f" is the first of a ranking that says nothing: its AP is {format_figure(winner.figures['AP'])}. The "
            "network has learned too little for these fits: give it more time (--minutes), or name a run (--run RUN)."
        )
    if not winner.gains:
        return " is the baseline: no candidate is better."
    words = {"better": "larger than chance", "worse": "worse than the baseline", "": "not larger than chance"}
    gains = [
        f"{name} {format_gain(winner.gains[name])}, {words[judge(winner.gains[name])]}"
        for name in list_gains(by)
        if not math.isnan(winner.gains[name].mean)
    ]
    return f": {'; '.join(gains)}."


def format_figure(value: float) -> str:
    return format_percent(None if math.isnan(value) else value)


def format_gain(gain: Gain | None) -> str:
    """``+1.2 (0.3 .. 2.1)`` in percent."""
    if gain is None or math.isnan(gain.mean):
        return "-"
    return f"{100 * gain.mean:+.1f} ({100 * gain.low:.1f} .. {100 * gain.high:.1f})"


def judge(gain: Gain | None) -> str:
    """``better`` or ``worse`` if the interval is on one side of 0, else nothing."""
    if gain is None or math.isnan(gain.low):
        return ""
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else ""
