"""`tailseg data show`, `tailseg data check`."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tailseg.cli import main


def test_show_counts_the_embedded_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "tiny_tail:test"]) == 0
    shown = capsys.readouterr().out
    assert "LVIS" in shown
    assert "16, of which 16 have objects" in shown
    for text in ("rare", "common", "frequent", "most frequent", "least frequent"):
        assert text in shown


def test_show_prints_names_as_they_are_and_nothing_that_moves_the_cursor(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = json.loads((photos.parent / "val.json").read_text())
    for category in raw["categories"]:
        category["name"] = f"[/{category['id']}]\x1b[2J"
    (tmp_path / "[b]").mkdir()
    (tmp_path / "[b]" / "[i].json").write_text(json.dumps(raw))
    sheet = ["--images", str(photos.parent), "--pictures", str(tmp_path / "[b]" / "[u].png")]
    assert main(["data", "show", str(tmp_path / "[b]" / "[i].json"), *sheet]) == 0
    shown = capsys.readouterr().out
    assert "[/" in shown
    assert "\x1b" not in shown
    assert "[b]/[i].json" in shown.replace("\n", "")
    assert "[b]/[u].png" in shown.replace("\n", "")


def test_show_draws_examples(home: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = photos.parent / "train.json"
    assert main(["data", "show", str(file), "--pictures", str(tmp_path / "examples.png")]) == 0
    with Image.open(tmp_path / "examples.png") as sheet:
        assert sheet.width > 4 * 320
        assert len(sheet.getcolors(sheet.width * sheet.height) or ()) > 100
    assert "examples.png" in capsys.readouterr().out


def test_show_of_a_photograph_data_set(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", str(shared / "data" / "coco_tail" / "train.json")]) == 0
    shown = capsys.readouterr().out
    assert "COCO" in shown
    assert "178, of which 177 have objects" in shown
    assert "person" in shown


def test_a_file_that_is_not_an_annotation_file_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    assert main(["data", "show", str(tmp_path / "x.json")]) == 1
    assert "x.json" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["shwo", "x"]])
def test_data_called_wrongly(arguments: list[str]) -> None:
    assert main(["data", *arguments]) == 2


def test_check_finds_nothing_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "tiny_tail:test", "--decode"]) == 0
    assert "nothing wrong in 16 images" in " ".join(capsys.readouterr().out.split())


def test_check_lists_malformed_records_by_kind_with_counts_and_remedies(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = json.loads((photos.parent / "train.json").read_text())
    for annotation in raw["annotations"][:5]:
        annotation["bbox"][2] = -1
    raw["annotations"][7]["segmentation"] = [[1, 2, 3, 4]]
    (tmp_path / "x.json").write_text(json.dumps(raw))
    assert main(["data", "check", str(tmp_path / "x.json")]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("5 boxes have a", "1 polygons with", "Write bbox as", "remove the polygon"):
        assert text in shown


def test_check_counts_missing_and_damaged_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(photos.parent, folder)
    pictures = sorted((folder / "train").iterdir())
    pictures[0].unlink()
    pictures[1].write_bytes(b"no picture")
    assert main(["data", "check", str(folder / "train.json")]) == 1
    shown = capsys.readouterr().out
    assert pictures[0].name in shown
    assert "cannot be used" not in shown
    assert main(["data", "check", str(folder / "train.json"), "--decode"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "images not found" in shown
    assert "images cannot be used" in shown
