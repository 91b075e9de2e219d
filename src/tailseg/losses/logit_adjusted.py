"""Logit-adjusted softmax; with tau = 1 it is balanced softmax.

J. Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020;
A. K. Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.settings import LogitAdjustedSoftmaxConfig as LogitAdjustedSoftmaxConfig
from tailseg.structures import ClassFrequency


class LogitAdjustedSoftmax(ConfiguredLoss):
    """Cross entropy over a softmax that carries the classes' frequencies in training only: L = C + 1.

    With label k and n_j the training objects of class j, at least 1; background is the last logit:

        loss = weight / R * sum over regions of  log(sum over j of exp(q_j + a_j)) - (q_k + a_k)
        a_j  = tau log(n_j / mean n)        a_background = 0

    The logarithm of the mean is subtracted, because background has no count: background gets the adjustment of a class
    of average size, and the differences between the classes stay as published. With equal counts, or tau = 0, it is
    softmax cross entropy. Scores are softmax(q), without a.

    Args:
        frequency: the frequency of the classes in the training set.
        config: the settings; given as keywords, see `LogitAdjustedSoftmaxConfig`.
    """

    config: LogitAdjustedSoftmaxConfig
    scores_are_exclusive = True
    adjustment: Tensor

    @takes_settings(LogitAdjustedSoftmaxConfig)
    def __init__(self, frequency: ClassFrequency, config: LogitAdjustedSoftmaxConfig) -> None:
        super().__init__(frequency, config, extra_logits=1)
        counts = frequency.instance_counts.clamp(min=1).double()
        adjustment = F.pad(config.tau * (counts / counts.mean()).log(), (0, 1))
        self.set_constant("adjustment", adjustment)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        logits = at_least_float32(logits)
        adjusted = logits + self.adjustment.to(logits.dtype)
        total = F.cross_entropy(adjusted, labels, weight=self.get_label_weights(logits), reduction="sum")
        return {"loss_cls": self.config.weight * total / max(len(labels), 1)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax probabilities of the foreground classes, not adjusted."""
        return at_least_float32(logits).softmax(dim=1)[:, :-1]
