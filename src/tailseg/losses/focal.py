"""Focal loss: binary cross entropy in which a well classified logit counts less.

T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.elementwise import gather_label_logits
from tailseg.losses.links import softplus
from tailseg.losses.settings import FocalLossConfig as FocalLossConfig
from tailseg.structures import ClassFrequency


class FocalLoss(ConfiguredLoss):
    """Sigmoid focal loss; background is "no" to every class: L = C.

    With p = 1 / (1 + exp(-q)) and y one-hot over the C classes, all zero for background:

        loss = weight / R * sum over regions and classes of
               -alpha y (1 - p)^gamma log p - (1 - alpha) (1 - y) p^gamma log(1 - p)

    Divided by all R regions as every loss here; the paper, whose detector has no sampled regions, divides by the
    number of positives. Scores are p. gamma = 0 without alpha is sigmoid cross entropy.

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `FocalLossConfig`.
    """

    config: FocalLossConfig

    @takes_settings(FocalLossConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: FocalLossConfig) -> None:
        super().__init__(num_classes, config)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        gamma, alpha = self.config.gamma, self.config.alpha
        positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
        weights = self.weigh_regions(logits, labels)
        weights = None if weights is None else weights.unsqueeze(1)
        total = cast(Tensor, _FocalSum.apply(at_least_float32(logits), labels, weights, gamma, positive, negative))
        return {"loss_cls": self.config.weight * total / max(len(labels), 1)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """The probability p of every class."""
        return at_least_float32(logits).sigmoid()


def _negative_cost(q: Tensor, gamma: float) -> Tensor:
    """-p^gamma log(1 - p), with p^gamma = exp(gamma log p) to avoid 0^0; a positive costs the same at -q."""
    return softplus(-q).mul_(-gamma).exp_().mul_(softplus(q))


def _negative_slope(q: Tensor, gamma: float) -> Tensor:
    """The derivative of `_negative_cost`: p^gamma (p - gamma (1 - p) log(1 - p))."""
    slope = softplus(q).mul_(torch.sigmoid(-q)).mul_(gamma).add_(torch.sigmoid(q))
    return slope.mul_(softplus(-q).mul_(-gamma).exp_())


class _FocalSum(torch.autograd.Function):
    """The sum of all costs; only the logits are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: BackwardCFunction,
        q: Tensor,
        labels: Tensor,
        weights: Tensor | None,
        gamma: float,
        positive: float,
        negative: float,
    ) -> Tensor:
        cast(Any, ctx).save_for_backward(q, labels, weights)
        cast(Any, ctx).factors = (gamma, positive, negative)
        column, own, is_label = gather_label_logits(q, labels)
        own_costs = torch.where(is_label, positive * _negative_cost(-own, gamma), negative * _negative_cost(own, gamma))
        costs = _negative_cost(q, gamma).mul_(negative).scatter_(1, column, own_costs)
        return (costs if weights is None else costs.mul_(weights)).sum()

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        q, labels, weights = cast(Any, ctx).saved_tensors  # typed as one tensor
        gamma, positive, negative = cast(Any, ctx).factors
        column, own, is_label = gather_label_logits(q, labels)
        own_grad = torch.where(
            is_label, -positive * _negative_slope(-own, gamma), negative * _negative_slope(own, gamma)
        )
        grad = _negative_slope(q, gamma).mul_(negative).scatter_(1, column, own_grad).mul_(grads[0])
        return grad if weights is None else grad.mul_(weights), None, None, None, None, None
