"""Counts and costs of all six kinds of error against TIDE's own code, and by name where it departs from ours."""

import json

import numpy as np
import pytest

from tailseg.evaluation import analyze
from tailseg.evaluation.errors import KINDS

from .tide import SHORT, over_classes, printed, random_set, record, run_of, without_excused

every_type = pytest.mark.parametrize("iou_type", ["bbox", "segm"])
IMAGE = {"id": 1, "file_name": "1.jpg", "height": 240, "width": 320}


def ours(tmp_path, truth, results, iou_type):
    """The error kinds of all classes together."""
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    dropped = "segmentation" if iou_type == "bbox" else "bbox"
    records = [{key: value for key, value in each.items() if key != dropped} for each in results]
    return analyze(path, {iou_type: records}).errors[iou_type].parts["all"]


def assert_same(found, theirs):
    """Costs in percent: the same numbers added in another order."""
    assert {SHORT[kind]: found.counts[kind] for kind in KINDS} == theirs.counts
    assert pytest.approx(theirs.ap, abs=1e-9) == 100 * found.AP50
    for kind in KINDS:
        cost, expected = found.cost[kind], theirs.cost[SHORT[kind]]
        if expected is None:
            assert cost is None, kind
        else:
            assert 100 * cost == pytest.approx(expected, abs=1e-9), kind


@every_type
@pytest.mark.parametrize("seed", range(40))
def test_equals_what_tidecv_prints(seed, iou_type, tmp_path):
    """Where every class that is detected has objects, and no crowd excuses a detection."""
    truth, results = random_set(np.random.default_rng(seed), only_known=True)
    results = without_excused(truth, results, iou_type)
    if results:
        theirs = printed(run_of(truth, results, iou_type))
        assert_same(ours(tmp_path, truth, results, iou_type), theirs)


@every_type
@pytest.mark.parametrize("seed", range(40, 80))
def test_equals_tidecvs_classes_whatever_is_detected(seed, iou_type, tmp_path):
    """With the mean over the classes that have objects, as in COCO and LVIS."""
    truth, results = random_set(np.random.default_rng(seed), only_known=False)
    results = without_excused(truth, results, iou_type)
    if results:
        asked = {each["category_id"] for each in truth["annotations"] if not each["iscrowd"]}
        theirs = over_classes(run_of(truth, results, iou_type), asked)
        assert_same(ours(tmp_path, truth, results, iou_type), theirs)


def by_box(*boxes):
    """Objects or detections of one image, from (class, box) or (class, box, score)."""
    made = []
    for number, (label, box, *score) in enumerate(boxes, 1):
        rest = {"score": score[0]} if score else {"id": number, "area": box[2] * box[3], "iscrowd": 0}
        made.append(record(IMAGE, label, box) | rest)
    return made


def set_of(*boxes, num_classes=2):
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, num_classes + 1)]
    return {"images": [IMAGE], "annotations": by_box(*boxes), "categories": categories}


FIRST, SECOND, ELSEWHERE = [10, 10, 50, 50], [150, 10, 50, 50], [10, 150, 50, 50]


def test_a_class_without_any_detection_costs_what_tidecv_says(tmp_path):
    """One of two classes is found: AP50 is 50, and without the missed object it would be 100."""
    truth, results = set_of((1, FIRST), (2, SECOND)), by_box((1, FIRST, 0.9))
    assert ours(tmp_path, truth, results, "bbox").cost["missed"] == pytest.approx(0.5)
    assert printed(run_of(truth, results, "bbox")).cost["Miss"] == pytest.approx(50)


def test_with_a_false_detection_the_class_stays_in_the_mean(tmp_path):
    truth, results = set_of((1, FIRST), (2, SECOND)), by_box((1, FIRST, 0.9), (2, ELSEWHERE, 0.5))
    assert ours(tmp_path, truth, results, "bbox").cost["missed"] == 0
    assert printed(run_of(truth, results, "bbox")).cost["Miss"] == pytest.approx(0)


def test_without_any_detection_no_class_is_left(tmp_path):
    """tidecv divides by zero there."""
    truth = set_of((1, FIRST), (2, SECOND))
    found = ours(tmp_path, truth, [], "bbox")
    assert (found.AP50, found.counts["missed"], found.cost["missed"]) == (0, 2, None)
    with pytest.raises(ZeroDivisionError):
        run_of(truth, [], "bbox").fix_main_errors()


# Where tidecv departs, by the names that docs/how-to/evaluate.md gives.


def test_departure_classes_without_objects(tmp_path):
    truth, results = set_of((1, FIRST)), by_box((1, FIRST, 0.9), (2, ELSEWHERE, 0.5))
    theirs = printed(run_of(truth, results, "bbox"))
    assert (theirs.ap, theirs.cost["Bkg"]) == pytest.approx((50, 50)), "AP 0 of class 2 counts"
    found = ours(tmp_path, truth, results, "bbox")
    assert (found.AP50, found.cost["background"]) == pytest.approx((1, 0))


def test_departure_detections_that_a_crowd_excuses(tmp_path):
    truth = set_of((1, FIRST), (1, ELSEWHERE))
    truth["annotations"][1]["iscrowd"] = 1
    results = by_box((1, FIRST, 0.9), (1, ELSEWHERE, 0.5))
    theirs = printed(run_of(truth, results, "bbox"))
    assert theirs.ap == pytest.approx(100)
    assert theirs.counts["Bkg"] == 1, "excused in AP, an error all the same"
    assert sum(ours(tmp_path, truth, results, "bbox").counts.values()) == 0


def test_departure_a_detection_that_lies_half_in_a_crowd(tmp_path):
    truth = set_of((1, FIRST), (1, ELSEWHERE))
    truth["annotations"][1]["iscrowd"] = 1
    x, y, w, h = ELSEWHERE
    results = by_box((1, [x + w / 2, y, w, h], 1.0), (1, FIRST, 0.9))
    assert printed(run_of(truth, results, "bbox")).ap == pytest.approx(50), "false, before the right one"
    assert pytest.approx(1) == ours(tmp_path, truth, results, "bbox").AP50


def test_departure_a_hundred_detections_over_all_classes(tmp_path):
    truth = set_of((1, FIRST), (2, SECOND))
    results = [*by_box((1, FIRST, 1.0)), *by_box(*[(1, ELSEWHERE, 0.9)] * 99), *by_box((2, SECOND, 0.5))]
    assert printed(run_of(truth, results, "bbox", max_dets=100)).ap == pytest.approx(50)
    assert pytest.approx(1) == ours(tmp_path, truth, results, "bbox").AP50, (
        "a hundred of each class, or 300 in all under LVIS's rules"
    )


def test_departure_points_of_the_curve(tmp_path):
    """7 of 10 objects: pycocotools' point 70 * 0.01 lies above 0.7, tidecv's 70 / 100 does not."""
    boxes = [[10.0 + 30 * i, 10.0, 20.0, 20.0] for i in range(10)]
    truth = set_of(*((1, box) for box in boxes), num_classes=1)
    results = by_box(*((1, box, 0.9) for box in boxes[:7]))
    assert printed(run_of(truth, results, "bbox")).ap == pytest.approx(100 * 71 / 101)
    assert pytest.approx(70 / 101) == ours(tmp_path, truth, results, "bbox").AP50
