"""`tailseg data show`, `tailseg data check`."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tailseg.annotations.kinds import KINDS
from tailseg.cli import main


def test_show_counts_the_embedded_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "tiny_tail:test"]) == 0
    shown = capsys.readouterr().out
    assert "LVIS" in shown
    assert "16; 16 with objects" in shown
    for text in ("rare", "common", "frequent", "most frequent", "least frequent"):
        assert text in shown


def test_show_names_the_format_of_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "export", "tiny_tail:test", str(tmp_path / "out"), "--to", "yolo"]) == 0
    capsys.readouterr()
    assert main(["data", "show", str(tmp_path / "out" / "data.yaml")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["format", "YOLO"]


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


def test_show_writes_a_page(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "show", str(photos.parent / "train.json"), "--sampling", "class_aware", "--page"]
    assert main([*command, str(tmp_path / "show.html")]) == 0
    shown = capsys.readouterr().out
    assert f"Page: {tmp_path / 'show.html'}" in shown
    assert "note: the page" not in shown
    text = (tmp_path / "show.html").read_text()
    assert "<strong>class_aware</strong>" in text
    assert text.count("<image") > 10
    shutil.copy(photos.parent / "train.json", tmp_path / "my.json")
    assert main(["data", "show", str(tmp_path / "my.json"), "--page", str(tmp_path / "show.html")]) == 0
    assert "note: the page is without pictures of the rarest classes: image" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "show.txt")]) == 2
    assert "--page must end in .html or .htm, got" in capsys.readouterr().err


def test_show_of_a_photograph_data_set(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", str(shared / "data" / "coco_tail" / "train.json")]) == 0
    shown = capsys.readouterr().out
    assert "COCO" in shown
    assert "178; 177 with objects" in shown
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
    for text in ("5 boxes have a", "1 polygon has fewer", "Write bbox as", "remove the polygon"):
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
    assert "1 image is not found" in shown
    assert "1 image cannot be used" in shown


def small(photos: Path) -> dict[str, Any]:
    """The carried data set; its images lie in the folder above."""
    return json.loads((photos.parent / "train.json").read_text())


def test_check_says_what_each_problem_stops(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = small(photos)
    raw["annotations"][0]["area"] = -1
    raw["annotations"][1]["bbox"] = [-500, 5, 20, 20]
    raw["annotations"][2]["id"] = raw["annotations"][3]["id"]
    (tmp_path / "x.json").write_text(json.dumps(raw))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["data", "check", str(tmp_path / "x.json"), "--images", str(photos.parent)]) == 1
    shown = capsys.readouterr().out
    for lines in (
        "problem: 1 area is negative\n  records: annotation ",
        "  stops: evaluation, evaluation of masks\n  otherwise: not used in training; evaluation refuses them\n",
        "problem: 1 box lies outside its image\n",
        "  stops: training, training of masks\n  otherwise: kept as an object that no detection can match\n",
        "note: 1 annotation id occurs more than once\n",
        "  done: all annotations are read\n",
    ):
        assert shown.count(lines) == 1, lines
    assert "nothing wrong" not in shown


def test_check_of_a_file_of_boxes_is_no_failure(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = small(photos)
    for annotation in raw["annotations"]:
        annotation["segmentation"] = []
    (tmp_path / "x.json").write_text(json.dumps(raw))
    assert main(["data", "check", str(tmp_path / "x.json"), "--images", str(photos.parent)]) == 0
    shown = capsys.readouterr().out
    assert (
        "note: no object has a mask: the file has boxes only\n  stops: training of masks, evaluation of masks" in shown
    )
    assert "nothing wrong in" in shown
    raw["annotations"][0]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    (tmp_path / "x.json").write_text(json.dumps(raw))
    assert main(["data", "check", str(tmp_path / "x.json"), "--images", str(photos.parent)]) == 1
    assert "no mask (" in capsys.readouterr().out


def test_names_are_whole_where_the_output_is_no_terminal(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, name = small(photos), "a very long name of a class, with many words in it"
    raw["categories"].append({**raw["categories"][0], "id": 9999, "name": name})
    for category in raw["categories"][:-1]:
        category["name"] = f"{name}: {category['id']}"
    path = tmp_path / ("x" * 90) / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps(raw))
    for command in ("check", "show"):
        assert main(["data", command, str(path), "--images", str(photos.parent)]) == 0
        shown = capsys.readouterr().out
        assert str(path) in shown
        assert "…" not in shown
    assert f"{name}: {raw['categories'][0]['id']}" in shown


def test_check_finds_what_each_use_finds(
    raw: dict[str, Any], write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Training reads sizes from the pictures, and then finds a box outside of one; evaluation has none to draw at."""
    raw["annotations"][1]["bbox"] = [60, 5, 20, 20]
    write(raw, images=True)
    del raw["images"][0]["width"]
    assert main(["data", "check", str(write(raw))]) == 1
    shown = capsys.readouterr().out
    assert (
        "problem: 1 image with polygons has no height or no width\n  records: image 20\n  stops: evaluation of m"
        in shown
    )
    assert "problem: 1 box lies outside its image\n  records: annotation 2 (image 20)" in shown
    assert "note: 1 image has no height or no width\n" in shown


def test_repair_writes_a_new_file_and_lists_what_was_done(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = small(photos)
    raw["annotations"][0]["area"] = -1
    raw["annotations"][1]["bbox"] = [-500, 5, 20, 20]
    path, out = tmp_path / "x.json", tmp_path / "new.json"
    path.write_text(json.dumps(raw))
    command = ["data", "check", str(path), "--images", str(photos.parent), "--repair", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"{out}: written, a repaired copy of {path}\n" in shown
    assert "  1 box lies outside its image: left out\n" in shown
    assert "  1 area is negative or not a number: left out\n" in shown
    assert main(["data", "check", str(out), "--images", str(photos.parent)]) == 0
    before = out.read_bytes()
    assert main(command) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert main([*command[:-1], str(path)]) == 2
    assert out.read_bytes() == before


def test_options_that_remedies_name_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    said = " ".join(text for kind in KINDS.values() for text in (kind.remedy, kind.done))
    named = {option.rstrip(".") for option in re.findall(r"--(?:data|model|optim|run)\.[\w.-]+", said)}
    assert main(["train", "custom_small", "--help"]) == 0
    shown = capsys.readouterr().out
    assert {"--data.crowds", "--data.train-images"} <= named
    assert [option for option in sorted(named) if not re.search(rf"{re.escape(option)}[ ,]", shown)] == []


def test_repair_says_what_it_cannot_do(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = small(photos)
    raw["images"].append(raw["images"][0])
    (tmp_path / "x.json").write_text(json.dumps(raw))
    assert main(["data", "check", str(tmp_path / "x.json"), "--repair", str(tmp_path / "new.json")]) == 1
    assert "cannot be repaired:\n  1 image id occurs more than once" in capsys.readouterr().err
    assert not (tmp_path / "new.json").exists()


def test_check_compares_two_files(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = small(photos)
    raw["categories"].append({**raw["categories"][0], "id": 9999, "name": "other"})
    (tmp_path / "val.json").write_text(json.dumps(raw))
    train = str(photos.parent / "train.json")
    command = ["data", "check", train, "--val", str(tmp_path / "val.json"), "--val-images", str(photos.parent)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert (
        f"note: {len(raw['images'])} file names are in both files\n  records: {raw['images'][0]['file_name']}" in shown
    )
    assert "note: 1 class is in one file only, or has another id or name\n  records: 9999 'other', only in" in shown
    assert main(["data", "check", train, "--val", str(photos.parent / "val.json"), "--decode"]) == 0
    assert f"val.json: no image is also in {train} (compared by names, contents and looks)" in capsys.readouterr().out
