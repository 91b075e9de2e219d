"""Equalization loss v2: balances the positive and the negative gradients of each class during training.

J. Tan et al., "Equalization Loss v2: A New Gradient Balance Approach for Long-tailed Object Detection", CVPR 2021.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.elementwise import gather_label_logits, weighted_bce
from tailseg.losses.processes import sum_over_processes
from tailseg.losses.settings import EQLv2Config as EQLv2Config
from tailseg.structures import ClassFrequency


class EQLv2(ConfiguredLoss):
    """Sigmoid cross entropy under weights from the accumulated gradients, with an objectness logit: L = C + 1.

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
        super().__init__(num_classes, config, extra_logits=1)
        # float64: late in training a step is too small a part of the sum for float32 to notice.
        self.register_buffer("gradient_sums", torch.zeros(2, self.num_classes, dtype=torch.float64))

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0.

        In training mode the gradient sums grow, and all processes must call.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        logits = at_least_float32(logits)
        positive, negative = (weight.to(logits.dtype) for weight in self.class_weights())
        weights = self.weigh_regions(logits, labels)
        total = weighted_bce(logits, labels, positive_weight=positive, negative_weight=negative, region_weight=weights)
        if self.training:
            self._collect(logits.detach(), labels, positive, negative, weights)
        return {"loss_cls": self.config.weight * total / max(len(labels), 1)}

    def class_weights(self) -> tuple[Float[Tensor, " L"], Float[Tensor, " L"]]:
        """Computes the weights u of positives and v of negatives, in float64; background, the last, has 1 and 1."""
        positive, negative = self.gradient_sums
        ratio = torch.where(negative > 0, positive / negative, math.inf)
        v = torch.sigmoid(self.config.gamma * (ratio - self.config.mu))
        v = torch.cat([v, v.new_ones(1)])
        return 1 + self.config.alpha * (1 - v), v

    @torch.no_grad()
    def _collect(
        self, logits: Tensor, labels: Tensor, positive: Tensor, negative: Tensor, weights: Tensor | None
    ) -> None:
        column, own, _ = gather_label_logits(logits, labels)
        own_gradients = torch.sigmoid(-own).squeeze(1) * positive[labels]
        gradients = torch.sigmoid(logits).scatter_(1, column, 0)
        if weights is not None:
            own_gradients, gradients = own_gradients * weights, gradients.mul_(weights.unsqueeze(1))
        pull = torch.zeros_like(positive).index_add_(0, labels, own_gradients)
        push = gradients.sum(0) * negative
        self.gradient_sums += sum_over_processes(torch.stack([pull[:-1], push[:-1]]).double())

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """p_j (1 - p_background)."""
        logits = at_least_float32(logits)
        return logits[:, :-1].sigmoid() * torch.sigmoid(-logits[:, -1:])
