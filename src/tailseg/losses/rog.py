"""ROG: a loss of the order of all scores of a step, in addition to the loss of each region.

S. Zhang, C. Chen and S. Peng, "Reconciling Object-Level and Global-Level Objectives for Long-Tail Detection", ICCV
2023; the formulas are from the authors' public code (EricZsy/ROG, commit 1dad3cf), which calls it GAP loss.

Shapes: R regions, C foreground classes, P foreground regions of all processes.
"""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, refuse_transforms, takes_settings
from tailseg.losses.processes import gather_rows, sum_over_processes
from tailseg.losses.settings import LOSSES
from tailseg.losses.settings import ROGLossConfig as ROGLossConfig
from tailseg.structures import ClassFrequency


class ROGLoss(ConfiguredLoss):
    """The generalized average precision loss of ROG next to another loss, whose L and scores it has.

    P_m are the logits q_im of the regions i with label m, and N all logits of the C classes that belong to no label,
    of every region and class. H(x) = x / (2 delta) + 1/2 within [0, 1], K is the number of classes with regions in this
    call, and n_m the regions of class m so far, this call's included, at least 1:

        loss_rank = weight * sum over i of  c_i F_i         the other terms are those of the other loss
        F_i       = sum over x in N of H(x - q_i)           what stands above region i without a right to
        c_i       = strength w_m / (K |P_m| (sum over x in P_m of H(x - q_i) + F_i))        m the label of i
        w_m       = (1 / n_m)^gamma, divided by its mean over the C classes

    The gradient is not the derivative. It moves region i up by c_i F_i, and the logits above it down by c_i H(x - q_i),
    so that it sums to 0; there is no second derivative. The order is that of the regions of all processes, and the
    share of a class is multiplied by its class weight. ``num_samples`` (``[C]``, int64) counts regions in training
    mode, over all processes.

    Departures from the public code: the value is the one whose parts the gradient has, instead of the mean of F_i
    divided by the rank without w and strength; each process there has its own order and counts. Its sigmoid has a logit
    of background, here that of `SigmoidCE`. The paper's text was not read.

    Args:
        frequency: the frequency of the classes in the training set.
        config: the settings; given as keywords, see `ROGLossConfig`.
    """

    config: ROGLossConfig
    num_samples: Tensor

    @takes_settings(ROGLossConfig)
    def __init__(self, frequency: ClassFrequency, config: ROGLossConfig) -> None:
        shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(LOSSES["softmax"])}
        if config.init_bias is None:
            del shared["init_bias"]
        base = dataclasses.replace(LOSSES[config.base], **shared).build(frequency)
        super().__init__(frequency, config, extra_logits=base.num_logits - frequency.num_classes)
        self.base = base
        self.scores_are_exclusive = base.scores_are_exclusive
        self.register_buffer("num_samples", torch.zeros(self.num_classes, dtype=torch.int64))

    def init_bias(self) -> Float[Tensor, " L"]:
        """That of the other loss."""
        return self.base.init_bias()

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns the terms of the other loss and ``"loss_rank"``; 0 for R = 0. All processes must call.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes disagree.
        """
        losses = self.base.train(self.training)(logits, labels)
        if self.training:
            refuse_transforms(self)
            counts = self.num_samples.new_zeros(self.num_classes + 1).index_add_(0, labels, torch.ones_like(labels))
            self.num_samples = self.num_samples + sum_over_processes(counts[:-1])
        logits = at_least_float32(logits)
        cost = _RankingCost.apply(logits[:, : self.num_classes], labels, self._weigh_classes(), self.config.delta)
        return {**losses, "loss_rank": self.config.weight * self.config.strength * cost}

    def _weigh_classes(self) -> Float64[Tensor, " C"]:
        """Computes w_m times the class weight."""
        weights = self.num_samples.clamp(min=1).double() ** -self.config.gamma
        weights = weights / weights.mean()
        label_weights = getattr(self, "label_weights", None)
        return weights if label_weights is None else weights * label_weights[:-1]

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Those of the other loss."""
        return self.base.scores(logits)


class _RankingCost(torch.autograd.Function):
    """The sum of c_i F_i without strength, and the gradient that goes with it."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's
        classes: Float[Tensor, "R C"],
        labels: Int64[Tensor, " R"],
        class_weights: Float64[Tensor, " C"],
        delta: float,
    ) -> Float[Tensor, ""]:
        foreground = (labels < classes.shape[1]).nonzero().squeeze(1)
        column = labels[foreground]
        own = classes[foreground, column].double()
        rows, own_rows = gather_rows(torch.stack([own, column.double()], 1))
        positives, classes_of_positives = rows[:, 0], rows[:, 1].long()
        # The cost of a logit is linear between the ends of the positives' ramps: a table of ends replaces R C P pairs.
        ends, order = torch.cat([positives - delta, positives + delta]).sort()
        negatives = classes.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        if len(ends):
            negatives[foreground, column] = ends[0] - 1  # below every ramp
        part = torch.searchsorted(ends, negatives)
        sums = ends.new_zeros(2, len(ends) + 1)
        sums[0].index_add_(0, part.flatten(), ends.new_ones(()).expand(part.numel()))
        sums[1].index_add_(0, part.flatten(), negatives.flatten())
        above = sum_over_processes(sums).flip(1).cumsum(1).flip(1)  # count and sum of the negatives from a part on
        place = torch.empty_like(order)
        place[order] = torch.arange(1, len(order) + 1, device=order.device)
        low, high = place.chunk(2)
        number, total = above[:, low] - above[:, high]
        false = above[0, high] + (total - number * positives) / (2 * delta) + number / 2
        same = classes_of_positives[:, None] == classes_of_positives
        relations = ((positives - positives[:, None]) / (2 * delta) + 0.5).clamp(0, 1)
        rank = (relations * same).sum(1) + false
        present = torch.zeros_like(class_weights, dtype=torch.bool).index_fill(0, classes_of_positives, value=True)
        share = class_weights[classes_of_positives] / (rank * same.sum(1) * present.sum())
        # Slope and height of a negative's gradient in each part.
        slope, height = share / (2 * delta), share * (0.5 - positives / (2 * delta))
        steps = torch.stack([torch.cat([slope, -slope]), torch.cat([height, share - height])])
        lines = torch.cat([steps.new_zeros(2, 1), steps[:, order].cumsum(1)], 1)
        gradient = (lines[0][part] * negatives + lines[1][part]).clamp(min=0)
        gradient[foreground, column] = -(share * false)[own_rows]
        # The heads weigh this process by its share of all regions.
        regions = sum_over_processes(ends.new_full((), len(labels)))
        ctx.save_for_backward((gradient * (regions / max(len(labels), 1))).to(classes.dtype))
        return (share * false).sum().to(classes.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, output: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * output, None, None, None
