"""Networks of timm: the maps a pyramid needs, and what is said of networks that cannot give them."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tailseg.losses import GumbelCE
from tailseg.models import Detector, ResNetConfig, TimmConfig, build_detector, load_backbone
from tailseg.models import timm_backbone as module
from tailseg.models.images import ImageBatcher, get_normalization
from tailseg.models.optimizers import parameters_without_decay
from tailseg.models.timm_backbone import TimmBackbone
from tailseg.models.timm_weights import with_own_normalization

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
    where = (
        r"weights of resnet18 \(no route\)\. Download model.safetensors from https://huggingface.co/timm/resnet18\..*"
    )
    with pytest.raises(ValueError, match=where + "name it: --model.backbone.weights model.safetensors"):
        load_backbone(backbone, "pretrained")


def test_swin_takes_images_of_any_size() -> None:
    """timm's own classifier takes 224 x 224 alone; its maps have the channels last."""
    network = TimmBackbone(TimmConfig(name="swin_tiny_patch4_window7_224", weights="none")).eval()
    maps = network(torch.zeros(1, 3, 256, 320))
    assert [tuple(m.shape[1:]) for m in maps] == [(96, 64, 80), (192, 32, 40), (384, 16, 20), (768, 8, 10)]
    theirs = network.network(torch.zeros(1, 3, 256, 320))
    assert all(torch.equal(ours, m.permute(0, 3, 1, 2)) for ours, m in zip(maps, theirs, strict=True))


def test_a_network_for_one_size_pads_all_images_to_it() -> None:
    with pytest.raises(ValueError, match=r"does not take an image of 256 x 320 .*set model.backbone.image_side"):
        TimmBackbone(TimmConfig(name="hiera_tiny_224", weights="none"))
    network = TimmBackbone(TimmConfig(name="hiera_tiny_224", weights="none", image_side=128)).eval()
    image = torch.randn(1, 3, 96, 64)
    maps = network(image)
    assert [tuple(m.shape[1:]) for m in maps] == [(96, 24, 16), (192, 12, 8), (384, 6, 4), (768, 3, 2)]
    padded = torch.zeros(1, 3, 128, 128)
    padded[:, :, :96, :64] = image
    assert all(torch.equal(m, w[:, :, : m.shape[2], : m.shape[3]]) for m, w in zip(maps, network(padded), strict=True))
    with pytest.raises(ValueError, match=r"images of 160 x 64 .*image_side 128: raise that, or lower"):
        network(torch.zeros(1, 3, 160, 64))


def test_a_network_for_any_size_has_no_use_for_one() -> None:
    with pytest.raises(ValueError, match=r"image_side is for networks that take images of one size"):
        TimmBackbone(TimmConfig(name="resnet18", weights="none", image_side=128))


@pytest.mark.parametrize(
    ("name", "frozen", "trained"),
    [
        ("resnet18", ("conv1.", "bn1.", "layer1.", "layer2."), ("layer3.", "layer4.")),
        ("mobilenetv3_small_050", ("conv_stem.", "bn1.", "blocks.0.", "blocks.1."), ("blocks.2.", "blocks.5.")),
        ("convnext_atto", ("stem_", "stages_0.", "stages_1."), ("stages_2.", "stages_3.")),
    ],
)
def test_frozen_stages_take_no_gradient_and_keep_their_statistics(name: str, frozen: tuple, trained: tuple) -> None:
    network = TimmBackbone(TimmConfig(name=name, weights="none", frozen_stages=2, fixed_norm=False)).train()
    parameters = dict(network.network.named_parameters())
    assert {key for key, p in parameters.items() if not p.requires_grad} == {
        k for k in parameters if k.startswith(frozen)
    }
    assert any(key.startswith(trained) for key in parameters)
    before = {key: value.clone() for key, value in network.network.named_buffers() if "running" in key}
    maps = network(torch.randn(2, 3, 64, 64))
    assert not maps[1].requires_grad
    sum(m.square().mean() for m in maps).backward()
    assert all((p.grad is not None) == p.requires_grad for p in parameters.values())
    for key, value in network.network.named_buffers():
        if key in before:
            assert torch.equal(value, before[key]) == key.startswith(frozen), key
    # nothing is drawn in a frozen stage: the same image gives the same map
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(network(image)[1], network(image)[1])


def test_a_network_of_which_nothing_is_trained_is_in_evaluation_mode() -> None:
    """All stages frozen, or the gradients taken away, as `for_inference` does."""
    for frozen_stages in (4, 0):
        backbone = TimmBackbone(TimmConfig(name="mobilenetv3_small_050", weights="none", frozen_stages=frozen_stages))
        backbone.requires_grad_(False).train()
        assert not any(module.training for module in backbone.network.modules())
        assert not backbone.eval().training


def test_stages_that_there_are_not() -> None:
    with pytest.raises(ValueError, match=r"model\.backbone\.frozen_stages is in \[0, 4\], got 5"):
        TimmConfig(frozen_stages=5)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_as_timm_writes_it(name: str, suffix: str, tmp_path: Path) -> None:
    """Of a classifier of 7 classes, which is passed over; the maps are those of timm's network."""
    torch.manual_seed(2)
    whole = timm.create_model(name, num_classes=7)
    for norm in whole.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
    file = tmp_path / f"weights{suffix}"
    torch.save(whole.state_dict(), file) if suffix == ".pth" else save_file(whole.state_dict(), file)
    backbone = TimmBackbone(TimmConfig(name=name, weights=str(file)))
    load_backbone(backbone, str(file))
    found = backbone.network.state_dict()
    for key, value in whole.state_dict().items():
        ours = found.get(key, found.get(key.replace(".", "_", 1)))
        assert ours is None or torch.equal(ours, value)
    images = torch.randn(1, 3, 64, 64)
    level = whole.eval().forward_intermediates(images, intermediates_only=True)[-1]
    assert torch.equal(backbone.eval()(images)[3], level)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "layer2.0.conv1.weight"}, r"missing: layer2.0.conv1.weight$"),
        (lambda s: {**s, "encoder.weight": torch.zeros(1)}, r"unexpected: encoder.weight$"),
        (
            lambda s: {**s, "conv1.weight": s["conv1.weight"][:, :1]},
            r"of another shape: conv1.weight is \[64, 1, 7, 7\], expected \[64, 3, 7, 7\]$",
        ),
    ],
)
def test_a_file_that_does_not_fit_says_what_does_not(change, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(change(timm.create_model("resnet18").state_dict()), file)
    with pytest.raises(ValueError, match=rf"weights.pth does not fit timm's resnet18: {message}"):
        load_backbone(TimmBackbone(TimmConfig(name="resnet18", weights=str(file))), str(file))


def test_weights_for_another_size_are_resampled(tmp_path: Path) -> None:
    """A table of positions of 224 x 224 becomes one of 128 x 128, as timm does it."""
    file = tmp_path / "weights.pth"
    whole = timm.create_model("hiera_tiny_224")
    with torch.no_grad():
        whole.pos_embed.fill_(3.0)
    torch.save(whole.state_dict(), file)
    backbone = TimmBackbone(TimmConfig(name="hiera_tiny_224", weights=str(file), image_side=128))
    load_backbone(backbone, str(file))
    table = backbone.network.model.pos_embed
    assert table.shape == (1, 32 * 32, 96)
    torch.testing.assert_close(table.detach(), torch.full_like(table, 3.0))


def test_images_are_normalized_as_they_were_for_the_weights() -> None:
    half = (0.5, 0.5, 0.5)
    own = with_own_normalization(TimmConfig(name="tf_efficientnet_lite0"))
    assert (own.mean, own.std) == (half, half)
    assert with_own_normalization(replace(own, weights="lite0.pth", mean=None, std=None)) == replace(
        own, weights="lite0.pth"
    )
    chosen = TimmConfig(name="tf_efficientnet_lite0", mean=(0.1, 0.2, 0.3), std=half)
    none = TimmConfig(name="tf_efficientnet_lite0", weights="none")
    for unchanged in (chosen, none, ResNetConfig()):
        assert unchanged.with_normalization_of_weights() == unchanged
    imagenet = with_own_normalization(TimmConfig(name="resnet18"))
    assert imagenet.mean == (0.485, 0.456, 0.406)
    published = ImageBatcher()
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    for config in (imagenet, none, ResNetConfig()):
        assert torch.equal(ImageBatcher(*get_normalization(config))([image]).tensors, published([image]).tensors)
    found = ImageBatcher(*get_normalization(own))([image]).tensors[0]
    torch.testing.assert_close(found, image / 127.5 - 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std go together"),
        ({"mean": (124.0, 116.0, 104.0), "std": (58.0, 57.0, 57.0)}, r"mean is .*got \(124.0"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.0, 0.5, 0.5)}, r"std is .*in \(0, 1\]"),
        ({"image_side": 100}, "multiple of 32"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmConfig(**settings)


def test_a_detector_with_weights_has_their_normalization(small_config, tmp_path: Path) -> None:
    file = tmp_path / "lite0.pth"
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), file)
    config = replace(small_config, backbone=TimmConfig(name="tf_efficientnet_lite0", weights=str(file)))
    model = build_detector(config, GumbelCE(3), load_weights=True)
    assert model.config.backbone.mean == (0.5, 0.5, 0.5)
    assert model.batcher.mean.flatten().tolist() == [127.5] * 3
    saved = build_detector(
        config, GumbelCE(3), load_weights=False
    )  # of a run of a version before, which says nothing of it
    assert torch.equal(saved.batcher.mean, ImageBatcher().mean)


@pytest.mark.parametrize(
    ("name", "spared", "count"),
    [
        ("hieradet_small", "network.model.pos_embed", 2),
        ("swin_tiny_patch4_window7_224", "network.layers_3.blocks.1.attn.relative_position_bias_table", 12),
        ("tiny_vit_5m_224", "network.stages_1.blocks.0.attn.attention_biases", 10),
        ("resnet18", None, 0),
    ],
)
def test_what_timm_spares_weight_decay(name: str, spared: str | None, count: int) -> None:
    with torch.device("meta"):
        network = TimmBackbone(TimmConfig(name=name, weights="none"))
    names = network.no_weight_decay()
    assert len(names) == count
    assert spared is None or spared in names
    parameters = dict(network.named_parameters())
    assert {id(parameters[key]) for key in names} <= parameters_without_decay(network).keys()
    without = parameters_without_decay(network)
    assert id(next(p for key, p in parameters.items() if key.endswith("weight") and p.ndim > 1)) not in without
