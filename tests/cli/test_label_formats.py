"""Labels of other formats in the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations import convert
from tailseg.annotations.hold_out import hold_out_validation
from tailseg.annotations.read import open_file, read_dataset
from tailseg.cli import main
from tailseg.cli.train import train_options


@pytest.fixture
def yolo(many: dict[str, Any], write: Callable[..., Path], tmp_path: Path) -> Path:
    """Twelve images as a YOLO data set with the splits train and val."""
    source = write(many, images=True)
    for split in ("train", "val"):
        convert.export_labels(source, tmp_path / "yolo", "yolo", split=split)
    return tmp_path / "yolo" / "data.yaml"


def test_training_takes_the_splits_of_a_data_set(yolo: Path) -> None:
    data = train_options(str(yolo), []).recipe.data
    assert (data.train, data.val) == (str(yolo), f"{yolo}:val")
    assert train_options(f"{yolo}:train", []).recipe.data.val is None
    assert train_options(str(yolo.parent), ["--data.val", "my.json"]).recipe.data.val == "my.json"


def test_images_are_held_out_of_any_format(yolo: Path, tmp_path: Path) -> None:
    """The files name images relative to the data set, and they are found there."""
    paths = hold_out_validation(read_dataset(yolo), tmp_path / "run" / "data", share=0.25)
    for path, number in zip(paths, (9, 3), strict=True):
        annotations = open_file(path, source=yolo)
        assert annotations.num_images == number
        assert all(Path(annotations.get_info(index).file).is_file() for index in range(number))
    assert hold_out_validation(read_dataset(yolo), tmp_path / "run" / "data", share=0.25) == paths


def test_the_commands_read_any_format(yolo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(yolo)]) == 0
    assert "nothing wrong in 12 images, 12 objects, 2 classes" in capsys.readouterr().out
    assert main(["data", "check", str(yolo), "--val", f"{yolo}:val"]) == 0
    assert "file names are in both files" not in (out := capsys.readouterr().out)
    assert "12 images have the content of a training image" in out
    assert main(["data", "show", str(yolo.parent)]) == 0
    records = [
        {"image_id": f"{number:02}", "category_id": 1 if number != 4 else 2, "bbox": [10, 5, 20, 20], "score": 0.9}
        for number in range(12)
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(records))
    assert main(["eval", f"{yolo}:val", str(results), "--only", "bbox"]) == 0
    assert "100.0" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml does not exist" in capsys.readouterr().err


def test_import_and_export_say_what_they_did(yolo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = next((yolo.parent / "labels/train").glob("*.txt"))
    label.write_text(f"{label.read_text().strip()} 0.5\n")
    out = tmp_path / "imported.json"
    assert main(["data", "import", str(yolo), str(out)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "Read as YOLO"
    assert "imported.json: written, 12 images, 12 annotations, 2 classes" in said
    assert "not kept: 1 score at the end of a line" in said
    assert main(["data", "import", str(yolo), str(out)]) == 2
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.4}] * 2))
    words = ["data", "export", str(out), str(tmp_path / "me"), "--to", "labelme", "--results", str(results)]
    assert main([*words, "--images", str(yolo.parent), "--score-threshold", "0.3"]) == 0
    assert open_file(tmp_path / "me").num_objects == 2
    assert main(words) == 2  # the folder has files
    assert main(["data", "export", str(yolo), str(yolo.parent), "--to", "yolo"]) == 2  # it has the split
