"""Which classes are negatives in an image of an LVIS file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.transforms import v2

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.data.loader import DetectionDataset, Loader
from tailseg.data.sampler import EvaluationSampler
from tailseg.data.tiny_tail import prepare
from tailseg.data.transforms import evaluation_transform
from tailseg.data.verified import describe_verified, find_unverified

Write = Callable[..., Path]


def find_by_definition(annotations: Annotations, index: int) -> list[bool]:
    record = annotations.get_record(index)
    annotated = {annotations.categories[label].id for label in record.labels}
    return [
        category.id in record.not_exhaustive_ids
        or (category.id not in annotated and category.id not in record.negative_ids)
        for category in annotations.categories
    ]


def test_lists_of_the_embedded_data_set() -> None:
    annotations = read_dataset(prepare("tiny_tail:test")[0])
    ids = np.array([category.id for category in annotations.categories])
    rows = [find_unverified(annotations, index, ids).tolist() for index in range(annotations.num_images)]
    assert rows == [find_by_definition(annotations, index) for index in range(annotations.num_images)]
    assert 0 < np.mean(rows) < 1
    dataset = DetectionDataset(annotations, evaluation_transform(64, 96), only_verified=True)
    unverified = dataset[3, 0][1].unverified
    assert unverified is not None
    assert unverified.tolist() == rows[3]
    assert DetectionDataset(annotations, evaluation_transform(64, 96))[3, 0][1].unverified is None
    count = f"{annotations.num_classes - np.sum(rows) / len(rows):.1f} of {annotations.num_classes} classes"
    assert count in describe_verified(annotations)
    for workers in (0, 1):
        loader = Loader(dataset, EvaluationSampler(4), 4, workers)
        (batch,) = loader
        assert [target.unverified.tolist() for target in batch.to("cpu").targets if target.unverified is not None] == (
            rows[:4]
        )


def test_the_three_lists_of_lvis(raw: dict[str, Any], write: Write) -> None:
    raw["categories"] = [{"id": number, "name": f"c{number}"} for number in (9, 2, 7, 4, 5)]
    raw["images"] = raw["images"][:1]
    raw["annotations"] = [
        {**raw["annotations"][0], "id": 1, "image_id": raw["images"][0]["id"], "category_id": 7},
        {**raw["annotations"][0], "id": 2, "image_id": raw["images"][0]["id"], "category_id": 2},
    ]
    raw["images"][0] |= {"neg_category_ids": [9], "not_exhaustive_category_ids": [2]}
    annotations = read_dataset(write(raw))
    # 2 is annotated, but not exhaustively; 4 and 5 were not looked for; 7 is annotated; 9 is absent.
    assert find_unverified(annotations, 0, np.array([2, 4, 5, 7, 9])).tolist() == [True, True, True, False, False]


def test_a_coco_file_lists_nothing(raw: dict[str, Any], write: Write) -> None:
    annotations = read_dataset(write(raw, images=True))
    assert annotations.format == "coco"
    assert DetectionDataset(annotations, v2.Identity(), only_verified=True)[0, 0][1].unverified is None
    assert "no effect: the images of" in describe_verified(annotations)
