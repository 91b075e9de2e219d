"""Running statistics of batch norms. All processes have the same; the averaged weights have statistics of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tailseg.training.distributed import mean, world_size


def list_running_statistics(model: nn.Module) -> tuple[str, ...]:
    """Lists the names of the running means and variances that training updates, which fixed and frozen norms lack.

    Args:
        model: in training mode; its fixed and frozen norms are in evaluation mode.
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

    A training step normalizes by the statistics of its own images and updates the running statistics linearly. So the
    weights do not depend on how often this function is called, and the statistics only in their last bits. Equal
    statistics do not change: float64 holds the sum of equal float32 numbers without rounding.
    """
    if world_size() == 1 or not statistics:
        return
    buffers = [model.get_buffer(name) for name in statistics]
    means = mean(torch.cat([buffer.flatten().double() for buffer in buffers]))
    for buffer, values in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(values.view_as(buffer))


@torch.no_grad()
def update_average(average: AveragedModel, model: nn.Module, statistics: Sequence[str]) -> None:
    """Updates the average with the weights of the model, and its running statistics by the same rule.

    torch copies all buffers, but the running statistics of the latest weights do not fit the average of many weights,
    because its feature maps have other means. Averaged statistics fit. Other buffers (counts, tables) are copied.

    Source: ModelEmaV2 and ModelEmaV3 of timm average in this way. torch's ``swa_utils`` has ``use_buffers``, which
    averages every buffer, and ``update_bn``, which needs another pass over the data.

    Args:
        average: the moving average of the weights, updated in place.
        model: the model that is trained.
        statistics: the result of `list_running_statistics`.
    """
    averages: list[Tensor] = []
    if statistics and average.n_averaged > 0:
        averages = [average.module.get_buffer(name).clone() for name in statistics]
    average.update_parameters(model)
    if not averages or average.multi_avg_fn is None:
        return
    average.multi_avg_fn(averages, [model.get_buffer(name) for name in statistics], average.n_averaged - 1)
    for name, values in zip(statistics, averages, strict=True):
        average.module.get_buffer(name).copy_(values)
