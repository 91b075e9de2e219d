"""Trackers get the lines of the log, a resumed run goes on in the same run there, and none of them ends a training."""

import importlib.util
import json
from dataclasses import replace

import pytest

from tailseg.ranges import SettingError
from tailseg.training import StopTraining, train
from tailseg.training.callbacks import Callback
from tailseg.training.trackers import TRACKERS, Trackers, check_trackers

from . import small


class StopAfter(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_step(self, run, losses):
        if run.step == self.steps:
            raise StopTraining("enough")


def recipe(data, out, *names):
    base = small.recipe(data, out)
    optim = replace(base.optim, epochs=1, milestones=())
    return replace(base, optim=optim, run=replace(base.run, trackers=names, eval_every=1))


def read_log(folder, name):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    kind, _, figure = name.partition("/")
    return [(line["step"], line[figure]) for line in lines if line["kind"] == kind and figure in line]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs uv sync --group frameworks")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_log_and_a_resumed_run_goes_on(data, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    folder = tmp_path / "run"
    train(recipe(data, folder, "mlflow"), callbacks=[StopAfter(2)])
    train(recipe(data, folder, "mlflow"), resume=True)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tailseg")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads((folder / "trackers.json").read_text())["mlflow"]
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["optim.lr"] == "0.02"
    for name in ("train/loss", "val/segm/AP"):
        history = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        assert max(history) == read_log(folder, name)[-1]
    losses = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "train/loss")]
    assert sorted(losses) == read_log(folder, "train/loss")
    assert [step for step, _ in sorted(losses)] == [1, 2, 3, 4, 5]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs uv sync --group frameworks")
@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_offline_and_a_resumed_run_has_the_same_id(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    said = []
    for resumed in (False, True):
        with Trackers(recipe(data, tmp_path, "wandb"), tmp_path, resumed=resumed, say=said.append) as trackers:
            trackers.write({"train/loss": 2.0}, 5 + resumed)
            trackers.write({"val/segm/APr": 0.25}, 5 + resumed)
    key = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    files = list((tmp_path / "wandb").glob(f"offline-run-*/run-{key}.wandb"))
    assert said == []
    assert len(files) == 2
    for file in files:
        content = file.read_bytes()
        assert b"train/loss" in content
        assert b"val/segm/APr" in content


class Failing:
    """A tracker whose server goes away after its first line."""

    def __init__(self, recipe, folder, key):
        self.key, self.lines = key or "abc", []

    def write(self, values, step):
        if self.lines:
            raise ConnectionError("no server\nand more")
        self.lines.append((values, step))

    def close(self, *, failed):
        raise AssertionError("closed after it failed")


def test_a_tracker_that_fails_is_left_out(data, tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "wandb", Failing)
    said = []
    with Trackers(recipe(data, tmp_path, "wandb"), tmp_path, resumed=False, say=said.append) as trackers:
        for step in range(3):
            trackers.write({"train/loss": 1.0}, step)
    assert said == ["wandb failed, and gets no more of this run (ConnectionError: no server)"]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "abc"}


def test_a_missing_tracker_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("tailseg.training.trackers.find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"names mlflow, which is not installed: pip install 'tailseg\[mlflow\]'"):
        check_trackers(["mlflow"])
