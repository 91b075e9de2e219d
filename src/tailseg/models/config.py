"""Settings of the detectors; the defaults are the published ones for LVIS."""

from dataclasses import dataclass, field, replace
from typing import Literal

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
"""float32 is IEEE's everywhere; tf32 lets GPUs since Ampere round the factors of products to 10 bits; bfloat16 and
float16 are autocast's types, for layers that bear it."""


@dataclass(frozen=True)
class GroupedConfig:
    """Grouped 3x3 convolutions: with groups 64 and width 4 the network is ResNeXt 64x4d.

    Raises:
        ValueError: a number is not above 0.
    """

    groups: int = 64
    width: int = 4
    """Channels of a group in the first stage; each later stage has twice those of the one before."""

    def __post_init__(self) -> None:
        if self.groups < 1 or self.width < 1:
            raise ValueError(f"grouped convolutions want groups and width above 0, got {self.groups} and {self.width}")


@dataclass(frozen=True)
class ResNetConfig:
    """ResNet or ResNeXt in torchvision's layout."""

    depth: Literal[18, 50, 101] = 50
    base_width: int = 64
    """Channels of the stem and the first stage; 64 is the standard network."""
    grouped: GroupedConfig | None = None
    """Grouped 3x3 convolutions make it ResNeXt; None is ResNet."""
    weights: str = "imagenet"
    """imagenet (through torchvision, which has ResNeXt as 50-32x4d, 101-32x8d and 101-64x4d), tiny (the small backbone
    carried by tailseg), none, or a file's path."""
    frozen_stages: int = 1
    """Not trained: 0 nothing, 1 the stem and stage 1, 2 also stage 2 ... (published: 1)."""
    fixed_norm: bool = True
    """Batch norm uses its stored statistics in training (its scale and shift are still trained), as published."""
    checkpoint_blocks: bool = False
    """Trained blocks keep only their inputs and compute the rest again in the backward pass: less memory, more time."""


@dataclass(frozen=True)
class SwinConfig:
    """Swin Transformer in torchvision's layout; the defaults are Swin-T."""

    embed_dim: int = 96
    """Channels of the first stage; each later stage has twice those of the one before."""
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    """Blocks of each stage."""
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    """Attention heads of each stage."""
    window: int = 7
    """Side of the attention windows, in tokens."""
    drop_path: float = 0.2
    """Probability that the last block is skipped in training; it rises linearly from 0 at the first."""
    weights: str = "imagenet"
    """imagenet (through torchvision, for Swin-T, -S and -B), none, or a file's path."""


@dataclass(frozen=True)
class TimmConfig:
    """A network of timm by name: ``pip install 'tailseg[timm]'``.

    Raises:
        ValueError: a stage that there is not, a side that is no multiple of 32, a mean without a deviation or the other
            way round, or values of theirs out of range.
    """

    name: str = "convnext_tiny"
    """As timm calls it, with or without the tag of its weights: a network of four strides for images of any size."""
    weights: str = "pretrained"
    """pretrained (timm downloads those that belong to the name), none, or the path of a file of the network's weights
    as timm writes it (.safetensors or .pth)."""
    frozen_stages: int = 0
    """Not trained: 0 nothing, 1 all that the map of stride 4 is computed from, 2 also that of stride 8 ..."""
    fixed_norm: bool = True
    """Batch norms, if it has any, use their stored statistics in training."""
    mean: tuple[float, float, float] | None = None
    """RGB mean that images are normalised with, in 0 .. 1. None is that of the weights in a new run, which keeps it; in
    a saved one, and without weights, it is ImageNet's."""
    std: tuple[float, float, float] | None = None
    """RGB deviation, with the mean."""
    image_side: int | None = None
    """Images are padded to a square of this side, a multiple of 32: for networks that take images of one size, such as
    Hiera and MaxViT. None is any size."""

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages is 0 .. 4, got {self.frozen_stages}")
        if self.image_side is not None and (self.image_side < 32 or self.image_side % 32):
            raise ValueError(f"image_side is a multiple of 32 above 0, or None, got {self.image_side}")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean and std go together: give both or neither, got {self.mean} and {self.std}")
        if not all(0 <= value <= 1 for value in self.mean or ()) or not all(0 < value <= 1 for value in self.std or ()):
            raise ValueError(f"mean and std are parts of the brightest value, 0 .. 1, got {self.mean} and {self.std}")


BackboneConfig = ResNetConfig | SwinConfig | TimmConfig
"""The settings of any backbone; its class says which."""


@dataclass(frozen=True)
class FPNConfig:
    channels: int = 256


@dataclass(frozen=True)
class RPNConfig:
    """Region proposals."""

    anchor_scale: float = 8.0
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    minimum_positive_iou: float = 0.3
    anchors_per_image: int = 256
    positive_fraction: float = 0.5
    nms_iou: float = 0.7
    train_pre_nms: int = 2000
    """Kept a level before NMS in training."""
    train_post_nms: int = 1000
    """Kept an image after NMS in training."""
    test_pre_nms: int = 1000
    test_post_nms: int = 1000
    border: float | None = None
    """Anchors that reach more than these pixels beyond the image are not trained; None trains all. Cascades: 0."""
    smooth_l1_beta: float = 0.0
    """Box errors below this cost their square; 0 is the L1 loss. Cascades: 1 / 9."""

    def __post_init__(self) -> None:
        _check_beta(self.smooth_l1_beta)
        if self.border is not None and self.border < 0:
            raise ValueError(f"border is at least 0 pixels, or None to train every anchor, got {self.border}")


@dataclass(frozen=True)
class NormalisedConfig:
    """A predictor on normalised features and weights, see `tailseg.models.predictors.inverse_norm`.

    Raises:
        ValueError: the temperature is not above 0, or the power is below 1.
    """

    temperature: float = 20.0
    """Multiplies the features: logits lie within this of the bias. Published: 20; 5 for classifiers."""
    power: float = 1.0
    """Features and weights are divided by this power of their norms."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.power < 1:
            raise ValueError(
                f"a normalised predictor wants temperature > 0 and power >= 1, got {self.temperature} and {self.power}"
            )


@dataclass(frozen=True)
class BoxHeadConfig:
    """Two fully connected layers, a classifier and a box regressor."""

    hidden: int = 1024
    pool_size: int = 7
    finest: float = 56.0
    """RoIs of up to twice this side are pooled from P2, up to four times from P3, and so on."""
    rois_per_image: int = 512
    positive_fraction: float = 0.25
    iou: float = 0.5
    low_quality: bool = True
    """Every object keeps its best RoI when that has at least `iou`, as published."""
    target_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    class_agnostic: bool = False
    smooth_l1_beta: float = 0.0
    """Box errors below this, in units of `target_stds`, cost their square; 0 is the L1 loss. Cascades: 1."""
    classifier_weight: float = 0.001
    """Every weight of a plain classifier before the first step; published: 0.01 for DropLoss over the sigmoid."""
    normalised: NormalisedConfig | None = None
    """Normalise the classifier's features and weights; None is a plain classifier."""

    def __post_init__(self) -> None:
        _check_beta(self.smooth_l1_beta)


@dataclass(frozen=True)
class MaskHeadConfig:
    """Four convolutions, a deconvolution and a 1x1 predictor."""

    channels: int = 256
    num_convs: int = 4
    pool_size: int = 14
    """Masks are twice this size: 28 x 28."""
    finest: float = 56.0
    """RoIs of up to twice this side are pooled from P2, up to four times from P3, and so on."""
    normalised: NormalisedConfig | None = None
    """Normalise the predictor's features and weights, as in the published GOL models; None is a plain predictor."""


@dataclass(frozen=True)
class CascadeStageConfig:
    """What a later stage of a cascade does otherwise than the first, which is ``ModelConfig.box``.

    Raises:
        ValueError: the IoU is not between 0 and 1, or a deviation or the weight is not above 0.
    """

    iou: float
    """Least IoU of a positive RoI: later stages see better boxes and ask more of them."""
    target_stds: tuple[float, float, float, float]
    """Smaller than the stage before's, for the boxes are closer."""
    loss_weight: float
    """Multiplies every loss of the stage's box and mask head; the first stage's weigh 1."""

    def __post_init__(self) -> None:
        if not 0 < self.iou < 1 or min(self.target_stds) <= 0 or self.loss_weight <= 0:
            raise ValueError(
                "a cascade's stage wants 0 < iou < 1, target_stds and loss_weight above 0, got "
                f"{self.iou}, {self.target_stds} and {self.loss_weight}"
            )


PUBLISHED_LATER_STAGES = (
    CascadeStageConfig(iou=0.6, target_stds=(0.05, 0.05, 0.1, 0.1), loss_weight=0.5),
    CascadeStageConfig(iou=0.7, target_stds=(0.033, 0.033, 0.067, 0.067), loss_weight=0.25),
)


@dataclass(frozen=True)
class CascadeConfig:
    """Cascade Mask R-CNN: box heads in a row, each on the boxes that the one before refined, and a mask head each.

    Raises:
        ValueError: there is no later stage.
    """

    later_stages: tuple[CascadeStageConfig, ...] = PUBLISHED_LATER_STAGES

    def __post_init__(self) -> None:
        _check_later_stages(self.later_stages)


@dataclass(frozen=True)
class HTCConfig:
    """Hybrid Task Cascade without its semantic branch: a cascade whose mask heads hand on their features.

    Raises:
        ValueError: there is no later stage.
    """

    later_stages: tuple[CascadeStageConfig, ...] = PUBLISHED_LATER_STAGES
    test_masks: Literal["mean", "last"] = "mean"
    """The mean of the stages' mask probabilities, as published, or the last stage's alone, as in mmdetection 3."""

    def __post_init__(self) -> None:
        _check_later_stages(self.later_stages)


@dataclass(frozen=True)
class TestConfig:
    """From logits to detections."""

    score_threshold: float = 1e-4
    nms_iou: float = 0.5
    max_detections: int = 300
    mask_threshold: float = 0.5


@dataclass(frozen=True)
class ModelConfig:
    """A two-stage detector.

    Mask R-CNN as it stands; Faster R-CNN with ``mask=None``; Cascade Mask R-CNN or Hybrid Task Cascade with
    ``cascade``. The published settings of the cascades differ in other parts too: start from `cascade_mask_rcnn` or
    `hybrid_task_cascade`.
    """

    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    fpn: FPNConfig = field(default_factory=FPNConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask: MaskHeadConfig | None = field(default_factory=MaskHeadConfig)
    cascade: CascadeConfig | HTCConfig | None = None
    test: TestConfig = field(default_factory=TestConfig)


def cascade_mask_rcnn() -> ModelConfig:
    """Cascade Mask R-CNN R50-FPN with the published settings."""
    return ModelConfig(
        rpn=RPNConfig(train_post_nms=2000, border=0.0, smooth_l1_beta=1 / 9),
        box=BoxHeadConfig(low_quality=False, class_agnostic=True, smooth_l1_beta=1.0),
        cascade=CascadeConfig(),
    )


def hybrid_task_cascade() -> ModelConfig:
    """Hybrid Task Cascade R50-FPN with the published settings: low-quality matching is on in its RoI stages."""
    cascade = cascade_mask_rcnn()
    return replace(cascade, box=replace(cascade.box, low_quality=True), cascade=HTCConfig())


def _check_beta(beta: float) -> None:
    if beta < 0:
        raise ValueError(f"smooth_l1_beta is at least 0 (0 is the L1 loss), got {beta}")


def _check_later_stages(stages: tuple[CascadeStageConfig, ...]) -> None:
    if not stages:
        raise ValueError("a cascade needs at least one stage after the first; with none it is Mask R-CNN: cascade None")
