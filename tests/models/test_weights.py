"""Backbone weights: every source, and what is said when they do not come or do not fit."""

from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models import WeightsEnum

from tailseg.models import GroupedConfig, ResNetConfig, SwinConfig, load_backbone
from tailseg.models.resnet import ResNet
from tailseg.models.swin import Swin
from tailseg.models.weights import _load, _torchvision_name

SMALL = ResNetConfig(depth=18, base_width=8, weights="none")


def random_backbone(seed: int, config: ResNetConfig = SMALL) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(config)


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_none_changes_nothing() -> None:
    backbone = random_backbone(0)
    load_backbone(backbone, "none")
    assert_equal(backbone, random_backbone(0))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_is_loaded_without_its_classifier(tmp_path: Path, suffix: str) -> None:
    source, path = random_backbone(1), tmp_path / f"weights{suffix}"
    state = source.state_dict() | {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    backbone = random_backbone(0)
    load_backbone(backbone, str(path))
    assert_equal(backbone, source)


def test_files_without_batch_counts_are_taken(tmp_path: Path) -> None:
    """Old torchvision files and stripped ones have no num_batches_tracked."""
    state = {k: v for k, v in random_backbone(1).state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    backbone = random_backbone(0)
    load_backbone(backbone, str(tmp_path / "old.pth"))
    assert_equal(backbone, random_backbone(1))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*nothing\.pth; use imagenet, tiny, none"):
        load_backbone(random_backbone(0), str(tmp_path / "nothing.pth"))


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x50\x4b\x03\x04 cut off")
    with pytest.raises(ValueError, match=name):
        load_backbone(random_backbone(0), str(path))


def test_a_file_that_is_no_state_dict_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth is not a state dict"):
        load_backbone(random_backbone(0), str(tmp_path / "other.pth"))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """weights_only: a pickle that would call a function is refused."""
    torch.save(Path("anything"), tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code\.pth cannot be read"):
        load_backbone(random_backbone(0), str(tmp_path / "code.pth"))


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    state = random_backbone(1, replace(SMALL, base_width=4)).state_dict()
    del state["conv1.weight"]
    torch.save(state | {"head.weight": torch.zeros(1)}, tmp_path / "other.pth")
    backbone = random_backbone(0)
    with pytest.raises(ValueError, match=r"missing: conv1.weight; unexpected: head.weight; of another shape: bn1") as e:
        load_backbone(backbone, str(tmp_path / "other.pth"))
    assert "base_width 8" in str(e.value)
    assert_equal(backbone, random_backbone(0))


def test_imagenet_weights_exist_at_full_width_only() -> None:
    with pytest.raises(ValueError, match=r"base_width 64, the backbone has 8"):
        load_backbone(random_backbone(0), "imagenet")


def test_an_impossible_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: object, **__: object) -> dict[str, torch.Tensor]:
        raise URLError("no route")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    backbone = ResNet(ResNetConfig(depth=18, weights="imagenet"))
    with pytest.raises(ValueError, match="could not be downloaded") as e:
        load_backbone(backbone, "imagenet")
    for part in ("resnet18-", "no route", str(tmp_path), "'none'", "tiny recipes"):
        assert part in str(e.value)


def test_tiny_weights_need_the_tiny_network() -> None:
    with pytest.raises(
        ValueError, match="is a ResNet-18 of base_width 32, the config asks for a ResNet-18 of base_width 8"
    ):
        load_backbone(random_backbone(0), "tiny")


def test_tiny_weights_are_carried() -> None:
    backbone = ResNet(ResNetConfig(depth=18, base_width=32, weights="tiny"))
    before = backbone.conv1.weight.clone()
    load_backbone(backbone, "tiny")
    assert not torch.equal(before, backbone.conv1.weight)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (ResNetConfig(depth=101), "resnet101"),
        (ResNetConfig(depth=101, grouped=GroupedConfig(64, 4)), "resnext101_64x4d"),
        (ResNetConfig(depth=101, grouped=GroupedConfig(32, 8)), "resnext101_32x8d"),
        (SwinConfig(), "swin_t"),
        (SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)), "swin_b"),
    ],
)
def test_the_network_whose_imagenet_weights_fit(config: ResNetConfig | SwinConfig, name: str) -> None:
    """The very weights are loaded: torchvision's names and shapes, without its classifier."""
    with torch.device("meta"):
        backbone = Swin(config) if isinstance(config, SwinConfig) else ResNet(config)
        assert _torchvision_name(backbone) == name
        theirs = torchvision.models.get_model(name).state_dict()
        _load(backbone, theirs, "torchvision")


def test_torchvision_lacks_resnext_101_32x4d() -> None:
    with torch.device("meta"):
        backbone = ResNet(ResNetConfig(depth=101, grouped=GroupedConfig(32, 4)))
    with pytest.raises(ValueError, match=r"not for a ResNeXt-101 32x4d of base_width 64; .*a file's path"):
        load_backbone(backbone, "imagenet")


TINY_SWIN = SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window=2, weights="none")


def test_swin_weights_of_a_classifier(tmp_path: Path) -> None:
    """The norms on the maps start again; a backbone's own file has them."""
    torch.manual_seed(1)
    source = Swin(TINY_SWIN)
    state = source.state_dict() | {"norm.weight": torch.zeros(64), "head.bias": torch.zeros(10)}
    state["features.1.0.attn.relative_position_index"] = torch.zeros(16).long()
    without = {name: value for name, value in state.items() if not name.startswith("norms.")}
    torch.save(without, tmp_path / "classifier.pth")
    torch.manual_seed(0)
    backbone = Swin(TINY_SWIN)
    load_backbone(backbone, str(tmp_path / "classifier.pth"))
    assert_equal(backbone, source)
    state["norms.0.weight"] = torch.full((8,), 2.0)
    torch.save(state, tmp_path / "backbone.pth")
    load_backbone(backbone, str(tmp_path / "backbone.pth"))
    assert (backbone.norms[0].weight == 2).all()


def test_weights_of_another_network_are_refused_for_swin(tmp_path: Path) -> None:
    torch.save(random_backbone(0).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"does not fit a Swin Transformer of embed_dim 8.*missing: features"):
        load_backbone(Swin(TINY_SWIN), str(tmp_path / "resnet.pth"))
    with pytest.raises(ValueError, match=r"exist for Swin-T, -S and -B"):
        load_backbone(Swin(TINY_SWIN), "imagenet")
    with pytest.raises(ValueError, match=r"asks for a Swin Transformer"):
        load_backbone(Swin(TINY_SWIN), "tiny")
