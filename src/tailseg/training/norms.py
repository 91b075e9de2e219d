"""Running statistics of batch norms: equal in all processes, and separate ones for the averaged weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tailseg.training.distributed import mean, world_size


def running_statistics(model: nn.Module) -> tuple[str, ...]:
    """The names of the running means and variances that training updates: not those of fixed and frozen norms.

    Args:
        model: in training mode, in which fixed and frozen norms are not.
    """
    return tuple(
        f"{path}.{name}"
        for path, norm in model.named_modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training and norm.track_running_stats  # noqa: SLF001
        for name in ("running_mean", "running_var")
    )


@torch.no_grad()
def average_over_processes(model: nn.Module, statistics: Sequence[str]) -> None:
    """Gives all processes the mean of their running statistics, in place. All processes must call.

    A training step normalizes by the statistics of its own images and updates the running ones linearly. So it does not
    matter for what is learned how often their mean is taken; the result differs in the last bits alone. Equal
    statistics stay as they are: float64 holds the sum of equal float32 numbers without rounding.
    """
    if world_size() == 1 or not statistics:
        return
    buffers = [model.get_buffer(name) for name in statistics]
    every = mean(torch.cat([buffer.flatten().double() for buffer in buffers]))
    for buffer, values in zip(buffers, every.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(values.view_as(buffer))


@torch.no_grad()
def update_average(average: AveragedModel, model: nn.Module, statistics: Sequence[str]) -> None:
    """Updates the average by the weights of the model, and its running statistics by the same rule.

    torch copies all buffers as they are, but the statistics of the latest weights do not fit the average of many
    weights: its feature maps have other means. Averaged statistics do. Other buffers (counts, tables) are copied.

    Source: ModelEmaV2 and ModelEmaV3 of timm average them so; torch's ``swa_utils`` offers that as ``use_buffers``,
    for every buffer, and ``update_bn``, which passes over the data once more.
    """
    former: list[Tensor] = []
    if statistics and average.n_averaged > 0:
        former = [average.module.get_buffer(name).clone() for name in statistics]
    average.update_parameters(model)
    if not former or average.multi_avg_fn is None:
        return
    average.multi_avg_fn(former, [model.get_buffer(name) for name in statistics], average.n_averaged - 1)
    for name, values in zip(statistics, former, strict=True):
        average.module.get_buffer(name).copy_(values)
