"""The learning rate of a step, the decay of the average of the weights, and notes about schedules that do not fit."""

import inspect
from typing import Final

from tailseg.losses import LDAMLossConfig, PCBLossConfig
from tailseg.recipes.recipe import Recipe, ScheduleConfig
from tailseg.training.checkpoint import Checkpoint
from tailseg.training.fit import get_saved_epochs
from tailseg.words import count_noun

MAX_NAMED_RATES: Final = 4
"""The largest number of learning rates that the note about an extended run names."""


def compute_decay(decay: float, updates: int) -> float:
    """Computes the decay of one update of the moving average of the weights: ``min(decay, (1 + n) / (10 + n))``.

    Without this warm-up, the average of a short run would be close to its initial weights: with a decay of 0.9998 they
    make up 97.6 % of it after 120 steps. Source: TensorFlow's ExponentialMovingAverage with ``num_updates``.

    Args:
        decay: the decay after the warm-up.
        updates: n, the number of updates before this one.
    """
    return min(decay, (1 + updates) / (10 + updates))


def get_learning_rate(recipe: Recipe, *, step: int, epoch: int, steps_per_epoch: int) -> float:
    """Gets the learning rate of one step from the recipe, whose schedule may be the user's own.

    Args:
        recipe: the recipe of the run.
        step: steps done since the start of the run, from 0.
        epoch: epochs done, from 0.
        steps_per_epoch: steps of the optimizer in an epoch.

    Returns:
        The learning rate for all images of a step.
    """
    optim, batch_size = recipe.optim, recipe.data.batch_size
    parameters = inspect.signature(optim.learning_rate).parameters.values()
    if any(each.name == "steps_per_epoch" or each.kind is each.VAR_KEYWORD for each in parameters):
        return optim.learning_rate(step=step, epoch=epoch, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    return optim.learning_rate(step=step, epoch=epoch, batch_size=batch_size)


def list_schedule_notes(recipe: Recipe, steps_per_epoch: int) -> list[str]:
    """Lists the parts of the schedule that a run does not reach before its last step, one sentence for each.

    Args:
        recipe: the recipe of the run.
        steps_per_epoch: steps of the optimizer in an epoch.
    """
    optim, steps = recipe.optim, recipe.optim.epochs * steps_per_epoch
    run = f"the run has {count_noun(optim.epochs, 'epoch')} of {count_noun(steps_per_epoch, 'step')}"
    notes = []
    built_in = _is_built_in(optim)
    in_steps = built_in and optim.schedule == "steps"
    if late := [str(epoch) for epoch in optim.milestones if in_steps and epoch >= optim.epochs]:
        notes.append(
            f"optim.milestones: {run}, and ends before the learning rate is lowered after "
            f"{'epoch' if len(late) == 1 else 'epochs'} {' and '.join(late)}"
        )
    if built_in and (warmup_steps := optim.count_warmup_steps(steps_per_epoch)) >= steps:
        reached = 1 - (1 - (steps - 1) / warmup_steps) * (1 - optim.warmup_ratio)
        warmup = f"optim.warmup_iterations is {optim.warmup_iterations}"
        if optim.warmup_epochs is not None:
            warmup = f"optim.warmup_epochs is {optim.warmup_epochs:g}"
        notes.append(f"{warmup}: {run}, and ends in the warm-up, at {reached:.0%} of the learning rate")
    if isinstance(recipe.loss, LDAMLossConfig) and (recipe.loss.reweight_after or 0) >= steps:
        notes.append(f"loss.reweight_after is {recipe.loss.reweight_after}: {run}, and never weights the classes")
    if isinstance(recipe.loss, PCBLossConfig) and recipe.loss.start_after >= steps:
        notes.append(f"loss.start_after is {recipe.loss.start_after}: {run}, and never softens the targets")
    data = recipe.data
    changes = [f"data.{name}" for name in ("jitter", "color", "paste") if getattr(data, name) is not None]
    if changes and data.clean_epochs >= optim.epochs:
        notes.append(
            f"data.clean_epochs is {data.clean_epochs}: {run}, and all of them are without {' and '.join(changes)}. "
            "Lower --data.clean-epochs"
        )
    if data.clean_epochs and not changes:
        notes.append("data.clean_epochs has no effect: the images have no jitter, color and paste to leave out")
    return notes


def describe_extension(recipe: Recipe, saved: Checkpoint, steps_per_epoch: int) -> str:
    """Describes the extension of a run: its new length, and the learning rate by the schedule with the new end.

    Args:
        recipe: the recipe of the extended run.
        saved: the checkpoint that the run continues from.
        steps_per_epoch: steps of the optimizer in an epoch.

    Returns:
        A line for the user.
    """
    optim, progress, rates = recipe.optim, saved.progress, list[tuple[int, str]]()
    for epoch in range(progress.epoch, optim.epochs):
        step = max(progress.step, epoch * steps_per_epoch)
        rate = f"{get_learning_rate(recipe, step=step, epoch=epoch, steps_per_epoch=steps_per_epoch):.3g}"
        if not rates or rates[-1][1] != rate:
            rates.append((epoch + 1, rate))
    if len(rates) > MAX_NAMED_RATES:
        rates = [rates[0], rates[-1]]
    group = saved.optimizer["param_groups"][0]
    return (
        f"the run is extended from {count_noun(get_saved_epochs(saved), 'epoch')} to {optim.epochs:,}. The learning "
        f"rate was {group['lr'] / group.get('lr_scale', 1.0):.3g} in the last step, and will be "
        + ", ".join(f"{rate} in epoch {epoch}" for epoch, rate in rates)
        + (f" and until epoch {optim.epochs}" if rates[-1][0] < optim.epochs else "")
    )


def _is_built_in(optim: ScheduleConfig) -> bool:
    """Whether the schedule is the built-in one. The user's own schedule may not use the milestones and the warm-up."""
    return type(optim).learning_rate is ScheduleConfig.learning_rate
