"""Where a recipe's annotation files are looked for."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tailseg.data.tiny_tail import generate
from tailseg.recipes import Recipe, get_recipe
from tailseg.recipes.build import build_data


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_tail")
    generate(folder, preset="test")
    return folder


def published() -> Recipe:
    """A recipe that says `lvis_v1_train.json` and no more."""
    return get_recipe("gumbel_mask_rcnn_r50_random_1x")


def lay(drawn: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val"):
        shutil.copy(drawn / f"{part}.json", folder / f"lvis_v1_{part}.json")


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("TAILSEG_DATA", "."),
        ("TAILSEG_DATA", "lvis"),
        ("TAILSEG_DATA", "annotations"),
        ("DETECTRON2_DATASETS", "lvis"),
    ],
)
def test_the_environment_says_where(variable, folder, drawn, tmp_path, monkeypatch):
    lay(drawn, tmp_path / folder)
    monkeypatch.setenv(variable, str(tmp_path))
    train, val = build_data(published())
    assert (train.path, val.path) == tuple(tmp_path / folder / f"lvis_v1_{part}.json" for part in ("train", "val"))
    assert train.num_images == 16


def test_the_working_directory_comes_first(drawn, tmp_path, monkeypatch):
    lay(drawn, tmp_path / "elsewhere")
    lay(drawn, tmp_path / "here")
    monkeypatch.setenv("TAILSEG_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path / "here")
    assert build_data(published())[0].path == Path("lvis_v1_train.json")


def test_an_absolute_path_is_taken_as_it_is(drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("TAILSEG_DATA", str(drawn))
    recipe = published()
    recipe = replace(recipe, data=replace(recipe.data, train=str(tmp_path / "train.json")))
    with pytest.raises(ValueError, match=r"train\.json does not exist"):
        build_data(recipe)
