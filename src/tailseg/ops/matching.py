"""Matches regions to objects, and samples the regions that are trained.

Shapes: N objects, R regions (anchors or proposals).
"""

from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

NEGATIVE: Final = -1
"""The match of a region that is background."""
IGNORED: Final = -2
"""The match of a region that is neither object nor background: it is not trained."""


def match(
    iou: Float[Tensor, "N R"],
    *,
    positive: float,
    negative: float,
    minimum_positive: float,
    allow_low_quality_matches: bool,
) -> Int64[Tensor, " R"]:
    """Matches each region to an object, NEGATIVE or IGNORED.

    A region takes the object it overlaps most when that IoU is at least ``positive`` (the first of several), is
    NEGATIVE when it is below ``negative``, and IGNORED between the two.

    Args:
        iou: of every object with every region.
        positive: least IoU of a positive region.
        negative: IoU below which a region is background.
        minimum_positive: least IoU of a low-quality match.
        allow_low_quality_matches: every object whose best IoU is at least ``minimum_positive`` takes all regions tied
            at that best IoU, whatever else they overlap; of several objects the last one wins, as published.

    Returns:
        For each region the index of its object, NEGATIVE or IGNORED.

    Source: mmdetection's MaxIoUAssigner, as used by the published configs.
    """
    num_objects, num_regions = iou.shape
    matches = torch.full((num_regions,), NEGATIVE, device=iou.device)
    if iou.numel() == 0:
        return matches
    overlap, best_object = iou.max(dim=0)
    matches.masked_fill_(overlap >= negative, IGNORED)
    matches = torch.where(overlap >= positive, best_object, matches)
    if allow_low_quality_matches:
        best = iou.amax(dim=1, keepdim=True)
        tied = (iou == best) & (best >= minimum_positive)
        objects = torch.arange(num_objects, device=iou.device, dtype=torch.int32)
        last = torch.where(tied, objects[:, None], -1).amax(dim=0)
        matches = torch.where(last >= 0, last.long(), matches)
    return matches


def sample(
    matches: Int64[Tensor, " R"], *, num: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " M"]]:
    """Draws at most ``num`` regions without replacement, at most ``positive_fraction`` of them positive.

    When positives are short, negatives fill their places, as published; when negatives are short, fewer are drawn.

    Args:
        matches: of ``match``.
        num: regions wanted, P + M.
        positive_fraction: ``int(num * positive_fraction)`` is the most positives drawn.
        generator: on the device of ``matches``; None draws from that device's default one.

    Returns:
        Indices of the positives and of the negatives, each ascending.
    """
    positives = _draw((matches >= 0).nonzero()[:, 0], int(num * positive_fraction), generator)
    negatives = _draw((matches == NEGATIVE).nonzero()[:, 0], num - len(positives), generator)
    return positives, negatives


def _draw(indices: Int64[Tensor, " K"], most: int, generator: torch.Generator | None) -> Int64[Tensor, " D"]:
    if len(indices) <= most:
        return indices
    chosen = torch.randperm(len(indices), generator=generator, device=indices.device)[:most]
    return indices[chosen].sort().values
