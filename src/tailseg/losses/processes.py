"""State that all processes of a training share."""

import torch
import torch.distributed as dist
from torch import Tensor


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()  # ty: ignore[possibly-missing-attribute]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of the tensors that the processes hold; one process keeps its own. May change its argument."""
    if _is_joined():
        tensor = tensor.contiguous()  # gloo sums a strided tensor wrongly, and without a word
        dist.all_reduce(tensor)  # ty: ignore[possibly-missing-attribute]
    return tensor


def share_of_processes(count: int, device: torch.device) -> Tensor | float:
    """``count * P / (sum of the counts of P processes)``; 1 for one process. All processes must call.

    A loss that is a mean over ``count`` regions, times this share, has the mean over all processes' regions as its mean
    over processes. That is the mean that gradients are averaged by, so that the losses and the gradients are those of
    one process that has all regions. (The published training averages each process's means instead.)
    """
    if not _is_joined():
        return 1.0
    total = sum_over_processes(torch.tensor(float(count), device=device))
    return count * dist.get_world_size() / total.clamp(min=1)  # ty: ignore[possibly-missing-attribute]
