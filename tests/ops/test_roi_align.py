"""RoIAlign's own sums and gradient against torchvision's."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from tailseg.ops.roi_align import roi_align


def random_rois(num: int, images: int, size: float, generator: torch.Generator) -> Tensor:
    corners = torch.rand(num, 2, 2, generator=generator, dtype=torch.float64) * size * 1.4 - 0.2 * size
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    image = torch.arange(num, dtype=torch.float64) * images // num
    return torch.cat([image[:, None], boxes], 1)


def gradients(rois: Tensor, output_size: int, shape: tuple[int, int, int, int], scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(shape, generator=generator, dtype=rois.dtype, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    pooled = roi_align(ours, rois, output_size, scale)
    expected = torchvision_roi_align(theirs, rois, output_size, scale, sampling_ratio=-1, aligned=True)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-12)
    weight = torch.randn(expected.shape, generator=generator, dtype=rois.dtype)
    (pooled * weight).sum().backward()
    (expected * weight).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    return ours.grad, theirs.grad


@pytest.mark.parametrize("output_size", [7, 14])
@pytest.mark.parametrize("images", [1, 3])
def test_gradient_is_torchvisions(output_size: int, images: int) -> None:
    """Boxes inside, across and outside the border, of all sizes; float64, so only the order of sums differs."""
    rois = random_rois(60, images, 160, torch.Generator().manual_seed(1))
    ours, theirs = gradients(rois, output_size, (images, 5, 20, 24), 1 / 8)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_degenerate_boxes() -> None:
    """Without area, outside by more than a cell, exactly on the border."""
    rois = torch.tensor(
        [[0, 5, 5, 5, 9], [0, 5, 5, 9, 5], [0, -90, -90, -40, -40], [0, 400, 400, 500, 500], [0, 0, 0, 160, 160]],
        dtype=torch.float64,
    )
    ours, theirs = gradients(rois, 7, (1, 2, 20, 20), 1 / 8)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_no_box_keeps_the_gradient() -> None:
    ours, _ = gradients(torch.zeros(0, 5, dtype=torch.float64), 7, (2, 3, 8, 8), 1 / 8)
    assert torch.equal(ours, torch.zeros_like(ours))


def test_float32_agrees_with_float64() -> None:
    """1e-5 of the largest entry: a cell sums a few hundred float32 terms."""
    rois = random_rois(200, 2, 160, torch.Generator().manual_seed(2))
    wide, _ = gradients(rois.float().double(), 7, (2, 4, 40, 40), 1 / 4)
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 4, 40, 40, generator=generator, dtype=torch.float64).float().requires_grad_()
    pooled = roi_align(feature, rois.float(), 7, 1 / 4)
    weight = torch.randn(pooled.shape, generator=generator, dtype=torch.float64)
    (pooled * weight.float()).sum().backward()
    assert feature.grad is not None
    torch.testing.assert_close(feature.grad.double(), wide, rtol=0, atol=1e-5 * float(wide.abs().max()))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_values_are_torchvisions_in_float32(memory_format: torch.memory_format) -> None:
    """Thin boxes too, whose bins take dozens of samples along one axis and one along the other."""
    rois = random_rois(200, 2, 800, torch.Generator().manual_seed(3)).float()
    rois = torch.cat([rois, torch.tensor([[1.0, 3, 40, 790, 44], [1, 70, 0, 73, 799]])])
    feature = torch.randn(2, 6, 100, 110, generator=torch.Generator().manual_seed(0)).to(memory_format=memory_format)
    expected = torchvision_roi_align(feature, rois, 7, 1 / 8, sampling_ratio=-1, aligned=True)
    pooled = roi_align(feature, rois, 7, 1 / 8)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=2e-6)  # sums in another order
    assert pooled.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_is_pooled_in_float32() -> None:
    rois = random_rois(20, 1, 160, torch.Generator().manual_seed(4)).float()
    feature = torch.randn(1, 4, 20, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(roi_align(feature, rois, 7, 1 / 8), roi_align(feature.float(), rois, 7, 1 / 8).bfloat16())
