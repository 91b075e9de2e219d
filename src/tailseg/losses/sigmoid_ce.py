"""Sigmoid cross entropy: one yes-no question a class, the plain baseline."""

from jaxtyping import Float
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.binary_loss import BinaryLoss, Entries
from tailseg.losses.links import Sigmoid
from tailseg.losses.settings import SigmoidCEConfig as SigmoidCEConfig
from tailseg.structures import ClassFrequency


class SigmoidCE(ConfiguredLoss, BinaryLoss):
    """Binary cross entropy over the sigmoid; background is "no" to every class: L = C.

    With p = 1 / (1 + exp(-q)) and y one-hot over the L logits, all zero for background if background has no logit:

        loss = weight / R * sum over regions and logits of  -y log p - (1 - y) log(1 - p)

    Scores are p of the classes: the published baseline was tested with a softmax by mistake.

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `SigmoidCEConfig`.
    """

    config: SigmoidCEConfig

    @takes_settings(SigmoidCEConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: SigmoidCEConfig) -> None:
        super().__init__(num_classes, config, extra_logits=int(config.background))
        self.link = Sigmoid()

    def cost(self, entries: Entries) -> Float[Tensor, ""]:
        """Binary cross entropy over the sigmoid."""
        return self.config.weight * entries.cost(self.link)

    def scores(self, logits: Float[Tensor, "*N L"]) -> Float[Tensor, "*N C"]:
        """The probability p of every class."""
        return self.link.probability(at_least_float32(logits))[..., : self.num_classes]
