"""Non-maximum suppression within each class, exact and fast for a thousand classes, without a loop over them.

Shapes: R regions, C classes, M candidates ((region, class) pairs above the threshold), P of them, D detections.

Whether a box survives depends only on boxes with higher scores. So when D detections are wanted, suppressing among the
best few thousand candidates gives the exact answer as soon as D of them survive, however many candidates there are,
and no other candidate's box is asked for. Where too few survive, all classes are suppressed side by side: the best box
of every class against the rest of its class, then the best one left.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import nms

PREFIXES: Final = (1000, 4000, 16_000)
"""How many of the best candidates are tried before all of them are."""

BoxLookup = Callable[[Tensor, Tensor], Tensor]
"""A function of rows ``[P]`` and labels ``[P]`` that returns the boxes ``[P, 4]`` of these regions and classes."""


class ClassNMS(NamedTuple):
    """Detections of one image, best score first."""

    boxes: Tensor
    """``[D, 4]``, absolute xyxy."""
    scores: Tensor
    """``[D]``."""
    labels: Tensor
    """``[D]``, ``0 .. C-1``."""
    rois: Tensor
    """``[D]``, the row that each came from."""


def class_nms(
    boxes: Float[Tensor, "R 4"] | Float[Tensor, "R C 4"] | BoxLookup,
    scores: Float[Tensor, "R C"],
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> ClassNMS:
    """The best detections over all classes after suppression within each class.

    Greedy: by falling score (ties: by region, then by class) a box is dropped when its IoU with a kept box of its
    class exceeds ``iou_threshold``. A candidate whose box is not finite or whose score is NaN is dropped.

    Args:
        boxes: one for each region, or one for each region and class, or a function that computes those of given
            regions and classes.
        scores: of every region and class.
        score_threshold: candidates score above this, not at it.
        iou_threshold: IoU that two boxes of a class may have.
        max_detections: D at most.

    Returns:
        At most ``max_detections`` detections, best first.

    Source: the published test pipeline; exact, where the peers' float32 class offsets move boxes by up to 0.1 pixel.
    """
    boxes_of = _lookup(boxes) if isinstance(boxes, Tensor) else boxes
    rois, labels = (scores > score_threshold).nonzero(as_tuple=True)
    kept = _survivors(
        scores[rois, labels],
        lambda index: _Candidates(index, boxes_of(rois[index], labels[index]), labels[index]),
        iou_threshold,
        max_detections,
    )
    kept_rois = rois[kept.index]
    return ClassNMS(kept.boxes, scores[kept_rois, kept.groups], kept.groups, kept_rois)


def level_nms(
    boxes: Float[Tensor, "M 4"],
    scores: Float[Tensor, " M"],
    levels: Int64[Tensor, " M"],
    *,
    iou_threshold: float,
    max_proposals: int,
) -> Int64[Tensor, " P"]:
    """Indices of the best proposals after suppression within each level, best score first.

    Args:
        boxes: of all levels.
        scores: any monotone score: logits do.
        levels: the pyramid level of each box.
        iou_threshold: IoU that two boxes of a level may have.
        max_proposals: P at most.

    Returns:
        Indices into ``boxes``.
    """
    return _survivors(
        scores, lambda index: _Candidates(index, boxes[index], levels[index]), iou_threshold, max_proposals
    ).index


def _lookup(boxes: Float[Tensor, "R 4"] | Float[Tensor, "R C 4"]) -> BoxLookup:
    return lambda rois, labels: boxes[rois] if boxes.ndim == 2 else boxes[rois, labels]


class _Candidates(NamedTuple):
    """Candidates, best first."""

    index: Tensor
    """``[P]``, which of all candidates each is."""
    boxes: Tensor
    """``[P, 4]``."""
    groups: Tensor
    """``[P]``: boxes of one group suppress each other."""

    def take(self, rows: Int64[Tensor, " D"]) -> "_Candidates":
        return _Candidates(self.index[rows], self.boxes[rows], self.groups[rows])


def _survivors(
    scores: Float[Tensor, " M"],
    candidates: Callable[[Int64[Tensor, " P"]], _Candidates],
    iou_threshold: float,
    limit: int,
) -> _Candidates:
    """The best ``limit`` candidates that survive suppression within their groups."""
    for size in PREFIXES:
        if size <= limit and size < len(scores):
            continue  # as many as are wanted would all have to survive
        best = _finite(candidates(_best(scores, size)))
        boxes = _to_float64(best.boxes)
        kept = best.take(_suppress(boxes, best.groups.to(boxes.device), iou_threshold)[:limit])
        if len(kept.index) == limit or size >= len(scores):
            return kept
    best = _finite(candidates(_best(scores, len(scores))))
    boxes = _to_float64(best.boxes)
    return best.take(_suppress_side_by_side(boxes, best.groups.to(boxes.device), iou_threshold, limit))


def _best(scores: Float[Tensor, " M"], size: int) -> Int64[Tensor, " P"]:
    """Indices of the best ``size`` scores and of all that tie with the last of them, best first, ties by index."""
    if size < len(scores):
        within = (scores >= scores.topk(size).values[-1]).nonzero()[:, 0]
        return within[scores[within].argsort(descending=True, stable=True)]
    return scores.argsort(descending=True, stable=True)


def _to_float64(boxes: Float[Tensor, "P 4"]) -> Float[Tensor, "P 4"]:
    """The boxes in float64, on the CPU if they are on an Apple GPU, which has no float64."""
    return (boxes.cpu() if boxes.device.type == "mps" else boxes).double()


def _finite(candidates: _Candidates) -> _Candidates:
    return candidates.take(candidates.boxes.isfinite().all(dim=1).nonzero()[:, 0])


def _suppress(boxes: Float[Tensor, "P 4"], groups: Int64[Tensor, " P"], iou_threshold: float) -> Int64[Tensor, " D"]:
    """Rows, best first, whose box no kept box of its group suppresses.

    Groups are moved apart so that one call serves them all. In float64: at 1,203 classes of a 1333-pixel image the
    offsets reach 1.6 million, where float32 has steps of 0.125 pixel and float64 of 2e-10.
    """
    if len(boxes) == 0:
        return groups
    span = boxes.amax() - boxes.amin() + 1
    apart = boxes + (groups * span)[:, None]
    # The order is known: falling numbers in place of the scores keep it, ties included.
    rank = torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=boxes.dtype)
    return nms(apart, rank, iou_threshold)


def _suppress_side_by_side(
    boxes: Float[Tensor, "M 4"], groups: Int64[Tensor, " M"], iou_threshold: float, limit: int
) -> Int64[Tensor, " D"]:
    """The first ``limit`` rows of `_suppress`, for many boxes of which few survive.

    One pass over all of them would compare every survivor with every box of every group. Here each round keeps the best
    box left of every group and drops what it suppresses; once ``limit`` are kept, nothing behind them matters.
    """
    rows = groups.argsort(stable=True)
    kept = rows[:0]
    while len(rows):
        of_group = groups[rows]
        leads = torch.ones_like(rows, dtype=torch.bool)
        leads[1:] = of_group[1:] != of_group[:-1]
        leaders = rows[leads]
        kept = torch.cat([kept, leaders]).sort().values[:limit]
        rival = boxes[leaders][leads.cumsum(0) - 1]
        left = ~leads & ~(_overlap(boxes[rows], rival) > iou_threshold)
        if len(kept) == limit:
            left &= rows < kept[-1]
        rows = rows[left]
    return kept


def _overlap(boxes: Float[Tensor, "M 4"], others: Float[Tensor, "M 4"]) -> Float[Tensor, " M"]:
    """IoU of each box with the other of its row; NaN for two boxes without area."""
    corner = torch.maximum(boxes[:, :2], others[:, :2])
    opposite = torch.minimum(boxes[:, 2:], others[:, 2:])
    intersection = (opposite - corner).clamp_(min=0).prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (others[:, 2:] - others[:, :2]).prod(dim=1)
    return intersection / (areas - intersection)
