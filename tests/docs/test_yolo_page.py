"""The converter of YOLO's labels on the page for users of ultralytics."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from tailseg.annotations import read_dataset

PAGE = Path(__file__).parents[2] / "docs/coming-from/ultralytics.md"


def test_labels_become_an_annotation_file(tmp_path: Path) -> None:
    code = re.search(r"```python\n# yolo_to_coco\.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    exec(code[1], scope := {})
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((50, 100, 3), np.uint8)).save(tmp_path / f"images/{name}.png")
    (tmp_path / "labels/a.txt").write_text("1 0.1 0.2 0.5 0.2 0.5 0.6\n0 0.5 0.5 0.2 0.4\n")
    content = scope["yolo_to_coco"](tmp_path / "images", tmp_path / "labels", ["cat", "dog"])

    polygon, box = content["annotations"]
    assert [record["category_id"] for record in content["annotations"]] == [2, 1]
    np.testing.assert_allclose(polygon["segmentation"], [[10, 10, 50, 10, 50, 30]])
    np.testing.assert_allclose(polygon["bbox"], [10, 10, 40, 20])
    np.testing.assert_allclose(box["bbox"], [40, 15, 20, 20])
    (tmp_path / "my.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path / "my.json", images=tmp_path / "images")
    assert dataset.num_images == 2
    assert [category.name for category in dataset.categories] == ["cat", "dog"]
