"""Box coding and box arithmetic.

Shapes: N boxes, K regions. Boxes are absolute xyxy; deltas are ``dx, dy, dw, dh``.
"""

import functools
import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

__all__ = [
    "MAX_LOG_RATIO",
    "box_iou",
    "clip_boxes",
    "decode_boxes",
    "encode_boxes",
    "intersection_over_area",
    "scale_boxes",
    "smooth_l1_sum",
]

MAX_LOG_RATIO: Final = math.log(1000 / 16)
"""Largest |dw| and |dh| that is decoded, as published: a box grows or shrinks at most 62.5 times."""

Deviations = tuple[float, float, float, float]

_SMALLEST_SIDE: Final = 1e-6  # pixels; keeps the logarithm of a degenerate box finite


def encode_boxes(
    boxes: Float[Tensor, "N 4"], references: Float[Tensor, "N 4"], *, stds: Deviations = (1.0, 1.0, 1.0, 1.0)
) -> Float[Tensor, "N 4"]:
    """Computes the deltas that move each reference onto its box, the regression targets.

    ``dx = (x - x_ref) / w_ref / std_x`` between centers and ``dw = log(w / w_ref) / std_w``, the same for y and h.
    Sides below 1e-6 pixels count as 1e-6.

    Args:
        boxes: where the references should move.
        references: proposals or anchors.
        stds: deltas are divided by these.

    Returns:
        ``dx, dy, dw, dh`` of each box.

    Source: Girshick et al. 2014, R-CNN, appendix C; the stds as in Fast R-CNN.
    """
    center, side = _center_and_side(boxes)
    reference_center, reference_side = _center_and_side(references)
    deltas = torch.cat([(center - reference_center) / reference_side, (side / reference_side).log()], dim=1)
    return deltas / _constant(tuple(stds), deltas.dtype, deltas.device)


def decode_boxes(
    deltas: Float[Tensor, "N D"],
    references: Float[Tensor, "N 4"],
    *,
    stds: Deviations = (1.0, 1.0, 1.0, 1.0),
    max_log_ratio: float = MAX_LOG_RATIO,
) -> Float[Tensor, "N D"]:
    """Moves the references by the deltas; the inverse of ``encode_boxes``.

    Args:
        deltas: four for each reference (D = 4), or four for each class (D = 4 C).
        references: proposals or anchors.
        stds: those of ``encode_boxes``.
        max_log_ratio: dw and dh are clamped to plus and minus this.

    Returns:
        Absolute xyxy in the layout of ``deltas``, not clipped to any image.

    Source: the inverse of ``encode_boxes``; both ends are clamped as published (torchvision clamps the upper one).
    """
    center, side = _center_and_side(references)
    scaled = deltas.reshape(len(deltas), deltas.shape[1] // 4, 4) * _constant(tuple(stds), deltas.dtype, deltas.device)
    center = center[:, None] + side[:, None] * scaled[..., :2]
    half = side[:, None] * scaled[..., 2:].clamp(-max_log_ratio, max_log_ratio).exp() / 2
    return torch.cat([center - half, center + half], dim=-1).flatten(1)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # tensors of inference mode cannot be used in training
def _constant(values: Deviations, dtype: torch.dtype, device: torch.device) -> Float[Tensor, " 4"]:
    """The numbers as a cached tensor: a copy to a GPU would wait for it each time."""
    return torch.tensor(values, dtype=dtype, device=device)


def _center_and_side(boxes: Float[Tensor, "N 4"]) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N 2"]]:
    corner, opposite = boxes[:, :2], boxes[:, 2:]
    return (corner + opposite) / 2, (opposite - corner).clamp(min=_SMALLEST_SIDE)


def clip_boxes(boxes: Float[Tensor, "*N 4"], height: int, width: int) -> Float[Tensor, "*N 4"]:
    """Clips boxes to an image; a box that lies outside becomes empty, on the border.

    Args:
        boxes: absolute xyxy.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        Boxes in 0 .. width and 0 .. height.
    """
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], dim=-1).flatten(-2)


def scale_boxes(boxes: Float[Tensor, "*N 4"], scale_x: float, scale_y: float) -> Float[Tensor, "*N 4"]:
    """Scales boxes to an image that is resized by these factors.

    Args:
        boxes: absolute xyxy.
        scale_x: new width / old width.
        scale_y: new height / old height.

    Returns:
        Boxes in pixels of the resized image.
    """
    return torch.stack([boxes[..., 0::2] * scale_x, boxes[..., 1::2] * scale_y], dim=-1).flatten(-2)


def smooth_l1_sum(deltas: Float[Tensor, "N D"], targets: Float[Tensor, "N D"], *, beta: float) -> Float[Tensor, ""]:
    """The sum of ``e^2 / (2 beta)`` where the error ``e = |deltas - targets|`` is below beta, else ``e - beta / 2``.

    With beta = 0 the L1 loss.

    Args:
        deltas: predictions.
        targets: what they should be.
        beta: the error where the square turns into a line, 0 or more.

    Returns:
        The sum, a scalar.

    Source: Girshick 2015, Fast R-CNN, equation 3, with a width.
    """
    return F.smooth_l1_loss(deltas, targets, reduction="sum", beta=beta)


def intersection_over_area(boxes: Float[Tensor, "N 4"], regions: Float[Tensor, "K 4"]) -> Float[Tensor, "N K"]:
    """The share of each box's area that lies inside each region, in ``[0, 1]``; 0 for a box without area."""
    corner = torch.maximum(boxes[:, None, :2], regions[:, :2])
    opposite = torch.minimum(boxes[:, None, 2:], regions[:, 2:])
    intersection = (opposite - corner).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1, keepdim=True)
    return intersection / area.clamp(min=torch.finfo(boxes.dtype).tiny)
