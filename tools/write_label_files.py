"""Writes the label files in tests/annotations/label_files with the formats' own tools.

    python3 -m venv venv && venv/bin/pip install datumaro==1.13.12 label-studio-sdk==2.1.2
    venv/bin/python tools/write_label_files.py datumaro
    python3 -m venv other && other/bin/pip install labelme==6.3.1
    other/bin/python tools/write_label_files.py labelme
    python3 -m venv third && third/bin/pip install supervisely==6.74.51
    third/bin/python tools/write_label_files.py supervisely

Datumaro 1.13.12 writes its own format, CVAT, Pascal VOC and YOLO; label-studio-sdk 2.1.2 writes brush run lengths;
labelme 6.3.1 and supervisely 6.74.51 write their own formats. The files ``expected*.json`` have the areas as the tool
computes them.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datumaro.components.dataset import Dataset

OUT = Path(__file__).parents[1] / "tests/annotations/label_files"
SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]
PART = [40, 30, 50, 30, 50, 35, 40, 35]


def make_mask() -> np.ndarray:
    """A square of 20 x 20 pixels with a hole of 5 x 5."""
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:30] = True
    mask[10:15, 15:20] = False
    return mask


def make_dataset(*, masks: bool) -> "Dataset":
    """Two images: polygons of one group, a mask with a hole, a box; and nothing."""
    from datumaro.components.annotation import Bbox, Mask, Polygon
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image

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


def write_datumaro() -> None:
    """Datumaro's formats, and a brush of Label Studio."""
    from datumaro.components.annotation import Polygon
    from label_studio_sdk.converter.brush import encode_rle

    for name, kind, masks in (
        ("datumaro", "datumaro", False),
        ("datumaro_masks", "datumaro", True),
        ("cvat", "cvat", False),
        ("voc", "voc", True),
        ("yolo", "yolo", False),
    ):
        shutil.rmtree(OUT / name, ignore_errors=True)
        make_dataset(masks=masks).export(OUT / name, kind, save_media=True, image_ext=".png")
    rgba = np.repeat(make_mask().ravel() * 255, 4)
    (OUT / "label_studio_brush.json").write_text(json.dumps([int(value) for value in encode_rle(rgba.tolist())]))
    areas = {"square": Polygon(SQUARE).get_area(), "part": Polygon(PART).get_area(), "mask": float(make_mask().sum())}
    (OUT / "expected.json").write_text(json.dumps(areas))


def write_labelme() -> None:
    """LabelMe's files: each type of shape that has an area, written as its window writes them."""
    from labelme._label_file import LabelFile
    from labelme.utils import img_arr_to_b64, img_arr_to_data, shapes_to_label

    out = OUT / "labelme"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    x, y, x2, y2 = 10, 5, 29, 24
    drawn = {"description": "", "flags": {}, "mask": None}
    square, part = (np.reshape(ring, (-1, 2)).tolist() for ring in (SQUARE, PART))
    shapes = [
        {"label": "dog", "points": square, "group_id": 1, "shape_type": "polygon", **drawn},
        {"label": "dog", "points": part, "group_id": 1, "shape_type": "polygon", **drawn},
        {"label": "cat", "points": [[32, 4], [40, 10]], "group_id": None, "shape_type": "rectangle", **drawn},
        {"label": "cat", "points": [[20, 30], [20, 35]], "group_id": None, "shape_type": "circle", **drawn},
        {
            "label": "cat",
            "points": [[45, 10], [50, 15], [48, 17], [43, 12]],
            "group_id": None,
            "shape_type": "oriented_rectangle",
            **drawn,
        },
        {
            "label": "dog",
            "points": [[x, y], [x2, y2]],
            "group_id": None,
            "shape_type": "mask",
            **drawn,
            "mask": make_mask()[y : y2 + 1, x : x2 + 1],
        },
    ]
    pixels = np.zeros((40, 60, 3), np.uint8)
    areas = []
    for shape in shapes:
        _, objects = shapes_to_label(pixels.shape, [shape], {"cat": 1, "dog": 2})
        areas.append(int((objects > 0).sum()))
        if shape["mask"] is not None:
            shape["mask"] = img_arr_to_b64(shape["mask"].astype(np.uint8))
    for name, content in (("a", shapes), ("b", [])):
        (out / f"{name}.png").write_bytes(img_arr_to_data(pixels))
        LabelFile().save(str(out / f"{name}.json"), content, f"{name}.png", 40, 60)
    (OUT / "expected_labelme.json").write_text(json.dumps(areas))


def write_supervisely() -> None:
    """A project of Supervisely: a polygon with a hole, a rectangle, a bitmap."""
    import supervisely as sly

    out = OUT / "supervisely"
    shutil.rmtree(out, ignore_errors=True)
    classes = [sly.ObjClass("cat", sly.AnyGeometry), sly.ObjClass("dog", sly.AnyGeometry)]
    cat, dog = classes

    def to_points(ring: list[int]) -> list[sly.PointLocation]:
        return [sly.PointLocation(y, x) for x, y in np.reshape(ring, (-1, 2)).tolist()]

    labels = [
        sly.Label(sly.Polygon(to_points(SQUARE), [to_points([15, 10, 20, 10, 20, 15, 15, 15])]), dog),
        sly.Label(sly.Rectangle(4, 32, 9, 39), cat),
        sly.Label(sly.Bitmap(make_mask()[5:25, 10:30], origin=sly.PointLocation(5, 10)), dog),
    ]
    project = sly.Project(str(out), sly.OpenMode.CREATE)
    project.set_meta(sly.ProjectMeta(obj_classes=classes))
    dataset = project.create_dataset("first")
    for name, content in (("a.png", labels), ("b.png", [])):
        dataset.add_item_np(name, np.zeros((40, 60, 3), np.uint8), sly.Annotation((40, 60), content))
    (OUT / "expected_supervisely.json").write_text(json.dumps([label.geometry.area for label in labels]))


if __name__ == "__main__":
    {"datumaro": write_datumaro, "labelme": write_labelme, "supervisely": write_supervisely}[sys.argv[1]]()
