"""The examples of a backbone and of a detector of one's own: trained, saved, resumed and used on a few images."""

import ast
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tailseg.data.tiny_tail import generate
from tailseg.inference import Predictor
from tailseg.recipes import get_recipe
from tailseg.recipes.recipe import DataConfig, Recipe
from tailseg.recipes.saved import load_recipe
from tailseg.training.loop import train

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("own") / "data", preset="test")


def few_steps(recipe: Recipe, data: Path, out: Path) -> Recipe:
    """The example's recipe for 5 steps on images of 64 pixels."""
    small = DataConfig(
        train=str(data / "train.json"),
        val=str(data / "val.json"),
        short_sides=(64,),
        test_short_side=64,
        max_long_side=128,
        batch_size=4,
        workers=0,
    )
    optim = replace(recipe.optim, epochs=1, milestones=(), warmup_iterations=2)
    return replace(recipe, data=small, optim=optim, run=replace(recipe.run, out=str(out), device="cpu"))


@pytest.mark.parametrize("name", ["own_backbone", "own_detector"])
def test_an_example_trains_and_detects(name, data, one_thread, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    recipe = few_steps(get_recipe(f"{name}:recipe"), data, tmp_path / "run")
    metrics = train(recipe)
    assert "bbox" in metrics.scores
    assert ("segm" in metrics.scores) == (name == "own_backbone")
    saved = tmp_path / "run" / "recipe.json"
    assert load_recipe(saved, modules=(name,)).model == recipe.model
    with pytest.raises(ValueError, match=f"--module {name}"):
        load_recipe(saved)
    predictor = Predictor.from_run(tmp_path / "run", base=recipe, device="cpu")
    found = predictor.detect(torch.full((3, 70, 90), 128, dtype=torch.uint8))
    assert (found.height, found.width) == (70, 90)
    assert (found.masks is not None) == (name == "own_backbone")
    assert ((found.labels >= 0) & (found.labels < len(predictor.names))).all()
    sys.modules.pop(name)


@pytest.mark.parametrize("name", ["own_backbone", "own_detector"])
def test_an_example_has_fewer_than_40_lines_of_code(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    after_docstring = ast.parse(text).body[0].end_lineno
    assert sum(bool(line.strip()) for line in text.splitlines()[after_docstring:]) < 40
