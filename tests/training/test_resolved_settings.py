"""How images are normalized for a network of timm belongs to a run, its tests, and what goes on or starts from it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tailseg.inference import Predictor
from tailseg.models import TimmConfig
from tailseg.models.images import IMAGE_MEAN
from tailseg.recipes.recipe import AdamWConfig, Recipe
from tailseg.training import checkpoint
from tailseg.training.run import Run, start

from . import small

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("one_thread")
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of a network whose weights were trained with mean and deviation 1/2."""
    file = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), file)
    return file


def on_timm(data: Path, out: Path, **backbone: object) -> Recipe:
    recipe = small.recipe(data, out)
    return replace(recipe, model=replace(recipe.model, backbone=TimmConfig("tf_efficientnet_lite0", **backbone)))


def means(run: Run | Predictor) -> list[float]:
    return run.model.batcher.mean.flatten().tolist()


def without_normalization(file: Path) -> None:
    """As a version before wrote it."""
    saved = checkpoint.load(file)
    for name in ("mean", "std", "image_side", "frozen_stages"):
        del saved.recipe["resolved"]["model"]["backbone"][name]
    checkpoint.save(saved, file)


def test_a_run_keeps_the_mean_of_its_weights(data, weights, tmp_path, monkeypatch):
    recipe = on_timm(data, tmp_path / "run", weights=str(weights))
    run = start(recipe, resume=False)
    assert means(run) == [127.5] * 3
    file = run.save()
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())["resolved"]["model"]["backbone"]
    assert (tuple(written["mean"]), tuple(written["std"])) == (HALF, HALF)
    assert means(Predictor(file, device="cpu", base=recipe)) == [127.5] * 3
    # timm may say something else by then
    monkeypatch.setattr("tailseg.training.resolved_settings.with_own_normalization", lambda backbone: backbone)
    assert means(start(recipe, resume=True)) == [127.5] * 3
    begun = replace(recipe, run=replace(recipe.run, out=str(tmp_path / "begun"), init_from=str(file)))
    assert means(start(begun, resume=False)) == [127.5] * 3


def test_a_run_of_a_version_before_keeps_imagenets(data, weights, tmp_path):
    imagenets = pytest.approx(IMAGE_MEAN)
    recipe = on_timm(data, tmp_path / "run", weights=str(weights))
    file = start(recipe, resume=False).save()
    without_normalization(file)
    assert means(Predictor(file, device="cpu", base=recipe)) == imagenets
    assert means(start(recipe, resume=True)) == imagenets
    begun = replace(recipe, run=replace(recipe.run, out=str(tmp_path / "begun"), init_from=str(file)))
    assert means(start(begun, resume=False)) == imagenets


def test_a_mean_of_ones_own_is_taken(data, weights, tmp_path):
    run = start(on_timm(data, tmp_path, weights=str(weights), mean=(0.2, 0.2, 0.2), std=HALF), resume=False)
    assert means(run) == [51.0] * 3


def test_an_optimizer_of_a_version_before_goes_on(data, tmp_path):
    """It decayed what timm says is to be spared."""
    recipe = small.recipe(data, tmp_path)
    backbone = TimmConfig("tiny_vit_5m_224", weights="none")
    recipe = replace(recipe, model=replace(recipe.model, backbone=backbone), optim=AdamWConfig(epochs=1))
    run = start(recipe, resume=False)
    spared = len(run.optimizer.param_groups[1]["params"])
    run.optimizer = recipe.optim.build(run.model, spare_timm=False)
    before = len(run.optimizer.param_groups[1]["params"])
    assert spared == before + 10
    run.save()
    assert [len(group["params"]) for group in start(recipe, resume=True).optimizer.param_groups][1] == before
