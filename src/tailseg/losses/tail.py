"""The base of EQL and DropLoss: binary cross entropy that spares the classes of the tail.

Shapes: R regions, C foreground classes, which are also the logits.
"""

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tailseg.deprecated import renamed_fields
from tailseg.losses.base import at_least_float32
from tailseg.losses.binary import Dropped
from tailseg.losses.binary_loss import BinaryLoss, Entries
from tailseg.losses.links import Link, find_link
from tailseg.losses.settings import PARITY, ClassWeights, LinkName, PublishedVersion, Tail, TailLossConfig
from tailseg.structures import ClassFrequency


def tail_classes(frequency: ClassFrequency, tail: Tail) -> Bool[Tensor, " C"]:
    """Tells for each class whether it belongs to the tail.

    Args:
        frequency: the frequency of the classes in the training set.
        tail: a number lambda puts the classes with f_j = image_count_j / num_images < lambda into the tail; ``"r"``
            the rare ones, ``"rc"`` the rare and the common ones.

    Raises:
        ValueError: lambda lies outside ``[0, 1]``, or another word is given.
    """
    if isinstance(tail, str):
        if tail not in ("r", "rc"):
            raise ValueError(f"the tail is a number, r (rare classes) or rc (rare and common classes), got {tail!r}")
        return torch.tensor([group in tail for group in frequency.groups], dtype=torch.bool)
    if not 0 <= tail <= 1:
        raise ValueError(f"the tail's threshold is a share of the training images in [0, 1], got {tail}")
    return frequency.image_fraction < tail


@renamed_fields(parity=PARITY)
class TailLoss(BinaryLoss):
    """Binary cross entropy over any link in which some negatives cost nothing; a subclass says which.

    With p the link's probability, y one-hot over the C classes, all zero for background, and T_ij = 1 where region i
    spares class j of the tail, else 0:

        loss = weight / R * sum over regions i and classes j of
               (1 - T_ij (1 - y_ij)) (-y_ij log p_ij - (1 - y_ij) log(1 - p_ij))

    Args:
        frequency: the frequency of the classes in the training set.
        tail: which classes are the tail, see `tail_classes`; 0 makes it empty. Published: 0.0011 for LVIS v1 (815
            classes, 17 frequent ones among them), 0.00177 for LVIS v0.5.
        link: turns logits into probabilities; a name, or a `Link` of your own.
        init_bias: the classifier's bias before training; None takes the link's published one.
        weight: multiplies the loss.
        class_weights: how the classes are weighed, see `tailseg.losses.class_weights`.
        class_weight_exponent: power of the class weights.
        class_weight_beta: parameter of the effective number of objects.
        published: computes the logarithms of the code published in that year, with their dead zones (see
            `tailseg.losses.links`). The published loss has no upper limit here, unlike `GumbelCE`'s. The code of 2024
            has DropLoss alone.

    Raises:
        ValueError: the tail's threshold lies outside ``[0, 1]``, or the link has no published code.
    """

    tail: Tensor
    settings: type[TailLossConfig] = TailLossConfig

    def __init__(  # written out, because a config holds the name of a link, and cannot hold a link
        self,
        frequency: ClassFrequency,
        *,
        tail: Tail = TailLossConfig.tail,
        link: Link | LinkName = TailLossConfig.link,
        init_bias: float | None = TailLossConfig.init_bias,
        weight: float = TailLossConfig.weight,
        class_weights: ClassWeights | None = TailLossConfig.class_weights,
        class_weight_exponent: float = TailLossConfig.class_weight_exponent,
        class_weight_beta: float = TailLossConfig.class_weight_beta,
        published: PublishedVersion | None = TailLossConfig.published,
    ) -> None:
        super().__init__()
        config = self.settings(  # checks the settings
            tail=tail,
            init_bias=init_bias,
            weight=weight,
            class_weights=class_weights,
            class_weight_exponent=class_weight_exponent,
            class_weight_beta=class_weight_beta,
            published=published,
        )
        self.set_class_weights(frequency, config)
        link = find_link(link)
        self.num_classes = self.num_logits = frequency.num_classes
        self.link = link.published(published) if published else link
        self.bias = link.init_bias if init_bias is None else init_bias
        self.weight = weight
        self.published = published
        self.set_constant("tail", tail_classes(frequency, tail))

    @abstractmethod
    def spares_tail(self, labels: Int64[Tensor, " R"] | Float[Tensor, "R C"]) -> Bool[Tensor, "R #C"]:
        """Tells which regions spare the classes of the tail: one answer for all classes, or one for each class.

        ``labels`` are those of `Entries`: ``0 .. C``, or the target of each entry.
        """

    def init_bias(self) -> Float[Tensor, " L"]:
        """``init_bias`` for every class."""
        return torch.full((self.num_logits,), self.bias)

    def cost(self, entries: Entries) -> Float[Tensor, ""]:
        """Binary cross entropy over the link, without the spared negatives."""
        dropped = Dropped(self.spares_tail(entries.labels), self.tail)
        return self.weight * entries.cost(self.link, dropped=dropped)

    def scores(self, logits: Float[Tensor, "*N L"]) -> Float[Tensor, "*N C"]:
        """The link's probability of every class."""
        return self.link.probability(at_least_float32(logits))
