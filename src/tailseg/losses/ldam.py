"""LDAM: softmax cross entropy with larger margins for rarer classes, optionally re-weighted late in training.

K. Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, section 3;
the weights are those of Y. Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.settings import LDAMLossConfig as LDAMLossConfig
from tailseg.structures import ClassFrequency


class LDAMLoss(ConfiguredLoss):
    """Cross entropy over the softmax after a margin is taken from the label's logit: L = C + 1.

    With label k, n_j the training objects of class j (at least 1), and background the last logit:

        loss    = weight / R * sum over regions of  w_k (log(sum over j of exp(z_j)) - z_k)
        z_k     = scale (q_k - margin_k)        z_j = scale q_j for every other j
        margin_j = max_margin (min n / n_j)^(1/4)        margin_background = 0
        w_j     = 1, and after ``reweight_after`` steps of the optimizer (1 - beta) / (1 - beta^n_j) divided by its mean
                  over the classes; w_background = 1

    The paper's logits are cosines, with scale 30; a plain linear classifier learns its own scale and needs 1.
    ``steps`` (int64) counts the calls of `step_taken`; a training loop of your own must call it. Scores are
    softmax(scale q). Without a margin and weights the loss is softmax cross entropy of scale q.

    Args:
        frequency: the frequency of the classes in the training set.
        config: the settings; given as keywords, see `LDAMLossConfig`.
    """

    config: LDAMLossConfig
    scores_are_exclusive = True
    margin: Tensor
    class_weight: Tensor
    steps: Tensor

    @takes_settings(LDAMLossConfig)
    def __init__(self, frequency: ClassFrequency, config: LDAMLossConfig) -> None:
        super().__init__(frequency, config, extra_logits=1)
        counts = frequency.instance_counts.clamp(min=1).double()
        class_weight = (1 - config.beta) / (1 - config.beta**counts)
        margin = config.max_margin * (counts.min() / counts) ** 0.25
        self.set_constant("margin", F.pad(margin, (0, 1)))
        self.set_constant("class_weight", F.pad(class_weight / class_weight.mean(), (0, 1), value=1.0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        scaled = self.config.scale * at_least_float32(logits)
        margin = self.config.scale * self.margin.to(scaled.dtype)[labels]
        scaled.scatter_add_(1, labels.unsqueeze(1), -margin.unsqueeze(1))
        class_weight = self.get_label_weights(logits)
        if self.config.reweight_after is not None:
            late = torch.where(self.steps >= self.config.reweight_after, self.class_weight, 1).to(scaled.dtype)
            class_weight = late if class_weight is None else late * class_weight
        total = F.cross_entropy(scaled, labels, weight=class_weight, reduction="sum")
        return {"loss_cls": self.config.weight * total / max(len(labels), 1)}

    def step_taken(self) -> None:
        """Counts the step."""
        self.steps += 1

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax probabilities of the foreground classes, of the scaled logits."""
        return (self.config.scale * at_least_float32(logits)).softmax(dim=1)[:, :-1]
