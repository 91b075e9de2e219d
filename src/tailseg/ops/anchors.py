"""Anchors: the boxes that the region proposal network starts from.

Shapes: H x W positions of a feature map, A anchors a position, T = H W A anchors.
"""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # a tensor made in inference mode would be of no use in training
def base_anchors(
    stride: int, *, scale: float, ratios: tuple[float, ...], device: torch.device | str = "cpu"
) -> Float[Tensor, "A 4"]:
    """One anchor a ratio, centered on the origin: area ``(stride * scale)^2``, height / width the ratio.

    Sides are not rounded, as published. A GPU receives them once: it would be waited for each time.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()
    sides = stride * scale * torch.stack([1 / root, root], dim=1)
    return torch.cat([-sides / 2, sides / 2], dim=1).to(device)


def grid_anchors(
    height: int, width: int, stride: int, *, scale: float, ratios: Sequence[float], device: torch.device | str = "cpu"
) -> Float[Tensor, "T 4"]:
    """The anchors of a feature map of ``height x width``, in the order row, column, ratio.

    Position (0, 0) is centered on pixel coordinate (0, 0), not on half a stride, as published.
    """
    base = base_anchors(stride, scale=scale, ratios=tuple(ratios), device=device)
    y = torch.arange(height, device=device, dtype=base.dtype) * stride
    x = torch.arange(width, device=device, dtype=base.dtype) * stride
    shift_y, shift_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([shift_x, shift_y, shift_x, shift_y], dim=-1)
    return (shifts[:, :, None] + base).view(-1, 4)
