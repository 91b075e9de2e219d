"""The network whose features the lab uses: trained once, in a bounded time."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from tailseg.data.tiny_tail import is_tiny_tail
from tailseg.recipes.build import has_changed
from tailseg.recipes.places import get_latest
from tailseg.recipes.recipe import Recipe, ScheduleConfig
from tailseg.recipes.saved import DATA_PATHS, Plain, list_differences, load_recipe, load_saved
from tailseg.training.console import describe_seconds
from tailseg.training.dry_run import measure_pace
from tailseg.training.fit import FREE_SETTINGS
from tailseg.training.loop import train
from tailseg.training.resolved_settings import resolve_settings
from tailseg.words import count_noun

SHORTENED: Final = {"optim.epochs", "optim.milestones", "optim.warmup_iterations"}
"""Settings that differ because the training of the network was shortened."""


def train_network(
    recipe: Recipe, folder: Path, *, minutes: float, say: Callable[[str], None] = lambda _line: None
) -> None:
    """Trains the network, or continues its training; a finished one stays as it is.

    Args:
        recipe: every setting; the number of epochs is lowered to fit the time.
        folder: of the run.
        minutes: the time of the training, without evaluations. One epoch is always trained.
        say: called with a line for each thing that the user should know.

    Raises:
        ValueError: the folder has a network of other data or settings; or as `tailseg.training.loop.train`.
    """
    recipe = _place(recipe, folder)
    is_trained = (folder / "metrics.json").is_file()
    if (folder / "recipe.json").is_file() and (is_trained or get_latest(folder)):
        require_same(recipe, folder)
    if is_trained:
        say(f"the network in {folder} is used again")
        return
    if get_latest(folder):
        recipe = load_recipe(folder / "recipe.json", base=recipe)
    else:
        seconds, steps = measure_pace(recipe)
        epochs = max(1, min(recipe.optim.epochs, int(minutes * 60 / (seconds * steps))))
        say(
            f"the network: {recipe.name}, {count_noun(epochs, 'epoch')} of {recipe.optim.epochs}, about "
            f"{describe_seconds(seconds * steps * epochs)} (--minutes {minutes:g})"
        )
        recipe = replace(recipe, optim=shorten_schedule(recipe.optim, epochs, steps))
    train(_place(recipe, folder), resume=True, resume_command="the same `tailseg lab` command")


def _place(recipe: Recipe, folder: Path) -> Recipe:
    """Returns the recipe with a folder, whatever its name, and with one evaluation, at the end."""
    out = str(folder).replace("{", "{{").replace("}", "}}")
    return replace(recipe, run=replace(recipe.run, out=out, eval_every=0))


def require_same(recipe: Recipe, folder: Path) -> None:
    """Checks that the network of a folder has the data and the settings of a recipe, apart from the shorter schedule.

    Args:
        recipe: of the network that is asked for, in this folder.
        folder: of a run.

    Raises:
        ValueError: the data or a setting differs, or the file that the held-out part came from has changed.
    """
    recipe, saved = resolve_settings(recipe, folder), load_saved(folder / "recipe.json", base=recipe)[1]
    resolved = {**saved["resolved"], "data": _resolve(saved["resolved"]["data"])}
    data = replace(recipe.data, **_resolve({name: getattr(recipe.data, name) for name in DATA_PATHS}))
    lines = list_differences(replace(recipe, data=data), {**saved, "resolved": resolved})
    lines = [line for line in lines if line.split(":")[0] not in FREE_SETTINGS | SHORTENED]
    if not lines and recipe.data.val is None and has_changed(recipe):
        lines = [f"{recipe.data.train} has changed since"]
    if lines:
        raise ValueError(
            f"{folder} has a network of other data or settings: {'; '.join(lines)}. Name another folder (--out), or "
            f"use this network with its own data: --run {folder}"
        )


def _resolve(paths: Plain) -> Plain:
    """Resolves the paths among the settings of the data, which may lead to one file in several ways."""
    return {
        name: os.path.realpath(value) if name in DATA_PATHS and value and not is_tiny_tail(value) else value
        for name, value in paths.items()
    }


def shorten_schedule(optim: ScheduleConfig, epochs: int, steps_per_epoch: int) -> ScheduleConfig:
    """Shortens a schedule: milestones keep their share of the run, and the warm-up has at most a fifth of it.

    Args:
        optim: the schedule.
        epochs: of the shorter run.
        steps_per_epoch: steps of an epoch.

    Returns:
        The shorter schedule.
    """
    milestones = tuple(dict.fromkeys(max(1, round(epoch * epochs / optim.epochs)) for epoch in optim.milestones))
    return replace(
        optim,
        epochs=epochs,
        milestones=tuple(epoch for epoch in milestones if epoch < epochs) or milestones,
        warmup_iterations=min(optim.warmup_iterations, epochs * steps_per_epoch // 5),
    )
