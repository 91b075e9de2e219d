"""Networks of timm: the maps a pyramid needs, and what is said of networks that cannot give them."""

import sys
from dataclasses import replace

import pytest
import torch

from tailseg.models import Detector, TimmConfig, load_backbone
from tailseg.models import timm_backbone as module
from tailseg.models.timm_backbone import TimmBackbone

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("mobilenetv3_small_050", (8, 16, 24, 288)),
        ("convnext_atto.d2_in1k", (40, 80, 160, 320)),
    ],
)
def test_maps_of_four_strides(name: str, channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = TimmBackbone(TimmConfig(name=name, weights="none"))
    maps = network(torch.randn(2, 3, 64, 96))
    assert network.out_channels == channels
    assert [tuple(m.shape) for m in maps] == [(2, c, 16 >> s, 24 >> s) for s, c in enumerate(channels)]
    sum(m.square().mean() for m in maps).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key


def test_maps_with_channels_last_are_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    class Turned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = timm.create_model("resnet18", features_only=True)

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [m.permute(0, 2, 3, 1) for m in self.network(images)]

    monkeypatch.setattr(module, "create", lambda *_, **__: Turned())
    network = TimmBackbone(TimmConfig(name="resnet18", weights="none"))
    assert network.out_channels == (64, 128, 256, 512)
    assert [tuple(m.shape) for m in network(torch.zeros(1, 3, 64, 64))][3] == (1, 512, 2, 2)


@pytest.mark.parametrize("fixed", [True, False])
def test_fixed_norms_keep_their_statistics(fixed: bool) -> None:
    network = TimmBackbone(TimmConfig(name="resnet18", weights="none", fixed_norm=fixed)).train()
    before = network.network.bn1.running_mean.clone()
    network(torch.randn(2, 3, 64, 64))
    assert torch.equal(before, network.network.bn1.running_mean) == fixed
    assert network.training


def test_a_detector_on_a_network_of_timm(small_config, build, make_image, make_target) -> None:
    config = replace(small_config, backbone=TimmConfig(name="mobilenetv3_small_050", weights="none"))
    model: Detector = build(config)
    losses = model([make_image(64, 64)], [make_target((5.0, 5.0, 45.0, 40.0))])
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm's, which is not installed: pip install 'tailseg\[timm\]'"):
        TimmBackbone(TimmConfig(name="resnet18", weights="none"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18_of_no_one", r"has no network 'resnet18_of_no_one'; near it: .*resnet"),
        ("vit_tiny_patch16_224", "has not the maps of strides 4, 8, 16 and 32 .* but those of 16"),
        ("mvitv2_tiny", "does not take an image of 256 x 320.*set model.backbone.image_side"),
        ("efficientformer_l1", "does not take an image of 256 x 320.*needs a network for images of any size"),
    ],
)
def test_networks_that_cannot_serve_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(TimmConfig(name=name, weights="none"))


def test_a_network_without_the_four_strides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "create", lambda *_, **__: timm.create_model("resnet18", features_only=True, out_indices=(1, 2))
    )
    with pytest.raises(ValueError, match=r"has not the maps of strides 4, 8, 16 and 32"):
        TimmBackbone(TimmConfig(name="resnet18", weights="none"))


def test_pretrained_weights_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The download alone is left out: what timm returns is loaded."""
    torch.manual_seed(1)
    source = timm.create_model("resnet18", features_only=True)
    backbone = TimmBackbone(TimmConfig(name="resnet18"))
    monkeypatch.setattr("tailseg.models.timm_weights.create", lambda *_, **__: source)
    load_backbone(backbone, "pretrained")
    for ours, theirs in zip(backbone.network.state_dict().values(), source.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_that_do_not_come_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = TimmBackbone(TimmConfig(name="resnet18"))
    with pytest.raises(ValueError, match="'pretrained', 'none' or the path of a file, got 'imagenet'"):
        load_backbone(backbone, "imagenet")

    def no_network(*_: object, **__: object) -> torch.nn.Module:
        raise ConnectionError("no route")

    monkeypatch.setattr("tailseg.models.timm_weights.create", no_network)
    with pytest.raises(ValueError, match=r"weights of resnet18 \(no route\)"):
        load_backbone(backbone, "pretrained")
