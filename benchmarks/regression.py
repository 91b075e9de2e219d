"""Checks that tailseg has not become slower: ratios to torchvision in the same run, compared with stored ones.

    uv run python benchmarks/regression.py

A maintainer runs it on a CPU before a release; it takes two minutes. A ratio below 0.8 of the stored one is marked, and
the script fails. Find the change that caused it, or store the new figure with the reason.
"""

import sys
from collections.abc import Callable

import masks
import postprocess
import roi_align
import torch
from measure import seconds, table

ROI_CASE = (1, 256, 200, 304, 100, 14)

KNOWN = {
    "300 masks to run lengths": 60.0,
    "targets of 128 RoIs": 60.0,
    "NMS, 120 thousand": 50.0,
    "NMS, 1.2 million": 400.0,
    "RoIAlign, 100 boxes to 14 x 14": 15.0,
}
"""torchvision's CPU time on one thread divided by ours, rounded down (AMD EPYC, torch 2.15, 2026-11-25)."""


def cases() -> dict[str, dict[str, Callable[[], object]]]:
    return {
        "300 masks to run lengths": masks.pasting(300),
        "targets of 128 RoIs": masks.targets(128),
        "NMS, 120 thousand": postprocess.ways("120 thousand"),
        "NMS, 1.2 million": postprocess.ways("1.2 million"),
        "RoIAlign, 100 boxes to 14 x 14": roi_align.ways(*ROI_CASE),
    }


def main() -> None:
    torch.set_num_threads(1)
    rows, slower = [], False
    for name, ways in cases().items():
        times = seconds(ways, rounds=3)
        ratio = times["torchvision"] / times["tailseg"]
        slower |= ratio < 0.8 * KNOWN[name]
        rows.append([name, f"{ratio:.0f}", f"{KNOWN[name]:.0f}", "slower" if ratio < 0.8 * KNOWN[name] else ""])
    print(table(["", "torchvision / tailseg", "was", ""], rows))
    sys.exit(slower)


if __name__ == "__main__":
    main()
