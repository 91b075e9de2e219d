"""Equalization loss v2: balances the positive and the negative gradients of each class during training.

J. Tan et al., "Equalization Loss v2: A New Gradient Balance Approach for Long-tailed Object Detection", CVPR 2021.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, refuse_transforms, takes_settings
from tailseg.losses.binary import ClassFactors
from tailseg.losses.binary_loss import BinaryLoss, Entries
from tailseg.losses.links import Sigmoid
from tailseg.losses.processes import sum_over_processes
from tailseg.losses.settings import EQLv2Config as EQLv2Config
from tailseg.structures import ClassFrequency


class EQLv2(ConfiguredLoss, BinaryLoss):
    """Sigmoid cross entropy under weights from the accumulated gradients, with an objectness logit: L = C + 1.

    With ``background=False`` there is no such logit, for heads without it: L = C, and scores are p.

    With p = 1 / (1 + exp(-q)) and y one-hot over the C classes and background, the last logit:

        loss = weight / R * sum over regions and logits of  -u_j y log p - v_j (1 - y) log(1 - p)
        g_j  = (positive gradients of class j so far) / (negative gradients so far)
        v_j  = 1 / (1 + exp(-gamma (g_j - mu)))        u_j = 1 + alpha (1 - v_j)        background: u = v = 1

    A gradient is |p - y| times its weight, summed over the regions of all processes. Every call in training mode first
    uses ``gradient_sums`` (``[2, C]``, float64: positive, negative) and then adds its own gradients to it. A class
    without negative gradients has u = v = 1: at the first step the loss is plain cross entropy, as published.

    Scores are p_j (1 - p_background).

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `EQLv2Config`.
    """

    config: EQLv2Config
    gradient_sums: Tensor

    @takes_settings(EQLv2Config)
    def __init__(self, num_classes: int | ClassFrequency, config: EQLv2Config) -> None:
        super().__init__(num_classes, config, extra_logits=int(config.background))
        self.link = Sigmoid()
        # float64: late in training a step is too small a part of the sum for float32 to notice.
        self.register_buffer("gradient_sums", torch.zeros(2, self.num_classes, dtype=torch.float64))

    def cost(self, entries: Entries) -> Float[Tensor, ""]:
        """Weighted binary cross entropy; in training mode the gradient sums grow, and all processes must call."""
        factors = ClassFactors(*self.class_weights())
        loss = self.config.weight * entries.cost(self.link, factors=factors)
        if self.training:
            refuse_transforms(self)
            sums = entries.sum_class_gradients(self.link, factors=factors)[:, : self.num_classes]
            # Not in place: the backward pass of a compiled loss may compute the weights again.
            self.gradient_sums = self.gradient_sums + sum_over_processes(sums.double())
        return loss

    def class_weights(self) -> tuple[Float[Tensor, " L"], Float[Tensor, " L"]]:
        """Computes the weights u of positives and v of negatives, in float64; background has 1 and 1."""
        positive, negative = self.gradient_sums
        ratio = torch.where(negative > 0, positive / negative, math.inf)
        v = torch.sigmoid(self.config.gamma * (ratio - self.config.mu))
        v = torch.cat([v, v.new_ones(self.num_logits - self.num_classes)])
        return 1 + self.config.alpha * (1 - v), v

    def scores(self, logits: Float[Tensor, "*N L"]) -> Float[Tensor, "*N C"]:
        """p_j (1 - p_background)."""
        logits = at_least_float32(logits)
        if not self.config.background:
            return logits.sigmoid()
        return logits[..., :-1].sigmoid() * torch.sigmoid(-logits[..., -1:])
