"""A gradient that is not finite is never silent, and weights that are not are never saved."""

import json
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from tailseg.losses import GumbelCE, GumbelCEConfig
from tailseg.training import checkpoint, finite, run_files
from tailseg.training.loop import NonFiniteLossError, train, train_step
from tailseg.training.run import start

from . import small
from .test_switches import run_steps, varied

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class BrokenConfig(GumbelCEConfig):
    """The Gumbel loss with a value that is finite and a gradient that is NaN, in the calls of `Broken.calls`."""

    def build(self, frequency):
        return Broken(frequency.num_classes)


class Broken(GumbelCE):
    calls = range(99)

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.number = -1

    def forward(self, logits, labels):
        losses = super().forward(logits, labels)
        self.number += 1
        if self.number not in self.calls:
            return losses
        return {"loss_cls": losses["loss_cls"] + (logits.float() * 0).sum().abs().sqrt() * 0}


def broken(data, out, **settings):
    recipe = varied(small.recipe(data, out), **{"clip_norm": None, "eval_every": 0, **settings})
    return replace(recipe, loss=BrokenConfig())


@pytest.fixture
def small_scale(monkeypatch):
    """float16 begins with a scale that these losses bear: no step is left out but those of a test."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=256.0))


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 10.0}, {"precision": "bfloat16"}, {"accumulate": 2}])
def test_a_gradient_that_is_not_finite_stops_before_the_optimizer(data, tmp_path, settings):
    run = start(broken(data, tmp_path, **settings), resume=False)
    run.sampler.set_epoch(0)
    batch = next(iter(run.loader))
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    with pytest.raises(NonFiniteLossError) as caught:
        train_step(run, batch)
    ids = [info.image_id for info in batch.infos]
    assert f"step 0: gradient_norm is nan on the images with ids {ids}" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())
    assert not run.optimizer.state


def test_what_was_saved_before_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Broken, "calls", [7])
    with pytest.raises(NonFiniteLossError, match="step 7: gradient_norm is nan"):
        train(broken(data, tmp_path))
    assert run_files.get_latest(tmp_path) == run_files.step_path(tmp_path, 5)
    monkeypatch.setattr(Broken, "calls", [])
    train(broken(data, tmp_path), resume=True)
    saved = checkpoint.load(run_files.step_path(tmp_path, 15))
    assert all(value.isfinite().all() for value in saved.model.values())


def test_float16_that_never_takes_a_step_does_not_end_well(data, tmp_path):
    with pytest.raises(
        NonFiniteLossError, match=r"step 15: all 15 steps .*scale of the loss fell to 2.*--run.precision"
    ):
        train(broken(data, tmp_path, precision="float16"))
    assert not (tmp_path / "metrics.json").exists()
    assert run_files.get_best(tmp_path) is None
    train_lines = [line for line in log(tmp_path) if line["kind"] == "train"]
    assert [line["steps_left_out"] for line in train_lines] == list(range(1, 16))
    assert [line["scale"] for line in train_lines] == [2.0 ** (15 - step) for step in range(15)]


@pytest.mark.usefixtures("small_scale")
def test_float16_that_leaves_out_many_steps_in_a_row_ends(data, tmp_path, monkeypatch):
    """The count goes on where the run does."""
    monkeypatch.setattr(finite, "LEFT_OUT_IN_A_ROW", 4)
    monkeypatch.setattr(Broken, "calls", range(2, 99))
    recipe = broken(data, tmp_path, precision="float16")
    run, _ = run_steps(recipe, 4)
    assert (run.progress.left_out, run.progress.left_out_in_a_row) == (2, 2)
    run.progress.step_in_epoch = 4
    run.save()
    monkeypatch.setattr(Broken, "calls", range(99))
    with pytest.raises(NonFiniteLossError, match=r"step 5: the last 4 steps were left out.*float16"):
        train(recipe, resume=True)


@pytest.mark.usefixtures("small_scale")
def test_float16_says_what_it_leaves_out_and_goes_on(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Broken, "calls", [1, 2])
    recipe = broken(data, tmp_path, precision="float16", ema_decay=0.5, log_every=5)
    train(recipe)
    said = capsys.readouterr().err
    assert "step 5: 2 of the last 5 steps were left out" in said
    assert "the scale of the loss is 64 now" in said
    assert said.count("were left out") == 1
    assert [line["steps_left_out"] for line in log(tmp_path) if line["kind"] == "train"] == [2, 2, 2]
    progress = checkpoint.load(run_files.step_path(tmp_path, 15)).progress
    assert (progress.left_out, progress.left_out_in_a_row) == (2, 0)
    assert start(recipe, resume=True).average.n_averaged == 13


@pytest.mark.parametrize("average", [None, 0.9])
def test_weights_that_are_not_finite_are_not_saved(data, tmp_path, average):
    run, _ = run_steps(varied(small.recipe(data, tmp_path), ema_decay=average), 2)
    good = run.save()
    content = good.read_bytes()
    run.progress.step += 1
    run.model.get_parameter("box_head.fc2.bias").data[3] = torch.inf
    for path in (None, run_files.best_path(tmp_path), good):
        with pytest.raises(NonFiniteLossError, match=r"step 3: box_head\.fc2\.bias of the network .* not saved"):
            run.save(path)
    assert good.read_bytes() == content
    assert [*run_files.list_checkpoints(tmp_path), run_files.get_best(tmp_path)] == [good, None]


def test_statistics_that_are_not_finite_are_not_saved(data, tmp_path):
    run, _ = run_steps(small.recipe(data, tmp_path), 0)
    name = next(name for name, _ in run.model.named_buffers() if name.endswith("running_var"))
    run.model.get_buffer(name).fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match=name.replace(".", r"\.")):
        run.save()
