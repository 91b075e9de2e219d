"""Three engines, one answer: the whole of precision and recall, boxes and masks."""

import json

import numpy as np
import pytest

from tailseg.evaluation.detections import best_of_each_class, best_of_each_image, read_found
from tailseg.evaluation.engines import ENGINES
from tailseg.evaluation.ground_truth import read_ground_truth

IOU_TYPES = ("bbox", "segm")


@pytest.fixture(scope="module")
def read(case):
    truth = read_ground_truth(case.truth, masks=True)
    return truth, read_found(case.results, truth, IOU_TYPES)


def curves(engine, truth, found, rows, iou_type):
    precision, recall = ENGINES[engine](truth, found, rows, iou_type)
    return np.concatenate([precision.ravel(), recall.ravel()])


@pytest.mark.parametrize("iou_type", IOU_TYPES)
@pytest.mark.parametrize("engine", ["hotcoco", "lvis-api"])
def test_every_number_of_precision_and_recall_is_the_same(read, engine, iou_type):
    truth, found = read
    rows = best_of_each_image(found, truth, 300)

    ours, theirs = (curves(name, truth, found, rows, iou_type) for name in ("tailseg", engine))

    assert ours.size == 10 * 102 * 120 * 4
    assert 0.1 < ours[ours > -1].mean() < 0.9, "a test on perfect or hopeless results would show little"
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_fixed_ap_takes_the_best_of_each_class_without_a_cap_per_image(read, iou_type):
    truth, found = read
    rows = best_of_each_class(found, truth, 100)

    per_class = np.bincount(np.searchsorted(truth.category_ids, found.category_ids[rows]))
    assert per_class.max() == 100
    per_image = np.bincount(found.image_ids[rows])
    assert per_image.max() > per_image[1:].min() + 30, "images should be cut differently"
    expected = curves("lvis-api", truth, found, rows, iou_type)
    np.testing.assert_array_equal(curves("tailseg", truth, found, rows, iou_type), expected)


@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_coco_files_with_crowds_agree_with_hotcoco(case, tmp_path, iou_type):
    data = json.loads(case.truth.read_text())
    for image in data["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in data["categories"]:
        del category["frequency"]
    for index, annotation in enumerate(data["annotations"]):
        annotation["iscrowd"] = int(index % 7 == 0)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(data))
    truth = read_ground_truth(path, masks=True)
    found = read_found(case.results, truth, IOU_TYPES)
    rows = best_of_each_image(found, truth, 3)

    ours, theirs = (curves(name, truth, found, rows, iou_type) for name in ("tailseg", "hotcoco"))

    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_5000_images_agree_with_hotcoco_and_lvis_api(synthetic, tmp_path, iou_type):
    """1.5 million detections of 1,203 classes: some minutes and 7 GB for lvis-api."""
    files = synthetic.write(tmp_path, images=5000)
    truth = read_ground_truth(files.truth, masks=True)
    found = read_found(files.results, truth, IOU_TYPES)
    rows = best_of_each_image(found, truth, 300)
    ours = curves("tailseg", truth, found, rows, iou_type)

    for engine in ("hotcoco", "lvis-api"):
        np.testing.assert_array_equal(ours, curves(engine, truth, found, rows, iou_type))
