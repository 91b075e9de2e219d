"""Seesaw loss: frequent classes push rare ones down less, and misclassified regions push back more.

J. Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021, section 3.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, refuse_transforms, takes_settings
from tailseg.losses.processes import sum_over_processes
from tailseg.losses.settings import SeesawLossConfig as SeesawLossConfig
from tailseg.structures import ClassFrequency


class SeesawLoss(ConfiguredLoss):
    """Weighted softmax over the classes, and object against background: L = C + 2.

    The last two logits are o (object) and b (background). With label k, s = softmax over the C class logits and N_j
    the regions of class j seen so far, this call's included:

        loss_cls        = weight / R * sum over foreground regions of
                          log(exp(q_k) + sum over j != k of M_kj A_kj exp(q_j)) - q_k
        loss_objectness = weight / R * sum over all regions of the softmax cross entropy of (o, b)
        mitigation      M_kj = min(1, N_j / N_k)^p           N at least 1
        compensation    A_kj = max(1, s_j / max(s_k, eps))^q    without gradient

    Every call in training mode adds its labels to ``cum_samples`` (``[C + 1]``, int64, background last), summed over
    processes. Scores are s_j * softmax(o, b)_o. p = q = 0 is softmax cross entropy.

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `SeesawLossConfig`.
    """

    config: SeesawLossConfig
    scores_are_exclusive = True
    cum_samples: Tensor

    @takes_settings(SeesawLossConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: SeesawLossConfig) -> None:
        super().__init__(num_classes, config, extra_logits=2)
        self.register_buffer("cum_samples", torch.zeros(self.num_classes + 1, dtype=torch.int64))

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss, "loss_objectness": loss}``; 0 for R = 0.

        In training mode all processes must call.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        self.count_samples(labels)
        logits = at_least_float32(logits)
        classes, objectness = logits[:, :-2], logits[:, -2:]
        foreground = labels < self.num_classes
        costs = F.cross_entropy(
            classes + self.compute_log_factors(classes.detach(), labels),
            labels.clamp(max=self.num_classes - 1),
            reduction="none",
        )
        weights = self.weigh_regions(logits, labels)
        # The sum inside the function and the sum of its results differ in their last bits.
        reduction = "sum" if weights is None else "none"
        objectness_costs = F.cross_entropy(objectness, (~foreground).long(), reduction=reduction)
        if weights is not None:
            costs, objectness_costs = costs * weights, objectness_costs * weights
        scale = self.config.weight / max(len(labels), 1)
        return {
            # Multiplied, not selected: a size that depends on the labels would make a GPU wait.
            "loss_cls": scale * (costs * foreground).sum(),
            "loss_objectness": scale * objectness_costs.sum(),
        }

    def count_samples(self, labels: Int64[Tensor, " R"]) -> None:
        """Adds the labels of all processes to ``cum_samples``, in training mode; all processes must call."""
        if self.training:
            refuse_transforms(self)
            counts = torch.zeros_like(self.cum_samples).index_add_(0, labels, torch.ones_like(labels))
            self.cum_samples += sum_over_processes(counts)

    @torch.no_grad()
    def compute_log_factors(self, classes: Float[Tensor, "R C"], labels: Int64[Tensor, " R"]) -> Float[Tensor, "R C"]:
        """Computes log(M A); it is 0 at the label itself, and arbitrary on background regions."""
        column = labels.clamp(max=self.num_classes - 1).unsqueeze(1)
        log_samples = self.cum_samples[:-1].clamp(min=1).to(classes.dtype).log()
        log_scores = classes.log_softmax(1)
        log_least = log_scores.gather(1, column).clamp(min=math.log(self.config.eps))
        factors = log_scores.sub_(log_least).clamp_(min=0).mul_(self.config.q)
        return factors.add_((log_samples - log_samples[column]).clamp_(max=0), alpha=self.config.p)

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax over the classes times the probability of an object."""
        logits = at_least_float32(logits)
        return logits[:, :-2].softmax(1) * logits[:, -2:].softmax(1)[:, :1]
