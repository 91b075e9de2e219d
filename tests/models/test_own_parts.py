"""Backbones and detectors of one's own, and what is said when something is missing or wrong."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailseg.losses import GumbelCE
from tailseg.models import (
    BACKBONES,
    BackboneConfig,
    Detector,
    ModelConfig,
    TimmConfig,
    backbone_named,
    build_detector,
    load_backbone,
)
from tailseg.models.images import get_normalization
from tailseg.structures import Detections, Target


class Strided(nn.Module):
    """Average pools of strides 4, 8, 16, 32; ``last`` is the stride of the last."""

    def __init__(self, out_channels: Any = (3, 3, 3, 3), last: int = 32, count: int = 4) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.strides = [4, 8, 16, last][:count]
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.scale * nn.functional.avg_pool2d(images, stride) for stride in self.strides]


@dataclass(frozen=True)
class StridedConfig(BackboneConfig):
    last: int = 32
    count: int = 4

    def build(self) -> nn.Module:
        return Strided(last=self.last, count=self.count)

    @property
    def normalization(self) -> Any:
        return (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def load_weights(self, backbone: nn.Module) -> None:
        backbone.load_state_dict({"scale": torch.full((1,), 7.0)})


@dataclass(frozen=True)
class PlainConfig:
    """Without tailseg's base class."""

    returns: Any = None

    def build(self) -> Any:
        return Strided() if self.returns is None else self.returns


@dataclass(frozen=True)
class NothingConfig:
    width: int = 3


@dataclass(frozen=True)
class UnfinishedConfig(BackboneConfig):
    pass


def losses(config: ModelConfig, make_image: Any, make_target: Any) -> dict[str, Tensor]:
    model = build_detector(config, GumbelCE(6))
    return model([make_image(64, 96)], [make_target((8.0, 8.0, 40.0, 40.0))])


def test_a_backbone_with_the_base_class_has_its_hooks_called(small_config, make_image, make_target) -> None:
    config = replace(small_config, backbone=StridedConfig())
    model = build_detector(config, GumbelCE(6))
    assert model.backbone.scale.item() == 7
    assert model.batcher.mean.flatten().tolist() == [127.5] * 3
    assert build_detector(config, GumbelCE(6), load_weights=False).backbone.scale.item() == 1
    assert all(value.isfinite() for value in losses(config, make_image, make_target).values())
    assert StridedConfig().short_name == "Strided"


def test_a_backbone_without_the_base_class_has_defaults(small_config, make_image, make_target) -> None:
    config = replace(small_config, backbone=PlainConfig())
    assert all(value.isfinite() for value in losses(config, make_image, make_target).values())
    assert get_normalization(PlainConfig())[0] == (123.675, 116.28, 103.53)


def test_settings_without_build_are_refused(small_config) -> None:
    with pytest.raises(ValueError, match="class NothingConfig, which has no method build"):
        ModelConfig(backbone=NothingConfig())  # ty: ignore
    with pytest.raises(ValueError, match=r"is the class PlainConfig: give an object of the class, PlainConfig\(\.\.\."):
        replace(small_config, backbone=PlainConfig)
    with pytest.raises(ValueError, match="UnfinishedConfig has no method build: write one"):
        build_detector(replace(small_config, backbone=UnfinishedConfig()), GumbelCE(6))


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        ("resnet", "returned a str: a backbone is an nn.Module"),
        (
            nn.Identity(),
            "the backbone Identity has out_channels None: a backbone is an nn.Module with the attribute out_channels",
        ),
        (Strided(out_channels=(3, 3)), r"the backbone Strided has out_channels \(3, 3\)"),
    ],
)
def test_what_is_no_backbone_is_refused_when_it_is_built(small_config, returns, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_detector(replace(small_config, backbone=PlainConfig(returns)), GumbelCE(6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"last": 16},
            r"the backbone Strided returned .*3, 4, 6\]\] for images \[1, 3, 64, 96\], expected .*\[1, 3, 2, 3\]\]",
        ),
        ({"count": 3}, "four feature maps of strides 4, 8, 16, 32"),
    ],
)
def test_maps_of_other_strides_are_refused_at_the_first_step(
    small_config, make_image, make_target, settings, message
) -> None:
    with pytest.raises(ValueError, match=message):
        losses(replace(small_config, backbone=StridedConfig(**settings)), make_image, make_target)


def test_a_normalization_for_pixels_in_0_to_255_is_refused(small_config) -> None:
    @dataclass(frozen=True)
    class Wrong(StridedConfig):
        @property
        def normalization(self) -> Any:
            return (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    with pytest.raises(ValueError, match=r"normalization of Wrong is three means in \[0, 1\]"):
        build_detector(replace(small_config, backbone=Wrong()), GumbelCE(6))


def test_only_built_in_backbones_have_named_weights() -> None:
    with pytest.raises(ValueError, match="got a Strided: load the weights of your own in the method load_weights"):
        load_backbone(Strided(), "imagenet")


def test_backbones_have_names() -> None:
    assert {name: config.short_name for name, config in BACKBONES.items()} == {
        "resnet18": "R18",
        "resnet50": "R50",
        "resnet101": "R101",
        "resnext50_32x4d": "X50-32x4d",
        "resnext101_32x8d": "X101-32x8d",
        "resnext101_64x4d": "X101-64x4d",
        "swin_t": "Swin-T",
        "swin_s": "Swin-S",
        "swin_b": "Swin-B",
        "efficientnet_lite0": "tf_efficientnet_lite0.in1k",
        "convnext_tiny_dinov3": "convnext_tiny.dinov3_lvd1689m",
        "convnext_small_dinov3": "convnext_small.dinov3_lvd1689m",
        "tiny": "R18",
    }
    assert backbone_named("resnet50") == BACKBONES["resnet50"]
    assert backbone_named("timm:convnext_tiny.in12k") == TimmConfig(name="convnext_tiny.in12k")
    with pytest.raises(ValueError, match=r"called 'resnet5'\. Did you mean resnet50.*timm:NAME"):
        backbone_named("resnet5")
    with pytest.raises(ValueError, match=r"called 'vit'\. There are resnet18, resnet50"):
        backbone_named("vit")


class OneBox(Detector):
    """The same box in every image."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(1))

    def forward(self, images: Any, targets: Any = None, original_sizes: Any = None) -> Any:
        if targets is not None:
            return {"loss": self.score.square().sum()}
        sizes = original_sizes or [image.shape[1:] for image in images]
        one = torch.ones(1)
        return [Detections(torch.ones(1, 4), one, one.long(), None, height, width) for height, width in sizes]


@dataclass(frozen=True)
class OneBoxConfig:
    has_masks: bool = False
    returns: Any = None

    def build(self, loss: Any, *, load_weights: bool = True) -> Any:
        return self.returns or OneBox()


def test_a_detector_of_ones_own(make_image) -> None:
    model = build_detector(OneBoxConfig(), GumbelCE(6))
    assert (model.has_masks, model.num_classes) == (False, 6)
    assert model([make_image(8, 8)], [])["loss"].requires_grad
    with pytest.raises(ValueError, match=r"OneBox does not say which rows of score belong to which class: override"):
        model.rows_per_class("score")


def test_what_is_no_detector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"OneBoxConfig\.build\(\) returned an object of type Linear, expected"):
        build_detector(OneBoxConfig(returns=nn.Linear(1, 1)), GumbelCE(6))


@dataclass(frozen=True)
class OwnModelConfig(ModelConfig):
    def build(self, loss: Any, *, load_weights: bool = True) -> Any:
        return OneBox()


def test_a_model_config_with_another_build(small_config) -> None:
    settings = OwnModelConfig(**{name: getattr(small_config, name) for name in ("backbone", "fpn", "mask")})
    assert isinstance(build_detector(settings, GumbelCE(6)), OneBox)


# Targets as torchvision has them.


def in_torchvisions_way(target: Target, height: int, width: int) -> dict[str, Tensor]:
    masks = torch.zeros(len(target), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, target.boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return {"boxes": target.boxes, "labels": target.labels, "masks": masks, "image_id": torch.tensor(3)}


def test_targets_are_taken_as_torchvision_has_them(small_config, build, make_image, make_target) -> None:
    model = build(small_config)
    target = make_target((8.0, 8.0, 40.0, 40.0), (20.0, 4.0, 60.0, 30.0))
    images = [make_image(64, 96)]
    values = []
    for given in (target, in_torchvisions_way(target, 64, 96)):
        torch.manual_seed(1)
        values.append(model(images, [given]))
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-4)


def test_crowds_are_ignored_and_empty_images_taken() -> None:
    target = {"boxes": torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6]]), "labels": torch.tensor([0, 1])}
    crowd = Target.from_torchvision({**target, "iscrowd": torch.tensor([0, 1])}, num_classes=2)
    assert crowd.labels.tolist() == [0]
    assert crowd.ignore_boxes.tolist() == [[2, 2, 6, 6]]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "masks": torch.zeros(0, 8, 8).bool()}
    assert len(Target.from_torchvision(empty, num_classes=2)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([6, 1])}, r"labels must be 0 \.\. 5 for 6 classes.* got 1 \.\. 6: subtract 1"),
        ({"labels": torch.tensor([-1, 1])}, r"got -1 \.\. 1"),
        ({"labels": torch.tensor([1])}, r"2 boxes needs labels \[2\], got \[1\]"),
        ({"boxes": torch.tensor([[8.0, 8, 4, 4], [1, 1, 2, 2]])}, "x1, y1, x2, y2 with x1 <= x2.*convert x, y, width"),
        ({"masks": torch.zeros(2, 64, 96)}, r"masks must be bool or uint8 \[2, height, width\], got torch.float32"),
        ({"masks": torch.zeros(2, 32, 32).bool()}, r"must have the size of their image, \(64, 96\), got \(32, 32\)"),
        ({"masks": None}, "a target has no masks, and the detector learns masks"),
        ({"boxes": None}, r"needs boxes and labels, boxes missing: it has labels, masks"),
    ],
)
def test_targets_that_cannot_be(small_config, build, make_image, make_target, change, message) -> None:
    target = in_torchvisions_way(make_target((8.0, 8.0, 40.0, 40.0), (20.0, 4.0, 60.0, 30.0)), 64, 96) | change
    with pytest.raises(ValueError, match=message):
        build(small_config)([make_image(64, 96)], [{k: v for k, v in target.items() if v is not None}])
