"""The report's figures, by hand."""

import json

import numpy as np
import pytest

from tailseg.evaluation import matches
from tailseg.report.figures import (
    CONFUSED,
    FOUND,
    LEFT_ALONE,
    MISSED,
    compute_precision_curves,
    compute_score_histograms,
    count_confusions,
    count_outcomes,
    find_false_alarms,
    sort_outcomes,
)

from .squares import ANT, BEE, GNU, dataset, gather, record

LABELS = {ANT: 0, BEE: 1, GNU: 2}


@pytest.fixture
def look(read, tmp_path):
    """The evidence of records against a data set."""

    def look_at(data, records):
        (tmp_path / "results.json").write_text(json.dumps(records))
        groups = {ANT: "r", BEE: "f", GNU: "c"}
        return gather(read(data).path, tmp_path / "results.json", kind="segm", groups=groups, least_score=0.3)

    return look_at


@pytest.fixture
def evidence(look):
    """Two ants, one of them found after a false alarm; the bee taken for a gnu, and found with a poor score."""
    return look(
        dataset(),
        [
            record(1, ANT, 40, 20, 0.92),
            record(1, ANT, 5, 5, 0.61),
            record(2, GNU, 41, 25, 0.55),
            record(2, BEE, 40, 25, 0.31),
            record(2, ANT, 40, 26, 0.41),
        ],
    )


def test_precision_falls_with_recall_and_is_zero_beyond_the_largest(evidence):
    # ants: wrong, right (1 of 2 found, precision 1/2), wrong
    ants, bees, gnus = compute_precision_curves(evidence)
    assert ants == pytest.approx([0.5] * 51 + [0] * 50)
    assert bees == pytest.approx([1] * 101)
    assert gnus is None, "there is no gnu"


def test_scores_are_counted_in_bins_of_a_twentieth(evidence):
    true, false = compute_score_histograms(evidence)
    assert [(label, bin_) for label, bin_ in np.argwhere(true).tolist()] == [(0, 12), (1, 6)]
    assert [(label, bin_) for label, bin_ in np.argwhere(false).tolist()] == [(0, 8), (0, 18), (2, 11)]


def test_an_object_is_found_confused_or_missed_at_a_threshold(evidence):
    assert sort_outcomes(evidence, threshold=0.3).fates.tolist() == [FOUND, MISSED, FOUND]
    strict = sort_outcomes(evidence, threshold=0.35)
    assert strict.fates.tolist() == [FOUND, MISSED, CONFUSED]
    assert evidence.classes[strict.by[2]] == LABELS[GNU], "the better of the two that confuse"
    assert sort_outcomes(evidence, threshold=0.95).fates.tolist() == [MISSED] * 3


def test_what_finds_its_own_object_confuses_no_other(look):
    data = dataset()
    data["annotations"].append(data["annotations"][0] | {"id": 4, "category_id": BEE})  # two classes in one place
    result = sort_outcomes(look(data, [record(1, ANT, 5, 5, 0.9)]), threshold=0.5)
    assert result.fates.tolist() == [FOUND, MISSED, MISSED, MISSED]


def test_a_score_and_an_overlap_at_their_bounds_count(look):
    evidence = look(dataset(), [record(2, GNU, 40, 25, 0.5, size=5)])  # on a quarter of the bee
    assert sort_outcomes(evidence, threshold=0.5, iou=0.25).fates[2] == CONFUSED
    assert sort_outcomes(evidence, threshold=0.51, iou=0.25).fates[2] == MISSED
    assert sort_outcomes(evidence, threshold=0.5, iou=0.26).fates[2] == MISSED


def test_a_class_nobody_looked_for_confuses_though_it_counts_neither_for_nor_against(look):
    lvis = dataset(neg_category_ids=[], not_exhaustive_category_ids=[])
    evidence = look(lvis, [record(1, BEE, 5, 5, 0.9), record(1, BEE, 5, 6, 0.2)])
    assert evidence.states.tolist() == [matches.LEFT_ALONE], "the other one scores too little to be seen"
    assert count_confusions(evidence, sort_outcomes(evidence, threshold=0.3)) == [(LABELS[ANT], LABELS[BEE], 1)]
    assert compute_score_histograms(evidence)[1].sum() == 0
    assert [len(alarms) for alarms in find_false_alarms(evidence, threshold=0.3)] == [0, 0, 0]


def test_a_crowd_is_neither_found_nor_missed(look):
    data = dataset()
    data["annotations"][0]["iscrowd"] = 1
    assert sort_outcomes(look(data, []), threshold=0.5).fates.tolist() == [LEFT_ALONE, MISSED, MISSED]


def test_counts_and_confusions_add_up(evidence):
    strict = sort_outcomes(evidence, threshold=0.35)
    assert count_outcomes(evidence, strict).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert count_confusions(evidence, strict) == [(LABELS[BEE], LABELS[GNU], 1)]


def test_false_alarms_come_best_first(evidence):
    ants, bees, gnus = find_false_alarms(evidence, threshold=0.4)
    assert evidence.scores[ants].tolist() == [0.92, 0.41]
    assert (len(bees), len(gnus)) == (0, 1)
    assert len(find_false_alarms(evidence, threshold=0.5)[LABELS[ANT]]) == 1
