"""Pairwise class balance: targets that give a part to the classes whose objects are taken for the label.

Y.-Y. He et al., "Relieving Long-tailed Instance Segmentation via Pairwise Class Balance", CVPR 2022; what the abstract
leaves open is from the authors' public code (megvii-research/PCB, commit 066cd92).
"""

from typing import Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, refuse_transforms, takes_settings
from tailseg.losses.processes import sum_over_processes
from tailseg.losses.seesaw import SeesawLoss
from tailseg.losses.settings import PCBLossConfig as PCBLossConfig
from tailseg.losses.unverified import HIDDEN
from tailseg.structures import ClassFrequency

PUBLISHED_ALPHA: Final[dict[Literal["softmax", "seesaw"], float]] = {"softmax": 0.4, "seesaw": 0.05}
"""The share of the soft target in the published configurations."""


class PCBLoss(ConfiguredLoss):
    """Cross entropy with soft targets from a running confusion matrix: L = C + 1, or C + 2 over Seesaw.

    With label k, s = softmax over the C class logits, M the confusion matrix and z = q (over Seesaw z_j = q_j +
    log(M_kj A_kj) of `SeesawLoss`):

        loss  = weight / R * sum over regions of  log(sum over j of exp(z_j)) - sum over j of t_j z_j
        t_j   = (1 - alpha) [j = k] + alpha b_kj          background: t_j = [j = C]
        b_kj  = M_jk / (sum over i of M_ik)               the share of class j among what is taken for class k
        M_k   = the mean of s over the regions of class k, as an exponential average: each call in training mode with
                such regions makes it momentum M_k + (1 - momentum) mean s, divided by its sum

    ``confusion`` (``[C, C]``, float64: label, prediction; 0 for a class that was not seen) is updated before it is
    used, from the regions of all processes. The first ``start_after`` steps of the optimizer have alpha = 0; ``steps``
    counts them by `step_taken`. Over Seesaw, the sum over j is over the classes, foreground alone has this term
    (``loss_cls``), and ``loss_objectness`` is Seesaw's. Scores are those of softmax or of Seesaw. With alpha = 0 the
    loss is the loss below it.

    Departures from the public code: the share of a class that was not looked for in the image goes to the label; the
    soft target does not wait until every class was seen, which a class without objects never is; the entropy of b,
    which the code subtracts over the softmax, is left out (no gradient). The published heads predict three times, and
    alpha grows from 0 to its value; here a region is predicted once, with the last alpha.

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `PCBLossConfig`.
    """

    config: PCBLossConfig
    scores_are_exclusive = True
    confusion: Tensor
    steps: Tensor

    @takes_settings(PCBLossConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: PCBLossConfig) -> None:
        super().__init__(num_classes, config, extra_logits=1 if config.base == "softmax" else 2)
        self.alpha = PUBLISHED_ALPHA[config.base] if config.alpha is None else config.alpha
        self.seesaw = SeesawLoss(self.num_classes) if config.base == "seesaw" else None
        # float64: one region in a hundred must still count after many steps.
        self.register_buffer("confusion", torch.zeros(self.num_classes, self.num_classes, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``, over Seesaw with ``"loss_objectness"``; 0 for R = 0.

        In training mode all processes must call.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes disagree.
        """
        self.check(logits, labels)
        logits = at_least_float32(logits)
        classes = logits[:, : self.num_classes]
        if self.training:
            refuse_transforms(self)
            self.confusion = self._update_confusion(classes.detach(), labels)
        balance = self._compute_balance(classes.detach(), labels)
        weights = self.weigh_regions(logits, labels)
        scale = self.config.weight / max(len(labels), 1)
        if self.seesaw is None:
            costs = _soft_cross_entropy(logits, F.pad(balance, (0, 1)), labels)
            return {"loss_cls": scale * (costs if weights is None else costs * weights).sum()}
        self.seesaw.train(self.training)
        self.seesaw.count_samples(labels)
        foreground = labels < self.num_classes
        column = labels.clamp(max=self.num_classes - 1)
        adjusted = classes + self.seesaw.compute_log_factors(classes.detach(), labels)
        costs = _soft_cross_entropy(adjusted, balance, column) * foreground
        objectness = F.cross_entropy(logits[:, -2:], (~foreground).long(), reduction="none")
        if weights is not None:
            costs, objectness = costs * weights, objectness * weights
        return {"loss_cls": scale * costs.sum(), "loss_objectness": scale * objectness.sum()}

    @torch.no_grad()
    def _update_confusion(self, classes: Tensor, labels: Tensor) -> Tensor:
        """Returns the confusion matrix after the regions of all processes."""
        # One column more counts the regions, one row more takes background.
        sums = self.confusion.new_zeros(self.num_classes + 1, self.num_classes + 1)
        sums.index_add_(0, labels, F.pad(classes.softmax(1), (0, 1), value=1.0).to(sums.dtype))
        sums = sum_over_processes(sums[:-1])
        counts = sums[:, -1:]
        mean = sums[:, :-1] / counts.clamp(min=1)
        mixed = torch.lerp(mean, self.confusion, self.config.momentum)
        return torch.where(counts > 0, mixed / mixed.sum(1, keepdim=True), self.confusion)

    @torch.no_grad()
    def _compute_balance(self, classes: Tensor, labels: Tensor) -> Tensor:
        """Computes alpha b of each region, ``[R, C]``; 0 for background, for hidden classes and for new classes."""
        column = self.confusion.index_select(1, labels.clamp(max=self.num_classes - 1))
        soft = (self.steps >= self.config.start_after) & (labels < self.num_classes)
        alpha = self.alpha * soft.to(column.dtype)
        # A class that was never seen has no column; its label then keeps the whole target.
        share = column * (alpha / column.sum(0).clamp(min=torch.finfo(column.dtype).tiny))
        return share.T.to(classes.dtype).masked_fill(classes <= HIDDEN, 0)

    def step_taken(self) -> None:
        """Counts the step."""
        self.steps += 1

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax probabilities of the foreground classes, or the scores of Seesaw."""
        if self.seesaw is not None:
            return self.seesaw.scores(logits)
        return at_least_float32(logits).softmax(dim=1)[:, :-1]


def _soft_cross_entropy(
    logits: Float[Tensor, "R L"], soft: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]
) -> Float[Tensor, " R"]:
    """Computes the cross entropy of each region with the target ``soft``, whose rest belongs to the label.

    Keeps the logits and the target for the backward pass. Both parts are at least 0 after rounding too.
    """
    label = labels.unsqueeze(1)
    target = soft.scatter_add(1, label, 1 - soft.sum(1, keepdim=True))
    largest = logits.detach().amax(1)
    return torch.logsumexp(logits, 1) - largest + (target * (largest.unsqueeze(1) - logits)).sum(1)
