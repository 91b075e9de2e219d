"""Runs the commands of docs/how-to/first-hour.md as written, on the photographs that the page is about.

    uv run python benchmarks/first_hour.py --weights tf_efficientnet_lite0.safetensors

The photographs (``--data``, with train.json, val.json and images) are not part of the project. The commands run one
after the other in ``--folder``, with an empty cache. The only change: a training loads the weights of its backbone from
``--weights``, because they cannot be downloaded everywhere; benchmarks/backbones.py makes the file. The script writes
the time of each command and the figures of the model into benchmarks/results, and what was printed into ``--folder``.
"""

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

from measure import table, write
from seeds import read_figures
from study import FEW_IMAGES, score_few

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/how-to/first-hour.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAM = "tailseg "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/trashcan", help="folder of the data")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/first_hour"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    (options.folder / "trashcan").symlink_to(options.data.resolve())
    rows = []
    for number, command in enumerate(read_commands(), 1):
        print(f"\n$ {command}", flush=True)
        wall, cpu = run(command, options.folder, options.weights.resolve(), options.folder / f"{number}.log")
        rows.append([f"`{command}`", f"{wall / 60:.1f}", f"{cpu / 60:.1f}"])
    text = table(["command", "minutes", "CPU minutes"], rows) + "\n" + describe_figures(options.folder)
    write("first_hour", "The first hour", text, threads=os.cpu_count() or 1)


def describe_figures(folder: Path) -> str:
    """Says the figures of the trained model on the validation images."""
    run = folder / "runs/custom_frozen"
    figures = {**read_figures(run), **score_few(folder / "trashcan/train.json", run)}
    shown = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
    return (
        f"The model, percent: {shown}. APfew: classes with at most {FEW_IMAGES} training images; APb, APbfew: boxes.\n"
    )


def read_commands() -> list[str]:
    """The commands of the page that start the program, each in one line."""
    lines = "".join(BLOCK.findall(PAGE.read_text())).replace("\\\n", "").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith(PROGRAM)]


def run(command: str, folder: Path, weights: Path, log: Path) -> tuple[float, float]:
    """Runs a command, shows what it prints, and returns its seconds by the clock and of all its processes."""
    words = [sys.executable, "-m", *shlex.split(command)]
    if command.startswith(f"{PROGRAM}train "):
        words.append(f"--model.backbone.weights={weights}")
    before, began = _cpu_seconds(), time.monotonic()
    with log.open("w") as out:
        environment = {**os.environ, "TAILSEG_HOME": str((folder / "cache").resolve())}
        process = subprocess.run(words, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False)
    print(log.read_text(), flush=True)
    if process.returncode:
        raise SystemExit(f"{command}: exit code {process.returncode}")
    return time.monotonic() - began, _cpu_seconds() - before


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
