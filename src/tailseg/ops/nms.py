"""Non-maximum suppression within each class, exact and quick at a thousand classes.

Shapes: R regions, C classes, M candidates ((region, class) pairs above the threshold), D detections.

Whether a box survives depends only on boxes with higher scores. So when D detections are wanted, suppressing among the
best few thousand candidates gives the exact answer as soon as D of them survive, however many candidates there are.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import nms

PREFIXES: Final = (2000, 8000)
"""How many of the best candidates are tried before all of them are."""


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
    boxes: Float[Tensor, "R 4"] | Float[Tensor, "R C 4"],
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
        boxes: one a region, or one a region and class.
        scores: of every region and class.
        score_threshold: candidates score above this, not at it.
        iou_threshold: IoU that two boxes of a class may have.
        max_detections: D at most.

    Source: the published test pipeline; exact, where the peers' float32 class offsets move boxes by up to 0.1 pixel.
    """
    rois, labels = (scores > score_threshold).nonzero(as_tuple=True)

    def candidates(index: Int64[Tensor, " P"]) -> tuple[Tensor, Tensor]:
        row, label = rois[index], labels[index]
        return (boxes[row] if boxes.ndim == 2 else boxes[row, label]), label

    kept = _survivors(scores[rois, labels], candidates, iou_threshold, max_detections)
    kept_boxes, kept_labels = candidates(kept)
    return ClassNMS(kept_boxes, scores[rois[kept], kept_labels], kept_labels, rois[kept])


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
    """
    return _survivors(scores, lambda index: (boxes[index], levels[index]), iou_threshold, max_proposals)


Candidates = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From indices of candidates to their boxes ``[P, 4]`` and groups ``[P]``."""


def _survivors(
    scores: Float[Tensor, " M"], candidates: Candidates, iou_threshold: float, limit: int
) -> Int64[Tensor, " D"]:
    """The best ``limit`` candidates that survive suppression within their groups, best first."""
    for size in PREFIXES:
        if size >= len(scores):
            break
        order = _best(scores, size)
        kept = _suppress(order, *candidates(order), iou_threshold)
        if len(kept) >= limit:
            return kept[:limit]
    # Too few survive: every candidate counts. Group by group, for one pass over all of them compares each of perhaps
    # thousands of survivors with every candidate of every group.
    order = _best(scores, len(scores))
    if len(order) <= PREFIXES[0]:
        return _suppress(order, *candidates(order), iou_threshold)[:limit]
    boxes, groups = candidates(order)
    by_group = groups.argsort(stable=True)
    parts = by_group.split(groups.unique(return_counts=True)[1].tolist())
    survivors = [_suppress(part, boxes[part], groups[part], iou_threshold) for part in parts]
    return order[torch.cat(survivors).sort().values[:limit]]


def _best(scores: Float[Tensor, " M"], size: int) -> Int64[Tensor, " P"]:
    """Indices of the best ``size`` scores and of all that tie with the last of them, best first, ties by index."""
    if size < len(scores):
        within = (scores >= scores.topk(size).values[-1]).nonzero()[:, 0]
        return within[scores[within].argsort(descending=True, stable=True)]
    return scores.argsort(descending=True, stable=True)


def _suppress(
    index: Int64[Tensor, " P"], boxes: Float[Tensor, "P 4"], groups: Int64[Tensor, " P"], iou_threshold: float
) -> Int64[Tensor, " D"]:
    """The entries of ``index``, best first, whose box no kept box of its group suppresses.

    Groups are moved apart so that one call serves them all. In float64: at 1,203 classes of a 1333-pixel image the
    offsets reach 1.6 million, where float32 has steps of 0.125 pixel and float64 of 2e-10.
    """
    finite = boxes.isfinite().all(dim=1)
    index, boxes, groups = index[finite], boxes[finite].double(), groups[finite]
    if len(index) == 0:
        return index
    span = boxes.amax() - boxes.amin() + 1
    apart = boxes + (groups * span)[:, None]
    # The order is known: falling numbers in place of the scores keep it, ties included.
    rank = torch.arange(len(index), 0, -1, device=boxes.device, dtype=boxes.dtype)
    return index[nms(apart, rank, iou_threshold)]
