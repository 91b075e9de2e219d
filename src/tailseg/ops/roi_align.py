"""RoIAlign with a quicker gradient for small maps on a CPU.

torchvision's gradient works sample by sample on one thread, and was the largest part of a training step of the tiny
recipes. RoIAlign is separable: a bin is the mean of bilinear samples on a grid, so each RoI and channel is a product
``rows @ feature @ columns.T`` of thin matrices, and the gradient is two matrix products.

Shapes: R boxes, B images, ch channels, H x W cells of a map, s the pooled side.
"""

from typing import Final, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import BackwardCFunction, once_differentiable
from torchvision.ops import roi_align as torchvision_roi_align

SMALL_MAP: Final = 64 * 64
"""Cells up to which the products are quicker: their work grows with the map, torchvision's only with the box."""


def roi_align(
    feature: Float[Tensor, "B ch H W"], rois: Float[Tensor, "R 5"], output_size: int, scale: float
) -> Float[Tensor, "R ch {output_size} {output_size}"]:
    """RoIAlign, aligned, with as many samples as the bin asks for; values are torchvision's own.

    Args:
        feature: one map an image.
        rois: image index and xyxy in pixels, sorted by image.
        output_size: s.
        scale: cells of the map a pixel.

    Source: He et al. 2017, "Mask R-CNN"; ``aligned`` as in detectron2.
    """
    small = feature.shape[2] * feature.shape[3] <= SMALL_MAP
    if small and feature.device.type == "cpu" and feature.dtype == rois.dtype and feature.requires_grad:
        return _ProductGradient.apply(feature, rois, output_size, scale)
    return torchvision_roi_align(feature, rois, output_size, scale, sampling_ratio=-1, aligned=True)


class _ProductGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: BackwardCFunction, feature: Tensor, rois: Tensor, output_size: int, scale: float) -> Tensor:
        # the map's shape without its memory: the gradient needs no values of it
        ctx.save_for_backward(rois[:, 0], rois[:, 1:] * scale - 0.5, feature.new_empty(()).expand(feature.shape))
        return torchvision_roi_align(feature, rois, output_size, scale, sampling_ratio=-1, aligned=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        image, corners, like = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        images, channels, height, width = like.shape
        side = gradient.shape[-1]
        rows = _sample_weights(corners[:, 1], corners[:, 3], height, side)
        columns = _sample_weights(corners[:, 0], corners[:, 2], width, side)
        # [R, j, H, ch], the bins' rows spread over the map's; then, image by image, their columns over the map's
        spread = rows.transpose(1, 2).unsqueeze(1) @ gradient.permute(0, 3, 2, 1).contiguous()
        result = gradient.new_zeros(images, width, height * channels)
        counts = image.long().bincount(minlength=images).tolist()
        for out, weights, part in zip(result, columns.split(counts), spread.split(counts), strict=True):
            torch.mm(weights.reshape(-1, width).t(), part.view(-1, height * channels), out=out)
        return result.view(images, width, height, channels).permute(0, 3, 2, 1), None, None, None


def _sample_weights(
    low: Float[Tensor, " R"], high: Float[Tensor, " R"], cells: int, bins: int
) -> Float[Tensor, "R {bins} {cells}"]:
    """The weight of each cell of one axis in each bin between ``low`` and ``high`` (cell centres at 0, 1, 2 ...).

    The mean of bilinear weights over ``ceil(length / bins)`` samples a bin; samples more than a cell outside the map
    count as zeros, those nearer take the border's value.
    """
    length = high - low
    samples = (length / bins).ceil().clamp(min=0)[:, None, None]
    k = torch.arange(int(samples.max()) if len(samples) else 0, device=low.device)
    step = (k + 0.5) / samples.clamp(min=1)
    start = torch.arange(bins, device=low.device)[:, None]
    position = low[:, None, None] + (start + step) * (length / bins)[:, None, None]
    counted = (k < samples) & (position >= -1) & (position <= cells)
    distance = (position.clamp(0, cells - 1)[..., None] - torch.arange(cells, device=low.device)).abs()
    weight = (1 - distance).clamp(min=0) * (counted / samples.clamp(min=1))[..., None]
    return weight.sum(2)
