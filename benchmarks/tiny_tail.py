"""Every loss on tiny_tail: AP by frequency group over several seeds, and seconds per step.

    uv run python benchmarks/tiny_tail.py
    uv run python benchmarks/tiny_tail.py --name tiny_tail_cascades --losses cascade_softmax cascade_gumbel ...
    uv run python benchmarks/tiny_tail.py --name tiny_tail_rivals --losses softmax seesaw pcb pcb_seesaw ebl rog ...

Every loss trains the same network on the same images in the same order. Only the classifier's loss differs, and each is
tested with its own activation. Runs are in ``runs/tiny_tail``. A finished run is not repeated, and a stopped run is
resumed. The table is written to benchmarks/results.
"""

import datetime as dt
import json
import os
import platform
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from seeds import COLUMNS, format_difference, format_mean, read_figures

from tailseg.recipes import RECIPES
from tailseg.recipes.tiny import TINY_LOSSES

LOSSES = tuple(recipe.__name__.removeprefix("tiny_") for recipe in TINY_LOSSES)
"""One recipe a loss; ``--losses`` also takes the cascades, such as ``cascade_gumbel``, and rivals, such as ``pcb``."""

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """What to train."""

    losses: tuple[str, ...] = LOSSES
    seeds: tuple[int, ...] = (0, 1)
    parallel: int = 2
    """Runs at a time, each on one thread."""
    out: Path = Path("runs/tiny_tail")
    results: Path = RESULTS
    name: str = "tiny_tail"
    """Of the table's file, before the date."""
    report_only: bool = False
    """Only make the table of the runs that are finished."""
    extra: tuple[str, ...] = ()
    """More options of ``tailseg train`` for every run, such as ``--optim.epochs=1``."""


def run_folder(options: Options, loss: str, seed: int) -> Path:
    return options.out / f"{loss}_{seed}"


def finished(folder: Path) -> bool:
    return (folder / "done").exists()


def train(options: Options, loss: str, seed: int) -> None:
    """Trains one model in a process of its own."""
    folder = run_folder(options, loss, seed)
    if finished(folder):
        return
    command = [sys.executable, "-m", "tailseg", "train", f"tiny_{loss}"]
    command += ["--run.out", str(folder), "--run.seed", str(seed), "--data.workers", "0", *options.extra]
    if (folder / "recipe.json").exists():
        command.append("--resume")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (options.out / f"{folder.name}.log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (folder / "done").touch()
    print(f"{loss}, seed {seed}: done", flush=True)


def figures(options: Options, loss: str) -> dict[str, list[float]]:
    """The finished runs' values of each column, in percent."""
    values: dict[str, list[float]] = {column: [] for column in COLUMNS}
    for seed in options.seeds:
        folder = run_folder(options, loss, seed)
        if finished(folder):
            for column, value in read_figures(folder).items():
                values[column].append(value)
    return values


def seconds_a_step(options: Options, loss: str) -> float:
    """The fastest run's median: other work on the machine makes a step longer, never shorter."""
    medians = []
    for seed in options.seeds:
        log = run_folder(options, loss, seed) / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
        if rates:
            medians.append(RECIPES[f"tiny_{loss}"]().data.batch_size / median(rates))
    return min(medians, default=float("nan"))


def table(options: Options) -> str:
    """The comparison as Markdown: mean and standard deviation over seeds."""
    lines = ["| Loss | seeds | " + " | ".join(COLUMNS) + " | s a step |", "|---|---|" + "---|" * (len(COLUMNS) + 1)]
    for loss in options.losses:
        values = figures(options, loss)
        cells = [*map(format_mean, values.values()), f"{seconds_a_step(options, loss):.2f}"]
        lines.append(f"| {loss} | {len(values['AP'])} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *differences(options)])


def differences(options: Options) -> list[str]:
    """Of two losses with three seeds or more: the mean differences and their 95 % intervals, by the paired t-test."""
    if len(options.losses) != 2:
        return []
    first, second = (figures(options, loss) for loss in options.losses)
    count = len(first["AP"])
    if count < 3 or len(second["AP"]) != count:
        return []
    cells = []
    for column in COLUMNS:
        pairs = [after - before for before, after in zip(first[column], second[column], strict=True)]
        cells.append(f"{column} {format_difference(pairs)}")
    return [
        "",
        f"{options.losses[1]} minus {options.losses[0]}, the mean over the seeds and its 95 % interval (paired t): "
        + ", ".join(cells),
    ]


def main(options: Options) -> None:
    if not options.report_only:
        jobs = [(loss, seed) for seed in options.seeds for loss in options.losses]
        with ThreadPoolExecutor(options.parallel) as pool:
            list(pool.map(lambda job: train(options, *job), jobs))
    made = table(options)
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{options.name}-{today}.md"
    arguments = [argument for argument in sys.argv[1:] if argument != "--report-only"]
    command = shlex.join(["uv", "run", "python", "benchmarks/tiny_tail.py", *arguments])
    path.write_text(
        f"# Losses on tiny_tail, {today}\n\n`{command}`; torch {torch.__version__}, {platform.machine()}, "
        f"{os.cpu_count()} cores, one thread a run. Masks unless said (APb: boxes); "
        f"mean ± standard deviation over seeds, in percent. Seconds by the clock: other programs make them more.\n\n"
        f"{made}\n"
    )
    print(made)
    print(path)


if __name__ == "__main__":
    main(tyro.cli(Options))
