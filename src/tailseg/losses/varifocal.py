"""Varifocal loss and IoU-aware cross entropy: a positive aims at the IoU of its box.

H. Zhang et al., "VarifocalNet: An IoU-aware Dense Object Detector", CVPR 2021, equation 2; Z. Cai et al., "Align-DETR:
Improving DETR with Simple IoU-aware BCE loss", BMVC 2024.
"""

from jaxtyping import Float
from torch import Tensor

from tailseg.losses.base import takes_settings
from tailseg.losses.binary import ClassFactors, EntryCost
from tailseg.losses.binary_loss import Entries
from tailseg.losses.focal import LinkedFocalLoss
from tailseg.losses.settings import VarifocalLossConfig as VarifocalLossConfig
from tailseg.structures import ClassFrequency


class VarifocalLoss(LinkedFocalLoss):
    """Varifocal loss over any link; background is "no" to every class: L = C.

    With p the link's probability, for the sigmoid p = 1 / (1 + exp(-q)), and y the target of an entry, which is the
    quality of a region's label (1 without `dense`), and 0 elsewhere:

        loss = weight / R * sum over regions and classes of
               y (-y log p - (1 - y) log(1 - p))        where y > 0
               -alpha p^gamma log(1 - p)                where y = 0

    With ``on_positives="one"`` the first y is 1; with alpha = 1 this is the IoU-aware cross entropy of Align-DETR. With
    ``constant_factor`` the gradient treats p^gamma as a constant, as RT-DETR does. Scores are p.

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `VarifocalLossConfig`.
    """

    config: VarifocalLossConfig

    @takes_settings(VarifocalLossConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: VarifocalLossConfig) -> None:
        super().__init__(num_classes, config)
        self.entry = EntryCost(self.link, config.on_positives, config.constant_factor)

    def cost(self, entries: Entries) -> Float[Tensor, ""]:
        """The sum of the varifocal costs."""
        factors = ClassFactors.for_all(entries.logits, 1.0, self.config.alpha, self.config.gamma)
        return self.config.weight * entries.cost(self.entry, factors=factors)
