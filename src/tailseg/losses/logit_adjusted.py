"""Logit-adjusted softmax, of which balanced softmax is the case tau = 1.

J. Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020;
A. K. Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ClassificationLoss, at_least_float32
from tailseg.losses.settings import LogitAdjustedSoftmaxConfig as LogitAdjustedSoftmaxConfig
from tailseg.structures import ClassFrequency


class LogitAdjustedSoftmax(ClassificationLoss):
    """Cross entropy over a softmax that carries the classes' frequencies in training only: L = C + 1.

    With label k and n_j the training objects of class j, at least 1; background is the last logit::

        loss = weight / R * sum over regions of  log(sum over j of exp(q_j + a_j)) - (q_k + a_k)
        a_j  = tau log(n_j / mean n)        a_background = 0

    Subtracting the logarithm of the mean leaves the differences between the classes as published and says where
    background, which has no count, stands: where a class of average size stands. Equal counts, or tau = 0, are
    softmax cross entropy. Scores are softmax(q), without a.

    Args:
        frequency: of the classes in the training set.
        tau: strength of the adjustment; 1 is balanced softmax.
        init_bias: the classifier's bias before training, the same for every logit, and so without effect.
        weight: multiplies the loss.
    """

    adjustment: Tensor

    def __init__(
        self, frequency: ClassFrequency, *, tau: float = 1.0, init_bias: float = 0.0, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.num_classes = frequency.num_classes
        self.num_logits = frequency.num_classes + 1
        self.bias = init_bias
        self.weight = weight
        counts = frequency.instance_counts.clamp(min=1).double()
        adjustment = F.pad(tau * (counts / counts.mean()).log(), (0, 1))
        self.register_buffer("adjustment", adjustment, persistent=False)

    def init_bias(self) -> Float[Tensor, " L"]:
        """``init_bias`` for every class and for background."""
        return torch.full((self.num_logits,), self.bias)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """``{"loss_cls": loss}``; 0 for R = 0.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        logits = at_least_float32(logits)
        total = F.cross_entropy(logits + self.adjustment.to(logits.dtype), labels, reduction="sum")
        return {"loss_cls": self.weight * total / max(len(labels), 1)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax probabilities of the foreground classes, not adjusted."""
        return at_least_float32(logits).softmax(dim=1)[:, :-1]
