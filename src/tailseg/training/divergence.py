"""Notices that a training diverges: its loss is far above the loss that it started with."""

from collections.abc import Mapping
from statistics import median
from typing import Final

from tailseg.models.config import ModelConfig
from tailseg.recipes.recipe import PUBLISHED_BATCH_SIZE, Recipe
from tailseg.training.checkpoint import Progress

FIRST_STEPS: Final = 20
"""Steps whose losses are the start of a run."""
STEPS_IN_A_ROW: Final = 3
"""A run has diverged after so many steps in a row with a loss that is too high: one bad batch does not end it."""
WARNING_SHARE: Final = 0.1
"""A loss is high, and the user is warned, above this share of the loss that ends the run."""
MIN_START: Final = 0.1
"""A start below this counts as this. Training can begin with weights that fit the data almost exactly."""


class DivergenceError(FloatingPointError):
    """The loss is far above its start. The run cannot recover; its state of this step is not saved."""


def compute_start(first_losses: list[float]) -> float:
    """Computes the loss that a run started with: ``max(0.1, min(l[0], median(l)))``.

    The loss of step 0 is of the initial weights, so a run that diverges at once does not raise its own start. The
    median is lower if the first batch is a difficult one.

    Args:
        first_losses: l, the total losses of the first steps, at most `FIRST_STEPS`.
    """
    return max(MIN_START, min(first_losses[0], median(first_losses)))


def watch_loss(losses: Mapping[str, float], progress: Progress, recipe: Recipe) -> str:
    """Compares the loss of the step that was just made with the start of the run.

    Args:
        losses: the losses of the step, by name.
        progress: of the run, after the step; keeps the first losses and counts the steps with a high loss.
        recipe: of the run; ``optim.max_loss_ratio`` is the limit.

    Returns:
        A warning after `STEPS_IN_A_ROW` steps in a row with a high loss, which is `WARNING_SHARE` of the limit;
        otherwise nothing.

    Raises:
        DivergenceError: the losses of `STEPS_IN_A_ROW` steps in a row were above the limit.
    """
    ratio = recipe.optim.max_loss_ratio
    if ratio is None:
        return ""
    loss = float(sum(losses.values()))
    if progress.step <= FIRST_STEPS:
        progress.first_losses.append(loss)
    if not progress.first_losses:  # the run was begun by a version that did not keep them
        return ""
    start = compute_start(progress.first_losses)
    progress.high_losses = progress.high_losses + 1 if loss > max(ratio * WARNING_SHARE, 1) * start else 0
    progress.diverged_losses = progress.diverged_losses + 1 if loss > ratio * start else 0
    if progress.diverged_losses >= STEPS_IN_A_ROW:
        parts = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        raise DivergenceError(
            f"step {progress.step}: the training has diverged. The loss is {loss:,.4g} ({parts}), and it was "
            f"{start:.3g} at the start of the run. {_list_remedies(recipe)}. The checkpoints of this run may be "
            "useless. If a loss of your own grows like this, set --optim.max-loss-ratio None"
        )
    if progress.high_losses == STEPS_IN_A_ROW:
        return (
            f"step {progress.step}: the loss is {loss:,.4g}, and it was {start:.3g} at the start of the run: the "
            f"training may be diverging. If the loss does not fall again, stop the run. {_list_remedies(recipe)}"
        )
    return ""


def _list_remedies(recipe: Recipe) -> str:
    """Says which settings to change, in the order of their effect."""
    optim = recipe.optim
    rate = optim.lr * recipe.data.batch_size / PUBLISHED_BATCH_SIZE
    remedies = [f"a lower learning rate (--optim.lr {optim.lr / 4:.2g}; it was {optim.lr:g}, {rate:.3g} in each step)"]
    if optim.clip_norm is None:
        remedies.append("clipped gradients (--optim.clip-norm 10)")
    remedies.append("a longer warm-up (--optim.warmup-iterations)")
    backbone = recipe.model.backbone if isinstance(recipe.model, ModelConfig) else None
    if getattr(backbone, "frozen_stages", None) in (0, 1) and getattr(backbone, "weights", "none") != "none":
        remedies.append("pretrained stages that are not trained (--model.backbone.frozen-stages 2 or more)")
    return f"Start again with {', or '.join(remedies)}"
