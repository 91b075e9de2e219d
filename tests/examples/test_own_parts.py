"""The examples of a data set, a metric and an optimizer of one's own, each trained a little."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tailseg.cli import main
from tailseg.cli.train import train_options
from tailseg.data.tiny_tail import generate
from tailseg.models.config import BoxHeadConfig, FPNConfig, MaskHeadConfig, ModelConfig, ResNetConfig, RPNConfig
from tailseg.training import train

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = ModelConfig(
    backbone=ResNetConfig(depth=18, base_width=8, weights="none", frozen_stages=0),
    fpn=FPNConfig(channels=16),
    rpn=RPNConfig(anchors_per_image=32, train_pre_nms=50, train_post_nms=30, test_pre_nms=30, test_post_nms=30),
    box=BoxHeadConfig(hidden=32, rois_per_image=16),
    mask=MaskHeadConfig(channels=8, num_convs=1),
)


@pytest.fixture(autouse=True)
def beside_the_examples(monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))


def shortened(recipe, out, **changes):
    """One epoch of the smallest network."""
    data = replace(recipe.data, workers=0, short_sides=(64,), test_short_side=64, **changes)
    optim = replace(recipe.optim, epochs=1, milestones=())
    return replace(recipe, data=data, model=MODEL, optim=optim, run=replace(recipe.run, out=str(out), device="cpu"))


@pytest.mark.parametrize("name", ["own_dataset", "own_metric", "own_optimizer"])
def test_an_example_is_short_and_a_recipe_for_the_command_line(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 40
    options = {"own_optimizer": ["--optim.weight-decay", "0.1"], "own_metric": ["--metrics.1.score", "0.2"]}
    recipe = train_options(f"{name}:recipe", options.get(name, [])).recipe
    assert name != "own_optimizer" or recipe.optim.weight_decay == 0.1
    assert name != "own_metric" or recipe.metrics[1].score == 0.2


def test_a_data_set_of_ones_own_is_trained_and_tested(tmp_path):
    import own_dataset

    metrics = train(shortened(own_dataset.recipe(), tmp_path, repeat_threshold=0.0))
    assert metrics.num_images == 3  # a tenth of 32
    (tmp_path / "metrics.json").unlink()
    assert main(["test", str(tmp_path), "--module", "own_dataset"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["num_images"] == 3


def test_a_metric_and_an_optimizer_of_ones_own(tmp_path):
    import own_metric
    import own_optimizer
    import torch

    data = generate(tmp_path / "data", preset="test")
    recipe = replace(own_metric.recipe(), optim=own_optimizer.recipe().optim)
    recipe = shortened(recipe, tmp_path / "run", train=str(data / "train.json"), val=str(data / "val.json"))
    metrics = train(recipe)
    assert metrics.extra.keys() == {"CountingError", "CountingError_2"}
    assert json.loads((tmp_path / "run/metrics.json").read_text())["extra"] == metrics.extra
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines[-1]["CountingError/mean"] == metrics.extra["CountingError"]["mean"]
    checkpoint = torch.load(next((tmp_path / "run/checkpoints").glob("step_*.pt")), weights_only=True)
    assert "mu_product" in checkpoint["optimizer"]["state"][0]  # NAdam's
    assert own_optimizer.recipe().optim.learning_rate(step=100, epoch=2, batch_size=16) == pytest.approx(1e-4)
