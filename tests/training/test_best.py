"""The best checkpoint by any figure, and runs that end early."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tailseg.ranges import SettingError
from tailseg.recipes.recipe import RunConfig
from tailseg.training import Callback, StopTraining, train
from tailseg.training.best import record_evaluation
from tailseg.training.checkpoint import Progress, load
from tailseg.training.run_files import get_best, get_latest

from . import small

FIGURES = [0.3, 0.4, 0.4, 0.5]


@dataclass(frozen=True)
class ScriptedConfig:
    """Returns the figures of FIGURES one after the other, from the number of earlier calls in a file."""

    file: str = ""

    def build(self):
        def metric(annotations, results):
            calls = Path(self.file)
            count = len(calls.read_text()) + 1 if calls.exists() else 1
            calls.write_text("." * count)
            return {"figure": FIGURES[min(count, 4) - 1]}

        return metric


class StopAfterEpoch(Callback):
    def on_epoch(self, run, metrics):
        raise StopTraining("enough")


def recipe(data, out, **settings):
    base = small.recipe(data, out)
    return replace(
        base,
        optim=replace(base.optim, epochs=6, milestones=()),
        run=replace(base.run, eval_every=1, **settings),
        metrics=(ScriptedConfig(str(out / "calls")),),
    )


def evaluations(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["Scripted/figure"] for line in lines if line["kind"] == "val"]


def test_a_run_ends_when_its_figure_does_not_rise(data, tmp_path, capsys):
    settings = recipe(data, tmp_path, best_by="Scripted/figure", patience=1)
    train(settings)
    assert evaluations(tmp_path) == FIGURES[:3]
    assert load(get_best(tmp_path)).progress.best == 0.4
    assert load(get_best(tmp_path)).progress.epoch == 2
    assert load(get_latest(tmp_path)).progress.evaluations_without_gain == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "the training ends early: in 1 evaluation Scripted/figure did not rise above 0.4000" in printed
    train(settings, resume=True)
    assert evaluations(tmp_path) == FIGURES[:3]
    (tmp_path / "calls").write_text("." * 3)  # as before the evaluation of the resumed run
    train(replace(settings, optim=replace(settings.optim, epochs=7)), resume=True, callbacks=[StopAfterEpoch()])
    assert evaluations(tmp_path) == FIGURES


@pytest.mark.parametrize(("min_gain", "without_gain"), [(0.0, [0, 0, 1, 0]), (0.15, [0, 1, 2, 0]), (0.3, [0, 1, 2, 3])])
def test_small_gains_do_not_count_but_make_the_best_checkpoint(min_gain, without_gain):
    progress, best, counts = Progress(), [], []
    for figure in FIGURES:
        best.append(record_evaluation(progress, figure, min_gain))
        counts.append(progress.evaluations_without_gain)
    assert counts == without_gain
    assert best == [True, True, False, True]


def test_a_figure_that_is_not_defined_is_refused_before_the_first_step(data, tmp_path):
    with pytest.raises(SettingError, match=r"defines no segm/APf: choose one of bbox/AP, .*\(did you mean segm/AP"):
        train(recipe(data, tmp_path, best_by="APf"))
    assert get_latest(tmp_path) is None


def test_patience_needs_evaluations():
    with pytest.raises(SettingError, match="run.patience is 3 and run.eval_every 0"):
        RunConfig(patience=3, eval_every=0)
    with pytest.raises(SettingError, match="name each tracker once"):
        RunConfig(trackers=("wandb", "wandb"))
