"""The network of the lab: its schedule fits the time."""

from dataclasses import replace
from pathlib import Path

import pytest

from tailseg.lab import network
from tailseg.lab.network import shorten_schedule, train_network
from tailseg.recipes import custom_small
from tailseg.recipes.recipe import Recipe, SGDConfig


def test_a_shorter_schedule_keeps_the_shares_of_its_parts() -> None:
    optim = SGDConfig(epochs=24, milestones=(18, 22), warmup_iterations=100)

    shorter = shorten_schedule(optim, 8, 10)

    assert (shorter.epochs, shorter.milestones, shorter.warmup_iterations) == (8, (6, 7), 16)
    assert shorten_schedule(optim, 24, 1000) == optim


@pytest.mark.parametrize(("minutes", "epochs"), [(1000.0, 24), (10.0, 5), (0.1, 1)])
def test_the_epochs_fit_the_time(minutes: float, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Recipe] = []
    monkeypatch.setattr(network, "measure_pace", lambda _: (2.0, 60))  # two minutes an epoch
    monkeypatch.setattr(network, "train", lambda recipe, **_: trained.append(recipe))
    lines: list[str] = []

    train_network(custom_small(), tmp_path / "network", minutes=minutes, say=lines.append)

    assert trained[0].optim.epochs == epochs
    assert trained[0].run.out == str(tmp_path / "network")
    assert f"of {24}" in lines[0]


def test_a_finished_network_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    monkeypatch.delattr(network, "train")

    recipe = custom_small()
    train_network(replace(recipe, name="other"), tmp_path, minutes=1)
