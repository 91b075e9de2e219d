"""Data sets go out to other formats and come back: equal, or the loss is counted and named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tailseg.annotations import convert
from tailseg.annotations.formats import rings
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import open_file
from tailseg.annotations.writers.labels import Labels, get_shape, is_region, read_labels
from tailseg.data.tiny_tail import generate

Objects = dict[str, list[tuple[str, bytes, tuple[float, ...], bool]]]


def list_objects(path: Path) -> tuple[Labels, Objects]:
    """The class, the mask, the box and whether it is a region, of the objects of each image by its last name."""
    labels = read_labels(open_file(path, needs_sizes=True))
    found: Objects = {}
    for image in labels.images:
        height, width = image["height"], image["width"]
        shapes = [(record, get_shape(record, height, width)) for record in labels.objects[image["id"]]]
        found[Path(image["file_name"]).name] = [
            (
                labels.names[record["category_id"]],
                shape.draw(height, width).tobytes() if shape.has_mask else b"",
                tuple(np.round(shape.box, 4).tolist()),
                is_region(record),
            )
            for record, shape in shapes
        ]
    return labels, found


OTHER_BOX = "[box is|boxes are] not the one around the mask: computed again"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data set in its smallest form."""
    return generate(tmp_path_factory.mktemp("tiny") / "data", preset="test") / "train.json"


@pytest.mark.parametrize("to", ["yolo", "labelme", "cvat", "label_studio", "coco", "lvis"])
def test_the_embedded_data_set_comes_back(tiny: Path, tmp_path: Path, to: convert.ExportFormat) -> None:
    out = tmp_path / ("out.json" if to in ("coco", "lvis") else "out")
    labels = convert.export_labels(tiny, out, to)
    back, found = list_objects(out / "tasks.json" if to == "label_studio" else out)
    before, wanted = list_objects(tiny)
    assert {name: sorted(item[:2] for item in objects) for name, objects in found.items()} == {
        name: sorted(item[:2] for item in objects) for name, objects in wanted.items()
    }
    # boxes are those around the drawn pixels there; they come back where the format has both box and mask
    changed = sum(len({*objects} - {*found[name]}) for name, objects in wanted.items())
    assert changed == labels.losses[OTHER_BOX] == (37 if to not in ("coco", "lvis") else 0)
    if to != "label_studio":  # its tasks list no classes
        assert list(back.names.values()) == list(before.names.values())
    lost = " ".join(labels.list_losses())
    assert ("neg_category_ids" in lost) == (to not in ("coco", "lvis"))
    if to == "coco":
        assert json.loads(out.read_bytes())["annotations"] == json.loads(tiny.read_bytes())["annotations"]
    if to == "lvis":
        assert (back.annotations.format, back.categories) == ("lvis", before.categories)


def test_the_embedded_data_set_as_voc(tiny: Path, tmp_path: Path) -> None:
    """A pixel of a mask of Pascal VOC belongs to one object; boxes come back in any case."""
    labels = convert.export_labels(tiny, tmp_path / "out", "voc")
    back, found = list_objects(tmp_path / "out")
    before, wanted = list_objects(tiny)
    assert list(back.names.values()) == list(before.names.values())
    assert {name: sorted((o[0], o[2]) for o in objects) for name, objects in found.items()} == {
        name: sorted((o[0], o[2]) for o in objects) for name, objects in wanted.items()
    }
    changed = sum(len({*objects} - {*found[name]}) for name, objects in wanted.items())
    covered = labels.losses["[mask has|masks have] pixels that a smaller object covers: a pixel belongs to one object"]
    assert changed == covered


@pytest.fixture
def data(tmp_path: Path, raw: dict[str, Any]) -> Path:
    """A data set with every kind of shape: a box, parts, overlapping parts, a hole, a crowd, an own box and area."""
    mask = np.zeros((36, 48), bool)
    mask[5:25, 10:30] = True
    mask[10:15, 15:20] = False
    square = [30.0, 5.5, 40.25, 5.5, 40.25, 15.0, 30.0, 15.0]
    tall, shifted = [10.0, 5.0, 20.0, 5.0, 20.0, 25.0, 10.0, 25.0], square.copy()
    shifted[::2] = [x + 4.75 for x in square[::2]]
    shapes = [
        {"bbox": [1.5, 2.25, 10.0, 12.0], "area": 120.0},
        {"bbox": [10, 5, 30, 20], "area": 9.0, "segmentation": [tall, square]},
        {"bbox": [30, 5.5, 15, 9.5], "area": 100.0, "segmentation": [square, shifted]},
        {"bbox": [10, 5, 20, 20], "area": 375.0, "segmentation": rings.encode_mask(mask)},
        {"bbox": [0, 0, 30, 30], "area": 375.0, "segmentation": rings.encode_mask(mask), "iscrowd": 1, "note": "x"},
    ]  # fmt: skip
    raw["annotations"] = [
        {"id": number, "image_id": 10, "category_id": 3 + 4 * (number % 2), "iscrowd": 0, **shape}
        for number, shape in enumerate(shapes, start=1)
    ]
    for image in raw["images"]:
        image["file_name"] = f"photos/{image['file_name']}"
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (48, 36)).save(tmp_path / image["file_name"])
    path = tmp_path / "data.json"
    path.write_text(json.dumps(raw))
    return path


COMMON = ["1 field 'note' of annotations"]
MEASURES = [
    "2 areas are not the number of the mask's pixels: computed again",
    "1 box is not the one around the mask: computed again",
]


@pytest.mark.parametrize(
    ("to", "losses", "changed"),
    [
        ("coco", [], []),
        ("lvis", ["1 crowd or ignore region: the class is listed as not exhaustively annotated there"], [4]),
        ("labelme", [*COMMON, MEASURES[0], "2 boxes are not the one around the mask: computed again"], [1, 4]),
        ("cvat", [*COMMON, *MEASURES, "1 crowd or ignore region"], [1, 4]),
        (
            "yolo",
            [
                "1 crowd or ignore region",
                *COMMON,
                *MEASURES,
                "1 object without a mask: written as the outline of the box",
                "1 object with overlapping parts: the outline follows their pixels",
            ],
            [0, 1, 2, 4],  # the outline of 2 follows pixels now, and so does its box
        ),
    ],
)
def test_each_loss_is_named(
    data: Path, tmp_path: Path, to: convert.ExportFormat, losses: list[str], changed: list[int]
) -> None:
    out = tmp_path / ("out.json" if to in ("coco", "lvis") else "out")
    labels = convert.export_labels(data, out, to)
    assert labels.list_losses() == losses
    assert labels.num_written == sum(map(len, list_objects(out)[1].values()))
    wanted, found = (list_objects(path)[1]["a.jpg"] for path in (data, out))
    assert [number for number, item in enumerate(wanted) if item not in found] == changed
    same = [item[1] for number, item in enumerate(wanted) if number not in changed or number in (1, 2)]
    assert {*same} <= {item[1] for item in found}  # the masks are the same, where only box or area is another
    images = list(out.rglob("*.jpg")) if out.is_dir() else []
    assert all(path.is_symlink() for path in images)
    assert len(images) == (2 if out.is_dir() else 0)


def test_pictures_are_copied_or_left(data: Path, tmp_path: Path) -> None:
    convert.export_labels(data, tmp_path / "copy", "labelme", pictures="copy")
    assert all(not path.is_symlink() for path in (tmp_path / "copy").rglob("*.jpg"))
    convert.export_labels(data, tmp_path / "none", "labelme", pictures="none")
    assert not list((tmp_path / "none").rglob("*.jpg"))
    content = json.loads((tmp_path / "none/photos/a.json").read_text())
    assert (tmp_path / "none/photos" / content["imagePath"]).resolve() == (tmp_path / "photos/a.jpg").resolve()


def test_a_missing_picture_is_counted(data: Path, tmp_path: Path) -> None:
    (tmp_path / "photos/a.jpg").unlink()
    labels = convert.export_labels(data, tmp_path / "gone", "cvat")
    assert "1 image file was not found, so only its labels are written" in labels.list_losses()


def test_splits_share_a_yolo_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert.export_labels(data, out, "yolo")
    convert.export_labels(data, out, "yolo", split="val")
    assert (out / "data.yaml").read_text().splitlines()[:4] == [
        "path: .",
        "train: images/train",
        "val: images/val",
        "names:",
    ]
    assert open_file(Path(f"{out}:val")).num_objects == 4
    raw = json.loads(data.read_text())
    raw["categories"].append({"id": 99, "name": "more"})
    other = data.with_name("other.json")
    other.write_text(json.dumps(raw))
    with pytest.raises(DatasetError, match=r"has other classes .* Match them by name"):
        convert.export_labels(other, out, "yolo", split="test")


@pytest.mark.parametrize("to", ["labelme", "cvat", "label_studio"])
def test_detections_become_pre_labels(data: Path, tmp_path: Path, to: convert.ExportFormat) -> None:
    mask = np.zeros((36, 48), bool)
    mask[3:9, 4:20] = True
    found: list[dict[str, Any]] = [
        {
            "image_id": 10,
            "category_id": 7,
            "bbox": [4, 3, 16, 6],
            "score": 0.9,
            "segmentation": rings.encode_mask(mask),
        },
        {"image_id": 20, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.4},
    ]
    convert.export_labels(data, tmp_path / "out", to, results=found, score_threshold=0.5)
    back = list_objects(tmp_path / "out" / "tasks.json" if to == "label_studio" else tmp_path / "out")[1]
    labels = convert.export_labels(
        data, tmp_path / "named", to, results=[{**found[0], "image_id": "a"}, {**found[0], "category_id": 99}]
    )
    assert [len(records) for records in labels.objects.values()] == [0, 1]
    assert "1 record of images or classes that the file lacks" in labels.list_losses()
    if to == "label_studio":
        task = json.loads((tmp_path / "out/tasks.json").read_text())[1]
        assert task["predictions"][0]["result"][0]["score"] == 0.9
        return
    assert back == {"a.jpg": [("seven", mask.tobytes(), (4.0, 3.0, 16.0, 6.0), False)], "b.jpg": []}


def test_label_studio_shows_images_without_detections_as_not_labeled(data: Path, tmp_path: Path) -> None:
    convert.export_labels(data, tmp_path / "out", "label_studio", results=[])
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    assert [(task["predictions"][0]["result"], "annotations" in task) for task in tasks] == [([], False)] * 2


@pytest.mark.parametrize("to", ["labelme", "cvat", "label_studio"])
def test_any_ids_and_file_names_come_back(data: Path, tmp_path: Path, to: convert.ExportFormat) -> None:
    """Ids 0, doubled ones and those above 31 bits, of objects in two parts; names that are no addresses."""
    raw = json.loads(data.read_bytes())
    parts = [[[x, 1, x + 4, 1, x + 4, 9], [x, 20, x + 4, 20, x + 4, 29]] for x in (1, 11, 21, 31)]
    image, category = raw["images"][0], raw["categories"][0]["id"]
    raw["images"] = [
        image | {"id": number, "file_name": name} for number, name in enumerate(("x/100%41 #a.jpg", "y/100%41 #a.jpg"))
    ]
    raw["annotations"] = [
        {
            "id": key,
            "image_id": 0,
            "category_id": category,
            "area": 34,
            "segmentation": part,
            "bbox": [part[0][0], 1, 4, 28],
        }
        for key, part in zip((0, 0, 1 << 40, 5), parts, strict=True)
    ]
    data.write_text(json.dumps(raw))
    with pytest.warns(UserWarning, match="1 annotation id occurs more than once"):
        convert.export_labels(data, tmp_path / "out", to, pictures="none")
    labels = read_labels(open_file(tmp_path / "out" / "tasks.json" if to == "label_studio" else tmp_path / "out"))
    assert [record["file_name"].rpartition("out/")[2] for record in labels.images] == [
        "x/100%41 #a.jpg",
        "y/100%41 #a.jpg",
    ]
    assert [len(objects) for objects in labels.objects.values()] == [4, 0]
    written = next((tmp_path / "out").rglob("*.xml"), None)
    assert written is None or 'group_id="4"' in written.read_text()


def test_malformed_run_lengths_of_results_are_refused(data: Path, tmp_path: Path) -> None:
    for mask, message in (
        ({"size": [36, 48], "counts": "x" * 50}, "run lengths must have the 36 x 48 pixels"),
        ({"size": [4, 4], "counts": [16]}, r"size of its run lengths is \[4, 4\], expected that of the image"),
        ({"size": [36, 48], "counts": [-1, 1729]}, "a list of whole numbers"),
    ):
        found = [{"image_id": 10, "category_id": 7, "score": 0.9, "segmentation": mask}]
        with pytest.raises(DatasetError, match=message):
            convert.export_labels(data, tmp_path / "out", "cvat", results=found)


def test_import_writes_what_it_read(data: Path, tmp_path: Path) -> None:
    convert.export_labels(data, tmp_path / "out", "labelme")
    labels, losses = convert.import_labels(tmp_path / "out", tmp_path / "out" / "back.json")
    assert (len(labels.images), losses) == (2, [])
    assert list_objects(tmp_path / "out" / "back.json")[1] == list_objects(tmp_path / "out")[1]
    assert Path(open_file(tmp_path / "out" / "back.json").get_info(0).file).is_file()


def test_classes_are_matched_by_name(
    data: Path, tmp_path: Path, raw: dict[str, Any], write: Callable[..., Path]
) -> None:
    other = {**raw, "categories": [{"id": 1, "name": "seven"}, {"id": 2, "name": "new"}, {"id": 9, "name": "three"}]}
    other["annotations"] = []
    path = write(other, name="other.json")
    labels, _ = convert.import_labels(data, tmp_path / "matched.json", match_classes=path)
    content = json.loads((tmp_path / "matched.json").read_text())
    assert [record["category_id"] for record in content["annotations"]] == [1, 9, 1, 9, 1]
    assert content["categories"] == other["categories"] == labels.categories
    other["categories"] = other["categories"][:2]
    with pytest.raises(DatasetError, match=r"1 class with objects is not in .*other\.json: three"):
        convert.import_labels(data, tmp_path / "more.json", match_classes=write(other, name="other.json"))


def test_lvis_lists_say_what_was_looked_for(data: Path, tmp_path: Path) -> None:
    convert.export_labels(data, tmp_path / "out.json", "lvis")
    content = json.loads((tmp_path / "out.json").read_text())
    lists = {
        image["id"]: (image["neg_category_ids"], image["not_exhaustive_category_ids"]) for image in content["images"]
    }
    assert lists == {10: ([], [7]), 20: ([3, 7], [])}
    assert [(c["name"], c["frequency"], c["image_count"], c["instance_count"]) for c in content["categories"]] == [
        ("three", "r", 1, 2),
        ("seven", "r", 1, 2),
    ]


@pytest.mark.parametrize("to", ["yolo", "labelme"])
def test_photographs_with_official_masks_come_back(shared: Path, tmp_path: Path, to: convert.ExportFormat) -> None:
    """coco_tail: 25 objects in several parts; crowd regions are lost, and counted, where the format has none."""
    source, out = shared / "data/coco_tail/val.json", tmp_path / "out"
    labels = convert.export_labels(source, out, to, images=shared / "data/coco_tail/images")
    found, wanted = list_objects(out)[1], list_objects(source)[1]
    if to != "labelme":
        assert sum(item[3] for objects in wanted.values() for item in objects) == 5
        assert any(text.startswith("5 crowd or ignore regions") for text in labels.list_losses())
        wanted = {name: [item for item in objects if not item[3]] for name, objects in wanted.items()}
    assert {name: sorted(item[:2] for item in objects) for name, objects in found.items()} == {
        name: sorted(item[:2] for item in objects) for name, objects in wanted.items()
    }
