"""Precision, compilation, averaging and clipping change what they say, and nothing else."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tailseg.inference import Predictor
from tailseg.models.precision import float32_products
from tailseg.recipes.recipe import Recipe
from tailseg.training import checkpoint, run_files
from tailseg.training.loop import train, train_step
from tailseg.training.run import Run, start

from . import small

pytestmark = pytest.mark.usefixtures("one_thread")


def varied(recipe: Recipe, **settings: object) -> Recipe:
    """The recipe with fields of its run or its schedule changed."""
    for part in ("run", "optim"):
        ours = {name: value for name, value in settings.items() if hasattr(getattr(recipe, part), name)}
        recipe = replace(recipe, **{part: replace(getattr(recipe, part), **ours)})
    return recipe


def run_steps(recipe: Recipe, number: int = 3) -> tuple[Run, list[dict[str, float]]]:
    """The run after its first steps, and their losses."""
    run = start(recipe, resume=False)
    run.sampler.set_epoch(0)
    run.model.train()
    losses = []
    for _, batch in zip(range(number), run.loader, strict=False):
        losses.append(train_step(run, batch)[0])
        run.progress.step += 1
    return run, losses


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory) -> tuple[Run, list[dict[str, float]]]:
    return run_steps(varied(small.shared(data, tmp_path_factory.mktemp("plain"), seed=0), clip_norm=None))


def assert_same_weights(run: Run, other: Run) -> None:
    theirs = other.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in run.model.state_dict().items())


@pytest.mark.parametrize("settings", [{"clip_norm": 1e6}, {"average": 0.9}, {"precision": "tf32"}])
def test_a_switch_that_does_not_touch_the_weights_leaves_every_bit(plain, data, tmp_path, settings):
    """A bound above every norm; an average beside the weights; TensorFloat-32, which a CPU does not have."""
    run, losses = run_steps(varied(small.shared(data, tmp_path, seed=0), **{"clip_norm": None, **settings}))
    assert losses == plain[1]
    assert_same_weights(run, plain[0])


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.03), ("float16", 0.005)])
def test_half_precision_learns_nearly_the_same(plain, data, tmp_path, precision, tolerance):
    """The losses together: a single one may differ more, since other proposals are drawn where two rank alike."""
    run, losses = run_steps(varied(small.shared(data, tmp_path, seed=0), clip_norm=None, precision=precision), 1)
    assert sum(losses[0].values()) == pytest.approx(sum(plain[1][0].values()), rel=tolerance)
    assert losses[0] != plain[1][0]
    assert all(value.dtype == torch.float32 for value in run.model.parameters())
    assert run.scaler.is_enabled() == (precision == "float16")


def test_float16_takes_the_steps_of_float32_whatever_the_scale(plain, data, tmp_path):
    """A step of float16, unscaled, moves the weights as float32's does; one whose gradient overflows moves none."""
    recipe = varied(small.shared(data, tmp_path, seed=0), clip_norm=None, precision="float16")
    run, _ = run_steps(recipe, 0)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run.sampler.set_epoch(0)
    batch = next(iter(run.loader))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    train_step(run, batch)
    assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())
    assert run.scaler.get_scale() == 2.0**39
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    train_step(run, batch)
    other, _ = run_steps(varied(recipe, precision="float32", out=str(tmp_path / "float32")), 1)
    ours = torch.cat([(value - before[name]).flatten() for name, value in run.model.named_parameters()])
    theirs = torch.cat([(value - before[name]).flatten() for name, value in other.model.named_parameters()])
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.999


@pytest.mark.slow
def test_float16_and_the_average_go_on_to_the_bit(data, tmp_path):
    """The scale and the average are part of the state; three epochs at once, and one after the other."""
    settings = {"precision": "float16", "average": 0.9, "epochs": 2, "eval_every": 0}
    recipe = varied(small.recipe(data, tmp_path / "whole"), **settings)
    train(recipe)
    parts = varied(recipe, out=str(tmp_path / "parts"))
    run, _ = run_steps(parts, small.STEPS_PER_EPOCH)
    run.progress.epoch = 1
    run.save()
    train(parts, resume=True)
    ours, theirs = [checkpoint.load(run_files.step_path(tmp_path / name, 10)) for name in ("parts", "whole")]
    assert ours.scaler == theirs.scaler
    for name in theirs.model:
        assert torch.equal(ours.model[name], theirs.model[name])
        assert torch.equal(ours.trained[name], theirs.trained[name])
    assert any(not torch.equal(theirs.trained[name], value) for name, value in theirs.model.items())


def test_the_average_is_the_one_of_its_formula_and_is_what_is_used(data, tmp_path):
    """After the first step the average is the weights; then a = d a + (1 - d) w with a d that rises."""
    recipe = varied(small.recipe(data, tmp_path), ema_decay=0.3)
    name = "box_head.fc1.weight"
    run, _ = run_steps(recipe, 0)
    run.sampler.set_epoch(0)
    expected = None
    for updates, batch in enumerate(run.loader):
        decay = min(0.3, (1 + updates) / (10 + updates))  # 2/11, 3/12, and then the bound
        train_step(run, batch)
        run.progress.step += 1
        weights = run.model.get_parameter(name).detach()
        expected = weights.clone() if expected is None else decay * expected + (1 - decay) * weights
    torch.testing.assert_close(run.evaluated.get_parameter(name).detach(), expected, rtol=1e-5, atol=1e-7)
    predictor = Predictor(run.save(), device="cpu", base=recipe)
    torch.testing.assert_close(predictor.model.get_parameter(name).detach(), expected, rtol=1e-5, atol=1e-7)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(plain, data, tmp_path):
    """Every part has as many sampled regions; the mask loss, whose positives differ, is left out."""
    recipe = varied(small.shared(data, tmp_path, seed=0), clip_norm=None)
    recipe = replace(recipe, loss=small.recipe().loss, model=replace(recipe.model, mask=None))
    gradients = []
    for parts in (1, 2, 4):
        run, _ = run_steps(varied(recipe, accumulation_steps=parts, out=str(tmp_path / str(parts))), 1)
        gradients.append({name: value.grad for name, value in run.model.named_parameters()})
    for other in gradients[1:]:
        for name, value in gradients[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))


def test_tensorfloat_is_as_stated_and_put_back():
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    for precision, allowed in (("float32", False), ("tf32", True), ("bfloat16", False)):
        with float32_products(precision):
            assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
    assert [backend.allow_tf32 for backend in backends] == before


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_to_float_precision(plain, data, tmp_path):
    """In a process of its own: functions that check their arguments' shapes, as here, are no code to compile."""
    script = (
        "import json, sys; from tests.training import small, test_switches as switches\n"
        "recipe = switches.varied(small.shared(*sys.argv[1:], seed=0), clip_norm=None, compile=True)\n"
        "run, losses = switches.run_steps(recipe); print(json.dumps([losses, list(run.model.state_dict())]))"
    )
    command = [sys.executable, "-c", script, str(data), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    shown = subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True).stdout
    compiled, names = json.loads(shown.splitlines()[-1])
    for ours, theirs in zip(compiled, plain[1], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert names == list(plain[0].model.state_dict())
