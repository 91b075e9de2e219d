"""Region proposal network.

Shapes: B images, T anchors of an image over all levels (order: level, row, column, ratio), S sampled anchors.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from tailseg.losses.processes import compute_process_share
from tailseg.models.config import RPNConfig
from tailseg.models.fpn import FPN_STRIDES
from tailseg.models.images import get_padded_size
from tailseg.models.sampling import generator_for, ignore_crowds
from tailseg.ops.anchors import grid_anchors
from tailseg.ops.boxes import clip_boxes, decode_boxes, encode_boxes, smooth_l1_sum
from tailseg.ops.matching import IGNORED, match, sample
from tailseg.ops.nms import level_nms
from tailseg.ops.roi_pool import group_rows
from tailseg.structures import Target

ANCHORS_AT_A_TIME = 65_536
"""Anchors whose overlaps with the objects are computed together; limits the memory."""


class RPNOutput(NamedTuple):
    """The predictions of the RPN for every anchor."""

    logits: Tensor
    """Objectness, ``[B, T]``."""
    deltas: Tensor
    """Box regression, ``[B, T, 4]``."""
    anchors: Tensor
    """``[T, 4]``."""
    level_sizes: tuple[int, ...]
    """Anchors of each level; they sum to T."""


class AnchorSample(NamedTuple):
    """The anchors of all images that are trained."""

    index: Tensor
    """``[S]``, into the ``B * T`` anchors; the P positive ones first."""
    box_targets: Tensor
    """Deltas from the positive anchors to their objects, ``[P, 4]``."""
    divisor: int
    """S, where an image without positives (or without negatives) counts one more, as published."""


class RPN(nn.Module):
    """A 3x3 convolution, then objectness and box deltas of every anchor, shared by the five levels.

    Source: Ren et al. 2015, "Faster R-CNN", with FPN's levels.
    """

    def __init__(self, channels: int, config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        num_anchors = len(config.anchor_ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.box_deltas = nn.Conv2d(channels, num_anchors * 4, 1)
        for conv in (self.conv, self.objectness, self.box_deltas):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    @torch.no_grad()
    def forward(self, pyramid: Sequence[Float[Tensor, "B C _ _"]]) -> RPNOutput:
        """Objectness and deltas of every anchor of P2 .. P6, for the proposals.

        Without gradient: of some 240,000 anchors an image trains 256, which `losses` computes again.
        """
        logits, deltas, anchors = [], [], []
        for feature, stride in zip(pyramid, FPN_STRIDES, strict=True):
            hidden = self.conv(feature).relu_()
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.box_deltas(hidden).permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
            anchors.append(
                grid_anchors(
                    feature.shape[2],
                    feature.shape[3],
                    stride,
                    scale=self.config.anchor_scale,
                    ratios=self.config.anchor_ratios,
                    device=feature.device,
                )
            )
        sizes = tuple(len(level) for level in anchors)
        # float32 from here on: under autocast the sums over anchors and the decoded pixels need it
        return RPNOutput(torch.cat(logits, 1).float(), torch.cat(deltas, 1).float(), torch.cat(anchors), sizes)

    @torch.no_grad()
    def proposals(self, output: RPNOutput, sizes: Sequence[tuple[int, int]]) -> list[Float[Tensor, "_ 4"]]:
        """The best boxes of each image after NMS within each level, best first, clipped to the image.

        Args:
            output: of ``forward``.
            sizes: ``(height, width)`` of each image without its padding.
        """
        training = self.training
        pre_nms = self.config.train_pre_nms if training else self.config.test_pre_nms
        post_nms = self.config.train_post_nms if training else self.config.test_post_nms
        best, levels, start = [], [], 0
        for level, size in enumerate(output.level_sizes):
            count = min(pre_nms, size)
            best.append(output.logits[:, start : start + size].topk(count, dim=1).indices + start)
            levels.append(torch.full((count,), level, device=output.logits.device))
            start += size
        index = torch.cat(best, 1)
        level_of = torch.cat(levels)
        scores = output.logits.gather(1, index)
        deltas = output.deltas.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
        boxes = decode_boxes(deltas.reshape(-1, 4), output.anchors[index.flatten()]).view_as(deltas)
        proposals = []
        for image_boxes, image_scores, (height, width) in zip(boxes, scores, sizes, strict=True):
            clipped = clip_boxes(image_boxes, height, width)
            solid = (clipped[:, 2:] > clipped[:, :2]).all(1).nonzero()[:, 0]
            clipped, solid_scores, solid_levels = clipped[solid], image_scores[solid], level_of[solid]
            keep = level_nms(
                clipped,
                solid_scores,
                solid_levels,
                iou_threshold=self.config.nms_iou,
                max_proposals=post_nms,
            )
            proposals.append(clipped[keep])
        return proposals

    def compute_at(
        self, pyramid: Sequence[Float[Tensor, "B C _ _"]], level_sizes: Sequence[int], index: Int64[Tensor, " S"]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S 4"]]:
        """Objectness and deltas, with gradient, of the anchors with these places among the ``B * T`` of `forward`.

        A convolution at a few cells is a linear map of their 3x3 neighborhoods. This way neither the hidden maps nor
        gradients of their size are computed.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            level_sizes: anchors of each level, see `RPNOutput`.
            index: places of the anchors among the ``B * T``.

        Returns:
            Objectness ``[S]`` and deltas ``[S, 4]``.
        """
        num_anchors = len(self.config.anchor_ratios)
        image, place = index.div(sum(level_sizes), rounding_mode="floor"), index % sum(level_sizes)
        starts = [0, *accumulate(level_sizes)][:-1]
        level = torch.stack([place >= start for start in starts[1:]]).sum(0)
        cells = pyramid[0].new_empty(len(index), 9 * pyramid[0].shape[1])
        for feature, start, chosen in zip(pyramid, starts, group_rows(level, len(starts)), strict=True):
            # levels without sampled anchors are read too: the empty result keeps them in the graph, which DDP needs
            cells[chosen] = gather_neighborhoods(feature, image[chosen], (place[chosen] - start) // num_anchors)
        weight = self.conv.weight.permute(0, 2, 3, 1).flatten(1)
        hidden = F.linear(cells, weight, self.conv.bias).relu_()
        ratio = (place % num_anchors).unsqueeze(1)
        logits = F.linear(hidden, self.objectness.weight.flatten(1), self.objectness.bias).gather(1, ratio)
        deltas = F.linear(hidden, self.box_deltas.weight.flatten(1), self.box_deltas.bias)
        deltas = deltas.view(-1, num_anchors, 4).gather(1, ratio.unsqueeze(2).expand(-1, 1, 4))
        return logits[:, 0].float(), deltas[:, 0].float()

    def losses(
        self,
        pyramid: Sequence[Float[Tensor, "B C _ _"]],
        output: RPNOutput,
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Float[Tensor, ""]]:
        """`anchor_losses` of anchors that are sampled for each image.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            output: of `forward` for this pyramid.
            targets: ground truth of each image.
            sizes: ``(height, width)`` of each image without padding.

        Returns:
            ``loss_rpn_cls`` and ``loss_rpn_box``.
        """
        chosen = self.sample_anchors(output.anchors, targets, sizes)
        return self.anchor_losses(chosen, *self.compute_at(pyramid, output.level_sizes, chosen.index))

    def anchor_losses(
        self, chosen: AnchorSample, logits: Float[Tensor, " S"], deltas: Float[Tensor, "S 4"]
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss_rpn_cls``: binary cross entropy of the sampled anchors; ``loss_rpn_box``: smooth L1 of the positives.

        Both are sums divided by the number of sampled anchors of all images, those of other processes included.

        Args:
            chosen: the sampled anchors.
            logits: their objectness.
            deltas: their box regression.

        Returns:
            The two losses by name.
        """
        num_positive = len(chosen.box_targets)
        labels = torch.zeros_like(logits)
        labels[:num_positive] = 1
        scale = compute_process_share(chosen.divisor, logits.device) / chosen.divisor
        box_loss = smooth_l1_sum(deltas[:num_positive], chosen.box_targets, beta=self.config.smooth_l1_beta)
        return {
            "loss_rpn_cls": F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") * scale,
            "loss_rpn_box": box_loss * scale,
        }

    @torch.no_grad()
    def sample_anchors(
        self, anchors: Float[Tensor, "T 4"], targets: Sequence[Target], sizes: Sequence[tuple[int, int]]
    ) -> AnchorSample:
        """Draws the anchors of each image that are trained.

        Args:
            anchors: of the padded batch.
            targets: ground truth of each image.
            sizes: ``(height, width)`` of each image without padding.

        Returns:
            The sampled anchors of all images.
        """
        positives, negatives, box_targets, divisor = [], [], [], 0
        for i, (target, size) in enumerate(zip(targets, sizes, strict=True)):
            matches = self.match_anchors(
                anchors, target, select_trained_anchors(anchors, size, sizes, border=self.config.border)
            )
            positive, negative = sample(
                matches,
                num=self.config.anchors_per_image,
                positive_fraction=self.config.positive_fraction,
                generator=generator_for(target),
            )
            positives.append(positive + i * len(anchors))
            negatives.append(negative + i * len(anchors))
            box_targets.append(encode_boxes(target.boxes[matches[positive]], anchors[positive]))
            divisor += max(len(positive), 1) + max(len(negative), 1)
        return AnchorSample(torch.cat([*positives, *negatives]), torch.cat(box_targets), divisor)

    @torch.no_grad()
    def match_anchors(
        self, anchors: Float[Tensor, "T 4"], target: Target, reachable: Bool[Tensor, " T"] | None
    ) -> Tensor:
        """The object of each anchor, or NEGATIVE, or IGNORED (between the thresholds, in a crowd, out of reach).

        Args:
            anchors: of the padded batch.
            target: ground truth of the image.
            reachable: anchors that are trained; None for all.

        Returns:
            A match of each anchor, see `tailseg.ops.matching.match`.
        """
        # in chunks, because box_iou has temporaries of four times its result
        overlap = torch.cat([box_iou(target.boxes, part) for part in anchors.split(ANCHORS_AT_A_TIME)], dim=1)
        if reachable is not None:
            overlap *= reachable
        matches = match(
            overlap,
            positive=self.config.positive_iou,
            negative=self.config.negative_iou,
            minimum_positive=self.config.minimum_positive_iou,
            allow_low_quality_matches=True,
        )
        matches = ignore_crowds(matches, anchors, target.ignore_boxes)
        return matches if reachable is None else matches.masked_fill(~reachable, IGNORED)


def gather_neighborhoods(
    feature: Float[Tensor, "B C H W"], image: Int64[Tensor, " S"], cell: Int64[Tensor, " S"]
) -> Float[Tensor, "S 9*C"]:
    """The 3x3 cells around each cell (``row * W + column``), row by row, zeros outside the map.

    Args:
        feature: maps of one level.
        image: index of each cell's image.
        cell: place of each cell in its map.

    Returns:
        Nine cells of C channels for each cell.
    """
    images, channels, height, width = feature.shape
    step = torch.arange(-1, 2, device=cell.device)
    row, column = (cell // width)[:, None, None] + step[:, None], (cell % width)[:, None, None] + step
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = (image[:, None, None] * height + row.clamp(0, height - 1)) * width + column.clamp(0, width - 1)
    table = feature.permute(0, 2, 3, 1).reshape(images * height * width, channels)
    return (F.embedding(index, table) * inside.unsqueeze(-1)).flatten(1)


def select_trained_anchors(
    anchors: Float[Tensor, "T 4"], size: tuple[int, int], sizes: Sequence[tuple[int, int]], *, border: float | None
) -> Bool[Tensor, " T"] | None:
    """Selects the anchors of an image that are trained; None stands for all of them.

    Trained are anchors with their center inside the image padded alone, not in padding that only a larger image of the
    batch adds. Unless ``border`` is None, they reach at most ``border`` pixels beyond the image itself.

    Args:
        anchors: of the padded batch.
        size: ``(height, width)`` of the image.
        sizes: of every image in the batch.
        border: see ``RPNConfig``.

    Returns:
        A flag for each anchor, or None.

    Source: mmdetection's ``allowed_border``; a border of 0 keeps the anchors wholly inside.
    """
    height, width = get_padded_size(size)
    trained = None
    if any(h > height or w > width for h, w in map(get_padded_size, sizes)):
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        # centers are multiples of 4 up to rounding: the half pixel keeps rounding from deciding
        trained = (centers[:, 0] < width - 0.5) & (centers[:, 1] < height - 0.5)
    if border is not None:
        limit = anchors.new_tensor([size[1], size[0]]) + border
        inside = (anchors[:, :2] >= -border).all(1) & (anchors[:, 2:] < limit).all(1)
        trained = inside if trained is None else trained & inside
    return trained
