"""Effective class-margin loss: sigmoid cross entropy with the margins that bound average precision.

J. H. Cho and P. Krahenbuhl, "Long-tail Detection with Effective Class-Margins", ECCV 2022.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ClassificationLoss, at_least_float32
from tailseg.losses.settings import ECMLossConfig as ECMLossConfig
from tailseg.losses.weighted_bce import weighted_bce
from tailseg.structures import ClassFrequency


class ECMLoss(ClassificationLoss):
    """Binary cross entropy over a surrogate score that gives each class its margin: L = C + 1.

    With n_j the training images of class j (at least 1), n_background = background_ratio * sum of them, N the sum of
    all, and y one-hot over the C classes and background, the last logit::

        loss = weight / R * sum over regions and logits of  -lambda_j (y log s + (1 - y) log(1 - s))
        s        = w+ exp(q) / (w+ exp(q) + w- exp(-q)) = sigmoid(2 q + log(n_j / (N - n_j)) / 4)
        1 / w+   = (N - n)^(1/4) / (n^(1/4) + (N - n)^(1/4))        1 / w-  = n^(1/4) / (the same)
        lambda_j = a log((1 + a) / a)    with  a = (N - n_j) / n_j

    Scores are sigmoid(q_j) (1 - sigmoid(q_background)): without margins, as published.

    Args:
        frequency: of the classes in the training set.
        background_ratio: background regions to foreground ones; 6.3313 was measured on Mask R-CNN.
        init_bias: the classifier's bias before training; -2 means s = 0.018 before the margin, less for rare classes.
            Published with 0, on a normalized classifier.
        weight: multiplies the loss.

    Raises:
        ValueError: background_ratio is not above 0.
    """

    margin: Tensor
    class_weight: Tensor

    def __init__(
        self,
        frequency: ClassFrequency,
        *,
        background_ratio: float = 6.3313,
        init_bias: float = -2.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if background_ratio <= 0:
            raise ValueError(f"the effective class-margin loss wants background_ratio > 0, got {background_ratio}")
        self.num_classes = frequency.num_classes
        self.num_logits = frequency.num_classes + 1
        self.bias = init_bias
        self.weight = weight
        counts = frequency.image_counts.clamp(min=1).double()
        counts = torch.cat([counts, background_ratio * counts.sum(0, keepdim=True)])
        ratio = (counts.sum() - counts) / counts
        self.register_buffer("margin", -ratio.log() / 4, persistent=False)
        self.register_buffer("class_weight", ratio * torch.log1p(1 / ratio), persistent=False)

    def init_bias(self) -> Float[Tensor, " L"]:
        """``init_bias`` for every class and for background."""
        return torch.full((self.num_logits,), self.bias)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """``{"loss_cls": loss}``; 0 for R = 0.

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
        )
        return {"loss_cls": self.weight * total / max(len(labels), 1)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """sigmoid(q_j) (1 - sigmoid(q_background))."""
        logits = at_least_float32(logits)
        return logits[:, :-1].sigmoid() * torch.sigmoid(-logits[:, -1:])
