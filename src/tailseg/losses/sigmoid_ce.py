"""Sigmoid cross entropy: one yes-no question a class, the plain baseline."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ClassificationLoss, at_least_float32
from tailseg.losses.binary import binary_cost
from tailseg.losses.links import Sigmoid
from tailseg.losses.settings import SigmoidCEConfig as SigmoidCEConfig


class SigmoidCE(ClassificationLoss):
    """Binary cross entropy over the sigmoid; background is "no" to every class: L = C.

    With p = 1 / (1 + exp(-q)) and y one-hot over the L logits, all zero for background where it has none::

        loss = weight / R * sum over regions and logits of  -y log p - (1 - y) log(1 - p)

    Scores are p of the classes: the published baseline was tested with a softmax by mistake.

    Args:
        num_classes: C.
        init_bias: the classifier's bias before training; -6.5 means p = 1.5e-3.
        weight: multiplies the loss.
        background: background has a logit and a question of its own, L = C + 1, as in the published baseline.
    """

    def __init__(
        self, num_classes: int, *, init_bias: float = -6.5, weight: float = 1.0, background: bool = False
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_logits = num_classes + background
        self.bias = init_bias
        self.weight = weight
        self.link = Sigmoid()

    def init_bias(self) -> Float[Tensor, " L"]:
        """``init_bias`` for every logit."""
        return torch.full((self.num_logits,), self.bias)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """``{"loss_cls": loss}``; 0 for R = 0.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes disagree.
        """
        self.check(logits, labels)
        return {"loss_cls": self.weight * binary_cost(logits, labels, self.link)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """The probability p of every class."""
        return self.link.probability(at_least_float32(logits))[:, : self.num_classes]
