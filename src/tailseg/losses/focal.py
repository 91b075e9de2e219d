"""Focal loss: binary cross entropy in which a well classified logit counts less.

T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.binary import ClassFactors, EntryCost, split_alpha
from tailseg.losses.binary_loss import BinaryLoss, Entries
from tailseg.losses.links import find_link
from tailseg.losses.settings import EqualizedFocalLossConfig, VarifocalLossConfig
from tailseg.losses.settings import FocalLossConfig as FocalLossConfig
from tailseg.structures import ClassFrequency

BIASES: Final = {"sigmoid": -4.6, "gumbel": -1.53, "normal": -2.33}
"""The logit of each link with p = 0.01."""


class LinkedFocalLoss(ConfiguredLoss, BinaryLoss):
    """What the focal losses share: any link, a first probability of 0.01, and scores that are p.

    Args:
        classes: C, or the frequency of the classes.
        config: the settings.
    """

    def __init__(
        self,
        classes: int | ClassFrequency,
        config: FocalLossConfig | EqualizedFocalLossConfig | VarifocalLossConfig,
    ) -> None:
        super().__init__(classes, config)
        self.link = find_link(config.link)
        if config.link not in BIASES:
            raise ValueError(
                f"{type(self).__name__} takes a link by its name ({', '.join(BIASES)}), got {self.link}: DropLoss, "
                "EQL, bce_with_logits and focal_with_logits take any Link"
            )
        self.entry = EntryCost(self.link)
        self._bias = BIASES[config.link] if config.init_bias is None else config.init_bias

    def init_bias(self) -> Float[Tensor, " L"]:
        """``config.init_bias`` for every class; by default p = 0.01, as in the paper of the focal loss."""
        return torch.full((self.num_logits,), self._bias)

    def scores(self, logits: Float[Tensor, "*N L"]) -> Float[Tensor, "*N C"]:
        """The link's probability of every class."""
        return self.link.probability(at_least_float32(logits))


class FocalLoss(LinkedFocalLoss):
    """Focal loss over any link; background is "no" to every class: L = C.

    With p the link's probability, for the sigmoid p = 1 / (1 + exp(-q)), and y one-hot over the C classes, all zero for
    background:

        loss = weight / R * sum over regions and classes of
               -alpha y (1 - p)^gamma log p - (1 - alpha) (1 - y) p^gamma log(1 - p)

    Divided by all R regions as every loss here; the paper, whose detector has no sampled regions, divides by the
    number of positives: the normalizer of `dense`. For a target y between 0 and 1 the factor is abs(y - p)^gamma:
    without alpha this is the quality focal loss (X. Li et al., "Generalized Focal Loss", NeurIPS 2020, equation 2).
    Scores are p. gamma = 0 without alpha is binary cross entropy.

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `FocalLossConfig`.
    """

    config: FocalLossConfig

    @takes_settings(FocalLossConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: FocalLossConfig) -> None:
        super().__init__(num_classes, config)

    def cost(self, entries: Entries) -> Float[Tensor, ""]:
        """The sum of the focal costs."""
        factors = ClassFactors.for_all(entries.logits, *split_alpha(self.config.alpha), self.config.gamma)
        return self.config.weight * entries.cost(self.entry, factors=factors)
