"""`tailseg data show`."""

import json
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
