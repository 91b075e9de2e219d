"""Softmax cross entropy: one choice among all classes and background, the usual loss of Mask R-CNN."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ClassificationLoss, at_least_float32
from tailseg.losses.settings import SoftmaxCEConfig as SoftmaxCEConfig


class SoftmaxCE(ClassificationLoss):
    """Cross entropy over the softmax, background being the last logit: L = C + 1.

    With label k::

        loss = weight / R * sum over regions of  log(sum over j of exp(q_j)) - q_k

    Args:
        num_classes: C.
        init_bias: the classifier's bias before training, the same for every logit as published, and so without
            effect: the softmax ignores a common shift.
        weight: multiplies the loss.
    """

    def __init__(self, num_classes: int, *, init_bias: float = -6.5, weight: float = 1.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_logits = num_classes + 1
        self.bias = init_bias
        self.weight = weight

    def init_bias(self) -> Float[Tensor, " L"]:
        """``init_bias`` for every class and for background."""
        return torch.full((self.num_logits,), self.bias)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """``{"loss_cls": loss}``; 0 for R = 0.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes disagree.
        """
        self.check(logits, labels)
        total = F.cross_entropy(at_least_float32(logits), labels, reduction="sum")
        return {"loss_cls": self.weight * total / max(len(labels), 1)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax probabilities of the foreground classes."""
        return at_least_float32(logits).softmax(dim=1)[:, :-1]
