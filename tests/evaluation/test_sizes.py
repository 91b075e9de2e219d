"""By what a detected mask is small, medium or large; pycocotools, hotcoco and lvis take a box beside it instead."""

import json
from typing import Any

import pytest

from tailseg.evaluation import analyze

from .conftest import needs_new_hotcoco

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]  # 400 pixels
CORNER = [100, 100, 200, 100, 200, 103, 103, 103, 103, 200, 100, 200]  # about 600 pixels in a box of 100 x 100


@pytest.mark.parametrize("beside", [{}, {"bbox": [100, 100, 100, 100]}, {"bbox": [100, 100, 100, 100], "area": 9216}])
@pytest.mark.parametrize("engine", ["tailseg", pytest.param("hotcoco", marks=needs_new_hotcoco)])
def test_a_mask_has_its_own_size_whatever_stands_beside_it(tmp_path, engine, beside):
    """A thin false alarm above the right mask of a small object: of the two small masks the better is wrong."""
    truth = tmp_path / "truth.json"
    square = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 400, "bbox": [10, 10, 20, 20]}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "1.png", "width": 400, "height": 400}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [square | {"segmentation": [SQUARE]}],
    }
    truth.write_text(json.dumps(content))
    record = {"image_id": 1, "category_id": 1}
    box = {"bbox": [10, 10, 20, 20]} if beside else {}
    results = [
        record | {"score": 0.9, "segmentation": [CORNER]} | beside,
        record | {"score": 0.8, "segmentation": [SQUARE]} | box,
    ]
    metrics = analyze(truth, {"segm": results}, engine=engine).metrics["segm"]
    assert metrics["APs"] == pytest.approx(0.5, abs=0.001)
    assert metrics["APl"] is None
