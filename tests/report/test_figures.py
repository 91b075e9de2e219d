"""The report's figures, by hand."""

import numpy as np
import pytest

from tailseg.evaluation import read_results
from tailseg.report.figures import (
    CONFUSED,
    FOUND,
    LEFT_ALONE,
    MISSED,
    confusions,
    false_alarms,
    outcome_counts,
    outcomes,
    precision_at_recalls,
    score_histograms,
)
from tailseg.report.matching import match

from .squares import ANT, BEE, GNU, dataset, record

LABELS = {ANT: 0, BEE: 1, GNU: 2}


@pytest.fixture
def matches(read):
    """Two ants, one of them found after a false alarm; the bee taken for a gnu, and found with a poor score."""
    return match(
        read(dataset()),
        read_results(
            [
                record(1, ANT, 40, 20, 0.92),
                record(1, ANT, 5, 5, 0.61),
                record(2, GNU, 41, 25, 0.55),
                record(2, BEE, 40, 25, 0.31),
                record(2, ANT, 40, 26, 0.41),
            ]
        ),
    )


def test_precision_falls_with_recall_and_is_zero_beyond_the_largest(matches):
    # ants: wrong, right (1 of 2 found, precision 1/2), wrong
    precision = precision_at_recalls(matches, LABELS[ANT])
    assert precision[:51].tolist() == [0.5] * 51
    assert precision[51:].tolist() == [0] * 50
    assert precision_at_recalls(matches, LABELS[BEE]).tolist() == [1] * 101
    assert precision_at_recalls(matches, LABELS[GNU]) is None, "there is no gnu"


def test_scores_are_counted_in_bins_of_a_twentieth(matches):
    true, false = score_histograms(matches)
    assert [(label, bin_) for label, bin_ in np.argwhere(true).tolist()] == [(0, 12), (1, 6)]
    assert [(label, bin_) for label, bin_ in np.argwhere(false).tolist()] == [(0, 8), (0, 18), (2, 11)]


def test_an_object_is_found_confused_or_missed_at_a_threshold(matches):
    assert outcomes(matches, threshold=0.3).fates.tolist() == [FOUND, MISSED, FOUND]
    strict = outcomes(matches, threshold=0.35)
    assert strict.fates.tolist() == [FOUND, MISSED, CONFUSED]
    assert matches.labels[strict.by[2]] == LABELS[GNU], "the better of the two that confuse"
    assert outcomes(matches, threshold=0.95).fates.tolist() == [MISSED] * 3


def test_what_finds_its_own_object_confuses_no_other(read):
    data = dataset()
    data["annotations"].append(data["annotations"][0] | {"id": 4, "category_id": BEE})  # two classes in one place
    matches = match(read(data), read_results([record(1, ANT, 5, 5, 0.9)]))
    assert sorted(outcomes(matches, threshold=0.5).fates[:2].tolist()) == [MISSED, FOUND]


def test_a_region_is_neither_found_nor_missed(read):
    data = dataset()
    data["annotations"][0]["iscrowd"] = 1
    assert outcomes(match(read(data), read_results([])), threshold=0.5).fates.tolist() == [LEFT_ALONE, MISSED, MISSED]


def test_counts_and_confusions_add_up(matches):
    strict = outcomes(matches, threshold=0.35)
    assert outcome_counts(matches, strict).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert confusions(matches, strict) == [(LABELS[BEE], LABELS[GNU], 1)]


def test_false_alarms_come_best_first(matches):
    rows = false_alarms(matches, LABELS[ANT], threshold=0.4)
    assert matches.scores[rows].tolist() == [0.92, 0.41]
    assert len(false_alarms(matches, LABELS[ANT], threshold=0.5)) == 1
