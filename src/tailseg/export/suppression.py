"""Non-maximum suppression with an output of fixed shape, which exporters can write.

Shapes: G groups of N boxes, K classes that share the boxes of their group.

`torch.export` and `torch.onnx` keep the operation as one node. In ONNX it becomes ``NonMaxSuppression``, which has
groups and classes of its own: boxes of two classes need not be moved apart.
"""

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("tailseg::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, limit: int) -> Tensor:
    """Selects the boxes that survive greedy suppression within each class of each group.

    By falling score (ties: by index) a box is dropped when its IoU with a kept box of its class exceeds
    ``iou_threshold``. IoUs are computed in float64 here and in float32 by ONNX runtimes.

    Args:
        boxes: float32 ``[G, N, 4]``, absolute xyxy.
        scores: float32 ``[G, K, N]``.
        iou_threshold: IoU that two boxes of a class may have.
        score_threshold: only boxes with a score above this take part.
        limit: the largest number of boxes that survive in each class.

    Returns:
        Flags, bool ``[G, K, N]``.
    """
    survivors = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    candidates = scores > score_threshold
    for group, label in candidates.any(2).nonzero().tolist():
        rows = candidates[group, label].nonzero()[:, 0]
        rows = rows[scores[group, label, rows].argsort(descending=True, stable=True)]
        rank = torch.arange(len(rows), 0, -1, device=rows.device, dtype=torch.float64)
        survivors[group, label, rows[nms(boxes[group, rows].double(), rank, iou_threshold)[:limit]]] = True
    return survivors


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, limit: int) -> Tensor:  # noqa: ARG001
    return scores.new_empty(scores.shape, dtype=torch.bool)
