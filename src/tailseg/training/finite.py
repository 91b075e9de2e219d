"""NaN and infinity are never silent: in losses and gradients they end a run; in weights they are never saved."""

import math
from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from tailseg.structures import Batch
from tailseg.training.checkpoint import Progress

LEFT_OUT_IN_A_ROW: Final = 20
"""Steps that float16's scaler may leave out one after the other: from its first scale, 65,536, it is at 1 after 16."""


class NonFiniteLossError(FloatingPointError):
    """A loss, the gradient or a weight is NaN or infinite; the step was not made, or the weights were not saved."""


def require_finite(values: Mapping[str, float], step: int, batch: Batch) -> None:
    """Checks the losses or the gradient of a step.

    Args:
        values: by name.
        step: of the run.
        batch: whose images are named.

    Raises:
        NonFiniteLossError: a value is NaN or infinite; names the step, the values and the images.
    """
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    if bad:
        raise NonFiniteLossError(
            f"step {step}: {', '.join(f'{name} is {value}' for name, value in bad.items())} on the images with ids "
            f"{[info.image_id for info in batch.infos]}; the optimizer has not taken this step. Lower optim.lr, "
            "lengthen optim.warmup_iterations, set optim.clip_norm, or look at these images' annotations"
        )


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of the whole gradient, as clipping uses it; NaN or infinite exactly if a number of the gradient is."""
    return torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


def require_steps(progress: Progress, scale: float, *, ended: bool) -> None:
    """Ends a float16 run that makes no steps.

    Args:
        progress: counts the steps that the scaler has left out.
        scale: of the loss.
        ended: the run is over.

    Raises:
        NonFiniteLossError: `LEFT_OUT_IN_A_ROW` steps in a row were left out, or all of a run's.
    """
    if ended and 0 < progress.step == progress.left_out:
        which = f"all {progress.step} steps of the run"
    elif progress.left_out_in_a_row >= LEFT_OUT_IN_A_ROW:
        which = f"the last {progress.left_out_in_a_row} steps"
    else:
        return
    raise NonFiniteLossError(
        f"step {progress.step}: {which} were left out: their gradient was NaN or infinite in float16, though the "
        f"loss's scale fell to {scale:g}. A longer run may help a short one; else take --run.precision bfloat16 "
        "or float32, which names the images of a gradient that is not finite"
    )


def require_finite_weights(states: Iterable[Mapping[str, Tensor]], step: int) -> None:
    """Checks weights and statistics before they are saved.

    Raises:
        NonFiniteLossError: one holds NaN or infinity; names it.
    """
    for state in states:
        floats = {name: value for name, value in state.items() if value.is_floating_point()}
        whole = torch.stack([value.isfinite().all() for value in floats.values()]).tolist() if floats else []
        bad = [name for name, is_whole in zip(floats, whole, strict=True) if not is_whole]
        if bad:
            more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
            raise NonFiniteLossError(
                f"step {step}: {bad[0]}{more} of the network hold NaN or infinity, so they are not saved; what was "
                "saved before is whole. Begin a run with a lower optim.lr, a longer optim.warmup_iterations or with "
                "optim.clip_norm; --run.init-from takes the weights of a checkpoint"
            )
