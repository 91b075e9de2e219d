"""Writes the label files in tests/annotations/label_files with the formats' own tools.

    python3 -m venv venv && venv/bin/pip install datumaro==1.13.12 label-studio-sdk==2.1.2
    venv/bin/python tools/write_label_files.py

Datumaro 1.13.12 writes its own format, CVAT, Pascal VOC and YOLO; label-studio-sdk 2.1.2 writes brush run lengths. The
file ``expected.json`` has the number of pixels of each mask and the boxes, as the tool computes them.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from datumaro.components.annotation import Bbox, Mask, Polygon
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image
from label_studio_sdk.converter.brush import encode_rle

OUT = Path(__file__).parents[1] / "tests/annotations/label_files"
SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]
PART = [40, 30, 50, 30, 50, 35, 40, 35]


def make_mask() -> np.ndarray:
    """A square of 20 x 20 pixels with a hole of 5 x 5."""
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:30] = True
    mask[10:15, 15:20] = False
    return mask


def make_dataset(*, masks: bool) -> Dataset:
    """Two images: polygons of one group, a mask with a hole, a box; and nothing."""
    shapes = [Polygon(SQUARE, label=1, group=1, id=1), Polygon(PART, label=1, group=1, id=2)]
    if masks:
        shapes = [Mask(make_mask(), label=1, group=1, id=1)]
    shapes.append(Bbox(32, 4, 8, 6, label=0, group=2, id=3))
    items = [
        DatasetItem(
            name, subset="train", media=Image.from_numpy(np.zeros((40, 60, 3), np.uint8)), annotations=annotations
        )
        for name, annotations in (("a", shapes), ("b", []))
    ]
    return Dataset.from_iterable(items, categories=["cat", "dog"])


def main() -> None:
    """Writes all formats."""
    shutil.rmtree(OUT, ignore_errors=True)
    for name, kind, masks in (
        ("datumaro", "datumaro", False),
        ("datumaro_masks", "datumaro", True),
        ("cvat", "cvat", False),
        ("voc", "voc", True),
        ("yolo", "yolo", False),
    ):
        make_dataset(masks=masks).export(OUT / name, kind, save_media=True, image_ext=".png")
    rgba = np.repeat(make_mask().ravel() * 255, 4)
    (OUT / "label_studio_brush.json").write_text(json.dumps([int(value) for value in encode_rle(rgba.tolist())]))
    areas = {"square": Polygon(SQUARE).get_area(), "part": Polygon(PART).get_area(), "mask": float(make_mask().sum())}
    (OUT / "expected.json").write_text(json.dumps(areas))


main()
