"""Result records from detections."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as run_lengths

from tailseg.evaluation import read_results, to_results
from tailseg.evaluation.results import find_iou_types
from tailseg.structures import Detections

MASK = {"size": [40, 60], "counts": b"0P[2"}


def detections(labels=(1, 0), masks=(MASK, MASK)):
    return Detections(
        boxes=torch.tensor([[10.0, 20.0, 40.0, 25.0], [0.5, 0.25, 2.0, 3.0]])[: len(labels)],
        scores=torch.tensor([0.75, 0.5])[: len(labels)],
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=masks,
        height=40,
        width=60,
    )


def test_labels_become_category_ids_and_corners_become_sides():
    assert to_results(detections(), 7, [30, 90]) == [
        {
            "image_id": 7,
            "category_id": 90,
            "bbox": [10.0, 20.0, 30.0, 5.0],
            "score": 0.75,
            "segmentation": {"size": [40, 60], "counts": "0P[2"},
        },
        {
            "image_id": 7,
            "category_id": 30,
            "bbox": [0.5, 0.25, 1.5, 2.75],
            "score": 0.5,
            "segmentation": {"size": [40, 60], "counts": "0P[2"},
        },
    ]


def test_records_survive_json_and_are_read_back(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(to_results(detections(), 7, [30, 90])))

    results = read_results(path)

    assert results.boxes.tolist() == [[10.0, 20.0, 30.0, 5.0], [0.5, 0.25, 1.5, 2.75]]
    assert results.category_ids.tolist() == [90, 30]
    assert results.source == str(path)


def test_no_masks_no_segmentation():
    assert all("segmentation" not in record for record in to_results(detections(masks=None), 7, [30, 90]))


def test_no_detections_no_records():
    assert to_results(detections(labels=(), masks=()), 7, [30]) == []
    assert len(read_results([])) == 0


def test_a_label_without_category_is_refused():
    with pytest.raises(ValueError, match="labels 0 to 1 need as many category ids, got 1"):
        to_results(detections(), 7, [30])


@pytest.mark.parametrize(
    ("segmentations", "expected"),
    [
        (([], []), ("bbox",)),
        ((None, ""), ("bbox",)),
        (([], {"size": [40, 60], "counts": "0P[2"}), ("bbox", "segm")),
        (([[1, 1, 5, 1, 5, 5]], []), ("bbox", "segm")),
    ],
)
def test_empty_segmentations_hold_no_masks(tmp_path, segmentations, expected):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"bbox": [0, 0, 1, 1], "segmentation": each} for each in segmentations]))

    assert find_iou_types(path) == expected


def test_some_records_keep_their_masks_in_the_order_asked_for():
    records = [
        {"image_id": i, "category_id": 1, "bbox": [i, 0, 2, 2], "score": 0.5}
        | {"segmentation": {"size": [4, 4], "counts": [i, 2, 14 - i]}}
        for i in range(5)
    ]

    whole = read_results(records, keep=lambda part, _: part.image_ids != 2)
    some = whole.select(np.array([4, 0]))

    assert some.image_ids.tolist() == [4, 0]
    assert some.boxes[:, 0].tolist() == [4, 0]
    assert [run_lengths.decode(mask).flatten(order="F").argmax() for mask in some.masks(np.array([0, 1]))] == [4, 0]
    assert some.mask_boxes(np.array([0])).tolist() == [[1, 0, 1, 2]]
    assert whole.mask_areas.tolist() == [2] * 5


@pytest.mark.parametrize(
    "counts",
    [
        [1, 2, 13],
        [1.0, 2.0, 13.0],
        run_lengths.frPyObjects({"size": [4, 4], "counts": [1, 2, 13]}, 4, 4)["counts"].decode(),
    ],
)
def test_run_lengths_may_write_whole_numbers_as_floats(tmp_path, counts):
    """pycocotools reads the size [4.0, 4.0]; half a pixel is refused."""
    path = tmp_path / "results.json"
    record = {"image_id": 1, "category_id": 1, "bbox": [0, 1, 1, 2], "score": 0.5}
    masks = [{"size": size, "counts": counts} for size in ([4, 4], [4.0, 4.0], [4.0, 4])]
    path.write_text(json.dumps([record | {"segmentation": mask} for mask in masks]))

    found = read_results(path)

    assert found.mask_areas.tolist() == [2, 2, 2]
    assert found.mask_boxes(np.arange(3)).tolist() == [[0, 1, 1, 2]] * 3
    assert len({json.dumps([mask["size"], mask["counts"].decode()]) for mask in found.masks(np.arange(3))}) == 1
    for mask in ({"size": [4.5, 4], "counts": counts}, {"size": [4, 4], "counts": [1.5, 2, 12.5]}):
        with pytest.raises(ValueError, match="record 0"):
            read_results([record | {"segmentation": mask}])
