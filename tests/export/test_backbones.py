"""Layers that pad by the size of the image: their form for exporters computes the same, for images of any size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tailseg.export import runner
from tailseg.export.backbones import pad_same, writable_backbones
from tailseg.export.trace import quiet, trace
from tailseg.models.config import SwinConfig, TimmConfig
from tailseg.models.swin import WindowAttention
from tailseg.recipes.tiny import small_mask_rcnn

from .conftest import SIZES as SIZES_OF_BATCHES

SIZES = [(32, 32), (64, 96), (224, 448)]
"""Smaller than the windows; with padding; maps that are whole windows."""


def make_swin() -> nn.Module:
    return SwinConfig(embed_dim=8, depths=(2, 2, 1, 1), heads=(1, 2, 2, 2), weights="none").build()


def make_attention() -> nn.Module:
    """One shifted attention of Swin, at the stride 4."""
    patches = nn.Conv2d(3, 8, 4, stride=4)
    attention = WindowAttention(8, [7, 7], [3, 3], 2, attention_dropout=0, dropout=0)
    return nn.Sequential(patches, Permute(0, 2, 3, 1), attention)


class Permute(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


def make_timm_swin() -> nn.Module:
    swin = pytest.importorskip("timm.models.swin_transformer")
    settings = {"embed_dim": 8, "depths": (2,), "num_heads": (2,), "num_classes": 0, "global_pool": ""}
    return swin.SwinTransformer(img_size=(128, 160), strict_img_size=False, **settings)


def make_same() -> nn.Module:
    layers = pytest.importorskip("timm.layers")
    return nn.Sequential(
        layers.create_conv2d(3, 4, 3, stride=2, padding="same"),
        layers.create_conv2d(4, 4, 5, stride=2, padding="same", depthwise=True),
        layers.create_pool2d("max", 3, 2, padding="same"),
        layers.StdConv2dSame(4, 4, 3, stride=2),
        layers.create_pool2d("avg", 2, 2, padding="same"),
    )


NETWORKS = {"swin": make_swin, "attention": make_attention, "timm_swin": make_timm_swin, "same": make_same}


def list_maps(output: Tensor | list[Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else output


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_values_are_equal(network: nn.Module, size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    expected = list_maps(network(images))
    with writable_backbones():
        found = list_maps(network(images))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["attention", "timm_swin", "same"])
@torch.no_grad()
def test_one_program_for_all_sizes(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
    shapes = ({2: 32 * rows, 3: 32 * columns},)
    with quiet(), writable_backbones():
        program = torch.export.export(
            network,
            (torch.randn(1, 3, 128, 160),),
            dynamic_shapes=shapes,
            prefer_deferred_runtime_asserts_over_guards=True,
        ).module()
    for size in SIZES[1:]:
        images = torch.randn(1, 3, *size)
        for one, other in zip(list_maps(program(images)), list_maps(network(images)), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lite0", "swin"])
def test_a_file_is_torchs(name: str, make_model: Callable, make_inputs: Callable, tmp_path: Path) -> None:
    onnx_file = pytest.importorskip("tailseg.export.onnx_file")
    small = {"embed_dim": 8, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 2)}
    backbones = {"lite0": TimmConfig(name="tf_efficientnet_lite0", weights="none"), "swin": SwinConfig(**small)}
    model = make_model(small_mask_rcnn(), backbone=backbones[name])
    settings = {"version": "0", "masks": "box"}
    onnx_file.save(onnx_file.to_onnx(trace(model, None)), tmp_path / "model.onnx", settings)
    engine = runner.Model(tmp_path / "model.onnx", threads=1)
    for sizes in (*SIZES_OF_BATCHES[:3], ((224, 224),)):
        images, inputs = make_inputs(sizes)
        outputs = engine.run(dict(zip(runner.PARTS, (tensor.numpy() for tensor in inputs), strict=True)))
        with torch.no_grad():
            expected = model(images, original_sizes=[tuple(size) for size in inputs[2].tolist()])
        for row, image in enumerate(expected):
            assert outputs["labels"][row].tolist() == image.labels.tolist()
            np.testing.assert_allclose(outputs["scores"][row], image.scores, atol=1e-4)
            np.testing.assert_allclose(outputs["boxes"][row], image.boxes, atol=0.05)


def test_layers_are_the_usual_ones_afterwards() -> None:
    before = WindowAttention.forward
    with writable_backbones():
        assert WindowAttention.forward is not before
    assert WindowAttention.forward is before


def test_a_map_that_is_no_multiple_of_the_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stride \(2, 2\) reads a map of \(7, 8\)"):
        pad_same(torch.zeros(1, 1, 7, 8), (3, 3), (2, 2))
