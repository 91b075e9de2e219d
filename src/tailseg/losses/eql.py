"""Equalization loss: an object of one class does not push the classes of the tail down.

J. Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, section 3. With the Gumbel link:
K. P. Alexandridis et al., "Long-tailed Instance Segmentation using Gumbel Optimized Loss", ECCV 2022.
"""

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tailseg.losses.binary_loss import find_foreground
from tailseg.losses.settings import EQLConfig as EQLConfig
from tailseg.losses.tail import TailLoss


class EQL(TailLoss):
    """Equalization loss over any link: L = C.

    With y one-hot over the C classes, all zero for background, and f_j = image_count_j / num_images:

        loss = weight / R * sum over regions i and classes j of  w_ij (-y_ij log p_ij - (1 - y_ij) log(1 - p_ij))
        w_ij = 1 - [region i is foreground] [f_j < lambda] (1 - y_ij)

    Background regions push every class down, as published. Scores are p. An empty tail makes it plain binary cross
    entropy. For the arguments see `TailLoss`.
    """

    settings = EQLConfig

    def spares_tail(self, labels: Int64[Tensor, " R"] | Float[Tensor, "R C"]) -> Bool[Tensor, "R 1"]:
        """Foreground regions."""
        return find_foreground(labels, self.num_classes).unsqueeze(1)
