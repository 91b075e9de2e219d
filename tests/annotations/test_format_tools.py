"""Files that the formats' own tools wrote (`tools/write_label_files.py`), and hotcoco's readers of boxes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import COCO
from PIL import Image

from tailseg.annotations.formats.label_studio import decode_brush
from tailseg.annotations.read import open_file

FILES = Path(__file__).parent / "label_files"
PARTS = ("dog", 450.0, [10.0, 5.0, 40.0, 30.0])
MASK = ("dog", 375.0, [10.0, 5.0, 20.0, 20.0])
BOX = ("cat", 48.0, [32.0, 4.0, 8.0, 6.0])


def list_objects(path: Path) -> list[tuple[str, float, list[float]]]:
    """The class, the area and the box of each object."""
    annotations = open_file(path)
    objects = annotations.objects
    assert annotations.num_images == 2
    assert all(Path(annotations.get_info(index).file).is_file() for index in range(2))
    return [
        (annotations.categories[label].name, area, np.round(box, 3).tolist())
        for label, area, box in zip(objects.labels, objects.areas.tolist(), objects.written_boxes, strict=True)
    ]


@pytest.mark.parametrize(
    ("folder", "wanted"),
    [
        ("datumaro", [PARTS, BOX]),
        ("datumaro_masks", [MASK, BOX]),
        ("cvat", [PARTS, BOX]),
        ("voc", [MASK, BOX]),
        ("yolo", [BOX]),
    ],
)
def test_files_of_datumaro(folder: str, wanted: list[Any]) -> None:
    expected = json.loads((FILES / "expected.json").read_text())
    assert (PARTS[1], MASK[1]) == (expected["square"] + expected["part"], expected["mask"])
    found = list_objects(FILES / folder)
    assert [item[0] for item in found] == [item[0] for item in wanted]
    for (_, area, box), (_, wanted_area, wanted_box) in zip(found, wanted, strict=True):
        assert area == pytest.approx(wanted_area, rel=1e-4)  # YOLO has six decimals
        assert box == pytest.approx(wanted_box, abs=1e-3)


def test_files_of_labelme() -> None:
    """LabelMe also draws the outline of polygons, rectangles and circles; its masks are what they are."""
    found = list_objects(FILES / "labelme")
    circle, turned = ("cat", 25 * math.pi, [15.0, 25.0, 10.0, 10.0]), ("cat", 20.0, [43.0, 10.0, 7.0, 7.0])
    wanted = [PARTS, BOX, circle, turned, MASK]
    assert [name for name, _, _ in found] == [name for name, _, _ in wanted]
    for (_, area, box), (_, wanted_area, wanted_box) in zip(found, wanted, strict=True):
        assert area == pytest.approx(wanted_area, rel=0.02)  # the circle is a polygon
        assert box == pytest.approx(wanted_box, abs=0.01)
    square, part, *others, mask = json.loads((FILES / "expected_labelme.json").read_text())
    assert mask == found[-1][1]
    drawn = [square + part, *others]
    assert all(area < own for (_, area, _), own in zip(found, drawn, strict=False))


def test_files_of_supervisely() -> None:
    found = list_objects(FILES / "supervisely")
    assert [area for _, area, _ in found] == json.loads((FILES / "expected_supervisely.json").read_text())
    assert [(name, box) for name, _, box in found] == [("dog", MASK[2]), ("cat", BOX[2]), ("dog", MASK[2])]


def test_brush_run_lengths_of_label_studio() -> None:
    mask = decode_brush(json.loads((FILES / "label_studio_brush.json").read_text()), 40, 60, "here")
    wanted = np.zeros((40, 60), bool)
    wanted[5:25, 10:30] = True
    wanted[10:15, 15:20] = False
    assert (mask == wanted).all()


def test_hotcoco_reads_the_same_boxes(tmp_path: Path) -> None:
    """Its converters are trusted for nothing else, see docs/decisions/016-label-formats.md."""
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n0 0.25 0.25 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text("train: .\nnames: [cat, dog]\n")
    theirs = COCO.from_yolo(str(tmp_path), images_dir=str(tmp_path)).dataset["annotations"]
    ours = open_file(tmp_path / "data.yaml").objects
    np.testing.assert_allclose(ours.written_boxes, [record["bbox"] for record in theirs], atol=1e-6)
    assert (ours.labels + 1).tolist() == [record["category_id"] for record in theirs]
    theirs = COCO.from_cvat(str(FILES / "cvat/train.xml")).dataset["annotations"]
    assert [record["bbox"] for record in theirs if "segmentation" not in record] == [BOX[2]]
