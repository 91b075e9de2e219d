"""Equalization loss: an object of one class does not push the classes of the tail down.

J. Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, section 3. With the Gumbel link:
K. P. Alexandridis et al., "Long-tailed Instance Segmentation using Gumbel Optimized Loss", ECCV 2022.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Int64
from torch import Tensor

from tailseg.losses.links import LINKS, LinkName
from tailseg.losses.tail import Tail, TailLoss
from tailseg.structures import ClassFrequency


class EQL(TailLoss):
    """Equalization loss over any link: L = C.

    With y one-hot over the C classes, all zero for background, and f_j = image_count_j / num_images::

        loss = weight / R * sum over regions i and classes j of  w_ij (-y_ij log p_ij - (1 - y_ij) log(1 - p_ij))
        w_ij = 1 - [region i is foreground] [f_j < lambda] (1 - y_ij)

    Background regions push every class down, as published. Scores are p. An empty tail makes it plain binary cross
    entropy. For the arguments see `TailLoss`.
    """

    def spares_tail(self, labels: Int64[Tensor, " R"]) -> Bool[Tensor, "R 1"]:
        """Foreground regions."""
        return (labels < self.num_classes).unsqueeze(1)


@dataclass(frozen=True)
class EQLConfig:
    """Equalization loss over any link."""

    tail: Tail = 0.0011
    """Which classes are the tail: those in a smaller share of the training images, or the groups r or rc."""
    link: LinkName = "gumbel"
    """Turns logits into probabilities."""
    init_bias: float | None = None
    """The classifier's bias before training; None: gumbel -2, sigmoid -6.9, normal -3."""
    weight: float = 1.0
    """Multiplies the loss."""
    parity: bool = False
    """Compute the published code's loss, its clamps and dead zones included."""

    def build(self, frequency: ClassFrequency) -> EQL:
        """The loss for these classes."""
        return EQL(
            frequency,
            tail=self.tail,
            link=LINKS[self.link],
            init_bias=self.init_bias,
            weight=self.weight,
            parity=self.parity,
        )
