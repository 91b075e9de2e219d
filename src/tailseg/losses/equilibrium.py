"""Equilibrium loss (EBL) of LOCE: margins between classes by the mean score that each class gets on its own objects.

C. Feng, Y. Zhong and W. Huang, "Exploring Classification Equilibrium in Long-Tailed Object Detection", ICCV 2021; the
form of the margins and the constants are from the authors' public code (fcjian/LOCE, commit 0a0194d).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, refuse_transforms, takes_settings
from tailseg.losses.processes import sum_over_processes
from tailseg.losses.settings import EquilibriumLossConfig as EquilibriumLossConfig
from tailseg.structures import ClassFrequency


class EquilibriumLoss(ConfiguredLoss):
    """Softmax cross entropy that carries the mean scores of the classes in training only: L = C + 1.

    With label k and background the last logit:

        loss = weight / R * sum over regions of  log(sum over j of m_j exp(q_j)) - log(m_k exp(q_k))
        m_j  = the mean softmax score of class j on its own regions, as an exponential average: each call in training
               mode with regions of class j makes it momentum m_j + (1 - momentum) mean score; ``first_score`` at first
        m_background = ``background_score``

    Among two classes, the one with the lower mean score gets the larger margin, log(m_j / m_k). ``mean_scores``
    (``[C]``, float64) is updated before it is used, from the regions of all processes. Scores are softmax(q), without
    m. With equal mean scores the loss is softmax cross entropy.

    Departures from the public code: it takes the mean of each object's regions, and lets the average move once for each
    object of the class in the step; a loss sees no objects, so the average moves once for each call. LOCE also samples
    features of weak classes from a memory; that is a part of its head, not of this loss. Published as a second stage of
    6 epochs, which trains the predictors, the proposal network and the mask head of a trained softmax model.

    Args:
        num_classes: C, or the frequency of the classes; only their number matters.
        config: the settings; given as keywords, see `EquilibriumLossConfig`.
    """

    config: EquilibriumLossConfig
    scores_are_exclusive = True
    mean_scores: Tensor

    @takes_settings(EquilibriumLossConfig)
    def __init__(self, num_classes: int | ClassFrequency, config: EquilibriumLossConfig) -> None:
        super().__init__(num_classes, config, extra_logits=1)
        first = torch.full((self.num_classes,), config.first_score, dtype=torch.float64)
        self.register_buffer("mean_scores", first)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0. In training mode all processes must call.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes disagree.
        """
        self.check(logits, labels)
        logits = at_least_float32(logits)
        if self.training:
            refuse_transforms(self)
            self.mean_scores = self._update_mean_scores(logits.detach(), labels)
        scores = F.pad(self.mean_scores, (0, 1), value=self.config.background_score).to(logits.dtype)
        # A class whose scores are 0 for long would have the margin infinity.
        adjusted = logits + scores.clamp(min=torch.finfo(logits.dtype).tiny).log()
        total = F.cross_entropy(adjusted, labels, weight=self.get_label_weights(logits), reduction="sum")
        return {"loss_cls": self.config.weight * total / max(len(labels), 1)}

    @torch.no_grad()
    def _update_mean_scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean scores after the regions of all processes."""
        scores = (logits.gather(1, labels.unsqueeze(1)).squeeze(1) - logits.logsumexp(1)).exp()
        # One entry more takes background.
        sums = self.mean_scores.new_zeros(self.num_classes + 1, 2)
        sums.index_add_(0, labels, torch.stack([scores, torch.ones_like(scores)], 1).to(sums.dtype))
        total, count = sum_over_processes(sums[:-1]).unbind(1)
        mixed = torch.lerp(total / count.clamp(min=1), self.mean_scores, self.config.momentum)
        return torch.where(count > 0, mixed, self.mean_scores)

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax probabilities of the foreground classes, not adjusted."""
        return at_least_float32(logits).softmax(dim=1)[:, :-1]
