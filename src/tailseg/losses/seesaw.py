"""Seesaw loss: frequent classes push rare ones down less, and misclassified regions push back more.

J. Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021, section 3.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ClassificationLoss, at_least_float32
from tailseg.losses.processes import sum_over_processes
from tailseg.losses.settings import SeesawLossConfig as SeesawLossConfig


class SeesawLoss(ClassificationLoss):
    """Weighted softmax over the classes, and object against background: L = C + 2.

    The last two logits are o (object) and b (background). With label k, s = softmax over the C class logits and N_j
    the regions of class j seen so far, this call's included::

        loss_cls        = weight / R * sum over foreground regions of
                          log(exp(q_k) + sum over j != k of M_kj A_kj exp(q_j)) - q_k
        loss_objectness = weight / R * sum over all regions of the softmax cross entropy of (o, b)
        mitigation      M_kj = min(1, N_j / N_k)^p           N at least 1
        compensation    A_kj = max(1, s_j / max(s_k, eps))^q    without gradient

    Every call in training mode adds its labels to ``cum_samples`` (``[C + 1]``, int64, background last), summed over
    processes. Scores are s_j * softmax(o, b)_o. p = q = 0 is softmax cross entropy.

    Args:
        num_classes: C.
        p: strength of the mitigation.
        q: strength of the compensation.
        eps: least probability of the label that the compensation divides by.
        init_bias: the classifier's bias before training, the same for every logit, and so without effect.
        weight: multiplies both terms.

    Raises:
        ValueError: p or q is negative, or eps is not in (0, 1].
    """

    cum_samples: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 1e-2,
        init_bias: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if p < 0 or q < 0 or not 0 < eps <= 1:
            raise ValueError(f"Seesaw wants p >= 0, q >= 0 and eps in (0, 1], got {p}, {q} and {eps}")
        self.num_classes = num_classes
        self.num_logits = num_classes + 2
        self.p = p
        self.q = q
        self.eps = eps
        self.bias = init_bias
        self.weight = weight
        self.register_buffer("cum_samples", torch.zeros(num_classes + 1, dtype=torch.int64))

    def init_bias(self) -> Float[Tensor, " L"]:
        """``init_bias`` for every logit."""
        return torch.full((self.num_logits,), self.bias)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """``{"loss_cls": loss, "loss_objectness": loss}``; 0 for R = 0. In training mode all processes must call.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        if self.training:
            counts = torch.zeros_like(self.cum_samples).index_add_(0, labels, torch.ones_like(labels))
            self.cum_samples += sum_over_processes(counts)
        logits = at_least_float32(logits)
        classes, objectness = logits[:, :-2], logits[:, -2:]
        foreground = labels < self.num_classes
        costs = F.cross_entropy(
            classes + self._log_factors(classes.detach(), labels),
            labels.clamp(max=self.num_classes - 1),
            reduction="none",
        )
        scale = self.weight / max(len(labels), 1)
        return {
            # Multiplied, not taken out: a size that depends on the labels makes a GPU wait.
            "loss_cls": scale * (costs * foreground).sum(),
            "loss_objectness": scale * F.cross_entropy(objectness, (~foreground).long(), reduction="sum"),
        }

    @torch.no_grad()
    def _log_factors(self, classes: Tensor, labels: Tensor) -> Tensor:
        """The logarithm log(M A), ``[R, C]``; it is 0 at the label itself, and of no account on background regions."""
        column = labels.clamp(max=self.num_classes - 1).unsqueeze(1)
        log_samples = self.cum_samples[:-1].clamp(min=1).to(classes.dtype).log()
        log_scores = classes.log_softmax(1)
        factors = log_scores.sub_(log_scores.gather(1, column).clamp(min=math.log(self.eps))).clamp_(min=0).mul_(self.q)
        return factors.add_((log_samples - log_samples[column]).clamp_(max=0), alpha=self.p)

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax over the classes times the probability of an object."""
        logits = at_least_float32(logits)
        return logits[:, :-2].softmax(1) * logits[:, -2:].softmax(1)[:, :1]
