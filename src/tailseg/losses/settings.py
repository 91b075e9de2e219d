"""The settings of every loss: what a recipe holds and saves, what the command line changes.

Nothing here imports torch: `build` imports the loss when it is called.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tailseg.ranges import ANY_NUMBER, Range, SettingError, Settings

if TYPE_CHECKING:
    from tailseg.losses.bags import BAGSLoss
    from tailseg.losses.class_relative import ClassRelativeLoss
    from tailseg.losses.drop_loss import DropLoss
    from tailseg.losses.ecm import ECMLoss
    from tailseg.losses.eql import EQL
    from tailseg.losses.eql_v2 import EQLv2
    from tailseg.losses.federated import FederatedLoss
    from tailseg.losses.focal import FocalLoss
    from tailseg.losses.gumbel_ce import GumbelCE
    from tailseg.losses.ldam import LDAMLoss
    from tailseg.losses.logit_adjusted import LogitAdjustedSoftmax
    from tailseg.losses.seesaw import SeesawLoss
    from tailseg.losses.sigmoid_ce import SigmoidCE
    from tailseg.losses.softmax_ce import SoftmaxCE
    from tailseg.structures import ClassFrequency

Tail = float | Literal["r", "rc"]
"""Which classes are the tail: a threshold lambda on f_j, or the frequency groups rare, or rare and common."""
LinkName = Literal["gumbel", "sigmoid", "normal"]
"""How a config names a link."""


@dataclass(frozen=True)
class SigmoidCEConfig(Settings, at="loss"):
    """Sigmoid cross entropy."""

    init_bias: Annotated[float, ANY_NUMBER] = -6.5
    """The classifier's bias before training."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""
    background: bool = False
    """Background has a logit of its own, as in the published baseline; without, it is "no" to every class."""

    def build(self, frequency: "ClassFrequency") -> "SigmoidCE":
        """The loss for these classes."""
        from tailseg.losses.sigmoid_ce import SigmoidCE

        return SigmoidCE(
            frequency.num_classes, init_bias=self.init_bias, weight=self.weight, background=self.background
        )


@dataclass(frozen=True)
class SoftmaxCEConfig(Settings, at="loss"):
    """Softmax cross entropy."""

    init_bias: Annotated[float, ANY_NUMBER] = -6.5
    """The classifier's bias before training; the softmax ignores a common shift."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""

    def build(self, frequency: "ClassFrequency") -> "SoftmaxCE":
        """The loss for these classes."""
        from tailseg.losses.softmax_ce import SoftmaxCE

        return SoftmaxCE(frequency.num_classes, init_bias=self.init_bias, weight=self.weight)


@dataclass(frozen=True)
class GumbelCEConfig(Settings, at="loss"):
    """Gumbel cross entropy."""

    init_bias: Annotated[float, ANY_NUMBER] = -2.0
    """The classifier's bias before training."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""
    parity: bool = False
    """Compute the published code's loss, its clamps and dead zones included."""

    def build(self, frequency: "ClassFrequency") -> "GumbelCE":
        """The loss for these classes."""
        from tailseg.losses.gumbel_ce import GumbelCE

        return GumbelCE(frequency.num_classes, init_bias=self.init_bias, weight=self.weight, parity=self.parity)


@dataclass(frozen=True)
class DropLossConfig(Settings, at="loss"):
    """DropLoss over any link; over the Gumbel link it is GOL."""

    tail: Annotated[Tail, Range(ge=0, le=1)] = 0.0011
    """Which classes are the tail: those in a smaller share of the training images, or the groups r or rc."""
    link: LinkName = "gumbel"
    """Turns logits into probabilities."""
    init_bias: Annotated[float | None, ANY_NUMBER] = None
    """The classifier's bias before training; None: gumbel -2, sigmoid -6.9, normal -3."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""
    parity: bool = False
    """Compute the published code's loss, its clamps and dead zones included."""

    def build(self, frequency: "ClassFrequency") -> "DropLoss":
        """The loss for these classes."""
        from tailseg.losses.drop_loss import DropLoss
        from tailseg.losses.links import LINKS

        return DropLoss(
            frequency,
            tail=self.tail,
            link=LINKS[self.link],
            init_bias=self.init_bias,
            weight=self.weight,
            parity=self.parity,
        )


@dataclass(frozen=True)
class EQLConfig(Settings, at="loss"):
    """Equalization loss over any link."""

    tail: Annotated[Tail, Range(ge=0, le=1)] = 0.0011
    """Which classes are the tail: those in a smaller share of the training images, or the groups r or rc."""
    link: LinkName = "gumbel"
    """Turns logits into probabilities."""
    init_bias: Annotated[float | None, ANY_NUMBER] = None
    """The classifier's bias before training; None: gumbel -2, sigmoid -6.9, normal -3."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""
    parity: bool = False
    """Compute the published code's loss, its clamps and dead zones included."""

    def build(self, frequency: "ClassFrequency") -> "EQL":
        """The loss for these classes."""
        from tailseg.losses.eql import EQL
        from tailseg.losses.links import LINKS

        return EQL(
            frequency,
            tail=self.tail,
            link=LINKS[self.link],
            init_bias=self.init_bias,
            weight=self.weight,
            parity=self.parity,
        )


@dataclass(frozen=True)
class ClassRelativeLossConfig(Settings, at="loss"):
    """Class-relative activations: normal CDF for frequent classes, Gumbel for the others."""

    frequent_above: Annotated[int, Range(ge=0)] = 100
    """Classes in more training images than this are frequent."""
    init_bias: Annotated[float, ANY_NUMBER] = -3.0
    """The classifier's bias before training."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""
    parity: bool = False
    """Compute the published loss, its clamps and dead zones included."""

    def build(self, frequency: "ClassFrequency") -> "ClassRelativeLoss":
        """The loss for these classes."""
        from tailseg.losses.class_relative import ClassRelativeLoss

        return ClassRelativeLoss(
            frequency,
            frequent_above=self.frequent_above,
            init_bias=self.init_bias,
            weight=self.weight,
            parity=self.parity,
        )


@dataclass(frozen=True)
class BAGSLossConfig(Settings, at="loss"):
    """Balanced group softmax."""

    edges: Annotated[tuple[int, ...], Range(ge=1)] = (10, 100, 1000)
    """Numbers of training objects that split the classes into groups."""
    beta: Annotated[float, Range(ge=0)] = 8.0
    """Other regions drawn for each region of a group's classes."""
    init_bias: Annotated[float, ANY_NUMBER] = 0.0
    """The classifier's bias before training; the softmax ignores a common shift."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.edges) != sorted(set(self.edges)):
            raise SettingError(f"loss.edges is numbers that increase, got {self.edges} (--loss.edges)")

    def build(self, frequency: "ClassFrequency") -> "BAGSLoss":
        """The loss for these classes."""
        from tailseg.losses.bags import BAGSLoss

        return BAGSLoss(frequency, edges=self.edges, beta=self.beta, init_bias=self.init_bias, weight=self.weight)


@dataclass(frozen=True)
class ECMLossConfig(Settings, at="loss"):
    """Effective class-margin loss."""

    background_ratio: Annotated[float, Range(gt=0)] = 6.3313
    """Background regions to foreground ones."""
    init_bias: Annotated[float, ANY_NUMBER] = -2.0
    """The classifier's bias before training."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""

    def build(self, frequency: "ClassFrequency") -> "ECMLoss":
        """The loss for these classes."""
        from tailseg.losses.ecm import ECMLoss

        return ECMLoss(frequency, background_ratio=self.background_ratio, init_bias=self.init_bias, weight=self.weight)


@dataclass(frozen=True)
class EQLv2Config(Settings, at="loss"):
    """Equalization loss v2."""

    gamma: Annotated[float, Range(ge=0)] = 12.0
    """Steepness of the map from the gradient ratio to the weight of negatives."""
    mu: Annotated[float, ANY_NUMBER] = 0.8
    """The gradient ratio at which negatives weigh 1/2."""
    alpha: Annotated[float, Range(ge=0)] = 4.0
    """How far positives are raised where negatives are lowered."""
    init_bias: Annotated[float, ANY_NUMBER] = -6.9
    """The classifier's bias before training."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""

    def build(self, frequency: "ClassFrequency") -> "EQLv2":
        """The loss for these classes; it counts for itself and ignores their frequencies."""
        from tailseg.losses.eql_v2 import EQLv2

        return EQLv2(
            frequency.num_classes,
            gamma=self.gamma,
            mu=self.mu,
            alpha=self.alpha,
            init_bias=self.init_bias,
            weight=self.weight,
        )


@dataclass(frozen=True)
class FederatedLossConfig(Settings, at="loss"):
    """Federated loss."""

    num_sampled: Annotated[int, Range(ge=1)] = 50
    """Classes that each step asks about."""
    power: Annotated[float, Range(ge=0)] = 0.5
    """Absent classes are drawn in proportion to image_count^power."""
    init_bias: Annotated[float, ANY_NUMBER] = -4.6
    """The classifier's bias before training."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""

    def build(self, frequency: "ClassFrequency") -> "FederatedLoss":
        """The loss for these classes."""
        from tailseg.losses.federated import FederatedLoss

        return FederatedLoss(
            frequency,
            num_sampled=self.num_sampled,
            power=self.power,
            init_bias=self.init_bias,
            weight=self.weight,
        )


@dataclass(frozen=True)
class FocalLossConfig(Settings, at="loss"):
    """Sigmoid focal loss."""

    gamma: Annotated[float, Range(ge=0)] = 2.0
    """How fast a well classified logit stops counting."""
    alpha: Annotated[float | None, Range(ge=0, le=1)] = 0.25
    """The share of the positives; None weighs both alike."""
    init_bias: Annotated[float, ANY_NUMBER] = -4.6
    """The classifier's bias before training."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""

    def build(self, frequency: "ClassFrequency") -> "FocalLoss":
        """The loss for these classes."""
        from tailseg.losses.focal import FocalLoss

        return FocalLoss(
            frequency.num_classes, gamma=self.gamma, alpha=self.alpha, init_bias=self.init_bias, weight=self.weight
        )


@dataclass(frozen=True)
class LDAMLossConfig(Settings, at="loss"):
    """LDAM; with reweight_after, LDAM-DRW."""

    max_margin: Annotated[float, Range(ge=0)] = 0.5
    """Margin of the rarest class."""
    scale: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the logits after the margin; 30 for cosines."""
    reweight_after: Annotated[int | None, Range(ge=0)] = None
    """Steps of the optimizer before classes are weighed by their effective number; None leaves the weights out."""
    beta: Annotated[float, Range(ge=0, lt=1)] = 0.9999
    """Of the effective number of samples."""
    init_bias: Annotated[float, ANY_NUMBER] = 0.0
    """The classifier's bias before training; the softmax ignores a common shift."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""

    def build(self, frequency: "ClassFrequency") -> "LDAMLoss":
        """The loss for these classes."""
        from tailseg.losses.ldam import LDAMLoss

        return LDAMLoss(
            frequency,
            max_margin=self.max_margin,
            scale=self.scale,
            reweight_after=self.reweight_after,
            beta=self.beta,
            init_bias=self.init_bias,
            weight=self.weight,
        )


@dataclass(frozen=True)
class LogitAdjustedSoftmaxConfig(Settings, at="loss"):
    """Logit-adjusted softmax; balanced softmax as it stands."""

    tau: Annotated[float, Range(ge=0)] = 1.0
    """Strength of the adjustment; 1 is balanced softmax."""
    init_bias: Annotated[float, ANY_NUMBER] = 0.0
    """The classifier's bias before training; the softmax ignores a common shift."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""

    def build(self, frequency: "ClassFrequency") -> "LogitAdjustedSoftmax":
        """The loss for these classes."""
        from tailseg.losses.logit_adjusted import LogitAdjustedSoftmax

        return LogitAdjustedSoftmax(frequency, tau=self.tau, init_bias=self.init_bias, weight=self.weight)


@dataclass(frozen=True)
class SeesawLossConfig(Settings, at="loss"):
    """Seesaw loss."""

    p: Annotated[float, Range(ge=0)] = 0.8
    """Strength of the mitigation: how much less frequent classes push rare ones down."""
    q: Annotated[float, Range(ge=0)] = 2.0
    """Strength of the compensation: how much more misclassified regions push back."""
    eps: Annotated[float, Range(gt=0, le=1)] = 1e-2
    """Least probability of the label that the compensation divides by."""
    init_bias: Annotated[float, ANY_NUMBER] = 0.0
    """The classifier's bias before training; a common shift has no effect."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies both terms."""

    def build(self, frequency: "ClassFrequency") -> "SeesawLoss":
        """The loss for these classes; it counts for itself and ignores their frequencies."""
        from tailseg.losses.seesaw import SeesawLoss

        return SeesawLoss(
            frequency.num_classes, p=self.p, q=self.q, eps=self.eps, init_bias=self.init_bias, weight=self.weight
        )


LossConfig = (
    SigmoidCEConfig
    | SoftmaxCEConfig
    | GumbelCEConfig
    | DropLossConfig
    | EQLConfig
    | ClassRelativeLossConfig
    | BAGSLossConfig
    | ECMLossConfig
    | EQLv2Config
    | FederatedLossConfig
    | FocalLossConfig
    | LDAMLossConfig
    | LogitAdjustedSoftmaxConfig
    | SeesawLossConfig
)
"""The settings of any loss; its class says which."""
