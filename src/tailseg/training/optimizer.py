"""The moving average of the weights, and what of a schedule lies beyond a run's end."""

from tailseg.losses import LDAMLossConfig
from tailseg.recipes.recipe import PUBLISHED_BATCH_SIZE, Recipe, ScheduleConfig


def averaging_decay(decay: float, updates: int) -> float:
    """The decay of one update of the moving average of the weights: ``min(decay, (1 + n) / (10 + n))``.

    Without the warm-up the average of a short run would be its first weights: with 0.9998 they make 97.6 % of it after
    120 steps. As TensorFlow's ExponentialMovingAverage does with ``num_updates``.

    Args:
        decay: the one that is reached in the end.
        updates: n, those made before this one.
    """
    return min(decay, (1 + updates) / (10 + updates))


def schedule_notes(recipe: Recipe, steps_per_epoch: int) -> list[str]:
    """What of the schedule a run does not reach before its last step, a sentence each.

    Args:
        recipe: the recipe of the run.
        steps_per_epoch: steps of the optimizer in an epoch.
    """
    optim, steps = recipe.optim, recipe.optim.epochs * steps_per_epoch
    run = f"the run has {optim.epochs} epochs of {steps_per_epoch} steps"
    notes = []
    built_in = _is_built_in(optim)
    if late := [str(epoch) for epoch in optim.milestones if built_in and epoch >= optim.epochs]:
        notes.append(f"optim.milestones: {run}, and ends before the rate is lowered after epoch {' and '.join(late)}")
    if built_in and optim.warmup_iterations >= steps:
        reached = optim.learning_rate(step=steps - 1, epoch=0, batch_size=PUBLISHED_BATCH_SIZE) / (optim.lr or 1)
        notes.append(
            f"optim.warmup_iterations is {optim.warmup_iterations}: {run}, and ends in the warm-up, at {reached:.0%} "
            "of the rate"
        )
    if isinstance(recipe.loss, LDAMLossConfig) and (recipe.loss.reweight_after or 0) >= steps:
        notes.append(f"loss.reweight_after is {recipe.loss.reweight_after}: {run}, and never weighs the classes")
    return notes


def _is_built_in(optim: ScheduleConfig) -> bool:
    """Whether the schedule is the built-in one: one of the user's own need not use the milestones and the warm-up."""
    return type(optim).learning_rate is ScheduleConfig.learning_rate
