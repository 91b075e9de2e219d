"""Training of Mask R-CNN R50 with 1,203 classes in every precision, compiled or not: losses, images/s, memory.

    uv run python benchmarks/precision.py              losses of 200 steps; minutes on a GPU, hours on a CPU
    uv run python benchmarks/precision.py --part speed --precisions float32 tf32 bfloat16
    uv run python benchmarks/precision.py --part speed --precisions bfloat16 --compile

The recipe is gumbel_mask_rcnn_r50_random_1x on synthetic images, from the data set to the optimizer, as `tailseg train`
runs it. The backbone has random weights, and its fixed batch norms have the statistics of its features. The loss starts
in the thousands, so the gradient is clipped.

Losses: each precision has the same images in the same order. The losses differ by more than rounding: if two regions
have nearly equal ranks, another one is trained. The difference of TensorFloat-32 and float32 is the standard for
bfloat16 and float16. Speed: the same batch is moved to the device and trained again and again, and then new batches
from the loader. Memory is the peak of torch's memory, with the weights.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Literal, get_args

import torch
import tyro
from measure import clock, in_own_process, table, write
from synthetic_lvis import write_lvis
from torch import nn

from tailseg.models.precision import Precision, float32_products
from tailseg.recipes.activations import gumbel_mask_rcnn_r50_random_1x
from tailseg.recipes.recipe import Recipe
from tailseg.structures import Batch
from tailseg.training.loop import train_step
from tailseg.training.run import Run, start

WINDOWS = 5
"""Parts of the losses' steps that are shown: each the mean of as many steps."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    part: Literal["losses", "speed"] = "losses"
    steps: int = 200
    """Steps of which the losses are compared, of two images each."""
    precisions: tuple[Precision, ...] = get_args(Precision)
    """What is measured; losses are compared with those of the first."""
    batches: tuple[int, ...] = (2, 4, 8, 16)
    """Images a step whose speed and memory are measured."""
    compile: bool = False
    """Measure the speed compiled."""
    short_side: int = 800
    workers: int = 8
    rounds: int = 5
    """Steps that are timed for each batch size; the median counts."""
    alone: bool = False
    """Print the losses of the first precision as JSON."""


def recipe(folder: Path, options: Options, precision: Precision, batch: int) -> Recipe:
    made = gumbel_mask_rcnn_r50_random_1x()
    file = str(write_lvis(folder, scale=0.02, counts=None))
    data = replace(
        made.data,
        train=file,
        val=file,
        train_images=str(folder / "images"),
        val_images=str(folder / "images"),
        short_sides=(options.short_side,),
        batch_size=batch,
        workers=options.workers,
    )
    model = replace(made.model, backbone=replace(made.model.backbone, weights="none"))
    # random weights want a gentle start
    optim = replace(made.optim, warmup_iterations=options.steps, clip_norm=10.0)
    run = replace(made.run, out=tempfile.mkdtemp(dir=folder), precision=precision, compile=options.compile)
    return replace(made, data=data, model=model, optim=optim, run=run)


def begin(recipe: Recipe) -> tuple[Run, Iterator[Batch]]:
    """The run before its first step, and its batches."""
    run = start(recipe, resume=False)
    run.sampler.set_epoch(0)
    calibrate_norms(run)
    run.model.train()
    return run, iter(run.loader)


@torch.no_grad()
def calibrate_norms(run: Run) -> None:
    """Gives every fixed batch norm the statistics of what it normalizes."""
    norms = [module for module in run.model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    noise = torch.rand(2, 3, 256, 384, generator=torch.Generator().manual_seed(0)).to(run.device)
    for norm in norms:
        norm.train().momentum = 1.0
    run.model.backbone.forward(4 * noise - 2)  # `forward`, not the compiled call
    for norm in norms:
        norm.eval()


def compute_losses(folder: Path, options: Options, precision: Precision) -> list[float]:
    """The losses of each step, added up."""
    run, batches = begin(recipe(folder, options, precision, 2))
    summed = []
    with float32_products(precision):
        for batch in islice(batches, options.steps):
            summed.append(sum(train_step(run, batch.to(run.device))[0].values()))
            run.progress.step += 1
    return summed


def compare_losses(options: Options) -> str:
    """Mean losses of each part of the steps; on a GPU all precisions at once."""

    def alone(precision: Precision) -> list[float]:
        return in_own_process(__file__, *sys.argv[1:], "--alone", "--precisions", precision)

    at_once = len(options.precisions) if torch.cuda.is_available() else 1
    torch.set_num_threads(max(torch.get_num_threads() // at_once, 1))
    with ThreadPoolExecutor(at_once) as pool:
        values = torch.tensor(list(pool.map(alone, options.precisions)), dtype=torch.float64)
    rows = []
    for precision, ours in zip(options.precisions, values, strict=True):
        apart = ((ours - values[0]) / values[0]).abs()
        shown = [f"{part.mean():.4f}" for part in ours.tensor_split(WINDOWS)]
        rows.append([precision, *shown, f"{apart[0]:.1e}", f"{apart.tensor_split(WINDOWS)[-1].mean():.1e}"])
    ends = [round((i + 1) * options.steps / WINDOWS) for i in range(WINDOWS)]
    return table(["", *(f"to step {end}" for end in ends), "apart at step 1", "apart in the last fifth"], rows)


def measure_speed(folder: Path, options: Options) -> str:
    """Images a second and the most memory held, for each batch size."""
    rows = []
    for precision in options.precisions:
        for size in options.batches:
            run, batches = begin(recipe(folder, options, precision, size))
            batch = next(batches)

            def step(batch: Batch, run: Run = run) -> float:
                began = clock()
                train_step(run, batch.to(run.device))
                return clock() - began

            with float32_products(precision):
                warm_up = step(batch) + step(batch)
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                took = median(step(batch) for _ in range(options.rounds))
                held = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan")
                began = clock()
                steps = [step(batch) for batch in islice(batches, 4 * options.rounds)]
                with_loader = size * len(steps) / (clock() - began)
            rates = [f"{took:.3f}", f"{size / took:.1f}", f"{with_loader:.1f}"]
            rows.append([precision, str(size), *rates, f"{held:.2f}", f"{warm_up:.1f}"])
            print(rows[-1], flush=True)
    head = ["", "images a step", "a step, s", "images/s", "images/s with the loader", "GB held", "first two steps, s"]
    return table(head, rows)


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if options.alone:
            print(json.dumps(compute_losses(Path(folder), options, options.precisions[0])))
            return
        if options.part == "losses":
            text = f"Losses together, mean of a fifth of the steps:\n\n{compare_losses(options)}"
        else:
            text = measure_speed(Path(folder), options)
    name = "-".join(["precision", options.part, *["compiled"] * options.compile])
    write("precision", "Training in every precision", text, threads=torch.get_num_threads(), file=name)


if __name__ == "__main__":
    main(tyro.cli(Options))
