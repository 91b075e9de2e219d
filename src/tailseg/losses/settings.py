"""The settings of every loss: what a recipe holds and saves, and what the command line changes.

Nothing here imports torch: `BaseLossConfig.build` imports the loss when it is called.
"""

import importlib
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from tailseg.deprecated import Renamed, renamed_fields
from tailseg.ranges import ANY_NUMBER, Range, SettingError, Settings

if TYPE_CHECKING:
    from tailseg.losses.base import ClassificationLoss
    from tailseg.structures import ClassFrequency

Tail = float | Literal["r", "rc"]
"""Which classes are the tail: a threshold lambda on f_j, or the frequency groups rare, or rare and common."""
ClassWeights = tuple[float, ...] | Literal["inverse", "effective"]
"""How the classes are weighed: a number for each, or by their objects, see `tailseg.losses.class_weights`."""
LinkName = Literal["gumbel", "sigmoid", "normal"]
"""The name of a link in a config."""
PublishedVersion = Literal["2022", "2024"]
"""The year of published code that a loss can compute: of GOL (2022), or of APA (2024), which has DropLoss alone."""


@runtime_checkable
class BuildsLoss(Protocol):
    """Any settings of a loss, see `BaseLossConfig.build`."""

    def build(self, frequency: "ClassFrequency") -> "ClassificationLoss": ...


@dataclass(frozen=True, kw_only=True)
class BaseLossConfig(Settings, at="loss"):
    """The settings that every loss has.

    ``class GumbelCEConfig(BaseLossConfig, loss="GumbelCE")`` is the config of the class ``tailseg.losses.GumbelCE``,
    which takes the same settings as keywords. A config of your own overrides `build` instead.
    """

    loss: ClassVar[str] = ""
    settings_of: ClassVar[Any]

    init_bias: Annotated[float, ANY_NUMBER] = 0.0
    """The classifier's bias before training; a softmax ignores it, because all logits have the same."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the loss."""
    class_weights: Annotated[ClassWeights | None, Range(gt=0)] = None
    """Multiply the whole cost of a region by the weight of its label. inverse: 1 / objects of the class; effective: by
    the effective number of its objects; or a number for each class. The mean weight of the training objects is 1, as is
    that of background. None weighs all alike."""
    class_weight_exponent: Annotated[float, Range(ge=0)] = 1.0
    """Power of the class weights before they are brought to the mean 1; 0.5 is milder, 0 weighs all alike."""
    class_weight_beta: Annotated[float, Range(ge=0, lt=1)] = 0.9999
    """Parameter of the effective number of objects: 0 weighs all alike, near 1 it is inverse."""

    def __init_subclass__(cls, *, loss: str = "", at: str | tuple[str, ...] = ()) -> None:
        super().__init_subclass__(at=at)
        if loss:
            cls.loss, cls.settings_of = loss, cls

    def build(self, frequency: "ClassFrequency") -> "ClassificationLoss":
        """Builds the loss for the classes of a training set.

        Raises:
            NotImplementedError: the config is not one of tailseg's, and has no `build` of its own.
        """
        if not self.loss:
            raise NotImplementedError(
                f"{type(self).__name__} has no method build(frequency): write one that returns a ClassificationLoss"
            )
        # a subclass may have more fields, which the loss does not take
        settings = {field.name: getattr(self, field.name) for field in fields(self.settings_of)}
        return getattr(importlib.import_module("tailseg.losses"), self.loss)(frequency, **settings)


PARITY = Renamed("published", lambda parity: "2022" if parity else None)
"""The old setting ``parity: bool``."""


@renamed_fields(parity=PARITY)
@dataclass(frozen=True, kw_only=True)
class PublishedLossConfig(BaseLossConfig):
    """The settings of a loss that can also compute what published code computes."""

    years: ClassVar[tuple[PublishedVersion, ...]] = ("2022",)
    """The published codes that have this loss."""

    published: PublishedVersion | None = None
    """Compute the loss of the code published in this year, with its clamps and dead zones; None is exact. 2024 has
    DropLoss alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.published is None or self.published in self.years:
            return
        if self.published in get_args(PublishedVersion):
            raise SettingError(
                f"loss.published is {self.published!r}, and the code of that year has DropLoss alone, not "
                f"{type(self).__name__.removesuffix('Config')}: set {', '.join(self.years)} or None (--loss.published)"
            )
        years = ", ".join(map(repr, get_args(PublishedVersion)))  # in quotes: the number 2024 is not meant
        raise SettingError(f"loss.published is {years}, or None, got {self.published!r} (--loss.published)")


@dataclass(frozen=True)
class SigmoidCEConfig(BaseLossConfig, loss="SigmoidCE"):
    """Sigmoid cross entropy."""

    init_bias: Annotated[float, ANY_NUMBER] = -6.5
    """The classifier's bias before training; -6.5 means p = 1.5e-3."""
    _: KW_ONLY
    background: bool = False
    """Background has a logit of its own, as in the published baseline; without it, background is a "no" to every
    class."""


@dataclass(frozen=True)
class SoftmaxCEConfig(BaseLossConfig, loss="SoftmaxCE"):
    """Softmax cross entropy."""

    init_bias: Annotated[float, ANY_NUMBER] = -6.5


@renamed_fields()
@dataclass(frozen=True)
class GumbelCEConfig(PublishedLossConfig, loss="GumbelCE"):
    """Gumbel cross entropy."""

    init_bias: Annotated[float, ANY_NUMBER] = -2.0
    """The classifier's bias before training; -2 means p = 6.2e-4."""
    _: KW_ONLY
    background: bool = True
    """Background has a logit of its own, as published; without it, background is a "no" to every class."""


@renamed_fields()
@dataclass(frozen=True)
class TailLossConfig(PublishedLossConfig):
    """The settings of the losses that spare the classes of the tail."""

    tail: Annotated[Tail, Range(ge=0, le=1)] = 0.0011
    """Which classes are the tail: those in a smaller share of the training images, or the groups r or rc."""
    link: LinkName = "gumbel"
    """Turns logits into probabilities."""
    _: KW_ONLY
    init_bias: Annotated[float | None, ANY_NUMBER] = None  # ty: ignore[incompatible-attribute-override]
    """The classifier's bias before training; None: gumbel -2, sigmoid -6.9, normal -3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.published == "2024" and self.link == "normal":
            raise SettingError(
                "the code of 2024 has no normal link: with --loss.published 2024 set --loss.link to gumbel or sigmoid"
            )


@renamed_fields()
@dataclass(frozen=True)
class DropLossConfig(TailLossConfig, loss="DropLoss"):
    """DropLoss over any link; over the Gumbel link it is GOL."""

    years: ClassVar[tuple[PublishedVersion, ...]] = ("2022", "2024")


@renamed_fields()
@dataclass(frozen=True)
class EQLConfig(TailLossConfig, loss="EQL"):
    """Equalization loss over any link."""


@renamed_fields()
@dataclass(frozen=True)
class ClassRelativeLossConfig(PublishedLossConfig, loss="ClassRelativeLoss"):
    """Class-relative activations: normal CDF for frequent classes, Gumbel for the others."""

    frequent_above: Annotated[int, Range(ge=0)] = 100
    """Classes in more training images than this are frequent."""
    _: KW_ONLY
    init_bias: Annotated[float, ANY_NUMBER] = -3.0
    """The classifier's bias before training."""


@dataclass(frozen=True)
class BAGSLossConfig(BaseLossConfig, loss="BAGSLoss"):
    """Balanced group softmax."""

    edges: Annotated[tuple[int, ...], Range(ge=1)] = (10, 100, 1000)
    """Numbers of training objects that split the classes into groups; 10 puts a class of 10 into the upper group."""
    beta: Annotated[float, Range(ge=0)] = 8.0
    """Other regions drawn for each region of a group's classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.edges) != sorted(set(self.edges)):
            raise SettingError(f"loss.edges is numbers that increase, got {self.edges} (--loss.edges)")


@dataclass(frozen=True)
class ECMLossConfig(BaseLossConfig, loss="ECMLoss"):
    """Effective class-margin loss."""

    background_ratio: Annotated[float, Range(gt=0)] = 6.3313
    """Background regions for each foreground region; 6.3313 was measured on Mask R-CNN."""
    _: KW_ONLY
    init_bias: Annotated[float, ANY_NUMBER] = -2.0
    """The classifier's bias before training; -2 means a probability of 0.018 before the margin, and less for rare
    classes. Published with 0, on a normalized classifier."""


@dataclass(frozen=True)
class EQLv2Config(BaseLossConfig, loss="EQLv2"):
    """Equalization loss v2."""

    gamma: Annotated[float, Range(ge=0)] = 12.0
    """Steepness of the map from the gradient ratio to the weight of negatives."""
    mu: Annotated[float, ANY_NUMBER] = 0.8
    """The gradient ratio at which negatives have the weight 1/2."""
    alpha: Annotated[float, Range(ge=0)] = 4.0
    """How far positives are raised where negatives are lowered."""
    _: KW_ONLY
    init_bias: Annotated[float, ANY_NUMBER] = -6.9
    """The classifier's bias before training; -6.9 means p = 1e-3."""
    background: bool = True
    """Background has a logit, which lowers the scores; without it, background is a "no" to every class."""


@dataclass(frozen=True)
class FederatedLossConfig(BaseLossConfig, loss="FederatedLoss"):
    """Federated loss."""

    num_sampled: Annotated[int, Range(ge=1)] = 50
    """Classes that each step trains."""
    power: Annotated[float, Range(ge=0)] = 0.5
    """Absent classes are drawn in proportion to image_count^power: 0 evenly, 1 by image count."""
    _: KW_ONLY
    init_bias: Annotated[float, ANY_NUMBER] = -4.6
    """The classifier's bias before training; -4.6 means p = 0.01."""


@dataclass(frozen=True)
class FocalLossConfig(BaseLossConfig, loss="FocalLoss"):
    """Focal loss over any link."""

    gamma: Annotated[float, Range(ge=0)] = 2.0
    """How fast the weight of a well classified logit falls."""
    alpha: Annotated[float | None, Range(ge=0, le=1)] = 0.25
    """The share of the positives; None weighs both alike."""
    _: KW_ONLY
    link: LinkName = "sigmoid"
    """Turns logits into probabilities."""
    init_bias: Annotated[float | None, ANY_NUMBER] = None  # ty: ignore[incompatible-attribute-override]
    """The classifier's bias before training; None means p = 0.01, as in the paper: sigmoid -4.6, gumbel -1.53, normal
    -2.33."""


@dataclass(frozen=True)
class VarifocalLossConfig(BaseLossConfig, loss="VarifocalLoss"):
    """Varifocal loss over any link."""

    gamma: Annotated[float, Range(ge=0)] = 2.0
    """How fast the weight of a well classified negative falls."""
    alpha: Annotated[float, Range(ge=0)] = 0.75
    """The weight of the negatives."""
    on_positives: Literal["target", "one"] = "target"
    """What multiplies the cost of a positive: its target; or one, as in IoU-aware cross entropy."""
    constant_factor: bool = False
    """The gradient treats the factor of a negative as a constant, as RT-DETR does."""
    _: KW_ONLY
    link: LinkName = "sigmoid"
    """Turns logits into probabilities."""
    init_bias: Annotated[float | None, ANY_NUMBER] = None  # ty: ignore[incompatible-attribute-override]
    """The classifier's bias before training; None means p = 0.01: sigmoid -4.6, gumbel -1.53, normal -2.33."""


@dataclass(frozen=True)
class EqualizedFocalLossConfig(BaseLossConfig, loss="EqualizedFocalLoss"):
    """Equalized focal loss over any link."""

    gamma: Annotated[float, Range(gt=0)] = 2.0
    """How fast the weight of a well classified logit falls, for a class with balanced gradients."""
    alpha: Annotated[float | None, Range(ge=0, le=1)] = 0.25
    """The share of the positives; None weighs both alike."""
    scale: Annotated[float, Range(ge=0)] = 8.0
    """How much larger the exponent is for a class without positive gradients."""
    _: KW_ONLY
    link: LinkName = "sigmoid"
    """Turns logits into probabilities."""
    init_bias: Annotated[float | None, ANY_NUMBER] = None  # ty: ignore[incompatible-attribute-override]
    """The classifier's bias before training; None means p = 0.01: sigmoid -4.6, gumbel -1.53, normal -2.33."""


@dataclass(frozen=True)
class LDAMLossConfig(BaseLossConfig, loss="LDAMLoss"):
    """LDAM; with reweight_after, LDAM-DRW."""

    max_margin: Annotated[float, Range(ge=0)] = 0.5
    """Margin of the rarest class."""
    scale: Annotated[float, Range(gt=0)] = 1.0
    """Multiplies the logits after the margin; 30 for cosines."""
    reweight_after: Annotated[int | None, Range(ge=0)] = None
    """Steps of the optimizer before classes are weighed by their effective number; None leaves the weights out."""
    beta: Annotated[float, Range(ge=0, lt=1)] = 0.9999
    """Parameter of the effective number of samples."""


@dataclass(frozen=True)
class LogitAdjustedSoftmaxConfig(BaseLossConfig, loss="LogitAdjustedSoftmax"):
    """Logit-adjusted softmax; with its defaults it is balanced softmax."""

    tau: Annotated[float, Range(ge=0)] = 1.0
    """Strength of the adjustment; 1 is balanced softmax."""


@dataclass(frozen=True)
class SeesawLossConfig(BaseLossConfig, loss="SeesawLoss"):
    """Seesaw loss."""

    p: Annotated[float, Range(ge=0)] = 0.8
    """Strength of the mitigation: how much less frequent classes push rare ones down."""
    q: Annotated[float, Range(ge=0)] = 2.0
    """Strength of the compensation: how much more misclassified regions push back."""
    eps: Annotated[float, Range(gt=0, le=1)] = 1e-2
    """Least probability of the label that the compensation divides by."""


@dataclass(frozen=True)
class PCBLossConfig(BaseLossConfig, loss="PCBLoss"):
    """Pairwise class balance over softmax or Seesaw."""

    base: Literal["softmax", "seesaw"] = "softmax"
    """The loss whose targets are softened: softmax cross entropy, or Seesaw with its published settings."""
    alpha: Annotated[float | None, Range(ge=0, le=1)] = None
    """The share of the soft target; None is the published one, softmax 0.4 and Seesaw 0.05."""
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.99
    """How much of a row of the confusion matrix stays when its class is seen again."""
    start_after: Annotated[int, Range(ge=0)] = 0
    """Steps of the optimizer before the targets are softened; published: after 16 of 24 epochs."""


@dataclass(frozen=True)
class EquilibriumLossConfig(BaseLossConfig, loss="EquilibriumLoss"):
    """The equilibrium loss of LOCE."""

    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9
    """How much of a class's mean score stays when the class is seen again."""
    first_score: Annotated[float, Range(gt=0, le=1)] = 0.01
    """The mean score of a class that was never seen."""
    background_score: Annotated[float, Range(gt=0, le=1)] = 0.01
    """The score of background, which does not change."""


@dataclass(frozen=True)
class ROGLossConfig(BaseLossConfig, loss="ROGLoss"):
    """The rank loss of ROG in addition to another loss."""

    base: Literal["sigmoid", "softmax", "seesaw", "gumbel", "gol"] = "sigmoid"
    """The loss of each region, with its settings by short name; published: sigmoid and seesaw."""
    strength: Annotated[float, Range(ge=0)] = 0.1
    """Multiplies the rank loss (lambda)."""
    gamma: Annotated[float, Range(ge=0)] = 1.0
    """Power of the regions seen so far, by which the rank loss of a class is divided; 0 weighs all classes alike."""
    delta: Annotated[float, Range(gt=0)] = 0.5
    """Logits that differ by less than this are partly in order."""
    _: KW_ONLY
    init_bias: Annotated[float | None, ANY_NUMBER] = None  # ty: ignore[incompatible-attribute-override]
    """The classifier's bias before training; None is the other loss's."""


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
    | VarifocalLossConfig
    | EqualizedFocalLossConfig
    | LDAMLossConfig
    | LogitAdjustedSoftmaxConfig
    | SeesawLossConfig
    | PCBLossConfig
    | EquilibriumLossConfig
    | ROGLossConfig
)
"""The settings of any built-in loss; the class says which loss."""
AnyLoss = LossConfig | BuildsLoss
"""The settings of a built-in loss or of your own."""

LOSSES: dict[str, LossConfig] = {
    "gol": DropLossConfig(tail="rc"),
    "gumbel": GumbelCEConfig(),
    "sigmoid": SigmoidCEConfig(),
    "softmax": SoftmaxCEConfig(),
    "droploss_sigmoid": DropLossConfig(tail="rc", link="sigmoid"),
    "eql": EQLConfig(tail="rc", link="sigmoid"),
    "eqlv2": EQLv2Config(),
    "seesaw": SeesawLossConfig(),
    "federated": FederatedLossConfig(),
    "focal": FocalLossConfig(),
    "efl": EqualizedFocalLossConfig(),
    "varifocal": VarifocalLossConfig(),
    "ldam": LDAMLossConfig(),
    "bags": BAGSLossConfig(),
    "ecm": ECMLossConfig(),
    "balanced_softmax": LogitAdjustedSoftmaxConfig(),
    "class_relative": ClassRelativeLossConfig(),
    "pcb": PCBLossConfig(),
    "ebl": EquilibriumLossConfig(),
    "rog": ROGLossConfig(),
}
"""The losses by short name, for any data set.

The tail of ``gol``, ``droploss_sigmoid`` and ``eql`` is the rare and the common classes (``rc``). The published
thresholds, 0.0011 and 0.00177, are shares of LVIS's images; they mean nothing for another data set.
"""
