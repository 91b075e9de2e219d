"""The network whose features the lab uses: trained once, in a bounded time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tailseg.recipes.places import get_latest
from tailseg.recipes.recipe import Recipe, ScheduleConfig
from tailseg.recipes.saved import load_recipe
from tailseg.training.console import describe_seconds
from tailseg.training.dry_run import measure_pace
from tailseg.training.loop import train
from tailseg.words import count_noun


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
        ValueError: as `tailseg.training.loop.train`.
    """
    if (folder / "metrics.json").is_file():
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
    # one evaluation, at the end
    recipe = replace(
        recipe, run=replace(recipe.run, out=str(folder).replace("{", "{{").replace("}", "}}"), eval_every=0)
    )
    train(recipe, resume=True, resume_command="the same `tailseg lab` command")


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
