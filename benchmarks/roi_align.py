"""RoIAlign and its gradient on a CPU: tailseg and torchvision on the same channels-last maps and boxes.

    uv run python benchmarks/roi_align.py

The script prints the least time of each, forward alone and with backward, and their ratio, and writes them to
benchmarks/results. Sizes: the finest level of the tiny recipes, and levels of an 800 x 1216 image.
"""

from collections.abc import Callable

import torch
from measure import seconds, write
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from tailseg.ops.roi_align import roi_align

CASES = (  # images, channels, height and width of the map, boxes, pooled side
    (8, 64, 32, 32, 384, 7),
    (8, 64, 32, 32, 96, 14),
    (1, 256, 200, 304, 600, 7),
    (1, 256, 200, 304, 100, 14),
    (1, 256, 50, 76, 200, 7),
)


def ways(
    images: int, channels: int, height: int, width: int, boxes: int, side: int, *, backward: bool = False
) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(images, channels, height, width, generator=generator)
    feature = feature.to(memory_format=torch.channels_last).requires_grad_(backward)
    limits = torch.tensor([width, height])
    low = torch.rand(boxes, 2, generator=generator) * limits * 0.7 * 4
    extent = (20 + 100 * torch.rand(boxes, 2, generator=generator)).minimum(limits * 1.2)
    rois = torch.cat([(torch.arange(boxes) * images // boxes)[:, None], low, low + extent], 1)
    pooled: dict[str, Callable[[], Tensor]] = {
        "tailseg": lambda: roi_align(feature, rois, side, 0.25),
        "torchvision": lambda: torchvision_roi_align(feature, rois, side, 0.25, sampling_ratio=-1, aligned=True),
    }
    return {name: (lambda f=f: f().sum().backward()) if backward else f for name, f in pooled.items()}


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "| images x channels x map | boxes | | torchvision, ms | tailseg, ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        images, channels, height, width, boxes, side = case
        for backward in (False, True):
            times = seconds(ways(*case, backward=backward), rounds=5)
            ours, theirs = 1e3 * times["tailseg"], 1e3 * times["torchvision"]
            lines.append(
                f"| {images} x {channels} x {height} x {width} | {boxes} to {side} x {side} "
                f"| {'forward, backward' if backward else 'forward'} "
                f"| {theirs:.1f} | {ours:.1f} | {theirs / ours:.1f} |"
            )
    table = "\n".join(lines) + "\n"
    write("roi_align", "RoIAlign on a CPU", table, threads=1)


if __name__ == "__main__":
    main()
