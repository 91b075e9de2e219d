"""DropLoss: neither objects nor all of the background push the classes of the tail down. With the Gumbel link: GOL.

T.-I. Hsieh et al., "DropLoss for Long-Tail Instance Segmentation", AAAI 2021; K. P. Alexandridis et al., "Long-tailed
Instance Segmentation using Gumbel Optimized Loss", ECCV 2022.
"""

import torch
from jaxtyping import Bool, Float, Int16, Int64
from torch import Tensor

from tailseg.losses.binary_loss import count_positives, find_foreground
from tailseg.losses.processes import sum_over_processes
from tailseg.losses.settings import DropLossConfig as DropLossConfig
from tailseg.losses.tail import TailLoss


class DropLoss(TailLoss):
    """DropLoss over any link: L = C. Over the Gumbel link it is the Gumbel Optimised Loss (GOL).

    With y one-hot over the C classes, all zero for background, f_j = image_count_j / num_images and U uniform on
    [0, 1), drawn for every entry and call:

        loss = weight / R * sum over regions i and classes j of  w_ij (-y_ij log p_ij - (1 - y_ij) log(1 - p_ij))
        w_ij = 1 - T_ij (1 - y_ij)
        T_ij = [f_j < lambda]                 for a foreground region i
               [f_j < lambda] [U_ij > r]      for a background region i
        r    = the share of this call's foreground regions, of all processes, whose class has f < lambda

    Without foreground nothing is dropped (r = 1; the published r is NaN then, with the same effect). The published code
    computes r from each process's own regions. All processes must call. U has 16 bits, from torch's default
    generator: ``torch.manual_seed`` repeats them. Scores are p. An empty tail makes it plain binary cross entropy. For
    the arguments see `TailLoss`.

    The published code of 2024 drops the same entries as that of 2022. Its Gumbel link is exact for q in [-10, 10], and
    has no gradient outside.
    """

    settings = DropLossConfig

    def spares_tail(self, labels: Int64[Tensor, " R"] | Float[Tensor, "R C"]) -> Bool[Tensor, "R C"]:
        """Foreground regions, and background regions with probability 1 - r, each class on its own."""
        # Counts stay tensors: looking at them would make a GPU wait. Without foreground 1 - r is 0 / 1.
        counts = count_positives(labels, self.num_classes)
        num_others, num_foreground = sum_over_processes(
            torch.stack([counts.masked_fill(self.tail, 0).sum(), counts.sum()])
        )
        r = 1 - num_others / num_foreground.clamp(min=1)
        # U > r in integers. r = 1 does not fit into int16, but the largest int16 has the same effect.
        threshold = (r * 2**16 - 2**15).floor().clamp(max=2**15 - 1).to(torch.int16)
        is_above = draw_uniform(len(labels), self.num_classes, labels.device) > threshold
        return is_above.logical_or_(find_foreground(labels, self.num_classes).unsqueeze(1))


def draw_uniform(rows: int, columns: int, device: torch.device) -> Int16[Tensor, "{rows} {columns}"]:
    """Draws uniform integers from -2^15 .. 2^15 - 1, four from each 64 bits: torch.rand would take most of the time.

    Args:
        rows: number of rows.
        columns: number of columns.
        device: of the tensor.

    Returns:
        The integers.
    """
    size = rows * columns
    numbers = torch.randint(-(2**63), 2**63 - 1, (-(-size // 4),), device=device)
    return numbers.view(torch.int16)[:size].view(rows, columns)
