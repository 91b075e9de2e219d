"""From the figures of single fits to a ranking with intervals.

Shapes: S seeds, B samples of the validation images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from tailseg.detection.recalibration import Setting
from tailseg.lab.trials import FIGURES, Candidate, Outcome
from tailseg.lazy import needs_extra

with needs_extra("train"):
    from scipy.stats import t as student_t

Figure = Literal["AP", "APr", "APc", "APf"]
Key = tuple[Candidate, Setting]


@dataclass(frozen=True)
class Gain:
    """The difference of a figure to the baseline, in 0..1, and its 95 % interval; NaN where it cannot be computed."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Entry:
    """A row of the ranking.

    Attributes:
        candidate: loss, classifier and sampling.
        calibration: of its scores.
        figures: means over the seeds, in 0..1.
        gains: the differences to the baseline; none for the baseline itself.
        seeds: number of fits.
    """

    candidate: Candidate
    calibration: Setting
    figures: dict[str, float]
    gains: dict[str, Gain]
    seeds: int

    @property
    def name(self) -> str:
        """What differs from the recipe."""
        suffix = "" if self.calibration.method == "none" else f" + {self.calibration}"
        return f"{self.candidate}{suffix}"


def rank(outcomes: Iterable[Outcome], baseline: Candidate, by: Figure) -> list[Entry]:
    """Ranks the candidates by the mean of a figure over the seeds, best first.

    Args:
        outcomes: all fits; the baseline has every seed.
        baseline: what the others are compared with, without calibration.
        by: the figure that decides.

    Returns:
        One entry for each candidate and calibration.
    """
    groups: dict[Key, dict[int, Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.candidate, outcome.calibration), {})[outcome.seed] = outcome
    base = groups.get((baseline, Setting()), {})
    entries = [
        Entry(
            *key,
            figures={name: fmean(outcome.figures[name] for outcome in fits.values()) for name in FIGURES},
            gains={} if key == (baseline, Setting()) else {name: compute_gain(fits, base, name) for name in FIGURES},
            seeds=len(fits),
        )
        for key, fits in groups.items()
    ]
    return sorted(entries, key=lambda entry: -np.nan_to_num(entry.figures[by], nan=-1.0))


def compute_gain(fits: dict[int, Outcome], base: dict[int, Outcome], name: str) -> Gain:
    """Computes the difference of a figure of the same seeds and images, and its 95 % interval.

    half width = sqrt((1.96 s_images)^2 + (t s_seeds / sqrt(S))^2)

    s_images is the standard deviation of the mean difference over B samples of the validation images, s_seeds that of
    the differences over the S seeds, and t the 97.5 % quantile of Student's distribution with S - 1 degrees of freedom.
    With one seed the second term is left out.

    Args:
        fits: of the candidate, by seed.
        base: of the baseline, by seed.
        name: of the figure.

    Returns:
        The difference and its interval.
    """
    seeds = sorted(fits.keys() & base.keys())
    if not seeds:
        return Gain(*[float("nan")] * 3)
    differences = [fits[seed].figures[name] - base[seed].figures[name] for seed in seeds]
    samples = np.mean([fits[seed].samples[name] - base[seed].samples[name] for seed in seeds], axis=0)
    samples = samples[np.isfinite(samples)]
    square = (1.96 * float(samples.std(ddof=1))) ** 2 if len(samples) > 1 else float("nan")
    if len(seeds) > 1:
        square += (float(student_t.ppf(0.975, len(seeds) - 1)) * float(np.std(differences, ddof=1))) ** 2 / len(seeds)
    mean = fmean(differences)
    return Gain(mean, mean - square**0.5, mean + square**0.5)


def best_candidates(entries: Sequence[Entry], count: int) -> list[Candidate]:
    """The first candidates of a ranking, without repetition."""
    return list(dict.fromkeys(entry.candidate for entry in entries))[:count]
