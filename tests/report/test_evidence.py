"""What became of each detection, by hand. (That the matching is the evaluator's is tested there.)"""

import json

import pytest

from tailseg.evaluation.matches import FALSE, FOUND, LEFT_ALONE

from .squares import ANT, BEE, GNU, dataset, gather, record

GROUPS = {ANT: "r", BEE: "f", GNU: "c"}


@pytest.fixture
def look(read, tmp_path):
    """The evidence of records against a data set."""

    def look_at(data, *records, kind="segm"):
        (tmp_path / "results.json").write_text(json.dumps(records))
        return gather(read(data).path, tmp_path / "results.json", kind=kind, groups=GROUPS, least_score=0.3)

    return look_at


def by_score(evidence):
    """Fates of the detections, best first."""
    return evidence.states[(-evidence.scores).argsort()].tolist()


def test_the_first_detection_of_an_object_is_right_and_the_second_is_wrong(look):
    assert by_score(look(dataset(), record(1, ANT, 5, 5, 0.9), record(1, ANT, 5, 5, 0.8))) == [FOUND, FALSE]


def test_half_an_object_is_enough_and_less_is_not(look):
    # squares of 10 moved by 3 share 70 of 130 pixels (0.54), moved by 4 share 60 of 140 (0.43)
    assert by_score(look(dataset(), record(1, ANT, 8, 5, 0.9), record(2, ANT, 24, 10, 0.8))) == [FOUND, FALSE]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_another_class_is_wrong_lies_on_the_object_and_leaves_it_to_be_found(look, kind):
    evidence = look(dataset(), record(1, BEE, 5, 5, 0.9), record(1, ANT, 6, 5, 0.2), kind=kind)
    assert evidence.classes.tolist() == [0, 1]
    assert evidence.states.tolist() == [FOUND, FALSE]
    assert evidence.overlapped.tolist() == [0, 0]
    assert evidence.overlaps.tolist() == pytest.approx([90 / 110, 1])
    assert evidence.found_by.tolist() == [0, -1, -1]


def test_of_two_objects_the_one_overlapped_more_counts(look):
    data = dataset()
    data["annotations"].append(data["annotations"][2] | {"id": 4, "image_id": 1, "bbox": [9, 5, 10, 10]})
    data["annotations"][3]["segmentation"] = [[9, 5, 19, 5, 19, 15, 9, 15]]
    evidence = look(data, record(1, GNU, 8, 5, 0.9))
    assert evidence.overlapped.tolist() == [1], "objects are ordered by image"
    assert evidence.overlaps.tolist() == pytest.approx([90 / 110])


def test_a_crowd_swallows_what_lies_in_it_but_is_neither_found_nor_covered(look):
    data = dataset()
    data["annotations"][0] |= {"iscrowd": 1, "bbox": [0, 0, 30, 30]}
    data["annotations"][0]["segmentation"] = [[0, 0, 30, 0, 30, 30, 0, 30]]
    evidence = look(data, record(1, ANT, 5, 5, 0.9), record(1, BEE, 5, 5, 0.7))
    assert by_score(evidence) == [LEFT_ALONE, FALSE]
    assert evidence.found_by.tolist() == [-1, -1, -1]
    assert evidence.overlapped.tolist() == [-1, -1]
