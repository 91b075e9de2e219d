"""Callbacks: when they are called, what they see, how they end a run; and a metric that fails."""

from dataclasses import dataclass, replace

import pytest

from tailseg.training import Callback, StopTraining, train
from tailseg.training.callbacks import check_callbacks
from tailseg.training.run_files import get_best, get_latest

from . import small


class Notes(Callback):
    """Notes what is called, and ends the run after ``last`` steps."""

    def __init__(self, last=100):
        self.last, self.calls, self.metrics = last, [], None

    def on_start(self, run):
        assert (run.steps_per_epoch, run.is_main_process, run.model) == (5, True, run.evaluated_model)
        assert run.recipe.optim.epochs == 2
        self.calls.append(("start", run.step))

    def on_step(self, run, losses):
        assert all(value > 0 for value in losses.values())
        self.calls.append(("step", run.step))
        if run.step == self.last:
            raise StopTraining("enough")

    def on_epoch(self, run, metrics):
        self.calls.append(("epoch", run.epoch, metrics is not None))

    def on_end(self, run, metrics):
        self.metrics = metrics
        self.calls.append(("end", run.step, run.epoch))


def recipe(data, out, **changes):
    base = small.recipe(data, out)
    return replace(base, optim=replace(base.optim, epochs=2, milestones=()), **changes)


def test_hooks_are_called_in_order_and_a_stopped_run_goes_on(data, tmp_path):
    first, second = Notes(last=2), Notes()
    metrics = train(recipe(data, tmp_path), callbacks=[first])
    assert first.calls == [("start", 0), ("step", 1), ("step", 2), ("end", 2, 0)]
    assert first.metrics is metrics
    assert get_latest(tmp_path).name == "step_0000002.pt"
    assert get_best(tmp_path).is_file()
    train(recipe(data, tmp_path), resume=True, callbacks=[second])
    steps = [("step", step) for step in range(3, 11)]
    assert second.calls == [
        ("start", 2),
        *steps[:3],
        ("epoch", 1, False),
        *steps[3:],
        ("epoch", 2, True),
        ("end", 10, 2),
    ]


class Failing(Callback):
    def on_start(self, run):
        raise KeyError("photo")


def test_an_error_says_in_which_hook(data, tmp_path):
    with pytest.raises(KeyError, match="photo") as caught:
        train(recipe(data, tmp_path), callbacks=[Failing()])
    assert caught.value.__notes__ == ["raised in Failing.on_start"]


def test_a_class_in_place_of_an_object_is_named():
    with pytest.raises(TypeError, match="expected objects of subclasses of .*Callback, got the class Failing"):
        check_callbacks([Notes(), Failing])
    with pytest.raises(TypeError, match=r"expected a list of callbacks, got a Notes: write \[callback\]"):
        check_callbacks(Notes())


@dataclass(frozen=True)
class BrokenConfig:
    def build(self):
        return lambda annotations, results: {"score": results[0]["photo"]}


def test_the_state_is_saved_before_a_metric_fails(data, tmp_path):
    with pytest.raises(ValueError, match="the metric Broken failed: KeyError: 'photo'"):
        train(recipe(data, tmp_path, metrics=(BrokenConfig(),)), callbacks=[Notes(last=1)])
    assert get_latest(tmp_path).name == "step_0000001.pt"
