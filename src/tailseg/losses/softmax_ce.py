"""Softmax cross entropy: one choice among all classes and background, the usual loss of Mask R-CNN."""

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.settings import SoftmaxCEConfig as SoftmaxCEConfig
from tailseg.structures import ClassFrequency


class SoftmaxCE(ConfiguredLoss):
    """Cross entropy over the softmax; background is the last logit: L = C + 1.

    With label k:

        loss = weight / R * sum over regions of  log(sum over j of exp(q_j)) - q_k

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `SoftmaxCEConfig`.
    """

    config: SoftmaxCEConfig
    scores_are_exclusive = True

    @takes_settings(SoftmaxCEConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: SoftmaxCEConfig) -> None:
        super().__init__(num_classes, config, extra_logits=1)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes disagree.
        """
        self.check(logits, labels)
        weights = self.get_label_weights(logits)
        total = F.cross_entropy(at_least_float32(logits), labels, weight=weights, reduction="sum")
        return {"loss_cls": self.config.weight * total / max(len(labels), 1)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax probabilities of the foreground classes."""
        return at_least_float32(logits).softmax(dim=1)[:, :-1]
