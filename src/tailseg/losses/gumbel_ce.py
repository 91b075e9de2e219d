"""Gumbel cross entropy: binary cross entropy over p = exp(-exp(-q)).

K. P. Alexandridis et al., "Long-tailed Instance Segmentation using Gumbel Optimized Loss", ECCV 2022.
"""

from jaxtyping import Float
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.binary_loss import BinaryLoss, Entries
from tailseg.losses.links import Gumbel
from tailseg.losses.settings import GumbelCEConfig as GumbelCEConfig
from tailseg.structures import ClassFrequency


class GumbelCE(ConfiguredLoss, BinaryLoss):
    """Binary cross entropy over the Gumbel link; background is an ordinary channel: L = C + 1.

    With ``background=False`` it is "no" to every class, for heads without such a channel: L = C.

    With p = exp(-exp(-q)) and y one-hot over the L logits, all zero for background if background has no logit:

        loss = weight / R * sum over regions and logits of  -y log p - (1 - y) log(1 - p)
             -log p       = exp(-q)                   gradient -exp(-q)
             -log(1 - p)  = -log(-expm1(-exp(-q)))    gradient exp(-q) / expm1(exp(-q))

    Exact in float32 for every q >= -11, linear below (see `tailseg.losses.links.Gumbel`).

    With ``published="2022"`` it computes the published code's loss instead, to reproduce its numbers: q clamped to
    [-4, 10], binary cross entropy on float32 probabilities, the loss clamped to [0, 20] before ``weight``. Then a
    label's own logit gets no useful gradient below q = -3.4, no logit gets any above 10, and none gets any once the
    loss exceeds 20. Scores are the same in both.

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `GumbelCEConfig`.
    """

    config: GumbelCEConfig

    @takes_settings(GumbelCEConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: GumbelCEConfig) -> None:
        super().__init__(num_classes, config, extra_logits=int(config.background))
        self.link = Gumbel().published(config.published) if config.published else Gumbel()

    def cost(self, entries: Entries) -> Float[Tensor, ""]:
        """Binary cross entropy over the Gumbel link."""
        loss = entries.cost(self.link)
        return self.config.weight * (loss.clamp(0, 20) if self.config.published else loss)

    def scores(self, logits: Float[Tensor, "*N L"]) -> Float[Tensor, "*N C"]:
        """The probability p of the foreground classes; in float32 every q below -4.64 scores exactly 0."""
        return self.link.probability(at_least_float32(logits[..., : self.num_classes]))
