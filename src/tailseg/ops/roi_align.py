"""RoIAlign that reads each cell of a channels-last map once a bin, on a CPU.

torchvision's CPU code walks channel by channel and sample by sample, wants the map copied to channels first, and its
gradient adds single numbers on one thread. RoIAlign is a weighted sum of cells: with channels last a cell is one row of
a table, a bin is a bag of a few rows, and the sum and its gradient are `torch.nn.functional.embedding_bag`.

Shapes: R boxes, B images, ch channels, H x W cells of a map, s the pooled side, S samples and K cells of all bins of
one axis, E (bin, cell) pairs.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align as torchvision_roi_align


def roi_align(
    feature: Float[Tensor, "B ch H W"], rois: Float[Tensor, "R 5"], output_size: int, scale: float
) -> Float[Tensor, "R ch {output_size} {output_size}"]:
    """RoIAlign, aligned, with as many samples as the bin asks for.

    On a CPU channels are last in memory, as convolutions and `feature` like them; samples lie where torchvision puts
    them, sums are in another order. Half precision is pooled in float32, like torchvision's under autocast.

    Args:
        feature: one map an image.
        rois: image index and xyxy in pixels, sorted by image.
        output_size: s.
        scale: cells of the map a pixel.

    Returns:
        The pooled features of each box.

    Source: He et al. 2017, "Mask R-CNN"; ``aligned`` as in detectron2.
    """
    if feature.device.type != "cpu":
        return torchvision_roi_align(feature, rois, output_size, scale, sampling_ratio=-1, aligned=True)
    wide = feature.to(torch.promote_types(feature.dtype, torch.float32))
    images, channels, height, width = wide.shape
    corners = rois[:, 1:].to(wide.dtype) * scale - 0.5
    rows = _axis_cells(corners[:, 1], corners[:, 3], height, output_size)
    columns = _axis_cells(corners[:, 0], corners[:, 2], width, output_size)
    cell, weight, starts = _bags(rows, columns, rois[:, 0].long() * height * width, width)
    table = wide.permute(0, 2, 3, 1).reshape(images * height * width, channels)
    pooled = F.embedding_bag(cell, table, starts, mode="sum", per_sample_weights=weight)
    return pooled.view(len(rois), output_size, output_size, channels).permute(0, 3, 1, 2).to(feature.dtype)


class _AxisCells(NamedTuple):
    """The cells of one axis that each bin reads, ``counts[r]`` in a row from ``first[r, bin]`` on."""

    counts: Tensor
    """``[R]``."""
    first: Tensor
    """``[R, s]``."""
    places: Tensor
    """``[R, s]``, where a bin's weights start in ``weights``."""
    weights: Tensor
    """``[K + 1]``."""
    last: int
    """The map's last cell: those beyond it count as it, with weight 0."""


def _axis_cells(low: Float[Tensor, " R"], high: Float[Tensor, " R"], cells: int, bins: int) -> _AxisCells:
    """The mean of bilinear weights over ``ceil(length / bins)`` samples a bin (cell centers at 0, 1, 2 ...).

    Samples more than a cell outside the map count as zeros, those nearer take the border's value. Samples are at most a
    cell apart, so that n of them touch at most n + 1 cells.
    """
    bin_length = (high - low) / bins
    samples = bin_length.ceil().clamp(min=0).long()
    start = low[:, None] + torch.arange(bins, device=low.device) * bin_length[:, None]
    of_bin, index = _members(samples.repeat_interleave(bins))
    roi = of_bin.div(bins, rounding_mode="floor")
    position = start.flatten()[of_bin] + (index + 0.5) * bin_length[roi] / samples[roi]
    share = ((position >= -1) & (position <= cells)).to(position.dtype) / samples[roi]
    position = position.clamp(0, cells - 1)
    lower = position.long()
    # the first sample's cell, found alike for bins with and without samples
    first = (start + 0.5 * (bin_length / samples.clamp(min=1))[:, None]).clamp(0, cells - 1).long()
    counts = samples + 1
    places = counts.repeat_interleave(bins).cumsum(0).view(-1, bins) - counts[:, None]
    place = places.flatten()[of_bin] + lower - first.flatten()[of_bin]
    weights = position.new_zeros(int(counts.sum()) * bins + 1)
    weights.index_add_(0, place, (1 - (position - lower)) * share)
    weights.index_add_(0, place + 1, (position - lower) * share)
    return _AxisCells(counts, first, places, weights, cells - 1)


def _bags(
    rows: _AxisCells, columns: _AxisCells, image_start: Int64[Tensor, " R"], width: int
) -> tuple[Int64[Tensor, " E"], Float[Tensor, " E"], Int64[Tensor, " bins"]]:
    """Index and weight of every cell of every bin, and where each bin's begin, by box, row and column of bins."""
    regions, bins = rows.first.shape

    def of_every_bin(values: Tensor, dim: int) -> Tensor:
        return values.unsqueeze(dim).expand(regions, bins, bins).flatten()

    wide = of_every_bin(columns.counts[:, None].expand(-1, bins), 1)
    sizes = of_every_bin(rows.counts[:, None].expand(-1, bins), 1) * wide
    of_bin, index = _members(sizes)
    y = index.div(wide[of_bin], rounding_mode="floor")
    x = index - y * wide[of_bin]
    weight = rows.weights[of_every_bin(rows.places, 2)[of_bin] + y]
    weight = weight * columns.weights[of_every_bin(columns.places, 1)[of_bin] + x]
    cell = (of_every_bin(rows.first, 2)[of_bin] + y).clamp_(max=rows.last).mul_(width)
    cell += (of_every_bin(columns.first, 1)[of_bin] + x).clamp_(max=columns.last)
    cell += of_every_bin(image_start[:, None].expand(-1, bins), 1)[of_bin]
    return cell, weight, sizes.cumsum(0) - sizes


def _members(counts: Int64[Tensor, " G"]) -> tuple[Int64[Tensor, " M"], Int64[Tensor, " M"]]:
    """Of groups of these sizes laid end to end: the group of each member, and its place in it."""
    group = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    return group, torch.arange(len(group), device=counts.device) - (counts.cumsum(0) - counts)[group]
