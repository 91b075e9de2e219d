"""Anchors: the boxes that the region proposal network moves and scores.

Shapes: H x W positions of a feature map, A anchors a position, T = H W A anchors.
"""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # tensors of inference mode cannot be used in training
def base_anchors(
    stride: int, *, scale: float, ratios: tuple[float, ...], device: torch.device | str = "cpu"
) -> Float[Tensor, "A 4"]:
    """One anchor for each ratio, centered on the origin: area ``(stride * scale)^2``, height / width the ratio.

    Sides are not rounded, as published. They are cached: a copy to a GPU would wait for it each time.

    Args:
        stride: pixels of the image for one cell of the map.
        scale: side of an anchor of ratio 1, in strides.
        ratios: height / width of each anchor.
        device: of the result.

    Returns:
        A boxes, as xyxy.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()
    sides = stride * scale * torch.stack([1 / root, root], dim=1)
    return torch.cat([-sides / 2, sides / 2], dim=1).to(device)


def grid_anchors(
    height: int, width: int, stride: int, *, scale: float, ratios: Sequence[float], device: torch.device | str = "cpu"
) -> Float[Tensor, "T 4"]:
    """The anchors of a feature map of ``height x width``, in the order row, column, ratio.

    Position (0, 0) is centered on pixel coordinate (0, 0), not on half a stride, as published.

    Args:
        height: cells of the map.
        width: cells of the map.
        stride: pixels of the image for one cell.
        scale: side of an anchor of ratio 1, in strides.
        ratios: height / width of each anchor of a cell.
        device: of the result.

    Returns:
        T boxes, as xyxy in pixels of the image.
    """
    base = base_anchors(stride, scale=scale, ratios=tuple(ratios), device=device)
    y = torch.arange(height, device=device, dtype=base.dtype) * stride
    x = torch.arange(width, device=device, dtype=base.dtype) * stride
    shift_y, shift_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([shift_x, shift_y, shift_x, shift_y], dim=-1)
    return (shifts[:, :, None] + base).view(-1, 4)
