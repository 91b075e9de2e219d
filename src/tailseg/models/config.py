"""Settings of the detectors; the defaults are the published ones for LVIS.

Nothing here imports torch: each ``build`` imports the module that it builds when it is called.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, Literal, Protocol, runtime_checkable

from tailseg.deprecated import names_renamed_in, renamed_fields
from tailseg.ranges import Range, SettingError, Settings, check_ranges, require_build

if TYPE_CHECKING:
    from torch import nn

    from tailseg.losses.base import ClassificationLoss
    from tailseg.models.detector import Detector
    from tailseg.models.resnet import ResNet
    from tailseg.models.swin import Swin
    from tailseg.models.timm_backbone import TimmBackbone

__getattr__ = names_renamed_in(__name__, {"NormalisedConfig": "NormalizedConfig", "TestConfig": "PostprocessConfig"})

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
"""float32 is IEEE's everywhere; tf32 lets GPUs since Ampere round the factors of products to 10 bits; bfloat16 and
float16 are types of autocast, for the layers that allow them."""


Channels = tuple[float, float, float]
"""A number for each of the channels red, green and blue."""
IMAGENET_NORMALIZATION: Final[tuple[Channels, Channels]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""RGB mean and standard deviation of ImageNet's images, whose pixels lie in 0 .. 1."""


class BackboneConfig(Settings, at="model.backbone"):
    """The base class of the settings of a backbone; only `build` has no default.

    For a backbone of your own, write a frozen dataclass with this base class and set it as ``model.backbone`` in a
    recipe. A dataclass without this base class is accepted too if it has `build`.
    """

    def build(self) -> "nn.Module":
        """The backbone with random initialization.

        Returns:
            A module with the attribute ``out_channels``, the numbers of channels of its four feature maps. Its
            ``forward`` takes images ``[B, 3, H, W]`` and returns four feature maps ``[B, C, H / s, W / s]`` of strides
            s = 4, 8, 16, 32. H and W are multiples of 32. If the module has a method ``no_weight_decay``, which returns
            names of its parameters, AdamW applies no weight decay to these parameters.
        """
        raise SettingError(f"{type(self).__name__} has no method build: write one that returns the backbone")

    @property
    def normalization(self) -> tuple[Channels, Channels]:
        """RGB mean and standard deviation that images are normalized with, in 0 .. 1. The default is ImageNet's."""
        return IMAGENET_NORMALIZATION

    @property
    def short_name(self) -> str:
        """The name in tables of recipes, such as ``R50``."""
        return type(self).__name__.removesuffix("Config")

    @property
    def description(self) -> str:
        """The network in the words of an error message."""
        return type(self).__name__

    def load_weights(self, backbone: "nn.Module") -> None:
        """Loads trained weights into the backbone that `build` returned, in place. The default loads nothing.

        Not called when the weights of the whole detector are loaded afterwards, for example from a checkpoint.
        """

    def with_normalization_of_weights(self) -> "BackboneConfig":
        """The same settings, completed with the mean and standard deviation that belong to the weights.

        The default returns the settings unchanged.
        """
        return self


@runtime_checkable
class BuildsBackbone(Protocol):
    """Any settings of a backbone, see `BackboneConfig.build`."""

    def build(self) -> "nn.Module": ...


@dataclass(frozen=True)
class GroupedConfig(Settings, at="model.backbone.grouped"):
    """Grouped 3x3 convolutions: with groups 64 and width 4 the network is ResNeXt 64x4d."""

    groups: Annotated[int, Range(ge=1)] = 64
    """Number of groups."""
    width: Annotated[int, Range(ge=1)] = 4
    """Channels of a group in the first stage; the number doubles in each later stage."""


@dataclass(frozen=True)
class SEConfig(Settings, at="model.backbone.se"):
    """Squeeze and excitation: a gate of each channel from the means of all channels, at the end of each block."""

    gate: Literal["sigmoid", "apa"] = "sigmoid"
    """The gate's activation. With apa, the means are normalized before (LayerNorm), and the gate's input drops out."""
    reduction: Annotated[int, Range(ge=1)] = 16
    """The channels of a block for each hidden channel of its gate."""
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.1
    """Probability of dropout before the gate in training; only with apa."""


@dataclass(frozen=True)
class ResNetConfig(BackboneConfig):
    """ResNet or ResNeXt in torchvision's layout; with se, SE-ResNet."""

    depth: Literal[18, 50, 101, 152] = 50
    """Number of layers."""
    base_width: Annotated[int, Range(ge=1)] = 64
    """Channels of the stem and the first stage; 64 is the standard network."""
    grouped: GroupedConfig | None = None
    """Grouped 3x3 convolutions, which make the network a ResNeXt; None is a ResNet."""
    activation: Literal["relu", "silu", "aglu"] = "relu"
    """After each batch norm, and after each block; aglu learns its shape at each place."""
    se: SEConfig | None = None
    """Squeeze and excitation, which makes the network an SE-ResNet; None is without."""
    weights: str = "imagenet"
    """imagenet (from torchvision, which has ResNeXt as 50-32x4d, 101-32x8d and 101-64x4d), tiny (a small backbone that
    is part of tailseg), none, or the path of a file."""
    frozen_stages: Annotated[int, Range(ge=0, le=4)] = 1
    """Stages that are not trained: 0 none, 1 the stem and stage 1, 2 also stage 2 ... (published: 1)."""
    fixed_norm: bool = True
    """Batch norms use their stored statistics in training, as published. Their scale and shift are still trained."""
    stride_in_1x1: bool = False
    """The first 1x1 convolution of a bottleneck has the stride, as in Caffe's ResNets and detectron2's R-50 and R-101;
    otherwise the 3x3 convolution has it."""
    checkpoint_blocks: bool = False
    """Gradient checkpointing: blocks store only their inputs and run twice, which needs less memory and more time."""

    def build(self) -> "ResNet":
        from tailseg.models.resnet import ResNet

        return ResNet(self)

    @property
    def short_name(self) -> str:
        grouped = self.grouped
        name = f"X{self.depth}-{grouped.groups}x{grouped.width}d" if grouped else f"R{self.depth}"
        activation = "" if self.activation == "relu" else f"-{self.activation.upper()}"
        return f"{'' if self.se is None else 'SE-'}{name}{activation}"

    @property
    def description(self) -> str:
        groups = "" if self.grouped is None else f" {self.grouped.groups}x{self.grouped.width}d"
        name = f"{'' if self.se is None else 'SE-'}{'ResNeXt' if groups else 'ResNet'}"
        shape = "" if self.activation == "relu" else f" with {self.activation}"
        gate = "" if self.se is None or self.se.gate == "sigmoid" else f" and {self.se.gate} gates"
        return f"a {name}-{self.depth}{groups} of base_width {self.base_width}{shape}{gate}"

    def load_weights(self, backbone: "nn.Module") -> None:
        from tailseg.models.weights import load_backbone

        load_backbone(backbone, self.weights)


SWIN_NAMES: Final = {(96, (2, 2, 6, 2)): "Swin-T", (96, (2, 2, 18, 2)): "Swin-S", (128, (2, 2, 18, 2)): "Swin-B"}
"""By channels of the first stage and blocks of each stage."""


@dataclass(frozen=True)
class SwinConfig(BackboneConfig):
    """Swin Transformer in torchvision's layout; the defaults are Swin-T."""

    embed_dim: Annotated[int, Range(ge=1)] = 96
    """Channels of the first stage; the number doubles in each later stage."""
    depths: Annotated[tuple[int, int, int, int], Range(ge=1)] = (2, 2, 6, 2)
    """Blocks of each stage."""
    heads: Annotated[tuple[int, int, int, int], Range(ge=1)] = (3, 6, 12, 24)
    """Attention heads of each stage."""
    window: Annotated[int, Range(ge=1)] = 7
    """Side of the attention windows, in tokens."""
    drop_path: Annotated[float, Range(ge=0, lt=1)] = 0.2
    """Probability that the last block is skipped in training; it rises linearly from 0 at the first."""
    weights: str = "imagenet"
    """imagenet (through torchvision, for Swin-T, -S and -B), none, or a file's path."""

    def build(self) -> "Swin":
        from tailseg.models.swin import Swin

        return Swin(self)

    @property
    def short_name(self) -> str:
        return SWIN_NAMES.get((self.embed_dim, self.depths), "Swin")

    @property
    def description(self) -> str:
        return f"a Swin Transformer of embed_dim {self.embed_dim} and depths {self.depths}"

    def load_weights(self, backbone: "nn.Module") -> None:
        from tailseg.models.weights import load_backbone

        load_backbone(backbone, self.weights)


@dataclass(frozen=True)
class TimmConfig(BackboneConfig):
    """A network of timm by name: ``pip install 'tailseg[timm]'``.

    Raises:
        ValueError: ``image_side`` is not a multiple of 32, or only one of ``mean`` and ``std`` is given.
    """

    name: str = "convnext_tiny"
    """Name in timm, with or without the tag of its weights. The network must have feature maps of strides 4 to 32."""
    weights: str = "pretrained"
    """pretrained (timm downloads the weights of this name), none, or the path of a weights file in timm's format
    (.safetensors or .pth)."""
    frozen_stages: Annotated[int, Range(ge=0, le=4)] = 0
    """Stages that are not trained: 0 none, 1 the layers before the map of stride 4, 2 also those before stride 8 ..."""
    fixed_norm: bool = True
    """Batch norms, if there are any, use their stored statistics in training."""
    mean: Annotated[tuple[float, float, float] | None, Range(ge=0, le=1)] = None
    """RGB mean that normalizes the images, in 0 .. 1. In a new run, None is the mean of the weights, and the run saves
    it. Without weights, and in a saved run, None is ImageNet's mean."""
    std: Annotated[tuple[float, float, float] | None, Range(gt=0, le=1)] = None
    """RGB standard deviation, in 0 .. 1; set it together with the mean."""
    image_side: Annotated[int | None, Range(ge=32)] = None
    """Pad images to a square of this side in pixels, a multiple of 32, for networks that take images of one size, such
    as Hiera and MaxViT. None takes images of any size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_side is not None and self.image_side % 32:
            raise ValueError(f"image_side is a multiple of 32, or None, got {self.image_side}")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean and std go together: give both or neither, got {self.mean} and {self.std}")

    def build(self) -> "TimmBackbone":
        from tailseg.models.timm_backbone import TimmBackbone

        return TimmBackbone(self)

    @property
    def normalization(self) -> tuple[Channels, Channels]:
        return IMAGENET_NORMALIZATION if self.mean is None or self.std is None else (self.mean, self.std)

    @property
    def short_name(self) -> str:
        return self.name

    @property
    def description(self) -> str:
        return f"timm's {self.name}"

    def load_weights(self, backbone: "nn.Module") -> None:
        from tailseg.models.weights import load_backbone

        load_backbone(backbone, self.weights)

    def with_normalization_of_weights(self) -> "TimmConfig":
        from tailseg.models.timm_weights import with_own_normalization

        return with_own_normalization(self)


AnyBackbone = ResNetConfig | SwinConfig | TimmConfig | BuildsBackbone
"""The settings of any backbone, built-in or your own."""

BACKBONES: Final[Mapping[str, BackboneConfig]] = {
    "resnet18": ResNetConfig(depth=18),
    "resnet50": ResNetConfig(),
    "resnet101": ResNetConfig(depth=101),
    "resnext50_32x4d": ResNetConfig(grouped=GroupedConfig(32, 4)),
    "resnext101_32x8d": ResNetConfig(depth=101, grouped=GroupedConfig(32, 8)),
    "resnext101_64x4d": ResNetConfig(depth=101, grouped=GroupedConfig(64, 4)),
    "swin_t": SwinConfig(),
    "swin_s": SwinConfig(depths=(2, 2, 18, 2)),
    "swin_b": SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    "efficientnet_lite0": TimmConfig(name="tf_efficientnet_lite0.in1k", frozen_stages=2),
    "convnext_tiny_dinov3": TimmConfig(name="convnext_tiny.dinov3_lvd1689m"),
    "convnext_small_dinov3": TimmConfig(name="convnext_small.dinov3_lvd1689m"),
    "tiny": ResNetConfig(depth=18, base_width=32, weights="tiny"),
}
"""The built-in backbones by name, each with its pretrained weights: ImageNet's, DINOv3's (learned from images without
labels, under Meta's own license), and tailseg's own for ``tiny``."""


def backbone_named(name: str) -> BackboneConfig:
    """The settings of a built-in backbone, or of a network of timm by ``timm:NAME``.

    Raises:
        ValueError: no backbone has this name; the message suggests names that are close.
    """
    if name.startswith("timm:") and name != "timm:":
        return TimmConfig(name=name.removeprefix("timm:"))
    if name in BACKBONES:
        return BACKBONES[name]
    close = difflib.get_close_matches(name, BACKBONES, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"There are {', '.join(BACKBONES)}."
    raise ValueError(f"no backbone is called {name!r}. {hint} A network of timm is called timm:NAME")


@dataclass(frozen=True)
class FPNConfig(Settings, at="model.fpn"):
    channels: Annotated[int, Range(ge=1)] = 256


@dataclass(frozen=True)
class RPNConfig(Settings, at="model.rpn"):
    """The region proposal network."""

    anchor_scale: Annotated[float, Range(gt=0)] = 8.0
    """Square root of the area of an anchor, in strides of its pyramid level."""
    anchor_ratios: Annotated[tuple[float, ...], Range(gt=0, some=True)] = (0.5, 1.0, 2.0)
    """Height divided by width of the anchors."""
    positive_iou: Annotated[float, Range(gt=0, le=1)] = 0.7
    """An anchor is positive if its IoU with an object is at least this."""
    negative_iou: Annotated[float, Range(ge=0, le=1)] = 0.3
    """An anchor is background if its IoU with every object is below this."""
    minimum_positive_iou: Annotated[float, Range(ge=0, le=1)] = 0.3
    """The best anchors of an object are positive if their IoU with it is at least this."""
    anchors_per_image: Annotated[int, Range(ge=1)] = 256
    """Anchors of each image that are trained."""
    positive_fraction: Annotated[float, Range(gt=0, le=1)] = 0.5
    """Largest share of positive anchors among them."""
    nms_iou: Annotated[float, Range(ge=0, le=1)] = 0.7
    """NMS removes a proposal whose IoU with a better one is above this."""
    train_pre_nms: Annotated[int, Range(ge=1)] = 2000
    """Proposals of each pyramid level before NMS in training."""
    train_post_nms: Annotated[int, Range(ge=1)] = 1000
    """Proposals of each image after NMS in training."""
    test_pre_nms: Annotated[int, Range(ge=1)] = 1000
    """Proposals of each pyramid level before NMS in evaluation."""
    test_post_nms: Annotated[int, Range(ge=1)] = 1000
    """Proposals of each image after NMS in evaluation."""
    border: Annotated[float | None, Range(ge=0)] = None
    """Anchors that extend more pixels than this beyond the image are not trained; None trains all. Cascades: 0."""
    smooth_l1_beta: Annotated[float, Range(ge=0)] = 0.0
    """Beta of the smooth L1 loss of the boxes; 0 is the L1 loss. Cascades: 1 / 9."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negative_iou > self.positive_iou:
            raise SettingError(
                f"model.rpn.negative_iou is {self.negative_iou} and model.rpn.positive_iou is {self.positive_iou}: an "
                "anchor would be both background and object; lower the first (--model.rpn.negative-iou)"
            )


@dataclass(frozen=True)
class NormalizedConfig(Settings, at=("model.box.normalized", "model.mask.normalized")):
    """A predictor on normalized features and weights, see `tailseg.models.predictors.inverse_norm`."""

    temperature: Annotated[float, Range(gt=0)] = 20.0
    """Factor of the features: logits differ from their bias by at most this. Published: 20; 5 in classifiers."""
    power: Annotated[float, Range(ge=1)] = 1.0
    """Features and weights are divided by their norms to this power."""
    learned: bool = False
    """Learn the temperature, as the square of a parameter, from this one on. Published for masks: from 20.25."""


@dataclass(frozen=True)
class WrappedCauchyConfig(Settings, at="model.box.wrapped_cauchy"):
    """A classifier of wrapped Cauchy densities, as in the authors' V3Det models.

    See `tailseg.models.predictors.WrappedCauchyLinear`.
    """

    scale: Annotated[float, Range(gt=0)] = 300.0
    """Factor of the densities."""
    learned: bool = False
    """Learn the factor, from this one on. Published: from 50."""


@renamed_fields(
    finest="finest_scale", iou="positive_iou", low_quality="allow_low_quality_matches", normalised="normalized"
)
@dataclass(frozen=True)
class BoxHeadConfig(Settings, at="model.box"):
    """Two fully connected layers, a classifier and a box regressor."""

    hidden: Annotated[int, Range(ge=1)] = 1024
    """Width of the fully connected layers."""
    pool_size: Annotated[int, Range(ge=1)] = 7
    """Height and width of the pooled features."""
    finest_scale: Annotated[float, Range(gt=0)] = 56.0
    """RoIs of up to twice this side are pooled from P2, up to four times from P3, and so on."""
    rois_per_image: Annotated[int, Range(ge=1)] = 512
    """RoIs of each image that are trained."""
    positive_fraction: Annotated[float, Range(gt=0, le=1)] = 0.25
    """Largest share of positive RoIs among them."""
    positive_iou: Annotated[float, Range(gt=0, lt=1)] = 0.5
    """A RoI is positive if its IoU with an object is at least this."""
    allow_low_quality_matches: bool = True
    """Every object keeps its best RoI if their IoU is at least `positive_iou`, as published."""
    target_stds: Annotated[tuple[float, float, float, float], Range(gt=0)] = (0.1, 0.1, 0.2, 0.2)
    """Divisors of the box deltas dx, dy, dw, dh."""
    class_agnostic: bool = False
    """Predict one box for all classes, not one for each class."""
    shared_share: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """The share of one regressor for all classes in the box of each class (CAB): rare classes learn from the boxes of
    all. 0 is without; published: 0.5."""
    smooth_l1_beta: Annotated[float, Range(ge=0)] = 0.0
    """Beta of the smooth L1 loss of the boxes, in units of `target_stds`; 0 is the L1 loss. Cascades: 1."""
    classifier_weight: Annotated[float, Range(ge=0)] = 0.001
    """Initial value of every weight of a plain classifier; published: 0.01 for DropLoss with the sigmoid."""
    normalized: NormalizedConfig | None = None
    """Normalize the classifier's features and weights; None is a plain classifier."""
    wrapped_cauchy: WrappedCauchyConfig | None = None
    """A classifier of wrapped Cauchy densities; None is a plain or normalized classifier."""
    first_weights: Literal["uniform", "xavier"] = "uniform"
    """Initial weights of the hidden layers and of the box regressor: PyTorch's uniform ones, as in the authors' models
    of 2022, or mmdetection's: Xavier's, and a regressor of standard deviation 0.001."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalized is not None and self.wrapped_cauchy is not None:
            raise SettingError(
                "model.box.normalized and model.box.wrapped_cauchy are two kinds of classifier: leave one at None "
                "(--model.box.wrapped-cauchy None)"
            )
        if self.class_agnostic and self.shared_share:
            raise SettingError(
                f"model.box.shared_share is {self.shared_share}, and model.box.class_agnostic has one box for all "
                "classes already: leave one of them out (--model.box.shared-share 0)"
            )


@renamed_fields(finest="finest_scale", normalised="normalized")
@dataclass(frozen=True)
class MaskHeadConfig(Settings, at="model.mask"):
    """Four convolutions, upsampling and a 1x1 predictor."""

    channels: Annotated[int, Range(ge=1)] = 256
    """Channels of the convolutions."""
    num_convs: Annotated[int, Range(ge=1)] = 4
    """Number of convolutions before the upsampling."""
    upsample: Literal["deconvolution", "carafe"] = "deconvolution"
    """A 2x2 deconvolution and a ReLU; or CARAFE, whose weights depend on the features, without a ReLU."""
    pool_size: Annotated[int, Range(ge=1)] = 14
    """Height and width of the pooled features; masks are twice as large, 28 x 28."""
    finest_scale: Annotated[float, Range(gt=0)] = 56.0
    """RoIs of up to twice this side are pooled from P2, up to four times from P3, and so on."""
    normalized: NormalizedConfig | None = None
    """Normalize the predictor's features and weights, as in the published GOL models; None is a plain predictor."""


@renamed_fields(iou="positive_iou")
@dataclass(frozen=True)
class CascadeStageConfig(Settings, at="model.cascade.later_stages.N"):
    """Settings of a later stage of a cascade that differ from those of the first stage, ``ModelConfig.box``."""

    positive_iou: Annotated[float, Range(gt=0, lt=1)]
    """A RoI is positive if its IoU with an object is at least this; higher in later stages, whose boxes are better."""
    target_stds: Annotated[tuple[float, float, float, float], Range(gt=0)]
    """Divisors of the box deltas dx, dy, dw, dh; smaller in later stages, whose boxes are closer to the objects."""
    loss_weight: Annotated[float, Range(gt=0)]
    """Weight of the losses of the stage's box head and mask head; it is 1 in the first stage."""


PUBLISHED_LATER_STAGES = (
    CascadeStageConfig(positive_iou=0.6, target_stds=(0.05, 0.05, 0.1, 0.1), loss_weight=0.5),
    CascadeStageConfig(positive_iou=0.7, target_stds=(0.033, 0.033, 0.067, 0.067), loss_weight=0.25),
)


@dataclass(frozen=True)
class CascadeConfig(Settings, at="model.cascade"):
    """Cascade Mask R-CNN: several box heads, each of which refines the boxes of the one before, and as many mask heads.

    Raises:
        ValueError: there is no later stage.
    """

    later_stages: tuple[CascadeStageConfig, ...] = PUBLISHED_LATER_STAGES
    """Settings of the stages after the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_later_stages(self.later_stages)


@dataclass(frozen=True)
class HTCConfig(Settings, at="model.cascade"):
    """Hybrid Task Cascade without its semantic branch: each mask head also gets the features of the one before.

    Raises:
        ValueError: there is no later stage.
    """

    later_stages: tuple[CascadeStageConfig, ...] = PUBLISHED_LATER_STAGES
    """Settings of the stages after the first."""
    test_masks: Literal["mean", "last"] = "mean"
    """Mask probabilities: the mean of all stages, as published, or those of the last stage, as in mmdetection 3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_later_stages(self.later_stages)


@dataclass(frozen=True)
class PostprocessConfig(Settings, at="model.postprocess"):
    """The selection of the detections."""

    score_threshold: Annotated[float, Range(ge=0, le=1)] = 1e-4
    """Detections have scores above this."""
    nms_iou: Annotated[float, Range(ge=0, le=1)] = 0.5
    """NMS removes a detection whose IoU with a better one of its class is above this."""
    max_detections: Annotated[int, Range(ge=1)] = 300
    """Largest number of detections of an image."""
    mask_threshold: Annotated[float, Range(gt=0, lt=1)] = 0.5
    """A pixel belongs to a mask if its probability is at least this."""


@renamed_fields(test="postprocess")
@dataclass(frozen=True)
class ModelConfig(Settings, at="model"):
    """A two-stage detector.

    The defaults are Mask R-CNN. ``mask=None`` makes it Faster R-CNN, and ``cascade`` makes it Cascade Mask R-CNN or
    Hybrid Task Cascade. The published settings of the cascades differ in other parts too: start from
    `cascade_mask_rcnn` or `hybrid_task_cascade`.
    """

    backbone: AnyBackbone = field(default_factory=ResNetConfig)
    fpn: FPNConfig = field(default_factory=FPNConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask: MaskHeadConfig | None = field(default_factory=MaskHeadConfig)
    cascade: CascadeConfig | HTCConfig | None = None
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_build(self.backbone, "model.backbone", returns="a backbone")
        if is_dataclass(self.backbone):
            check_ranges(self.backbone, ("model.backbone",))  # your own need not be `Settings`

    @property
    def has_masks(self) -> bool:
        """Whether the detector learns and returns masks."""
        return self.mask is not None

    def build(self, loss: "ClassificationLoss", *, load_weights: bool = True) -> "Detector":
        """The detector that these settings describe; see `tailseg.models.build_detector`."""
        from tailseg.models.build import build_two_stage

        return build_two_stage(self, loss, load_weights=load_weights)


@runtime_checkable
class DetectorConfig(Protocol):
    """The settings of any detector: `ModelConfig`, or your own frozen dataclass with these two members."""

    @property
    def has_masks(self) -> bool:
        """Whether the detector learns and returns masks. If so, the training set must have a mask for every object."""
        ...

    def build(self, loss: "ClassificationLoss", *, load_weights: bool = True) -> "Detector":
        """The detector for the classes of ``loss``.

        Args:
            loss: the classification loss of the recipe; it says how many classes there are. A detector with a
                classification loss of its own need not use it.
            load_weights: load pretrained weights. False when the weights of a checkpoint are loaded afterwards.
        """
        ...


AnyDetector = ModelConfig | DetectorConfig
"""The settings of any detector, built-in or your own."""


def cascade_mask_rcnn() -> ModelConfig:
    """Cascade Mask R-CNN R50-FPN with the published settings."""
    return ModelConfig(
        rpn=RPNConfig(train_post_nms=2000, border=0.0, smooth_l1_beta=1 / 9),
        box=BoxHeadConfig(allow_low_quality_matches=False, class_agnostic=True, smooth_l1_beta=1.0),
        cascade=CascadeConfig(),
    )


def hybrid_task_cascade() -> ModelConfig:
    """Hybrid Task Cascade R50-FPN with the published settings: low-quality matching is on in its RoI stages."""
    cascade = cascade_mask_rcnn()
    return replace(cascade, box=replace(cascade.box, allow_low_quality_matches=True), cascade=HTCConfig())


def _check_later_stages(stages: tuple[CascadeStageConfig, ...]) -> None:
    if not stages:
        raise SettingError(
            "a cascade needs at least one stage after the first; with none it is Mask R-CNN: cascade None"
        )
