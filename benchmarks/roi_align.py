"""RoIAlign and its gradient on a CPU: tailseg's against torchvision's, on the same channels-last maps and boxes.

    uv run python benchmarks/roi_align.py

Prints, and writes to benchmarks/results, the median time of each, forward alone and with backward, and their ratio.
Sizes: the tiny recipes' finest level, and levels of an 800 x 1216 image.
"""

import torch
from measure import write
from torch.utils.benchmark import Timer
from torchvision.ops import roi_align as torchvision_roi_align

from tailseg.ops.roi_align import roi_align

CASES = (  # images, channels, height and width of the map, boxes, pooled side
    (8, 64, 32, 32, 384, 7),
    (8, 64, 32, 32, 96, 14),
    (1, 256, 200, 304, 600, 7),
    (1, 256, 200, 304, 100, 14),
    (1, 256, 50, 76, 200, 7),
)


def milliseconds(call: str, feature: torch.Tensor, rois: torch.Tensor, side: int, *, backward: bool) -> float:
    f = feature.requires_grad_(backward)
    names = {"f": f, "r": rois, "s": side, "ours": roi_align, "theirs": torchvision_roi_align}
    return Timer(f"{call}.sum().backward()" if backward else call, globals=names).blocked_autorange().median * 1e3


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    lines = [
        "| images x channels x map | boxes | | torchvision, ms | tailseg, ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for images, channels, height, width, boxes, side in CASES:
        feature = torch.randn(images, channels, height, width).to(memory_format=torch.channels_last)
        low = torch.rand(boxes, 2) * torch.tensor([width, height]) * 0.7 * 4
        extent = (20 + 100 * torch.rand(boxes, 2)).minimum(torch.tensor([width, height]) * 1.2)
        rois = torch.cat([(torch.arange(boxes) * images // boxes)[:, None], low, low + extent], 1)
        for backward in (False, True):
            theirs = milliseconds(
                "theirs(f, r, s, 0.25, sampling_ratio=-1, aligned=True)", feature, rois, side, backward=backward
            )
            ours = milliseconds("ours(f, r, s, 0.25)", feature, rois, side, backward=backward)
            lines.append(
                f"| {images} x {channels} x {height} x {width} | {boxes} to {side} x {side} "
                f"| {'forward, backward' if backward else 'forward'} "
                f"| {theirs:.1f} | {ours:.1f} | {theirs / ours:.1f} |"
            )
    table = "\n".join(lines) + "\n"
    write("roi_align", "RoIAlign on a CPU", "Medians.\n\n" + table, threads=1)


if __name__ == "__main__":
    main()
