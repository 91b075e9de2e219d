"""RoIAlign over the levels of a feature pyramid.

Shapes: R boxes of all images together, R_i of image i, ch channels, s the pooled side.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tailseg.ops.roi_align import roi_align


def fpn_levels(boxes: Float[Tensor, "R 4"], *, num_levels: int = 4, finest_scale: float = 56.0) -> Int64[Tensor, " R"]:
    """The pyramid level that each box is pooled from: 0 is P2, the finest.

    ``floor(log2(sqrt(area) / finest_scale + 1e-6))`` clamped to ``0 .. num_levels - 1``: below 112 pixels P2, from 112
    P3, from 224 P4, from 448 P5.

    Args:
        boxes: absolute xyxy.
        num_levels: of the pyramid.
        finest_scale: boxes of up to twice this side belong to level 0.

    Returns:
        A level of each box.

    Source: Lin et al. 2017, FPN, equation 1, with mmdetection's 1e-6 inside the logarithm.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
    return (area.sqrt() / finest_scale + 1e-6).log2().floor().clamp(0, num_levels - 1).long()


def group_rows(group: Int64[Tensor, " R"], num_groups: int) -> tuple[Int64[Tensor, " _"], ...]:
    """Which rows belong to each group ``0 .. num_groups - 1``, ascending; rows of none are left out.

    Waits for a GPU once, whatever the number of groups.
    """
    ordered, rows = group.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(num_groups + 1, device=group.device)).tolist()
    return tuple(rows[start:end] for start, end in pairwise(bounds))


def roi_pool(
    features: Sequence[Float[Tensor, "B ch _ _"]],
    boxes: Sequence[Float[Tensor, "_ 4"]],
    *,
    output_size: int,
    strides: Sequence[int],
    finest_scale: float = 56.0,
) -> Float[Tensor, "R ch s s"]:
    """Pools every box from the level that suits its size, by RoIAlign (aligned, as many samples as the bin asks for).

    Args:
        features: one map a level, finest first.
        boxes: of each of the B images, in its pixels.
        output_size: s.
        strides: pixels of the image a cell of each level spans.
        finest_scale: see `fpn_levels`.

    Returns:
        The boxes of the first image, then those of the second, ...; connected to every level's gradient, even when
        there is no box at all.

    Raises:
        ValueError: not one stride a level, or not one set of boxes an image.
    """
    if len(strides) != len(features) or len(boxes) != len(features[0]):
        raise ValueError(
            f"RoI pooling needs a stride a level and boxes for each image, got {len(features)} levels of "
            f"{len(features[0])} images with {len(strides)} strides and {len(boxes)} sets of boxes"
        )
    image = torch.cat([part.new_full((len(part), 1), i) for i, part in enumerate(boxes)])
    rois = torch.cat([image, torch.cat(list(boxes))], dim=1)
    level = fpn_levels(rois[:, 1:], num_levels=len(features), finest_scale=finest_scale)
    members = group_rows(level, len(features))
    shape = (len(rois), features[0].shape[1], output_size, output_size)
    pooled = torch.empty(shape, dtype=features[0].dtype, device=rois.device, memory_format=torch.channels_last)
    for feature, member, stride in zip(features, members, strides, strict=True):
        # A level without boxes is pooled too: its empty result keeps the level in the graph, which DDP needs.
        pooled[member] = roi_align(feature, rois[member], output_size, 1 / stride)
    return pooled
