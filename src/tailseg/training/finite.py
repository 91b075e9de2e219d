"""Checks for NaN and infinity: in losses and gradients they end a run, and weights with them are not saved."""

import math
from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from tailseg.structures import Batch
from tailseg.training.checkpoint import Progress
from tailseg.words import count_noun, verb_form

LEFT_OUT_IN_A_ROW: Final = 20
"""The number of steps in a row that float16's scaler may leave out: its scale falls from 65,536 to 1 in 16 steps."""


class NonFiniteLossError(FloatingPointError):
    """A loss, the gradient or a weight is NaN or infinite; the step was not made, or the weights were not saved."""


def require_finite(values: Mapping[str, float], step: int, batch: Batch) -> None:
    """Checks the losses or the gradient of a step.

    Args:
        values: the losses or the norm of the gradient, by name.
        step: the number of the step.
        batch: the images of the step, which the error names.

    Raises:
        NonFiniteLossError: a value is NaN or infinite; names the step, the values and the images.
    """
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    if bad:
        raise NonFiniteLossError(
            f"step {step}: {', '.join(f'{name} is {value}' for name, value in bad.items())} on the images with ids "
            f"{[info.image_id for info in batch.infos]}; the optimizer has not made this step. Lower optim.lr, "
            "raise optim.warmup_iterations, set optim.clip_norm, or check the annotations of these images"
        )


def compute_gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Computes the norm of the whole gradient, as clipping uses it; not finite if a number of the gradient is not."""
    return torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def require_steps(progress: Progress, scale: float, *, ended: bool) -> None:
    """Ends a float16 run that makes no steps.

    Args:
        progress: counts the steps that the scaler has left out.
        scale: the scale of the loss.
        ended: whether the run is over.

    Raises:
        NonFiniteLossError: `LEFT_OUT_IN_A_ROW` steps in a row were left out, or all steps of a run.
    """
    if ended and 0 < progress.step == progress.left_out:
        which = f"all {progress.step} steps of the run"
    elif progress.left_out_in_a_row >= LEFT_OUT_IN_A_ROW:
        which = f"the last {progress.left_out_in_a_row} steps"
    else:
        return
    raise NonFiniteLossError(
        f"step {progress.step}: {which} were left out: their gradient was NaN or infinite in float16, although the "
        f"scale of the loss fell to {scale:g}. If the run is short, a longer one may help. Else use --run.precision "
        "bfloat16 or float32; then the error names the images"
    )


def require_finite_weights(states: Iterable[Mapping[str, Tensor]], step: int) -> None:
    """Checks weights and statistics before they are saved.

    Raises:
        NonFiniteLossError: a tensor holds NaN or infinity; the error names it.
    """
    for state in states:
        floats = {name: value for name, value in state.items() if value.is_floating_point()}
        finite = torch.stack([value.isfinite().all() for value in floats.values()]).tolist() if floats else []
        bad = [name for name, is_finite in zip(floats, finite, strict=True) if not is_finite]
        if bad:
            more = f" and {count_noun(len(bad) - 1, 'more tensor')}" if len(bad) > 1 else ""
            raise NonFiniteLossError(
                f"step {step}: {bad[0]}{more} of the network {verb_form(len(bad), 'holds', 'hold')} NaN or infinity, "
                "so the weights are not saved; the earlier checkpoints are not affected. Start a run with a lower "
                "optim.lr, a larger optim.warmup_iterations or with optim.clip_norm. --run.init-from loads the weights "
                "of a checkpoint"
            )
