"""Objects that were split or merged, on made cases."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from tailseg.evaluation import analyze
from tailseg.evaluation.analysis import analyze_in_detail
from tailseg.evaluation.ground_truth import read_ground_truth
from tailseg.evaluation.sources import open_annotations
from tailseg.evaluation.splits import find_splits

SIDE = 100
CELL, OTHER = 1, 2


def rectangle(x: int, y: int, width: int, height: int) -> np.ndarray:
    bitmap = np.zeros((SIDE, SIDE), bool)
    bitmap[y : y + height, x : x + width] = True
    return bitmap


def encode(bitmap: np.ndarray) -> dict[str, Any]:
    rle = coco.encode(np.asfortranarray(bitmap, np.uint8))
    return {"size": [SIDE, SIDE], "counts": rle["counts"].decode()}


def find(objects, detections, *, kind="segm", threshold=0.3, crowds=(), classes=None, labels=None, scores=None):
    """The splits and merges of some bitmaps; all of one class unless classes (of objects) or labels are given."""
    truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": SIDE, "width": SIDE}],
        "categories": [{"id": CELL, "name": "cell"}, {"id": OTHER, "name": "other"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": (classes or [CELL] * len(objects))[number],
                "bbox": coco.toBbox(encode(bitmap)).tolist(),
                "area": int(bitmap.sum()),
                "segmentation": encode(bitmap),
                "iscrowd": int(number in crowds),
            }
            for number, bitmap in enumerate(objects)
        ],
    }
    records = [
        {
            "image_id": 1,
            "category_id": (labels or [CELL] * len(detections))[number],
            "bbox": coco.toBbox(encode(bitmap)).tolist(),
            "score": scores[number] if scores else 0.9 - number / 100,
            "segmentation": encode(bitmap),
        }
        for number, bitmap in enumerate(detections)
    ]
    ground_truth = read_ground_truth(open_annotations(truth), masks=kind == "segm")
    details = analyze_in_detail(ground_truth, {kind: records})
    return find_splits(ground_truth, details.found, details.matches, kind, threshold=threshold)


LEFT, RIGHT, WHOLE = rectangle(10, 10, 20, 30), rectangle(30, 10, 20, 30), rectangle(10, 10, 40, 30)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_an_object_with_two_pieces_is_split(kind):
    found = find([WHOLE], [LEFT, RIGHT], kind=kind)
    assert found.splits == ((0, (0, 1)),)
    assert found.merges == ()
    assert found.per_class.tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_two_objects_in_one_detection_are_merged(kind):
    found = find([LEFT, RIGHT], [WHOLE], kind=kind)
    assert found.splits == ()
    assert found.merges == ((0, (0, 1)),)
    assert found.per_class.tolist() == [[0, 2, 1], [0, 0, 0]]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_second_detection_of_the_whole_or_of_a_part_is_no_split(kind):
    assert find([WHOLE], [WHOLE, WHOLE], kind=kind).splits == ()
    assert find([WHOLE], [WHOLE, LEFT], kind=kind).splits == ()
    assert find([WHOLE], [LEFT, LEFT], kind=kind).splits == ()
    assert find([WHOLE], [LEFT, LEFT, RIGHT], kind=kind).splits == ((0, (0, 2)),)


def test_an_object_of_two_parts_with_a_detection_of_each_is_split():
    parts = rectangle(5, 5, 20, 20), rectangle(60, 60, 20, 20)
    assert find([parts[0] | parts[1]], list(parts)).splits == ((0, (0, 1)),)


def test_a_ring_and_the_disk_inside_it_are_two_objects_of_masks_and_one_of_boxes():
    square, hole = rectangle(10, 10, 60, 60), rectangle(25, 25, 30, 30)
    ring, disk = square & ~hole, rectangle(28, 28, 24, 24)
    assert find([ring, disk], [square]).merges == ((0, (0, 1)),)
    assert find([ring, disk], [ring, disk]).merges == ()
    assert find([ring, disk], [square], kind="bbox").merges == (), "the box of the disk lies in the box of the ring"


def test_an_object_within_another_one_is_not_merged_with_it():
    assert find([WHOLE, rectangle(12, 12, 15, 26)], [WHOLE]).merges == ()


def test_crowd_regions_are_ignored():
    assert find([WHOLE], [LEFT, RIGHT], crowds=(0,)).splits == ()
    assert find([LEFT, RIGHT], [WHOLE], crowds=(0,)).merges == ()


def test_low_scores_and_other_classes_do_not_count():
    assert find([WHOLE], [LEFT, RIGHT], scores=[0.9, 0.2]).splits == ()
    assert find([WHOLE], [LEFT, RIGHT], scores=[0.9, 0.2], threshold=0.2).splits == ((0, (0, 1)),)
    assert find([WHOLE], [LEFT, RIGHT], labels=[CELL, OTHER]).splits == ()
    assert find([LEFT, RIGHT], [WHOLE], classes=[CELL, OTHER]).merges == ()


def test_half_of_a_piece_and_half_of_the_object_are_enough_and_less_is_not():
    outside = rectangle(0, 10, 20, 30), rectangle(40, 10, 20, 30)  # each lies in the object with half of its area
    assert find([WHOLE], list(outside)).splits == ((0, (0, 1)),), "together they cover half of the object"
    further = rectangle(0, 10, 19, 30), rectangle(40, 10, 20, 30)  # 9 of 19 columns
    assert find([WHOLE], list(further)).splits == ()
    small = rectangle(10, 10, 9, 30), rectangle(30, 10, 10, 30)  # 19 of 40 columns
    assert find([WHOLE], list(small)).splits == ()


def test_a_detection_of_much_else_merges_nothing():
    assert find([LEFT, RIGHT], [rectangle(10, 10, 81, 30)]).merges == ()
    assert find([LEFT, RIGHT], [rectangle(10, 10, 80, 30)]).merges == ((0, (0, 1)),)


def test_no_detection_and_no_object_give_no_counts():
    assert find([], []).per_class.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert find([WHOLE], []).per_class.sum() == 0
    assert find([], [WHOLE]).per_class.sum() == 0


def test_an_analysis_has_the_counts_of_all_classes_and_groups():
    truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": SIDE, "width": SIDE}],
        "categories": [{"id": CELL, "name": "cell", "frequency": "r"}, {"id": OTHER, "name": "o", "frequency": "f"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": CELL, "bbox": [10, 10, 40, 30], "area": 1200, "iscrowd": 0}
        ],
    }
    boxes = [[10, 10, 20, 30], [30, 10, 20, 30]]
    records = [{"image_id": 1, "category_id": CELL, "bbox": box, "score": 0.5} for box in boxes]
    found = analyze(truth, records).to_dict()["splits"]["bbox"]
    assert found["threshold"] == 0.3
    assert found["parts"] == {
        "all": {"split": 1, "merged": 0, "merging": 0},
        "r": {"split": 1, "merged": 0, "merging": 0},
        "f": {"split": 0, "merged": 0, "merging": 0},
    }
    assert found["per_class"][1] == {"split": 0, "merged": 0, "merging": 0}
