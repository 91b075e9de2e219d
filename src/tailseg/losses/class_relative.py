"""Class-relative activations: the normal distribution's CDF for frequent classes, Gumbel's for the others.

K. P. Alexandridis et al., "Long-tailed Instance Segmentation using Gumbel Optimized Loss", ECCV 2022. The published
code describes it, but never registers it; it could not run there.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.binary import binary_cost
from tailseg.losses.links import Gumbel, Link, NormalCDF
from tailseg.losses.settings import ClassRelativeLossConfig as ClassRelativeLossConfig
from tailseg.structures import ClassFrequency


class ClassRelativeLoss(ConfiguredLoss):
    """Binary cross entropy whose link depends on the class; background is the last logit: L = C + 1.

    With y one-hot over the C classes and background:

        loss = weight / R * sum over regions and logits j of  -y_j log p_j - (1 - y_j) log(1 - p_j)
        p_j  = Phi(q_j)             for classes in more than ``frequent_above`` training images
               exp(-exp(-q_j))      for the other classes and for background

    Phi is the standard normal distribution's CDF. Scores are p_j of the foreground classes. Without frequent classes
    it is `GumbelCE`.

    With ``published="2022"`` q is clamped to [-5, 5] for the normal and to [-4, 10] for the Gumbel link, binary cross
    entropy is taken on float32 probabilities, and the loss is clamped to [0, 25] before ``weight``, as published.

    Args:
        frequency: the frequency of the classes in the training set.
        config: the settings; given as keywords, see `ClassRelativeLossConfig`.
    """

    config: ClassRelativeLossConfig
    normal: Tensor
    gumbel: Tensor
    normal_label: Tensor
    gumbel_label: Tensor

    @takes_settings(ClassRelativeLossConfig)
    def __init__(self, frequency: ClassFrequency, config: ClassRelativeLossConfig) -> None:
        super().__init__(frequency, config, extra_logits=1)
        links: dict[str, Link] = {"normal": NormalCDF(), "gumbel": Gumbel()}
        self.links = {
            name: link.published(config.published) if config.published else link for name, link in links.items()
        }
        frequent = torch.cat([frequency.image_counts > config.frequent_above, torch.tensor([False])])
        for name, member in {"normal": frequent, "gumbel": ~frequent}.items():
            columns = member.nonzero().squeeze(1)
            # By label: its place among the link's columns. Their number, for other labels, makes the row negative.
            label = torch.where(member, member.cumsum(0) - 1, len(columns))
            self.set_constant(name, columns)
            self.set_constant(f"{name}_label", label)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes disagree.
        """
        self.check(logits, labels)
        weights = self.weigh_regions(logits, labels)
        gumbel = logits.index_select(1, self.gumbel)
        loss = binary_cost(gumbel, self.gumbel_label[labels], self.links["gumbel"], weights=weights)
        if len(self.normal):
            normal = logits.index_select(1, self.normal)
            loss = loss + binary_cost(normal, self.normal_label[labels], self.links["normal"], weights=weights)
        return {"loss_cls": self.config.weight * (loss.clamp(0, 25) if self.config.published else loss)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """The probability p_j of every foreground class, by its own link."""
        logits = at_least_float32(logits)
        normal = self.links["normal"].probability(logits.index_select(1, self.normal))
        return self.links["gumbel"].probability(logits).index_copy(1, self.normal, normal)[:, :-1]
