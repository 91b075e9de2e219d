"""RoIAlign with its gradient on a CPU: tailseg's against torchvision's, on the same maps and boxes.

    uv run python benchmarks/roi_align.py

Prints, and writes to benchmarks/results, the median time of forward and backward of each and their ratio. Sizes: the
tiny recipes' finest level (what tailseg.ops.roi_align was written for), and maps on both sides of its limit.
"""

import datetime as dt
import os
import platform
from pathlib import Path

import torch
from torch.utils.benchmark import Timer
from torchvision.ops import roi_align as torchvision_roi_align

from tailseg.ops.roi_align import SMALL_MAP, roi_align

RESULTS = Path(__file__).parent / "results"
CASES = (  # images, channels, side of the map, boxes, pooled side
    (8, 64, 32, 384, 7),
    (8, 64, 32, 96, 14),
    (2, 256, 64, 512, 7),
    (2, 256, 128, 512, 7),
)


def milliseconds(call: str, feature: torch.Tensor, rois: torch.Tensor, side: int) -> float:
    timer = Timer(
        f"{call}.sum().backward()",
        globals={
            "f": feature,
            "r": rois,
            "s": side,
            "ours": roi_align,
            "theirs": torchvision_roi_align,
        },
    )
    return timer.blocked_autorange(min_run_time=2).median * 1e3


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    lines = ["| images x channels x map | boxes | torchvision, ms | tailseg, ms | ratio |", "|---|---|---|---|---|"]
    for images, channels, size, boxes, side in CASES:
        feature = torch.randn(images, channels, size, size).to(memory_format=torch.channels_last).requires_grad_()
        low = torch.rand(boxes, 2) * size * 0.7 * 4
        rois = torch.cat(
            [(torch.arange(boxes) * images // boxes)[:, None], low, low + size * (0.2 + torch.rand(boxes, 2))], 1
        )
        theirs = milliseconds("theirs(f, r, s, 0.25, sampling_ratio=-1, aligned=True)", feature, rois, side)
        ours = milliseconds("ours(f, r, s, 0.25)", feature, rois, side)
        small = "" if size * size <= SMALL_MAP else " (torchvision's own: above the limit)"
        lines.append(
            f"| {images} x {channels} x {size} x {size}{small} | {boxes} to {side} x {side} "
            f"| {theirs:.1f} | {ours:.1f} | {theirs / ours:.2f} |"
        )
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"roi_align-{today}.md"
    path.write_text(
        f"# RoIAlign with its gradient on a CPU, {today}\n\n`uv run python benchmarks/roi_align.py`; torch "
        f"{torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, one thread; medians of forward with "
        "backward.\n\n" + "\n".join(lines) + "\n"
    )
    print(path.read_text())


if __name__ == "__main__":
    main()
