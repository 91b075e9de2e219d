"""`tailseg data errors`, `apply` and `next` on a small run."""

import json
import shutil
from pathlib import Path

import pytest

from tailseg.annotations.patch import FORMAT, compute_key
from tailseg.annotations.read import read_dataset
from tailseg.cli import main
from tailseg.label_errors.suspects import KINDS


@pytest.fixture
def truth(photos):
    return photos.with_name("val.json")


def words(*arguments):
    return ["data", *map(str, arguments)]


def test_errors_of_the_training_set_of_the_run(run, tmp_path, capsys):
    out = tmp_path / "errors"
    assert main(words("errors", run, "--out", out, "--pictures", "3")) == 0
    listed = json.loads((out / "errors.json").read_text())["suspects"]
    assert tuple(listed) == KINDS
    for suspects in listed.values():
        scores = [suspect["score"] for suspect in suspects]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
    assert (out / "errors.html").read_text().startswith("<!doctype html>")
    assert "errors.html" in capsys.readouterr().out
    copy = shutil.copytree(run, tmp_path / "run")
    assert main(words("errors", copy, "--pictures", "0")) == 0  # the folder of the run, unless named
    assert json.loads((copy / "errors.json").read_text())["suspects"] == listed


def test_the_duplicate_is_found_and_the_patch_removes_it(run, truth, tmp_path, capsys):
    content = json.loads(truth.read_text())
    copy = content["annotations"][0] | {"id": 10_000}
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content | {"annotations": [*content["annotations"], copy]}))
    shutil.copytree(truth.with_name("val"), tmp_path / "val")
    assert main(words("errors", run, "--data", file, "--out", tmp_path)) == 0
    (suspect, *_) = json.loads((tmp_path / "errors.json").read_text())["suspects"]["duplicate"]
    assert (suspect["annotation_id"], suspect["score"]) == (10_000, 1.0)
    change = {"kind": "duplicate", "image_id": copy["image_id"], "annotation_id": 10_000}
    change |= {"was": {"category_id": copy["category_id"]}, "becomes": None}
    patch = tmp_path / "patch.json"
    patch.write_text(json.dumps({"format": FORMAT, "file": "val.json", "key": compute_key(file), "changes": [change]}))
    repaired = tmp_path / "repaired.json"
    assert main(words("apply", file, patch, repaired)) == 0
    assert json.loads(repaired.read_text())["annotations"] == content["annotations"]
    assert main(words("apply", file, patch, repaired)) == 2
    assert main(words("apply", truth, patch, tmp_path / "other.json")) == 1
    assert "Name the unchanged file" in capsys.readouterr().err


def test_apply_refuses_the_list_of_suspects(run, truth, tmp_path, capsys):
    assert main(words("errors", run, "--data", truth, "--out", tmp_path)) == 0
    assert main(words("apply", truth, tmp_path / "errors.json", tmp_path / "new.json")) == 1
    assert "nobody has confirmed" in capsys.readouterr().err
    assert not (tmp_path / "new.json").exists()


def test_other_classes_are_refused(run, truth, tmp_path, capsys):
    content = json.loads(truth.read_text())
    content["categories"][0]["name"] = "another"
    file = tmp_path / "other.json"
    file.write_text(json.dumps(content))
    assert main(words("errors", run, "--data", file, "--images", truth.parent, "--out", tmp_path)) == 1
    assert "other classes than the run" in capsys.readouterr().err


def test_next_ranks_the_images_of_a_folder(run, photos, tmp_path, capsys):
    out = tmp_path / "next.json"
    assert main(words("next", run, photos, "--out", out)) == 0
    images = json.loads(out.read_text())["images"]
    assert len(images) == read_dataset(photos.with_name("val.json")).num_images
    scores = [image["score"] for image in images]
    assert scores == sorted(scores, reverse=True)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "good.jpg").write_bytes(next(photos.glob("*.jpg")).read_bytes())
    (mixed / "bad.jpg").write_bytes(b"no image")
    assert main(words("next", run, mixed, "--out", out)) == 0
    content = json.loads(out.read_text())
    assert [Path(image["file"]).name for image in content["images"]] == ["good.jpg"]
    assert [Path(name).name for name in content["unread"]] == ["bad.jpg"]
    assert "note: left out: " in capsys.readouterr().out
    (mixed / "good.jpg").unlink()
    assert main(words("next", run, mixed, "--out", out)) == 1
    (mixed / "bad.jpg").unlink()
    assert main(words("next", run, mixed, "--out", tmp_path / "b.json")) == 2
    assert "has no image files" in capsys.readouterr().err
