"""The network of the lab: its schedule fits the time."""

from dataclasses import replace
from pathlib import Path

import pytest

from tailseg.lab import network
from tailseg.lab.network import shorten_schedule, train_network
from tailseg.models.config import TimmConfig
from tailseg.recipes import custom_small
from tailseg.recipes.recipe import Recipe, SGDConfig
from tailseg.recipes.saved import save_recipe
from tailseg.training.resolved_settings import resolve_settings


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


@pytest.mark.parametrize("finished", [True, False])
def test_a_network_of_other_data_or_settings_is_refused(
    finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file, other = tmp_path / "network", tmp_path / "a.json", tmp_path / "b.json"
    for path in (folder / "metrics.json" if finished else folder / "checkpoints" / "step_5.pt", file, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    recipe = custom_small()
    recipe = replace(recipe, data=replace(recipe.data, train=str(file), val=str(file)))
    save_recipe(replace(recipe, optim=shorten_schedule(recipe.optim, 3, 5)), folder / "recipe.json")
    monkeypatch.setattr(network, "train", lambda *_, **__: None)

    for changes, message in (
        ({"train": str(other)}, r"data\.train.*b\.json"),
        ({"val": str(other)}, r"data\.val.*b\.json"),
        ({"repeat_threshold": 0.5}, r"data\.repeat_threshold: 0\.5, saved 0\.01.*--out"),
    ):
        with pytest.raises(ValueError, match=message):
            train_network(replace(recipe, data=replace(recipe.data, **changes)), folder, minutes=1)
    (tmp_path / "link").symlink_to(tmp_path)
    linked = replace(recipe.data, train=str(tmp_path / "link" / "a.json"), workers=7)
    train_network(replace(recipe, data=linked), folder, minutes=1)


def test_a_network_whose_file_has_changed_since_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(custom_small(), data=replace(custom_small().data, train=str(tmp_path / "a.json")))
    (tmp_path / "metrics.json").write_text("{}")
    save_recipe(recipe, tmp_path / "recipe.json")
    monkeypatch.setattr(network, "has_changed", lambda _: True)

    with pytest.raises(ValueError, match=r"a\.json has changed since"):
        train_network(recipe, tmp_path, minutes=1)


def test_a_network_that_got_its_normalization_from_its_weights_is_used_again(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    recipe = custom_small()
    data = replace(recipe.data, train=str(tmp_path / "a.json"), val=str(tmp_path / "a.json"))
    backbone = TimmConfig(name="test_efficientnet", weights="none", frozen_stages=4)
    recipe = replace(recipe, data=data, model=replace(recipe.model, backbone=backbone))
    (tmp_path / "metrics.json").write_text("{}")
    save_recipe(resolve_settings(recipe, tmp_path), tmp_path / "recipe.json")
    lines: list[str] = []

    train_network(recipe, tmp_path, minutes=1, say=lines.append)

    assert "used again" in lines[0]
