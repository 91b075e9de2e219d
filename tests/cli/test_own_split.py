"""A run's own validation set: it stays as it was drawn, wherever the run, its data and the working directory are."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailseg.cli import main
from tailseg.data.tiny_tail import generate

from .conftest import SMALL

OPTIONS = [*SMALL, "--run.device=cpu"]


@pytest.fixture(scope="module")
def project(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run that was trained on them, named as one does in that folder."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILSEG_HOME", str(home))
        generate(folder / "data", preset="test")
        patch.chdir(folder)
        assert main(["train", "data/train.json", *OPTIONS, "--run.out=runs/x"]) == 0
    return folder


@pytest.fixture
def mine(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The whole folder at another place; the first one is hidden, and the working directory is a third one."""
    moved = shutil.copytree(project, tmp_path / "moved")
    hidden = project.rename(project.with_name("hidden"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield moved
    hidden.rename(project)


def content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def ids(path: Path) -> set[int]:
    return {image["id"] for image in content(path)["images"]}


def evaluated(run: Path) -> set[int]:
    """The images of the run's results."""
    return {record["image_id"] for record in json.loads((run / "results.json").read_text())}


def one_image_more(file: Path) -> None:
    raw = content(file)
    image = raw["images"][0]["id"]
    raw["images"].append({**raw["images"][0], "id": 10**6})
    raw["annotations"].append({**next(a for a in raw["annotations"] if a["image_id"] == image), "id": 10**6})
    raw["annotations"][-1]["image_id"] = 10**6
    file.write_text(json.dumps(raw))


def test_paths_are_found_from_another_working_directory(project: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(project / "runs" / "x", tmp_path / "x")
    assert main(["test", str(run)]) == 0
    assert "note:" not in capsys.readouterr().out
    assert evaluated(run) <= ids(run / "data" / "val.json")
    assert main(["calibrate", str(run), "--images=1"]) == 0
    assert "FRACAL" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    assert main(["compare", str(run), str(project / "runs" / "x"), "--samples=2"]) == 0


def test_data_that_moved_with_the_run_are_found(mine: Path, capsys) -> None:
    run = mine / "runs" / "x"
    for command in (["test"], ["calibrate", "--images=1"], ["report"]):
        assert main([command[0], str(run), *command[1:]]) == 0, command
    assert "not there" not in capsys.readouterr().out


def test_a_run_alone_is_tested_on_its_own_part_with_images_from_elsewhere(mine: Path, capsys) -> None:
    run = (mine / "runs" / "x").rename(mine.parent / "alone")
    photos = mine / "data" / "train"
    shutil.move(photos, mine.parent / "photos")
    shutil.rmtree(mine)
    assert main(["test", str(run)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "not found" in error
    assert "--val-images" in error
    images = f"--val-images={mine.parent / 'photos'}"
    for command in (["test"], ["calibrate", "--images=1"], ["report"]):
        assert main([command[0], str(run), *command[1:], images]) == 0, command
    assert main(["predict", str(run), str(mine.parent / "photos"), "--no-pictures"]) == 0


def test_the_split_stays_when_its_source_has_changed_and_each_command_says_so(mine: Path, capsys) -> None:
    run, file = mine / "runs" / "x", mine / "data" / "train.json"
    parts = {part: (run / "data" / f"{part}.json").read_bytes() for part in ("train", "val")}
    one_image_more(file)
    said = "has changed since the run began: its own held-out part is used"
    for command in (["test"], ["calibrate", "--images=1"], ["report"], ["compare", str(run), "--samples=2"]):
        assert main([command[0], str(run), *command[1:]]) == 0, command
        assert said in " ".join(capsys.readouterr().out.split()), command
    assert {part: (run / "data" / f"{part}.json").read_bytes() for part in parts} == parts
    assert evaluated(run) <= ids(run / "data" / "val.json")
    assert not ids(run / "data" / "val.json") & ids(run / "data" / "train.json")


def test_a_run_goes_on_with_its_split_unless_the_source_has_changed(mine: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(mine)
    file = mine / "data" / "train.json"
    parts = {part: (mine / f"runs/x/data/{part}.json").read_bytes() for part in ("train", "val")}
    going_on = ["train", "data/train.json", *OPTIONS, "--run.out=runs/x", "--resume", "--no-report"]
    file.write_text(json.dumps(content(file), indent=2))  # the same, written otherwise
    assert main(going_on) == 0
    assert main(["test", "runs/x"]) == 0
    assert "note:" not in capsys.readouterr().out
    one_image_more(file)
    assert main(going_on) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "data/train.json has changed since" in error
    assert "--run.init-from" in error
    assert {part: (mine / f"runs/x/data/{part}.json").read_bytes() for part in parts} == parts


def test_a_part_that_is_gone_is_not_drawn_again(mine: Path, capsys) -> None:
    run = mine / "runs" / "x"
    (run / "data" / "val.json").unlink()
    assert main(["test", str(run)]) == 1
    assert "val.json is missing. It belongs to the run's own validation set" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (run / "data" / "val.json").exists()
    assert main(["test", str(run), f"--val={mine / 'data' / 'val.json'}"]) == 0


def test_a_run_of_an_earlier_version_keeps_its_paths_as_typed(mine: Path, capsys) -> None:
    """And a note without remarks."""
    from tailseg.training.checkpoint import load, save
    from tailseg.training.run_files import best_path, list_checkpoints

    run = mine / "runs" / "x"
    for file in [*list_checkpoints(run), best_path(run)]:
        saved = load(file)
        saved.recipe["resolved"]["data"]["train"] = "data/train.json"
        saved.recipe.pop("folder")
        save(saved, file)
    note = content(run / "data" / "held_out.json")
    (run / "data" / "held_out.json").write_text(json.dumps({key: note[key] for key in ("of", "share", "bytes")}))
    assert main(["test", str(run)]) == 0
    assert main(["test", str(list_checkpoints(run)[-1])]) == 0
    assert not (run / "checkpoints" / "data").exists()


def test_the_first_lines_say_what_is_trained_on_held_out_and_left_out(mine: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(mine)
    raw = content(mine / "data" / "train.json")
    crowd, empty = raw["annotations"][0], {**raw["images"][0], "id": 10**6}
    crowd["iscrowd"] = 1
    raw["images"].append(empty)
    (mine / "data" / "mine.json").write_text(json.dumps(raw))
    assert main(["train", "data/mine.json", *OPTIONS, "--run.out=y", "--no-report"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    train, val = (content(mine / "y" / "data" / f"{part}.json") for part in ("train", "val"))
    count = sum(not each.get("iscrowd") for each in train["annotations"])
    held_out = f"held out: {len(val['images'])} images with {len(val['annotations'])} objects (y/data/val.json)"
    assert said.startswith(f"custom_small: {len(train['images']) - 1} images with {count} objects to train on")
    assert held_out in said
    assert "left out: 1 image without an object to learn from (--data.no-filter-empty takes them), 1 crowd" in said
