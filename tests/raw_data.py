"""Small COCO- and LVIS-format data sets, written to a temporary folder."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.io import encode_jpeg, write_file

RawDataset = dict[str, Any]

SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]
"""A polygon: x in 10..30, y in 5..25."""


def minimal() -> RawDataset:
    """Two images of 48 x 36, three objects, two classes whose ids (7 and 3) have gaps and are not in order."""
    return {
        "images": [
            {"id": 20, "file_name": "b.jpg", "height": 36, "width": 48},
            {"id": 10, "file_name": "a.jpg", "height": 36, "width": 48},
        ],
        "annotations": [
            _annotation(1, 10, 7),
            _annotation(2, 20, 3),
            _annotation(3, 10, 3),
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    }


def _annotation(annotation_id: int, image_id: int, category_id: int) -> RawDataset:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [10.0, 5.0, 20.0, 20.0],
        "area": 400.0,
        "iscrowd": 0,
        "segmentation": [SQUARE.copy()],
    }


@pytest.fixture
def raw() -> RawDataset:
    return minimal()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a raw data set as JSON, and pictures (a dark field with a bright square) where ``images`` is true."""

    def write_files(raw: RawDataset, *, images: bool = False, name: str = "set.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(raw))
        if images:
            for image in raw["images"]:
                pixels = torch.full((3, image["height"], image["width"]), 20, dtype=torch.uint8)
                pixels[:, 5:25, 10:30] = 220
                write_file(str(path.parent / image["file_name"]), encode_jpeg(pixels, quality=95))
        return path

    return write_files


@pytest.fixture
def many(raw: RawDataset) -> RawDataset:
    """Twelve images, the class 7 in one of them only."""
    images, annotations = [], []
    for i in range(12):
        images.append({**raw["images"][0], "id": i, "file_name": f"{i:02}.jpg"})
        annotations.append(
            {**copy.deepcopy(raw["annotations"][0]), "id": i, "image_id": i, "category_id": 7 if i == 4 else 3}
        )
    return {**raw, "images": images, "annotations": annotations}
