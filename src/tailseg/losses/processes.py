"""State that all processes of a training share."""

import torch
import torch.distributed as dist
from torch import Tensor


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()  # ty: ignore[possibly-missing-attribute]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sums a tensor over all processes; without other processes, returns it. May change its argument."""
    if _is_joined():
        tensor = tensor.contiguous()  # gloo sums a strided tensor wrongly, without an error
        dist.all_reduce(tensor)  # ty: ignore[possibly-missing-attribute]
    return tensor


def compute_process_share(count: int, device: torch.device) -> Tensor | float:
    """Computes ``count * P / (sum of the counts of P processes)``; 1 for one process. All processes must call.

    Gradients are averaged over processes. If each process multiplies its mean over ``count`` regions by this share, the
    average is the mean over the regions of all processes. Losses and gradients are then those of one process that has
    all regions. (The published training averages the means of the processes instead.)
    """
    if not _is_joined():
        return 1.0
    total = sum_over_processes(torch.tensor(float(count), device=device))
    return count * dist.get_world_size() / total.clamp(min=1)  # ty: ignore[possibly-missing-attribute]


def broadcast_from_first(tensor: Tensor) -> Tensor:
    """Gives all processes the tensor of the first one; all call with the same shape. May change its argument."""
    if _is_joined():
        dist.broadcast(tensor, 0)  # ty: ignore[possibly-missing-attribute]
    return tensor


def gather_rows(rows: Tensor) -> tuple[Tensor, slice]:
    """Gathers the rows of all processes, in the order of the processes.

    Processes may have different numbers of rows. On a GPU with several processes this waits for the numbers.

    Returns:
        All rows, and the slice of this process's rows among them.
    """
    if not _is_joined():
        return rows, slice(None)
    this, count = dist.get_rank(), dist.get_world_size()  # ty: ignore[possibly-missing-attribute]
    numbers = torch.zeros(count, dtype=torch.int64, device=rows.device)
    numbers[this] = len(rows)
    counts = sum_over_processes(numbers).tolist()
    own_rows = slice(sum(counts[:this]), sum(counts[: this + 1]))
    all_rows = rows.new_zeros(sum(counts), *rows.shape[1:])
    all_rows[own_rows] = rows
    return sum_over_processes(all_rows), own_rows
