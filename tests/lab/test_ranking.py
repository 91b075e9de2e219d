"""The ranking and its intervals, against values written out."""

from dataclasses import replace

import numpy as np
import pytest

from tailseg.detection.recalibration import Setting
from tailseg.lab.page import describe_winner, format_gain, judge, list_gains
from tailseg.lab.ranking import Gain, best_candidates, compute_gain, rank
from tailseg.lab.trials import FIGURES, Candidate, Outcome
from tailseg.recipes.tiny import tiny_gumbel, tiny_softmax

BASE, BETTER, OTHER = Candidate("softmax"), Candidate("gol"), Candidate("gol", normalized=True)
NORCAL = Setting("NorCal", 0.6)


def outcome(candidate: Candidate, seed: int, value: float, calibration: Setting | None = None, *, noise: float = 0.0):
    samples = value + noise * np.random.default_rng(7).normal(size=50)
    return Outcome(
        candidate, seed, calibration or Setting(), dict.fromkeys(FIGURES, value), dict.fromkeys(FIGURES, samples)
    )


def test_candidates_are_ranked_by_their_mean() -> None:
    outcomes = [
        *(outcome(BASE, seed, value) for seed, value in enumerate((0.10, 0.20, 0.15))),
        *(outcome(BETTER, seed, value) for seed, value in enumerate((0.20, 0.30, 0.28))),
        *(outcome(BETTER, seed, value, NORCAL) for seed, value in enumerate((0.21, 0.31, 0.29))),
        *(outcome(OTHER, seed, float("nan")) for seed in range(3)),
    ]

    entries = rank(outcomes, BASE, "AP")

    assert [entry.name for entry in entries] == ["gol + NorCal 0.6", "gol", "softmax", "gol, normalized"]
    assert entries[0].figures["APr"] == pytest.approx(0.27)
    assert entries[2].gains == {}
    assert best_candidates(entries, 2) == [BETTER, BASE]


def test_the_interval_has_the_spread_of_images_and_of_seeds() -> None:
    fits = {0: outcome(BETTER, 0, 0.30, noise=0.02), 1: outcome(BETTER, 1, 0.34, noise=0.02)}
    base = {0: outcome(BASE, 0, 0.20), 1: outcome(BASE, 1, 0.22), 2: outcome(BASE, 2, 0.9)}

    gain = compute_gain(fits, base, "AP")

    images = 1.96 * np.std(0.02 * np.random.default_rng(7).normal(size=50), ddof=1)
    seeds = 12.706204736432095 * np.std([0.10, 0.12], ddof=1) / 2**0.5
    assert gain.mean == pytest.approx(0.11)
    assert gain.high - gain.mean == pytest.approx((images**2 + seeds**2) ** 0.5)
    assert gain.mean - gain.low == pytest.approx(gain.high - gain.mean)


def test_one_seed_has_the_spread_of_images_alone() -> None:
    gain = compute_gain({0: outcome(BETTER, 0, 0.3)}, {0: outcome(BASE, 0, 0.2)}, "AP")

    assert (gain.low, gain.high) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("gain", "text", "verdict"),
    [
        (Gain(0.012, 0.003, 0.021), "+1.2 (0.3 .. 2.1)", "better"),
        (Gain(-0.012, -0.021, 0.003), "-1.2 (-2.1 .. 0.3)", ""),
        (Gain(-0.012, -0.021, -0.003), "-1.2 (-2.1 .. -0.3)", "worse"),
        (Gain(*[float("nan")] * 3), "-", ""),
        (None, "-", ""),
    ],
)
def test_a_gain_in_words(gain: Gain | None, text: str, verdict: str) -> None:
    assert format_gain(gain) == text
    assert judge(gain) == verdict


def test_a_baseline_that_wins_is_said() -> None:
    entries = rank([outcome(BASE, 0, 0.3), outcome(BETTER, 0, 0.2)], BASE, "AP")

    assert "no candidate is better" in describe_winner(entries[0])


def test_a_network_that_learned_nothing_ranks_nothing() -> None:
    entries = rank([outcome(BASE, 0, 0.001), outcome(BETTER, 0, 0.002)], BASE, "AP")

    assert "a ranking that says nothing: its AP is 0.2" in describe_winner(entries[0])


def test_the_figure_that_decided_is_shown() -> None:
    entries = rank([outcome(BASE, 0, 0.2), outcome(BETTER, 0, 0.3)], BASE, "APf")

    assert list_gains("APf") == ("AP", "APr", "APf")
    assert list_gains("APr") == ("AP", "APr")
    assert "APf +10.0 (10.0 .. 10.0), larger than chance" in describe_winner(entries[0], "APf")


def test_a_candidate_changes_the_recipe() -> None:
    recipe = Candidate("softmax", normalized=True, sampling="repeat").change(tiny_gumbel())

    assert recipe.loss == tiny_softmax().loss
    assert recipe.model.box.normalized is not None
    assert recipe.model.box.normalized.temperature == 5
    assert replace(recipe.model.box, normalized=None) == tiny_gumbel().model.box
    assert (recipe.data.sampling, recipe.data.repeat_threshold) == ("repeat", "auto")
    assert Candidate("gumbel").change(tiny_gumbel()) == tiny_gumbel()
