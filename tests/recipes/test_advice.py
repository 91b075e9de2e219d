"""A run that learned nothing says so, and what to try."""

from dataclasses import replace

import pytest

from tailseg.annotations.read import read_dataset
from tailseg.data.tiny_tail import generate
from tailseg.evaluation.metrics import Metrics
from tailseg.recipes import get_recipe
from tailseg.recipes.advice import explain_no_learning


def metrics(score, kind="segm"):
    return Metrics({kind: {"AP": score}}, {kind: ()}, "lvis", 300, 1, 0)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_tail")
    generate(folder, preset="test")
    return read_dataset(folder / "val.json")


def test_small_data_and_drawn_shapes(annotations):
    text = explain_no_learning(get_recipe("custom_small"), metrics(0.0004), annotations, steps=168)
    assert "AP of masks is 0.0 after 168 steps" in text
    order = ["data check", "--init-from imagenet", "--init-from coco", "--optim.epochs 429", "--optim.lr 0.32"]
    assert sorted(order, key=text.index) == order
    assert "larger images" not in text


def test_what_does_not_apply_is_left_out(annotations):
    recipe = get_recipe("custom_r50")
    text = explain_no_learning(recipe, metrics(0.0, "bbox"), annotations, steps=90_000)
    assert "AP of boxes" in text
    assert "--init-from coco" in text
    assert "--optim.epochs" not in text
    text = explain_no_learning(
        replace(recipe, run=replace(recipe.run, init_from="start.safetensors")), metrics(0.0), annotations, steps=90_000
    )
    assert "init-from" not in text


def test_a_rate_of_zero_gets_no_multiple_of_zero(annotations):
    recipe = get_recipe("custom_small")
    still = replace(recipe, optim=replace(recipe.optim, lr=0.0))
    text = explain_no_learning(still, metrics(0.0), annotations, steps=9000)
    assert text.endswith("a learning rate above 0 (--optim.lr): with 0 nothing is learned")


def test_small_objects(annotations):
    recipe = get_recipe("custom_small")
    small = replace(recipe, data=replace(recipe.data, test_short_side=32))
    text = explain_no_learning(small, metrics(0.0), annotations, steps=9000)
    assert "with a short side of 32 pixels, half of the objects have sides below" in text
    assert "--data.test-short-side" in text


@pytest.mark.parametrize("score", [0.005, 0.3, None])
def test_a_model_that_learned_gets_no_advice(score, annotations):
    assert explain_no_learning(get_recipe("custom_small"), metrics(score), annotations, steps=9) == ""
