"""All figures that wait for a GPU, most important first, in at most ten minutes.

    uv run python benchmarks/gpu.py
    uv run python benchmarks/gpu.py --dry-run     what would run
    uv run python benchmarks/gpu.py --parts norms losses

Each part is a command of its own, which can be called alone, too. A part that would run over the time left is stopped,
and those after it are not started. Each part writes its figures to benchmarks/results; this script adds a table with
the parts, their seconds and what became of them. Without a GPU the parts run on the CPU, which takes hours and shows
only that they work.
"""

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from measure import table, write

ROOT = Path(__file__).parents[1]
TRAINING = "benchmarks/training.py --precision bfloat16 --threads 16"
PARTS = {
    "tests": "-m pytest -q -n 0 tests/test_gpu.py",
    "training 4": f"{TRAINING} --batch 4",
    "training 4 compiled": f"{TRAINING} --batch 4 --compile",
    "training 16": f"{TRAINING} --batch 16 --rounds 2",
    "training 16 compiled": f"{TRAINING} --batch 16 --rounds 2 --compile",
    "norms": f"{TRAINING} --batch 16 --rounds 2 --separate-norms",
    "losses": "benchmarks/losses.py",
    "dense losses": "benchmarks/dense.py",
    "masks": "benchmarks/masks.py",
    "200 steps": "benchmarks/precision.py --precisions float32 bfloat16",
}
"""What runs, in this order: name, and the arguments of Python."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    parts: tuple[str, ...] = tuple(PARTS)
    """Names of the parts; the first word is enough: training, norms, losses."""
    minutes: float = 10
    """Time for all parts together."""
    dry_run: bool = False
    """Print the commands and end."""


def main(options: Options) -> None:
    end = time.monotonic() + 60 * options.minutes
    unknown = [part for part in options.parts if not any(is_part(name, part) for name in PARTS)]
    if unknown:
        raise SystemExit(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen = {name: code for name, code in PARTS.items() if any(is_part(name, part) for part in options.parts)}
    if options.dry_run:
        print("\n".join(f"python {code}" for code in chosen.values()))
        return
    rows = []
    for name, code in chosen.items():
        print(f"\n== {name}: python {code}", flush=True)
        began = time.monotonic()
        outcome = run(code, end - began) if end > began else "not started: no time left"
        rows.append([name, f"`python {code}`", f"{time.monotonic() - began:.0f}", outcome])
        print(f"== {name}: {outcome}", flush=True)
    text = table(["part", "command", "seconds", "outcome"], rows)
    write("gpu", "The figures that wait for a GPU", text, threads=torch.get_num_threads())
    if any(row[-1] != "done" for row in rows):
        raise SystemExit(1)


def is_part(name: str, wanted: str) -> bool:
    """Tells whether ``wanted`` is the name of a part or its beginning."""
    return name == wanted or name.startswith(f"{wanted} ")


def run(code: str, limit: float) -> str:
    """Runs a part for at most ``limit`` seconds, and says what became of it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    try:
        status = subprocess.run(
            [sys.executable, *shlex.split(code)], cwd=ROOT, env=environment, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return "stopped: no time left"
    return "done" if status.returncode == 0 else f"failed: exit code {status.returncode}"


if __name__ == "__main__":
    main(tyro.cli(Options))
