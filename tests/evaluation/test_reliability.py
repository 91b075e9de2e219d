"""Reliability: hand-made bins, and hotcoco's expected calibration error on 200 images."""

import numpy as np
import pytest
from hotcoco import metrics as hotcoco

from tailseg.evaluation.detections import match_results, read_detections, select_best_of_each_image
from tailseg.evaluation.ground_truth import read_ground_truth
from tailseg.evaluation.matches import FOUND, LEFT_ALONE, Matches
from tailseg.evaluation.overlaps import Pairs
from tailseg.evaluation.reliability import compute_reliability

NOTHING = np.zeros(0, dtype=np.int64)


def matches_of(scores, states, classes):
    """Matches of these states, in one image."""
    return Matches(
        rows=np.arange(len(scores)),
        classes=np.asarray(classes),
        images=np.zeros(len(scores), dtype=np.int64),
        scores=np.asarray(scores, dtype=np.float64),
        areas=np.ones(len(scores)),
        pairs=Pairs(NOTHING, NOTHING, np.zeros(0)),
        states=np.broadcast_to(np.asarray(states, dtype=np.uint8), (4, 10, len(scores))),
        matched=np.full(len(scores), -1),
        wanted=np.zeros((4, 0), dtype=bool),
        object_classes=NOTHING,
        object_images=NOTHING,
        num_classes=2,
        num_images=1,
    )


def test_scores_are_held_against_precision_bin_by_bin():
    matches = matches_of(
        scores=[0.95, 0.95, 0.85, 0.85, 0.0], states=[FOUND, FOUND, FOUND, 0, 0], classes=[0, 0, 1, 1, 1]
    )

    found = compute_reliability(matches, ("r", "f"))

    assert found["r"].expected_error == pytest.approx(0.05), "both found, scored 0.95"
    # (0.85, found), (0.85, not) and (0, not): 2/3 of 0.35, and nothing
    assert found["f"].expected_error == pytest.approx(2 / 3 * 0.35)
    assert found["f"].bias == pytest.approx((0.85 * 2 - 1) / 3), "the scores promise too much"
    assert found["all"].count == 5
    last, next_to_last, first = found["all"].bins[9], found["all"].bins[8], found["all"].bins[0]
    assert (last.count, last.precision, last.score) == (2, 1, pytest.approx(0.95))
    assert (next_to_last.count, next_to_last.precision) == (2, 0.5)
    assert (first.count, first.precision, first.score) == (1, 0, 0)
    assert found["all"].bins[4].precision is None
    assert "c" not in found


def test_detections_that_are_left_alone_do_not_count():
    found = compute_reliability(matches_of(scores=[0.5], states=[LEFT_ALONE], classes=[0]), ("r", "f"))

    assert found["all"].count == 0
    assert found["all"].expected_error is None


def test_scores_must_be_probabilities():
    with pytest.raises(ValueError, match=r"scores in \[0, 1\], got -2 \.\. 3"):
        compute_reliability(matches_of(scores=[3.0, -2.0], states=[0, 0], classes=[0, 0]), ("r", "f"))


def test_the_expected_error_is_hotcocos(case):
    truth = read_ground_truth(case.truth, masks=False)
    results = read_detections(case.results, truth, ("bbox",))
    matches = match_results(truth, results, select_best_of_each_image(results, truth, 300), "bbox")
    state = matches.states[0, 0]
    counts = state != LEFT_ALONE

    expected, _ = hotcoco.calibration_error(matches.scores[counts], (state == FOUND)[counts], 10)

    assert compute_reliability(matches, truth.class_groups)["all"].expected_error == pytest.approx(expected, abs=1e-12)
