"""The backbones against mmdetection's on the same weights and images (shared/golden, see its FORMAT.md)."""

from pathlib import Path

import pytest
import torch

from tailseg.interop.golden import GoldenBackbone, load_golden_backbone
from tailseg.interop.mmdet import to_mmdet
from tailseg.models.swin import relative_positions

from .golden import assert_close_to_scale, assert_gradients_equal


@pytest.fixture(scope="module", params=["d_resnext", "d_swin"])
def golden(request: pytest.FixtureRequest, shared: Path) -> GoldenBackbone:
    return load_golden_backbone(shared / "golden", request.param)


@torch.no_grad()
def test_maps_equal(golden: GoldenBackbone) -> None:
    maps = golden.backbone.eval()(golden.tensors["input.image"].float())
    for stage, feature in enumerate(maps):
        assert_close_to_scale(feature, golden.tensors[f"test.out.{stage}"])


def test_gradients_equal(golden: GoldenBackbone) -> None:
    """Of the sum of the maps' mean squares; the merging layers' in mmdetection's order."""
    golden.backbone.train().zero_grad()
    loss = sum(m.square().mean() for m in golden.backbone(golden.tensors["input.image"].float()))
    torch.testing.assert_close(loss, golden.tensors["train.loss_total"][0], rtol=1e-4, atol=0)
    loss.backward()
    gradients = to_mmdet({f"backbone.{name}": p.grad for name, p in golden.backbone.named_parameters()}).state
    ours = {name: gradients.pop(f"backbone.{name}") for name in golden.gradient_names}
    assert all(name.endswith("relative_position_index") for name in gradients)
    assert_gradients_equal(golden.tensors, golden.gradient_names, ours)


def test_relative_positions_equal(shared: Path) -> None:
    tensors = load_golden_backbone(shared / "golden", "d_swin").tensors
    for name, value in tensors.items():
        if name.endswith("relative_position_index"):
            assert torch.equal(value, relative_positions(4))
