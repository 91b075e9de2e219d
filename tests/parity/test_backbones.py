"""The backbones against mmdetection's on the same weights and images (shared/golden, see its FORMAT.md)."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tailseg.models import GroupedConfig, ResNetConfig, SwinConfig
from tailseg.models.backbones import build_backbone
from tailseg.models.swin import relative_positions

from .golden import assert_close_to_scale, assert_gradients_equal

CONFIGS = {
    "d_resnext": ResNetConfig(depth=50, base_width=8, grouped=GroupedConfig(groups=4, width=4), frozen_stages=0),
    "d_swin": SwinConfig(embed_dim=16, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=4, drop_path=0.0),
}
SWIN_NAMES = (
    (r"^patch_embed\.projection\.", "features.0.0."),
    (r"^patch_embed\.norm\.", "features.0.2."),
    (r"^norm(\d)\.", r"norms.\1."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.0."),
    (r"\.ffn\.layers\.1\.", ".mlp.3."),
    (r"^stages\.(\d)\.blocks\.", lambda match: f"features.{2 * int(match[1]) + 1}."),
    (r"^stages\.(\d)\.downsample\.", lambda match: f"features.{2 * int(match[1]) + 2}."),
)


def our_name(name: str) -> str:
    """ResNeXt's names are the same."""
    for theirs, ours in SWIN_NAMES:
        name = re.sub(theirs, ours, name)
    return name


def merging(name: str) -> bool:
    return bool(re.search(r"downsample\.(norm|reduction)\.", name))


def reordered(value: Tensor) -> Tensor:
    """Patch merging's channels, mmdetection's ``c * 4 + ky * 2 + kx``, in torchvision's order ``(kx, ky, c)``."""
    return value.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)


class Golden:
    def __init__(self, shared: Path, name: str) -> None:
        self.tensors = load_file(shared / "golden" / f"{name}.safetensors")
        self.names: list[str] = json.loads((shared / "golden" / f"{name}.json").read_text())["grad_names"]
        self.network: nn.Module = build_backbone(CONFIGS[name])
        self.state = {k.removeprefix("state."): v for k, v in self.tensors.items() if k.startswith("state.")}
        state = {our_name(k): reordered(v) if merging(k) else v for k, v in self.state.items()}
        self.network.load_state_dict({k: v for k, v in state.items() if "relative_position_index" not in k})


@pytest.fixture(scope="module", params=list(CONFIGS))
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return Golden(shared, request.param)


@torch.no_grad()
def test_maps_equal(golden: Golden) -> None:
    maps = golden.network.eval()(golden.tensors["input.image"].float())
    for stage, feature in enumerate(maps):
        assert_close_to_scale(feature, golden.tensors[f"test.out.{stage}"])


def test_gradients_equal(golden: Golden) -> None:
    """Of the sum of the maps' mean squares; the merging layers' in mmdetection's order."""
    golden.network.train().zero_grad()
    loss = sum(m.square().mean() for m in golden.network(golden.tensors["input.image"].float()))
    torch.testing.assert_close(loss, golden.tensors["train.loss_total"][0], rtol=1e-4, atol=0)
    loss.backward()
    for name, parameter in golden.network.named_parameters():
        if name in {our_name(theirs) for theirs in golden.names if merging(theirs)}:
            # the values that the file picked lie at its own places
            parameter.grad = parameter.grad.unflatten(-1, (2, 2, -1)).transpose(-3, -1).flatten(-3)
    assert_gradients_equal(golden.tensors, [our_name(name) for name in golden.names], golden.network)


def test_relative_positions_equal(shared: Path) -> None:
    golden = Golden(shared, "d_swin")
    for name, value in golden.state.items():
        if name.endswith("relative_position_index"):
            assert torch.equal(value, relative_positions(4))
