"""What became of each detection: by hand, and held against the evaluator's AP50."""

import json

import numpy as np
import pytest

from tailseg.data.coco import read_dataset
from tailseg.data.tiny_tail import generate
from tailseg.drawing import ground_truth
from tailseg.evaluation import evaluate, read_results
from tailseg.ops.masks import decode_mask, encode_mask
from tailseg.report.figures import precision_at_recalls
from tailseg.report.matching import FALSE, TRUE, UNKNOWN, match

from .squares import ANT, BEE, GNU, dataset, record

LISTS = {"neg_category_ids": [], "not_exhaustive_category_ids": []}


def fates(annotations, *records):
    """The records' fates in the order given (their scores fall)."""
    matches = match(annotations, read_results(list(records)))
    return matches.fates[np.argsort(-matches.scores)].tolist()


def test_the_first_detection_of_an_object_is_right_and_the_second_is_wrong(read):
    assert fates(read(dataset()), record(1, ANT, 5, 5, 0.9), record(1, ANT, 5, 5, 0.8)) == [TRUE, FALSE]


def test_half_an_object_is_enough_and_less_is_not(read):
    # squares of 10 moved by 3 share 70 of 130 pixels (0.54), moved by 4 share 60 of 140 (0.43)
    assert fates(read(dataset()), record(1, ANT, 8, 5, 0.9), record(2, ANT, 24, 10, 0.8)) == [TRUE, FALSE]


def test_another_class_is_wrong_and_leaves_the_object_to_be_found(read):
    matches = match(read(dataset()), read_results([record(1, BEE, 5, 5, 0.9), record(1, ANT, 6, 5, 0.2)]))
    assert matches.fates.tolist() == [FALSE, TRUE]
    assert matches.overlapped.tolist() == [0, 0]
    assert matches.overlaps.tolist() == pytest.approx([1, 90 / 110])
    assert matches.found_by.tolist() == [1, -1, -1]


def test_a_class_nobody_looked_for_is_unknown_in_lvis(read):
    assert fates(read(dataset(**LISTS)), record(1, BEE, 30, 20, 0.9), record(1, ANT, 30, 20, 0.8)) == [UNKNOWN, FALSE]


def test_a_class_known_to_be_absent_is_wrong_and_one_not_exhaustively_annotated_unknown(read):
    absent = dataset(neg_category_ids=[GNU], not_exhaustive_category_ids=[ANT])
    found = fates(read(absent), record(1, GNU, 30, 20, 0.9), record(1, ANT, 30, 20, 0.8), record(1, ANT, 5, 5, 0.7))
    assert found == [FALSE, UNKNOWN, TRUE]


def test_a_crowd_swallows_what_lies_in_it_but_is_not_found(read):
    data = dataset()
    data["annotations"][0] |= {"iscrowd": 1, "bbox": [0, 0, 30, 30]}
    data["annotations"][0]["segmentation"] = [[0, 0, 30, 0, 30, 30, 0, 30]]
    annotations = read(data)
    assert fates(annotations, record(1, ANT, 5, 5, 0.9), record(1, ANT, 15, 5, 0.8), record(1, BEE, 5, 5, 0.7)) == [
        UNKNOWN,
        UNKNOWN,
        FALSE,
    ]
    assert match(annotations, read_results([record(1, ANT, 5, 5, 0.9)])).found_by.tolist() == [-1, -1, -1]


def test_without_masks_boxes_overlap(read):
    boxes = [{key: value for key, value in record(1, ANT, 8, 5, 0.9).items() if key != "segmentation"}]
    matches = match(read(dataset()), read_results(boxes, masks=False))
    assert (matches.kind, matches.fates.tolist()) == ("bbox", [TRUE])


def test_results_of_another_file_are_refused_by_name(read):
    with pytest.raises(ValueError, match=r"image_id of 1 of 2 records is not in .*truth.json \(such as 77\)"):
        match(read(dataset()), read_results([record(1, ANT, 5, 5, 0.9), record(77, ANT, 5, 5, 0.9)]))
    with pytest.raises(ValueError, match="category_id"):
        match(read(dataset()), read_results([record(1, 1, 5, 5, 0.9)]))


def perturbed(annotations, *, per_object):
    """Detections around the objects: moved, some of another class, some twice."""
    random = np.random.default_rng(0)
    ids = [category.id for category in annotations.categories]
    records = []
    for index in range(annotations.num_images):
        truth = ground_truth(annotations, index)
        for mask, label in zip(truth.masks, truth.labels.tolist(), strict=True):
            for _ in range(per_object):
                category = ids[label] if random.random() < 0.7 else int(random.choice(ids))
                moved = np.roll(decode_mask(mask), random.integers(-4, 5, 2), axis=(0, 1))
                box = box_of(moved)
                records.append(
                    {
                        "image_id": int(annotations.image_ids[index]),
                        "category_id": category,
                        "bbox": box,
                        "score": float(random.random()),
                        "segmentation": encode_mask(moved),
                    }
                )
    return records


def box_of(bitmap):
    ys, xs = bitmap.nonzero()
    if not len(xs):
        return [0.0, 0.0, 0.0, 0.0]
    return [float(xs.min()), float(ys.min()), float(np.ptp(xs) + 1), float(np.ptp(ys) + 1)]


@pytest.mark.parametrize("protocol", ["lvis", "coco"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_mean_of_the_precision_is_the_evaluators_ap50(tmp_path, protocol, kind):
    file = generate(tmp_path, preset="test") / "train.json"
    if protocol == "coco":
        data = json.loads(file.read_text())
        for image in data["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
        for category in data["categories"]:
            del category["frequency"]
        file.write_text(json.dumps(data))
    annotations = read_dataset(file)
    assert annotations.format == protocol
    records = perturbed(annotations, per_object=4)

    scores = evaluate(file, records, iou_types=(kind,)).per_class[kind]

    matches = match(annotations, read_results(records, masks=kind == "segm"))
    for label, score in enumerate(scores):
        precision = precision_at_recalls(matches, label)
        assert (precision is None) == (score.AP50 is None)
        if precision is not None:
            assert precision.mean() == pytest.approx(score.AP50, abs=1e-9)
    assert 0 < np.mean([score.AP50 for score in scores if score.AP50 is not None]) < 1
