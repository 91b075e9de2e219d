"""Federated loss: binary cross entropy over a few classes in each step, for images that are not labeled exhaustively.

X. Zhou, V. Koltun and P. Krahenbuhl, "Probabilistic two-stage detection", arXiv 2103.07461, 2021;
the defaults are those of their code for LVIS.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.binary import ClassFactors
from tailseg.losses.binary_loss import BinaryLoss, Entries, count_positives
from tailseg.losses.links import Sigmoid
from tailseg.losses.processes import broadcast_from_first, sum_over_processes
from tailseg.losses.settings import FederatedLossConfig as FederatedLossConfig
from tailseg.structures import ClassFrequency


class FederatedLoss(ConfiguredLoss, BinaryLoss):
    """Sigmoid cross entropy over the classes present and others drawn at random: L = C.

    With p = 1 / (1 + exp(-q)), y one-hot over the C classes, all zero for background, and S a set of classes:

        loss = weight / R * sum over regions and the classes j in S of  -y log p - (1 - y) log(1 - p)

    S holds every class among the labels and, if those are fewer than ``num_sampled``, others up to that number,
    drawn without replacement with probability proportional to image_count^power. A class without images is never
    drawn. Background is no class here; detectron2 counts it as one of the ``num_sampled``. All processes have the same
    S, from the labels of all; in the published code each process has its own.

    Draws come from torch's default generator, the first process's: ``torch.manual_seed`` repeats them. Scores are p.

    Args:
        frequency: the frequency of the classes in the training set.
        config: the settings; given as keywords, see `FederatedLossConfig`.
    """

    config: FederatedLossConfig
    log_frequency: Tensor

    @takes_settings(FederatedLossConfig)
    def __init__(self, frequency: ClassFrequency, config: FederatedLossConfig) -> None:
        super().__init__(frequency, config)
        self.link = Sigmoid()
        self.num_sampled = min(config.num_sampled, self.num_classes)
        counts = frequency.image_counts
        log_frequency = torch.where(counts > 0, config.power * counts.clamp(min=1).float().log(), -math.inf)
        self.set_constant("log_frequency", log_frequency)

    def cost(self, entries: Entries) -> Float[Tensor, ""]:
        """Binary cross entropy over the classes of a sample. All processes must call."""
        sample = self.sample(entries.labels).float()
        return self.config.weight * entries.cost(self.link, factors=ClassFactors(sample, sample))

    def sample(self, labels: Int64[Tensor, " R"] | Float[Tensor, "R C"]) -> Bool[Tensor, " C"]:
        """Draws the set S for these labels and those of the other processes. All processes must call.

        ``labels`` are those of `Entries`: ``0 .. C``, or the target of each entry.
        """
        present = sum_over_processes(count_positives(labels, self.num_classes)) > 0
        # The largest of log w + Gumbel noise are a draw without replacement by w. Their number is no value of a tensor,
        # for which a GPU would have to wait.
        noise = broadcast_from_first(-torch.empty_like(self.log_frequency).exponential_().log())
        keys = torch.where(present, math.inf, self.log_frequency + noise)
        top = keys.topk(self.num_sampled)
        return present.index_copy(0, top.indices, top.values > -math.inf) | present

    def scores(self, logits: Float[Tensor, "*N L"]) -> Float[Tensor, "*N C"]:
        """The probability p of every class."""
        return at_least_float32(logits).sigmoid()
