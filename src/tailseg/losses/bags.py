"""Balanced group softmax (BAGS): a softmax within each group of similarly frequent classes.

Y. Li et al., "Overcoming Classifier Imbalance for Long-tail Object Detection with Balanced Group Softmax", CVPR 2020.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tailseg.losses.base import ConfiguredLoss, at_least_float32, takes_settings
from tailseg.losses.processes import gather_rows
from tailseg.losses.settings import BAGSLossConfig as BAGSLossConfig
from tailseg.structures import ClassFrequency

OWN = 2.0
"""The value of the regions of a group's own classes among the draws from [0, 1): behind all other regions."""


class BAGSLoss(ConfiguredLoss):
    """Softmax cross entropy in every group of classes, each with an "others" logit: L = C + G + 2.

    ``edges`` split the classes by their number of training objects; G of the groups have classes. The logits are the C
    classes in the order of their labels, then one "others" for each group, then "object" and background. With the label
    mapped to "others" in every group except its own:

        loss = weight * sum over the G groups and the background group of
               the mean over the group's regions of  log(sum over its logits of exp(q_j)) - q_target

    A group has the regions labeled with its classes and at most ``beta`` times as many other regions, drawn at random.
    A group without regions of its classes costs nothing. The background group (object, background) has all regions.
    Regions are counted and drawn over all processes together. Draws come from torch's default generator:
    ``torch.manual_seed`` repeats them.

    Scores are softmax within the class's group times the probability of an object. The paper trains the classifier
    alone, on a detector trained with a plain softmax.

    Args:
        frequency: the frequency of the classes in the training set.
        config: the settings; given as keywords, see `BAGSLossConfig`.
    """

    config: BAGSLossConfig
    group: Tensor
    position: Tensor
    columns: Tensor

    @takes_settings(BAGSLossConfig)
    def __init__(self, frequency: ClassFrequency, config: BAGSLossConfig) -> None:
        bins = torch.bucketize(frequency.instance_counts, torch.tensor(config.edges, dtype=torch.int64), right=True)
        _, group = bins.unique(return_inverse=True)
        members = [(group == g).nonzero().squeeze(1) for g in range(int(group.max()) + 1)]
        super().__init__(frequency, config, extra_logits=len(members) + 2)
        self.scores_are_exclusive = len(members) == 1  # one softmax; several sum to 1 each
        self.sizes = [len(classes) + 1 for classes in members]
        position = torch.zeros(self.num_classes + 1, dtype=torch.int64)
        for classes in members:
            position[classes] = torch.arange(len(classes))
        others = self.num_classes + torch.arange(len(members))
        columns = torch.cat([torch.cat([classes, other[None]]) for classes, other in zip(members, others, strict=True)])
        # By label (background is the last): its group, and its place within the group. Background is in none of the G.
        self.set_constant("group", F.pad(group, (0, 1), value=len(members)))
        self.set_constant("position", position)
        # The columns of the logits in the order of the groups; the classes of a group precede its "others".
        self.set_constant("columns", columns)

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0. All processes must call.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """
        self.check(logits, labels)
        logits = at_least_float32(logits)
        background = (labels == self.num_classes).long()
        weights = self.weigh_regions(logits, labels)
        # The sum inside the function and the sum of its results differ in their last bits.
        costs = F.cross_entropy(logits[:, -2:], background, reduction="sum" if weights is None else "none")
        total = (costs if weights is None else costs * weights).sum() / max(len(labels), 1)
        parts = logits.index_select(1, self.columns).split(self.sizes, dim=1)
        samples, own_rows = self._draw(labels)
        # The heads weigh this process by its share of all regions; a group's mean is over the group's regions.
        per_region = samples.shape[1] / max(len(labels), 1)
        for g, (part, sample) in enumerate(zip(parts, samples, strict=True)):
            target = torch.where(self.group[labels] == g, self.position[labels], self.sizes[g] - 1)
            costs = F.cross_entropy(part, target, reduction="none")
            costs = costs if weights is None else costs * weights
            total = total + (costs * sample[own_rows]).sum() / sample.sum().clamp(min=1) * per_region
        return {"loss_cls": self.config.weight * total}

    def sample(self, labels: Int64[Tensor, " R"]) -> Bool[Tensor, "G R"]:
        """Draws the regions that count in each group. All processes must call."""
        samples, own_rows = self._draw(labels)
        return samples[:, own_rows]

    def _draw(self, labels: Int64[Tensor, " R"]) -> tuple[Bool[Tensor, "G _"], slice]:
        """Draws among the regions of all processes; also returns the slice of this process's regions among them."""
        own = self.group[labels] == torch.arange(len(self.sizes), device=labels.device).unsqueeze(1)
        draws = torch.rand(own.shape, device=labels.device).masked_fill(own, OWN)
        rows, own_rows = gather_rows(draws.T)
        draws, own = rows.T, rows.T == OWN
        # Other regions come in random order, a group's own after them: no size depends on the labels' values.
        order = draws.argsort(1).argsort(1)
        return own | (order < (self.config.beta * own.sum(1, keepdim=True)).floor()), own_rows

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Softmax within the class's group times the probability of an object."""
        logits = at_least_float32(logits)
        parts = logits.index_select(1, self.columns).split(self.sizes, dim=1)
        grouped = torch.cat([part.softmax(1) for part in parts], dim=1)
        within = torch.empty_like(grouped).index_copy_(1, self.columns, grouped)
        return within[:, : self.num_classes] * logits[:, -2:].softmax(1)[:, :1]
