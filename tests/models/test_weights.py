"""Backbone weights: every source, and what is said when they do not come or do not fit."""

from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import WeightsEnum

from tailseg.models import ResNetConfig, load_backbone
from tailseg.models.resnet import ResNet

SMALL = ResNetConfig(depth=18, base_width=8, weights="none")


def random_backbone(seed: int, config: ResNetConfig = SMALL) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(config)


def assert_equal(a: ResNet, b: ResNet) -> None:
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
