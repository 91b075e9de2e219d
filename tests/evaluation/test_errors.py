"""Error kinds: hand-made cases of each kind, and counts and costs that equal hotcoco's TIDE on 200 images."""

import json

import numpy as np
import pytest
from hotcoco import COCOeval

from tailseg.evaluation.detections import (
    get_areas,
    match_results,
    read_detections,
    select_best_of_each_image,
    select_counting,
)
from tailseg.evaluation.errors import KINDS, sort_errors
from tailseg.evaluation.ground_truth import read_ground_truth
from tailseg.evaluation.matches import FALSE

from .conftest import needs_new_hotcoco

SHORT = {"classification": "Cls", "localization": "Loc", "both": "Both", "duplicate": "Dupe"}
SHORT |= {"background": "Bkg", "missed": "Miss"}


def tide(truth, found, rows, iou_type):
    """hotcoco's counts and costs; it is told the same detections, with the same areas."""
    rows = select_counting(found, truth, rows, iou_type)
    boxes = found.boxes[rows] if iou_type == "bbox" else np.zeros((len(rows), 4))
    table = np.column_stack([found.image_ids[rows], boxes, found.scores[rows], found.category_ids[rows]])
    masks = found.masks(rows) if iou_type == "segm" else None
    detections = truth.coco.load_res(table, segmentation=masks)
    detections.update_anns(ids=np.arange(1, len(rows) + 1), area=get_areas(found, iou_type)[rows])
    engine = COCOeval(truth.coco, detections.cap_detections_per_image(None), iou_type, lvis_style=True)
    engine.evaluate()
    engine.accumulate()
    return engine.tide_errors()


@needs_new_hotcoco
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_counts_and_costs_equal_hotcocos(case, iou_type):
    truth = read_ground_truth(case.truth, masks=True)
    found = read_detections(case.results, truth, ("bbox", "segm"))
    rows = select_best_of_each_image(found, truth, 300)
    matches = match_results(truth, found, rows, iou_type)

    errors = sort_errors(truth, found, matches, iou_type)

    theirs, ours = tide(truth, found, rows, iou_type), errors.parts["all"]
    assert ours.counts == {kind: theirs["counts"][SHORT[kind]] for kind in KINDS}
    assert min(ours.counts.values()) > 20, "each kind should occur"
    # The same numbers added in another order. Every class is detected here: without, hotcoco says 0 of missed objects.
    expected = {kind: pytest.approx(theirs["delta_ap"][SHORT[kind]], abs=1e-12) for kind in KINDS}
    assert ours.cost == expected
    assert pytest.approx(theirs["ap_base"], abs=1e-12) == ours.AP50


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_groups_add_up_and_every_false_positive_has_one_kind(case, iou_type):
    truth = read_ground_truth(case.truth, masks=True)
    found = read_detections(case.results, truth, ("bbox", "segm"))
    matches = match_results(truth, found, select_best_of_each_image(found, truth, 300), iou_type)

    errors = sort_errors(truth, found, matches, iou_type)

    whole = errors.parts["all"]
    for kind in KINDS:
        assert whole.counts[kind] == sum(errors.parts[group].counts[kind] for group in "rcf")
    assert whole.num_objects == sum(errors.parts[group].num_objects for group in "rcf") == len(truth.objects)
    assert sum(whole.counts[kind] for kind in KINDS[:-1]) == (matches.states[0, 0] == FALSE).sum()
    assert errors.per_class.sum(0).tolist() == list(whole.counts.values())
    assert whole.counts["missed"] <= whole.num_objects - whole.found


# One image of 100 x 100. Two objects: an ant (class 1, rare) at 10, a bee (class 2, frequent) at 60, 20 x 20 each.
ANT, BEE = [10, 10, 20, 20], [60, 60, 20, 20]


def scene(tmp_path, negative=(1, 2, 3), not_exhaustive=()):
    data = {
        "images": [
            {"id": 1, "height": 100, "width": 100}
            | {"neg_category_ids": list(negative), "not_exhaustive_category_ids": list(not_exhaustive)}
        ],
        "categories": [{"id": i, "name": name, "frequency": f} for i, name, f in ((1, "ant", "r"), (2, "bee", "f"))]
        + [{"id": 3, "name": "gnu", "frequency": "c"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": box, "area": 400} for i, box in ((1, ANT), (2, BEE))
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(data))
    return read_ground_truth(path, masks=False)


def errors_of(truth, *found):
    records = [{"image_id": 1, "category_id": category, "bbox": box, "score": score} for category, box, score in found]
    results = read_detections(records, truth, ("bbox",))
    matches = match_results(truth, results, select_best_of_each_image(results, truth, 300), "bbox")
    return sort_errors(truth, results, matches, "bbox")


def moved(box, by):
    return [box[0] + by, *box[1:]]


# A box moved by 4 of 20 overlaps by 2/3, by 10 by 1/3, by 17 by 3/37 < 0.1.
@pytest.mark.parametrize(
    ("kind", "detection"),
    [
        ("localization", (1, moved(ANT, 10), 0.5)),
        ("classification", (1, moved(BEE, 4), 0.5)),
        ("both", (1, moved(BEE, 10), 0.5)),
        ("duplicate", (1, moved(ANT, 4), 0.5)),
        ("background", (1, moved(ANT, 17), 0.5)),
    ],
)
def test_each_kind_of_false_positive(tmp_path, kind, detection):
    errors = errors_of(scene(tmp_path), (1, ANT, 0.9), (2, BEE, 0.9), detection)

    assert errors.parts["r"].counts == dict.fromkeys(KINDS, 0) | {kind: 1}
    assert errors.parts["all"].found == 2
    assert errors.parts["r"].cost[kind] == 0, "it comes after the object that was found, where it costs no precision"


def test_what_is_pointed_at_is_not_missed(tmp_path):
    truth = scene(tmp_path)

    nothing, near = errors_of(truth).parts["all"], errors_of(truth, (1, moved(ANT, 10), 0.5)).parts["all"]

    assert nothing.counts["missed"] == 2
    assert nothing.cost["missed"] is None, "no class is left to take the mean of"
    assert near.counts["missed"] == 1, "the ant is badly placed, not missed"
    assert near.cost["localization"] == pytest.approx(0.5), "one of two classes would have AP50 1"


@needs_new_hotcoco
def test_a_class_without_a_detection_costs_what_it_takes_from_the_mean(tmp_path):
    """The ant is found, nobody looked for the bee: 0.5, and 1 if the bee were not asked for. hotcoco says 0."""
    truth = scene(tmp_path)

    missed = errors_of(truth, (1, ANT, 0.9)).parts

    assert [missed[part].cost["missed"] for part in ("all", "r")] == pytest.approx([0.5, 0])
    assert missed["f"].cost["missed"] is None
    results = read_detections([{"image_id": 1, "category_id": 1, "bbox": ANT, "score": 0.9}], truth, ("bbox",))
    theirs = tide(truth, results, select_best_of_each_image(results, truth, 300), "bbox")
    assert (theirs["delta_ap"]["Miss"], theirs["ap_base"]) == pytest.approx((0, 0.5))


@pytest.mark.parametrize(
    ("false", "cost"), [((), 0.5), (((2, [40, 40, 10, 10], 0.5),), 0.0)], ids=["none", "a false one"]
)
def test_a_class_without_a_right_detection_leaves_the_mean_only_without_false_ones(tmp_path, false, cost):
    errors = errors_of(scene(tmp_path), (1, ANT, 0.9), *false)

    assert errors.parts["all"].counts["missed"] == 1
    assert errors.parts["all"].cost["missed"] == pytest.approx(cost)


def test_a_class_of_which_some_are_missed_gains_on_the_others(tmp_path):
    """Two ants, one found and one without a detection: recall ends at 1/2, where 51 of 101 points lie."""
    file = tmp_path / "truth.json"
    scene(tmp_path)
    data = json.loads(file.read_text())
    data["annotations"][1] |= {"category_id": 1}
    file.write_text(json.dumps(data))

    errors = errors_of(read_ground_truth(file, masks=False), (1, ANT, 0.9))

    assert pytest.approx(51 / 101) == errors.parts["all"].AP50
    assert errors.parts["all"].cost["missed"] == pytest.approx(50 / 101)


def test_the_repaired_class_wins_what_a_classification_error_costs(tmp_path):
    errors = errors_of(scene(tmp_path), (1, ANT, 0.9), (1, BEE, 0.95))

    assert errors.parts["f"].cost["classification"] == pytest.approx(1), "the bee would be found"
    assert errors.parts["r"].cost["classification"] == pytest.approx(0.5), "the better score would be no false ant"


def test_detections_that_lvis_leaves_alone_are_no_errors(tmp_path):
    gnu = (3, [40, 40, 10, 10], 0.5)

    assert errors_of(scene(tmp_path), gnu).parts["c"].counts["background"] == 1
    assert errors_of(scene(tmp_path, negative=()), gnu).parts["c"].counts["background"] == 0, "nobody looked for gnus"
    second_ant = (1, [40, 40, 10, 10], 0.5)
    truth = scene(tmp_path, negative=(), not_exhaustive=[1])
    assert errors_of(truth, second_ant).parts["r"].counts["background"] == 0, "there may be more ants"
