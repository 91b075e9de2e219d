"""Settings of the detectors; the defaults are the published ones for LVIS."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class BackboneConfig:
    """ResNet in torchvision's layout."""

    depth: Literal[18, 50, 101] = 50
    base_width: int = 64
    """Channels of the stem and the first stage; 64 is the standard network."""
    weights: str = "imagenet"
    """imagenet (through torchvision), tiny (the small backbone carried by tailseg), none, or a file's path."""
    frozen_stages: int = 1
    """Not trained: 0 nothing, 1 the stem and stage 1, 2 also stage 2 ... (published: 1)."""
    fixed_norm: bool = True
    """Batch norm uses its stored statistics in training (its scale and shift are still trained), as published."""


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
    classifier_weight: float = 0.001
    """Every weight of a plain classifier before the first step; published: 0.01 for DropLoss over the sigmoid."""
    normalised: NormalisedConfig | None = None
    """Normalise the classifier's features and weights; None is a plain classifier."""


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
class TestConfig:
    """From logits to detections."""

    score_threshold: float = 1e-4
    nms_iou: float = 0.5
    max_detections: int = 300
    mask_threshold: float = 0.5


@dataclass(frozen=True)
class ModelConfig:
    """A two-stage detector; `mask=None` is Faster R-CNN, else Mask R-CNN."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    fpn: FPNConfig = field(default_factory=FPNConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask: MaskHeadConfig | None = field(default_factory=MaskHeadConfig)
    test: TestConfig = field(default_factory=TestConfig)
