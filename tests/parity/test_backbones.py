"""The backbones against mmdetection's on the same weights and images (docs/parity.md)."""

import pytest
import torch

from tailseg.interop.mmdet_weights import to_mmdet
from tailseg.models.swin import compute_relative_positions

from .assertions import TRIMMED, assert_close_to_scale, assert_gradients_equal, files, place
from .golden import GoldenBackbone, load_golden_backbone, outputs


@pytest.fixture(scope="module", params=files("d_resnext", "d_swin"))
def golden(request: pytest.FixtureRequest) -> GoldenBackbone:
    return load_golden_backbone(*place(request))


@torch.no_grad()
def test_maps_equal(golden: GoldenBackbone) -> None:
    maps = golden.backbone.eval()(golden.tensors["input.image"].float())
    for stage, expected in outputs(golden.tensors).items():
        assert_close_to_scale(maps[stage], expected)


def test_gradients_equal(golden: GoldenBackbone) -> None:
    """Of the sum of the maps' mean squares; the merging layers' in mmdetection's order."""
    if not golden.gradient_names:
        pytest.skip("the trimmed files of backbones have no gradients")
    golden.backbone.train().zero_grad()
    loss = sum(m.square().mean() for m in golden.backbone(golden.tensors["input.image"].float()))
    torch.testing.assert_close(loss, golden.tensors["train.loss_total"][0], rtol=1e-4, atol=0)
    loss.backward()
    gradients = to_mmdet({f"backbone.{name}": p.grad for name, p in golden.backbone.named_parameters()}).state
    ours = {name: gradients.pop(f"backbone.{name}") for name in golden.gradient_names}
    assert all(name.endswith("relative_position_index") for name in gradients)
    assert_gradients_equal(golden.tensors, golden.gradient_names, ours)


def test_relative_positions_equal() -> None:
    tensors = load_golden_backbone(TRIMMED, "d_swin").tensors
    for name, value in tensors.items():
        if name.endswith("relative_position_index"):
            assert torch.equal(value, compute_relative_positions(4))
