"""Effective class-margin loss: sigmoid cross entropy with the margins that bound average precision.

J. H. Cho and P. Krahenbuhl, "Long-tail Detection with Effective Class-Margins", ECCV 2022.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.elementwise import weighted_bce
from tailseg.losses.settings import ECMLossConfig as ECMLossConfig
from tailseg.structures import ClassFrequency


class ECMLoss(ConfiguredLoss):
    """Binary cross entropy over a surrogate score that gives each class its margin: L = C + 1.

    With n_j the training images of class j (at least 1), n_background = background_ratio * sum of them, N the sum of
    all, and y one-hot over the C classes and background, the last logit:

        loss = weight / R * sum over regions and logits of  -lambda_j (y log s + (1 - y) log(1 - s))
        s        = w+ exp(q) / (w+ exp(q) + w- exp(-q)) = sigmoid(2 q + log(n_j / (N - n_j)) / 4)
        1 / w+   = (N - n)^(1/4) / (n^(1/4) + (N - n)^(1/4))        1 / w-  = n^(1/4) / (the same)
        lambda_j = a log((1 + a) / a)    with  a = (N - n_j) / n_j

    Scores are sigmoid(q_j) (1 - sigmoid(q_background)): without margins, as published.

    Args:
        frequency: the frequency of the classes in the training set.
        config: the settings; given as keywords, see `ECMLossConfig`.
    """

    config: ECMLossConfig
    margin: Tensor
    class_weight: Tensor

    @takes_settings(ECMLossConfig)
    def __init__(self, frequency: ClassFrequency, config: ECMLossConfig) -> None:
        super().__init__(frequency, config, extra_logits=1)
        counts = frequency.image_counts.clamp(min=1).double()
        counts = torch.cat([counts, config.background_ratio * counts.sum(0, keepdim=True)])
        ratio = (counts.sum() - counts) / counts
        self.set_constant("margin", -ratio.log() / 4)
        self.set_constant("class_weight", ratio * torch.log1p(1 / ratio))

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        logits = at_least_float32(logits)
        class_weight = self.class_weight.to(logits.dtype)
        total = weighted_bce(
            2 * logits + self.margin.to(logits.dtype),
            labels,
            positive_weight=class_weight,
            negative_weight=class_weight,
            region_weight=self.weigh_regions(logits, labels),
        )
        return {"loss_cls": self.config.weight * total / max(len(labels), 1)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """sigmoid(q_j) (1 - sigmoid(q_background))."""
        logits = at_least_float32(logits)
        return logits[:, :-1].sigmoid() * torch.sigmoid(-logits[:, -1:])
