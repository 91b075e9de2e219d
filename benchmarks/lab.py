"""Is the ranking of `tailseg lab` worth something? Its figures against full trainings of the same losses on tiny_tail.

    uv run python benchmarks/lab.py
    uv run python benchmarks/lab.py --run runs/tiny_tail/gumbel_0

Without ``--run`` the network tiny_gumbel is trained once. On its kept features every loss is fitted with several seeds.
The full trainings are those of ``benchmarks/tiny_tail.py``, in the table ``--table``. The correlation is Spearman's, of
the means over the seeds. The table is written to benchmarks/results.
"""

import datetime as dt
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import torch
import tyro
from scipy.stats import spearmanr

from tailseg.lab import LabSettings, train_network
from tailseg.lab.lab import TRIALS, Store, open_bench
from tailseg.lab.trials import FIGURES, Candidate, Trial
from tailseg.recipes import RECIPES

RESULTS = Path(__file__).parent / "results"
NAMES = {"droploss": "droploss_sigmoid", "eql_v2": "eqlv2"}
"""Names of `tailseg.losses.LOSSES` that differ from those of the table."""
PAIRS = (("AP", "AP"), ("APr", "APr"), ("APc", "APc"), ("APf", "APf"), ("AP", "APb"))
"""Figures of the lab (boxes), and those of the table (masks; APb is that of boxes)."""


@dataclass(frozen=True)
class Options:
    """What to compare."""

    run: Path | None = None
    """The run whose network is used; None trains tiny_gumbel."""
    table: Path = RESULTS / "tiny_tail-2026-11-25.md"
    """The full trainings."""
    out: Path = Path("runs/lab_benchmark")
    results: Path = RESULTS
    name: str = "lab"
    """Of the table's file, before the date."""
    seeds: int = 3
    steps: int | None = None
    directions: int = 512
    views: int = 1
    workers: int = os.cpu_count() or 1


def read_table(file: Path) -> dict[str, dict[str, float]]:
    """The means of each loss in a table of ``benchmarks/tiny_tail.py``, in percent."""
    rows = [line.strip().strip("|").split("|") for line in file.read_text().splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in row] for row in rows]
    columns = {name: header.index(name) for _, name in PAIRS}
    return {
        NAMES.get(row[0], row[0]): {name: float(row[place].split()[0]) for name, place in columns.items()}
        for row in rows
    }


def describe_influence(lab: dict[str, dict[str, list[float]]], full: dict[str, dict[str, float]]) -> str:
    """The loss without which the correlation of AP changes most."""

    def correlate(losses: list[str]) -> float:
        return float(spearmanr([fmean(lab[loss]["AP"]) for loss in losses], [full[loss]["AP"] for loss in losses])[0])

    every = correlate(list(full))
    without = {left_out: correlate([loss for loss in full if loss != left_out]) for left_out in full}
    loss = max(without, key=lambda name: abs(without[name] - every))
    return f"the correlation changes most without {loss}: it is {without[loss]:.3f}"


def main(options: Options) -> None:
    full = read_table(options.table)
    run = options.run or options.out / "network"
    if not options.run:
        recipe = RECIPES["tiny_gumbel"]()
        train_network(replace(recipe, data=replace(recipe.data, workers=0)), run, minutes=1e6, say=print)
    settings = LabSettings(steps=options.steps, directions=options.directions, views=options.views)
    options.out.mkdir(parents=True, exist_ok=True)
    bench = open_bench(run, options.out, settings, say=print)
    trials = [Trial(Candidate(loss), seed) for seed in range(options.seeds) for loss in full]
    began, new = time.monotonic(), 0

    def show(done: int, total: int) -> None:
        nonlocal new
        new = total
        print(f"{done} of {total}, {time.monotonic() - began:.0f} s", flush=True)

    outcomes = Store(options.out / TRIALS, bench.steps).measure(bench, trials, options.workers, show)
    seconds = time.monotonic() - began
    lab = {
        loss: {
            name: [100 * outcome.figures[name] for outcome in outcomes if outcome.candidate.loss == loss]
            for name in FIGURES
        }
        for loss in full
    }
    lines = ["| Loss | " + " | ".join(f"{name} lab | {name} full" for name in FIGURES) + " |"]
    lines.append("|---|" + "---|" * (2 * len(FIGURES)))
    for loss in sorted(full, key=lambda loss: -full[loss]["AP"]):
        cells = []
        for name in FIGURES:
            values = lab[loss][name]
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            cells += [f"{fmean(values):.1f}{spread}", f"{full[loss][name]:.1f}"]
        lines.append(f"| {loss} | {' | '.join(cells)} |")
    lines += [
        "",
        "| Figure of the lab | of the full trainings | Spearman's rank correlation | p |",
        "|---|---|---|---|",
    ]
    for name, other in PAIRS:
        result = spearmanr([fmean(lab[loss][name]) for loss in full], [full[loss][other] for loss in full])
        lines.append(f"| {name} | {other} | {result.statistic:.3f} | {result.pvalue:.1g} |")
    lines += ["", f"Of AP and AP, {describe_influence(lab, full)}."]
    made = "\n".join(lines)
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    path = options.results / f"{options.name}-{today}.md"
    command = shlex.join(["uv", "run", "python", "benchmarks/lab.py", *sys.argv[1:]])
    timing = f"{seconds:.0f} s by the clock for {new} fits with {options.workers} processes. " if new else ""
    path.write_text(
        f"# The lab against full trainings on tiny_tail, {today}\n\n`{command}`; torch {torch.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} cores. {bench.steps} steps a fit, "
        f"{bench.features.train.x.shape[1]} directions ({bench.features.kept:.1%} of the squared length). {timing}"
        f"lab: AP of boxes, mean ± standard deviation over {options.seeds} seeds. full: {options.table.name}, AP of "
        f"masks (APb: boxes). Percent.\n\n{made}\n"
    )
    print(made)
    print(path)


if __name__ == "__main__":
    main(tyro.cli(Options))
