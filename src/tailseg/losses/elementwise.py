"""Sigmoid binary cross entropy with a weight for each class, for EQLv2, the federated loss and ECM.

Shapes: R regions, L logits per region.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from tailseg.losses.links import is_transformed, softplus


def weighted_bce(
    logits: Float[Tensor, "R L"],
    labels: Int64[Tensor, " R"],
    *,
    positive_weight: Float[Tensor, " L"],
    negative_weight: Float[Tensor, " L"],
    region_weight: Float[Tensor, " R"] | None = None,
) -> Float[Tensor, ""]:
    """Computes the sum of weighted costs over all regions and logits.

    With p = 1 / (1 + exp(-q)) and y one-hot over the L logits, all zero for a label equal to L:

        sum over regions i and logits j of  region_i (-positive_j y log p - negative_j (1 - y) log(1 - p))

    Only the logits are kept for the backward pass: no [R, L] target, weight or probability is stored. The weights get
    no gradient.

    Args:
        logits: q.
        labels: ``0 .. L``; the label L makes all logits negatives.
        positive_weight: weight of each logit where it is the label's.
        negative_weight: weight of each logit elsewhere.
        region_weight: weight of each region; None is 1.

    Returns:
        The sum.
    """
    if is_transformed():
        is_own = labels.unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)
        costs = torch.where(is_own, softplus(-logits) * positive_weight, softplus(logits) * negative_weight)
        return (costs if region_weight is None else costs * region_weight.unsqueeze(1)).sum()
    # One tensor, because torch.compile refuses a function that gets the same tensor twice.
    return cast(
        Tensor, _WeightedBCE.apply(logits, labels, torch.stack([positive_weight, negative_weight]), region_weight)
    )


def gather_label_logits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gathers each region's logit of its own label.

    Returns:
        The column of the label, the logit there, and whether the label has a logit (False for a label L); each [R, 1].
    """
    column = labels.clamp(max=logits.shape[1] - 1).unsqueeze(1)
    return column, logits.gather(1, column), (labels < logits.shape[1]).unsqueeze(1)


class _WeightedBCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: BackwardCFunction, q: Tensor, labels: Tensor, weights: Tensor, region_weight: Tensor | None
    ) -> Tensor:
        cast(Any, ctx).save_for_backward(q, labels, weights, region_weight)
        positive, negative = weights
        column, own, is_label = gather_label_logits(q, labels)
        costs = softplus(q)
        costs.scatter_(1, column, torch.where(is_label, 0, softplus(own)))
        own_costs = torch.where(is_label, softplus(-own) * positive[column], 0)
        if region_weight is not None:
            costs.mul_(region_weight.unsqueeze(1))
            own_costs = own_costs * region_weight.unsqueeze(1)
        # Not a dot product: autocast would round it to half precision.
        return (costs.sum(0) * negative).sum() + own_costs.sum()

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        q, labels, (positive, negative), region_weight = cast(Any, ctx).saved_tensors  # typed as one tensor
        column, own, is_label = gather_label_logits(q, labels)
        own_grad = torch.where(is_label, -torch.sigmoid(-own) * positive[column], torch.sigmoid(own) * negative[column])
        p = torch.sigmoid(q)
        # In place, unless a second derivative (create_graph) needs p itself.
        grad = p * negative if torch.is_grad_enabled() else p.mul_(negative)
        grad = grad.scatter_(1, column, own_grad).mul_(grads[0])
        return grad if region_weight is None else grad.mul_(region_weight.unsqueeze(1)), None, None, None
