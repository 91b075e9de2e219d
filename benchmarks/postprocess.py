"""Score threshold and NMS within each class at LVIS scale: tailseg and torchvision.

    uv run python benchmarks/postprocess.py

1,000 proposals with a box for each of 1,203 classes, 300 detections, and 120 thousand or 1.2 million candidates above
the threshold. In the case "few survive", the boxes of a class overlap and many candidates must be checked. torchvision
does what its RoI heads do after box decoding: threshold, removal of small boxes, `batched_nms`, the best 300.
"""

from collections.abc import Callable

import torch
from measure import device, seconds, table, write
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, remove_small_boxes

from tailseg.ops.nms import class_nms

REGIONS, CLASSES, DETECTIONS, THRESHOLD = 1000, 1203, 300, 1e-4


def problem(share: float, *, spread: float, classes: int) -> tuple[Tensor, Tensor]:
    """Boxes ``[R, C, 4]`` and scores ``[R, C]``, of which a share is above the threshold, all in the first classes."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(REGIONS, 1, 2, generator=generator) * spread
    side = 40 + torch.rand(REGIONS, 1, 2, generator=generator) * 0.2 * spread
    boxes = torch.cat([corner, corner + side], 2) + 4 * torch.randn(REGIONS, CLASSES, 4, generator=generator)
    scores = torch.rand(REGIONS, CLASSES, generator=generator)
    above = torch.rand(REGIONS, CLASSES, generator=generator) < share
    above[:, classes:] = False
    return boxes.to(device()), torch.where(above, scores * 0.9 + 1e-3, 0.0).to(device())


def torchvision(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.arange(CLASSES, device=boxes.device).expand(REGIONS, -1)
    boxes, scores, labels = boxes.reshape(-1, 4), scores.flatten(), labels.flatten()
    above = torch.where(scores > THRESHOLD)[0]
    boxes, scores, labels = boxes[above], scores[above], labels[above]
    large = remove_small_boxes(boxes, min_size=1e-2)
    boxes, scores, labels = boxes[large], scores[large], labels[large]
    kept = batched_nms(boxes, scores, labels, 0.5)[:DETECTIONS]
    return boxes[kept], scores[kept], labels[kept]


def ours(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = class_nms(boxes, scores, score_threshold=THRESHOLD, iou_threshold=0.5, max_detections=DETECTIONS)
    return found.boxes, found.scores, found.labels


CASES = {
    "120 thousand": {"share": 0.1, "spread": 1100.0, "classes": CLASSES},
    "1.2 million": {"share": 1.0, "spread": 1100.0, "classes": CLASSES},
    "120 thousand of 120 classes, few survive": {"share": 1.0, "spread": 2.0, "classes": 120},
}


def same(one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]) -> float:
    """The share of detections that both have: class and box."""
    equal = (one[2][:, None] == other[2]) & (box_iou(one[0], other[0]) > 1 - 1e-4)
    return float(equal.any(1).float().mean())


def ways(case: str) -> dict[str, Callable[[], tuple[Tensor, Tensor, Tensor]]]:
    boxes, scores = problem(**CASES[case])
    return {"tailseg": lambda: ours(boxes, scores), "torchvision": lambda: torchvision(boxes, scores)}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        times = seconds(ways(case), rounds=2)
        in_both = same(*(run() for run in ways(case).values()))
        milliseconds = [f"{1e3 * took:.1f}" for took in times.values()]
        rows.append([case, *milliseconds, f"{times['torchvision'] / times['tailseg']:.0f}", f"{in_both:.3f}"])
    head = ["candidates", "tailseg, ms", "torchvision, ms", "torchvision / tailseg", "found by both"]
    write("postprocess", "Threshold and NMS within each class", table(head, rows), threads=1)


if __name__ == "__main__":
    main()
