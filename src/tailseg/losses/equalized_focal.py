"""Equalized focal loss: a class whose positive gradients are small against its negative ones gets a larger exponent.

B. Li et al., "Equalized Focal Loss for Dense Long-Tailed Object Detection", CVPR 2022, equations 5 to 7.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tailseg.losses.base import refuse_transforms, takes_settings
from tailseg.losses.binary import ClassFactors, split_alpha
from tailseg.losses.binary_loss import Entries
from tailseg.losses.focal import LinkedFocalLoss
from tailseg.losses.processes import sum_over_processes
from tailseg.losses.settings import EqualizedFocalLossConfig as EqualizedFocalLossConfig
from tailseg.structures import ClassFrequency


class EqualizedFocalLoss(LinkedFocalLoss):
    """Equalized focal loss (EFL) over any link; background is "no" to every class: L = C. Made for dense heads.

    With p the link's probability, for the sigmoid p = 1 / (1 + exp(-q)), and y one-hot over the C classes, all zero for
    background:

        loss    = weight / R * sum over regions and classes of
                  (gamma_j / gamma) (-alpha y (1 - p)^gamma_j log p - (1 - alpha) (1 - y) p^gamma_j log(1 - p))
        gamma_j = gamma + scale (1 - g_j)
        g_j     = (positive gradients of class j so far) / (negative gradients so far), at most 1

    A gradient is that of the loss by a logit, without its sign; it belongs to the positives where y > 0. Every call in
    training mode first uses ``gradient_sums`` (``[2, C]``, float64: positive, negative; over all processes) and then
    adds its own to it. A class without negative gradients has g = 1: the first step is plain focal loss, as published.

    For a target y between 0 and 1 the factor is abs(y - p)^gamma_j: without alpha this is the authors' equalized
    quality focal loss (EQFL). They divide by the number of positives: the normalizer of `dense`. Scores are p.

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `EqualizedFocalLossConfig`.
    """

    config: EqualizedFocalLossConfig
    gradient_sums: Tensor

    @takes_settings(EqualizedFocalLossConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: EqualizedFocalLossConfig) -> None:
        super().__init__(num_classes, config)
        self.register_buffer("gradient_sums", torch.zeros(2, self.num_classes, dtype=torch.float64))

    def cost(self, entries: Entries) -> Float[Tensor, ""]:
        """The sum of the focal costs; in training mode the gradient sums grow, and all processes must call."""
        gamma = self.compute_gamma()
        scale = gamma / self.config.gamma
        positive, negative = split_alpha(self.config.alpha)
        factors = ClassFactors(scale * positive, scale * negative, gamma)
        loss = self.config.weight * entries.cost(self.entry, factors=factors)
        if self.training:
            refuse_transforms(self)
            # Divided by the rows (or normalizers) of all processes, as one process that has all rows would do.
            rows = len(entries.logits) if entries.normalizer is None else entries.normalizer
            sums = entries.sum_class_gradients(self.entry, factors=factors).double()
            *gradients, divisor = sum_over_processes(torch.stack([*sums, torch.zeros_like(sums[0]) + rows]))
            # Not in place: the backward pass of a compiled loss may compute gamma again. Without rows it is 0 / 0.
            self.gradient_sums = self.gradient_sums + torch.stack(gradients) / divisor.clamp(min=1e-12)
        return loss

    def compute_gamma(self) -> Float64[Tensor, " C"]:
        """Computes gamma_j of every class."""
        positive, negative = self.gradient_sums
        balance = torch.where(negative > 0, (positive / negative).clamp(max=1), 1.0)
        return self.config.gamma + self.config.scale * (1 - balance)
