"""Federated loss: binary cross entropy over a few classes a step, for data whose images are not labeled exhaustively.

X. Zhou, V. Koltun and P. Krahenbuhl, "Probabilistic two-stage detection", arXiv 2103.07461, 2021;
the defaults are those of their code for LVIS.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tailseg.losses.base import ClassificationLoss, at_least_float32
from tailseg.losses.processes import from_first_process, sum_over_processes
from tailseg.losses.settings import FederatedLossConfig as FederatedLossConfig
from tailseg.losses.weighted_bce import weighted_bce
from tailseg.structures import ClassFrequency


class FederatedLoss(ClassificationLoss):
    """Sigmoid cross entropy over the classes present and others drawn at random: L = C.

    With p = 1 / (1 + exp(-q)), y one-hot over the C classes, all zero for background, and S a set of classes::

        loss = weight / R * sum over regions and the classes j in S of  -y log p - (1 - y) log(1 - p)

    S holds every class among the labels and, if those are fewer than ``num_sampled``, others up to that number,
    drawn without replacement with probability proportional to image_count^power. A class without images is never
    drawn. Background is no class here; detectron2 counts it as one of the ``num_sampled``. S is one for all processes,
    of the labels of all; the published code has one for each.

    Draws come from torch's default generator, the first process's: ``torch.manual_seed`` repeats them. Scores are p.

    Args:
        frequency: of the classes in the training set.
        num_sampled: classes in S, at least 1.
        power: 0 draws evenly, 0.5 as published, 1 by image count.
        init_bias: the classifier's bias before training; -4.6 means p = 0.01.
        weight: multiplies the loss.

    Raises:
        ValueError: num_sampled is less than 1.
    """

    log_frequency: Tensor

    def __init__(
        self,
        frequency: ClassFrequency,
        *,
        num_sampled: int = 50,
        power: float = 0.5,
        init_bias: float = -4.6,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if num_sampled < 1:
            raise ValueError(f"federated loss wants num_sampled >= 1, got {num_sampled}")
        self.num_classes = frequency.num_classes
        self.num_logits = frequency.num_classes
        self.num_sampled = min(num_sampled, self.num_classes)
        self.bias = init_bias
        self.weight = weight
        counts = frequency.image_counts
        log_frequency = torch.where(counts > 0, power * counts.clamp(min=1).float().log(), -math.inf)
        self.register_buffer("log_frequency", log_frequency, persistent=False)

    def init_bias(self) -> Float[Tensor, " L"]:
        """``init_bias`` for every class."""
        return torch.full((self.num_logits,), self.bias)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """``{"loss_cls": loss}``; 0 for R = 0. All processes must call.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        logits = at_least_float32(logits)
        chosen = self.sample(labels).to(logits.dtype)
        total = weighted_bce(logits, labels, positive_weight=chosen, negative_weight=chosen)
        return {"loss_cls": self.weight * total / max(len(labels), 1)}

    def sample(self, labels: Int64[Tensor, " R"]) -> Bool[Tensor, " C"]:
        """The set S for these labels and those of the other processes, drawn again at every call."""
        present = torch.zeros(self.num_classes + 1, dtype=torch.int64, device=labels.device)
        present = sum_over_processes(present.index_fill(0, labels, 1))[:-1] > 0
        # The largest of log w + Gumbel noise are a draw without replacement by w, and their number is no tensor's
        # value, for which a GPU would have to wait.
        noise = from_first_process(-torch.empty_like(self.log_frequency).exponential_().log())
        keys = torch.where(present, math.inf, self.log_frequency + noise)
        top = keys.topk(self.num_sampled)
        return present.index_copy(0, top.indices, top.values > -math.inf) | present

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """The probability p of every class."""
        return at_least_float32(logits).sigmoid()
