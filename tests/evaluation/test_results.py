"""Result records from detections."""

import json

import pytest
import torch

from tailseg.evaluation import read_results, to_results
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
