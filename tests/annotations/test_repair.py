"""`repair_file` writes a file that every use accepts, and changes nothing else: `tailseg.annotations.repair`."""

import copy
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tailseg.annotations.dataset import Contents
from tailseg.annotations.parse import parse
from tailseg.annotations.problems import DatasetError, means_boxes_only
from tailseg.annotations.read import open_file, read_dataset
from tailseg.annotations.repair import repair_file

from .changes import CHANGES, SQUARE, USES, annotate, lists, write_change

RawDataset = dict[str, Any]
Write = Callable[..., Path]


def require_accepted(path: Path, images: Path) -> None:
    """All uses accept it; those of masks only if some object has one."""
    annotations = open_file(path, images=images)
    boxes = any(means_boxes_only(problem, annotations.num_objects) for problem in annotations.problems)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_dataset(path, images=images, use=("training", "boxes") if boxes else USES)


@pytest.mark.parametrize("name", [name for name, change in CHANGES.items() if change.repair is not None])
def test_a_repaired_file_is_accepted(name: str, raw: RawDataset, tmp_path: Path) -> None:
    path, out, images = write_change(name, raw, tmp_path), tmp_path / "new.json", tmp_path / "pictures"
    before = path.read_bytes()
    done = repair_file(path, out, images=images)
    require_accepted(out, images)
    written = json.loads(out.read_bytes())
    assert sorted(annotation["id"] for annotation in written["annotations"]) == sorted(CHANGES[name].repair or ())
    assert path.read_bytes() == before
    if not done:
        assert str(written) == str(json.loads(before))  # NaN is not equal to itself
    assert bool(done) or "x" not in CHANGES[name].letters.replace("-x-x", "")


@pytest.mark.parametrize("name", [name for name, change in CHANGES.items() if change.repair is None])
def test_what_cannot_be_repaired_is_named_and_nothing_is_written(name: str, raw: RawDataset, tmp_path: Path) -> None:
    path = write_change(name, raw, tmp_path)
    with pytest.raises(DatasetError, match="cannot be repaired:") as caught:
        repair_file(path, tmp_path / "new.json", images=tmp_path / "pictures")
    assert {problem.kind.name for problem in caught.value.problems} <= CHANGES[name].kinds
    assert sorted(file.name for file in tmp_path.iterdir()) == ["changed.json", "pictures"]


def test_nothing_else_is_changed(raw: RawDataset, write: Write, tmp_path: Path) -> None:
    """Keys that nobody reads, their order, the other sections, and records that are right stay as they are written."""
    raw = {"info": {"year": 2026, "x": [1.50, None]}, **raw, "licenses": [{"id": 1, "name": "ä"}], "mine": 7}
    raw["annotations"][0]["attributes"] = {"id": "7", "big": 2**70, "small": 1e-12}
    raw["annotations"][1] |= {"area": -1, "score": 0.25}
    raw["images"][0]["license"] = "1"
    path = write(raw)
    expected = copy.deepcopy(raw)
    del expected["annotations"][1]["area"]
    assert repair_file(path, tmp_path / "new.json") == {"area is negative or not a number: left out": 1}
    written = json.loads((tmp_path / "new.json").read_bytes())
    assert json.dumps(written) == json.dumps(expected)


def test_a_file_with_numbers_that_json_does_not_have(raw: RawDataset, write: Write, tmp_path: Path) -> None:
    raw["annotations"][0] |= {"area": math.nan, "score": math.nan}
    done = repair_file(write(raw), tmp_path / "new.json")
    assert done == {"area is negative or not a number: left out": 1}
    (first, *_) = json.loads((tmp_path / "new.json").read_bytes())["annotations"]
    assert "area" not in first
    assert math.isnan(first["score"])


def test_each_repair_is_done_and_counted(raw: RawDataset, write: Write, tmp_path: Path) -> None:
    lists(raw, [3, 99, 98])
    for annotation in raw["annotations"]:
        annotation["id"] = "1"
    raw["annotations"] += [dict(raw["annotations"][0]), {**raw["annotations"][0], "category_id": 99}]
    raw["annotations"][1].update(bbox=None, segmentation=[[1, 2, 3, 4], SQUARE])
    raw["annotations"][2].update(iscrowd="False", area="large")
    del raw["categories"][0]["name"]
    for image in raw["images"]:
        image["file_name"] = f"C:\\photos\\{image['file_name']}"
        del image["width"], image["height"]
    raw["annotations"][0]["segmentation"] = raw["annotations"][3]["segmentation"] = {"size": [36, 48], "counts": [1728]}
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for image in raw["images"]:
        Image.new("L", (48, 36)).save(pictures / image["file_name"][-5:])
    assert repair_file(write(raw), tmp_path / "new.json", images=pictures) == {
        "annotation belongs to an unknown category: left out": 1,
        "annotation is a copy of another one of the same image: left out": 1,
        "annotations without an id, or with the id of another one: given a new id": 2,
        "images without a height or a width: taken from the image files or the run lengths": 2,
        "absolute file names: only the last part is kept": 2,
        "ids in neg_category_ids of unknown categories: left out": 4,
        "category without a name: the id is used as the name": 1,
        "ids were not whole numbers: written as whole numbers": 3,
        "box is missing or invalid: taken from the mask": 1,
        "object has polygons with fewer than three points or an odd number of coordinates, and valid ones: the invalid "
        "polygons are left out": 1,
        "area is negative or not a number: left out": 1,
        "annotation with iscrowd or ignore as text: written as 0 or 1": 1,
    }
    written = json.loads((tmp_path / "new.json").read_bytes())
    assert [(image["file_name"], image["height"], image["width"]) for image in written["images"]] == [
        ("b.jpg", 36, 48),
        ("a.jpg", 36, 48),
    ]
    assert [image["neg_category_ids"] for image in written["images"]] == [[3], [3]]
    assert [annotation["id"] for annotation in written["annotations"]] == [1, 2, 3]
    assert written["annotations"][1]["bbox"] == [10, 5, 20, 20]
    assert written["annotations"][1]["segmentation"] == [SQUARE]
    assert written["annotations"][2]["iscrowd"] == 0
    assert written["categories"][0]["name"] == "7"


def test_sizes_that_are_nowhere_to_be_found(raw: RawDataset, write: Write, tmp_path: Path) -> None:
    del raw["images"][0]["width"]
    with pytest.raises(DatasetError, match=r"does not state the sizes of its images, and image b\.jpg not found"):
        repair_file(write(raw), tmp_path / "new.json", images=tmp_path)
    assert not (tmp_path / "new.json").exists()


def test_a_file_of_which_nothing_is_left(raw: RawDataset, write: Write, tmp_path: Path) -> None:
    for annotation in raw["annotations"]:
        annotation["image_id"] = 99
    with pytest.raises(DatasetError, match=r"The repaired file would have:\n  the data set is empty"):
        repair_file(write(raw), tmp_path / "new.json")
    assert [file.name for file in tmp_path.iterdir()] == ["set.json"]


@pytest.mark.parametrize("kind", ["a file", "a folder", "the file itself", "a link to it", "a link to nothing"])
def test_nothing_is_overwritten(kind: str, raw: RawDataset, write: Write, tmp_path: Path) -> None:
    annotate(area=-1)(raw)
    path = write(raw)
    out = tmp_path / "other" / ".." / "set.json" if kind == "the file itself" else tmp_path / "new.json"
    (tmp_path / "other").mkdir()
    if kind == "a file":
        out.write_text("mine")
    elif kind == "a folder":
        out.mkdir()
    elif "link" in kind:
        out.symlink_to(path if kind == "a link to it" else tmp_path / "nothing")
    before, listed = path.read_bytes(), sorted(tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="exists already and is not overwritten"):
        repair_file(path, out)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == listed
    assert kind != "a file" or out.read_text() == "mine"


def test_a_file_that_appears_meanwhile_stays(
    raw: RawDataset, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write(raw), tmp_path / "new.json"

    def parse_and_write(written: Path) -> Contents:
        out.write_text("mine")
        return parse(written)

    monkeypatch.setattr("tailseg.annotations.repair.parse", parse_and_write)
    with pytest.raises(OSError, match="not overwritten"):
        repair_file(path, out)
    assert out.read_text() == "mine"
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["new.json", "set.json"]


REPAIRABLE = {
    "annotations": 27,
    "crossed": 23,
    "wild": 17,
}


@pytest.mark.parametrize("folder", REPAIRABLE)
def test_every_case_is_repaired_or_refused(folder: str, shared: Path, tmp_path: Path) -> None:
    """Each file that is written is accepted; so many are."""
    accepted = 0
    files = sorted((shared / "cases" / folder).rglob("*.json*"))
    for number, path in enumerate(path for path in files if "results" not in path.name):
        images, out = tmp_path / str(number), tmp_path / f"{number}.json"
        images.mkdir()
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else {}
        for image in content.get("images", []) if isinstance(content, dict) else []:
            if name := Path(image.get("file_name", "")).name:
                Image.new("L", (int(image.get("width") or 80), int(image.get("height") or 60))).save(images / name)
        try:
            repair_file(path, out, images=images)
        except DatasetError:
            assert not out.exists()
        else:
            require_accepted(out, images)
            accepted += 1
    assert accepted == REPAIRABLE[folder]
