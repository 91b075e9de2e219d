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


def compute_process_share(count: int, device: torch.device) -> Tensor | float:
    """``count * P / (sum of the counts of P processes)``; 1 for one process. All processes must call.

    A loss that is a mean over ``count`` regions, times this share, has the mean over all processes' regions as its mean
    over processes. That is the mean that gradients are averaged by, so that the losses and the gradients are those of
    one process that has all regions. (The published training averages each process's means instead.)
    """
    if not _is_joined():
        return 1.0
    total = sum_over_processes(torch.tensor(float(count), device=device))
    return count * dist.get_world_size() / total.clamp(min=1)  # ty: ignore[possibly-missing-attribute]


def broadcast_from_first(tensor: Tensor) -> Tensor:
    """The tensor of the first process, on all of them; all have one of its shape. May change its argument."""
    if _is_joined():
        dist.broadcast(tensor, 0)  # ty: ignore[possibly-missing-attribute]
    return tensor


def gather_rows(rows: Tensor) -> tuple[Tensor, slice]:
    """The rows that all processes hold, in the processes' order, and where this one's stand among them.

    Processes may hold different numbers of rows. On a GPU with several processes this waits for their numbers.
    """
    if not _is_joined():
        return rows, slice(None)
    this, count = dist.get_rank(), dist.get_world_size()  # ty: ignore[possibly-missing-attribute]
    numbers = torch.zeros(count, dtype=torch.int64, device=rows.device)
    numbers[this] = len(rows)
    held = sum_over_processes(numbers).tolist()
    here = slice(sum(held[:this]), sum(held[: this + 1]))
    every = rows.new_zeros(sum(held), *rows.shape[1:])
    every[here] = rows
    return sum_over_processes(every), here
