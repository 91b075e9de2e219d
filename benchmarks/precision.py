"""Training Mask R-CNN R50 of 1,203 classes in every precision, compiled and not: losses, images a second, memory.

    uv run python benchmarks/precision.py              on a GPU; on a CPU it takes hours
    uv run python benchmarks/precision.py --steps 4 --batches 2 --short-side 128

The recipe is gumbel_mask_rcnn_r50_random_1x on synthetic images, from the data set to the optimiser, as `tailseg train`
runs it. The backbone's weights are random, its fixed batch norms hold the statistics of its features.

Losses: the same images in the same order for each precision. They part by more than rounding: where two regions rank
alike, another one is trained. How far TensorFloat-32 parts from float32 is the measure for bfloat16 and float16.
Images a second: with the loader in the first table, in the second one the same batch again and again, moved to the
device each time. Memory is the most that torch held, the weights included.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import get_args

import torch
import tyro
from measure import table, write
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

    steps: int = 200
    """Steps of which the losses are compared, of two images each."""
    batches: tuple[int, ...] = (2, 4, 8, 16)
    """Images a step whose speed and memory are measured."""
    compile: bool = True
    """Measure torch.compile too."""
    precisions: tuple[Precision, ...] = get_args(Precision)
    """Of the losses; the speed is measured in float32, TensorFloat-32 and bfloat16."""
    short_side: int = 800
    workers: int = 8
    rounds: int = 5
    """Steps that are timed for each batch size; the median counts."""


def recipe(folder: Path, options: Options, precision: Precision, batch: int, *, compiled: bool) -> Recipe:
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
    run = replace(made.run, out=tempfile.mkdtemp(dir=folder), precision=precision, compile=compiled)
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
    """Gives every fixed batch norm the statistics of what it normalises."""
    norms = [module for module in run.model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    noise = torch.rand(2, 3, 256, 384, generator=torch.Generator().manual_seed(0)).to(run.device)
    for norm in norms:
        norm.train().momentum = 1.0
    run.model.backbone.forward(4 * noise - 2)  # `forward`, not the compiled call
    for norm in norms:
        norm.eval()


def wait() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def losses(folder: Path, options: Options) -> str:
    """Mean losses of each part of the steps, and what the steps took with the loader's work."""
    rows, reference = [], torch.zeros(0)
    for precision in options.precisions:
        run, batches = begin(recipe(folder, options, precision, 2, compiled=False))
        summed, began = [], 0.0
        with float32_products(precision):
            for i, batch in enumerate(islice(batches, options.steps)):
                summed.append(sum(train_step(run, batch.to(run.device))[0].values()))
                run.progress.step += 1
                if i == options.steps // 10:
                    began = wait()
        rate = 2 * (options.steps - 1 - options.steps // 10) / (wait() - began)
        values = torch.tensor(summed, dtype=torch.float64)
        if not len(reference):
            reference = values
        means = torch.stack([part.mean() for part in values.tensor_split(WINDOWS)])
        parted = torch.stack([part.mean() for part in ((values - reference) / reference).abs().tensor_split(WINDOWS)])
        shown = [f"{mean:.4f}" for mean in means]
        shown += [f"{(values[0] / reference[0] - 1).abs():.1e}", f"{parted[-1]:.1e}", f"{rate:.1f}"]
        rows.append([precision, *shown])
        print(rows[-1], flush=True)
    ends = [round((i + 1) * options.steps / WINDOWS) for i in range(WINDOWS)]
    head = ["", *(f"to step {end}" for end in ends), "apart at step 1", "apart in the last fifth", "images/s"]
    return table(head, rows)


def speed(folder: Path, options: Options) -> str:
    """Images a second and the most memory held, for each batch size."""
    rows = []
    ways: list[tuple[Precision, bool]] = [("float32", False), ("tf32", False), ("bfloat16", False)]
    for precision, compiled in [*ways, *[("bfloat16", True)] * options.compile]:
        for size in options.batches:
            run, batches = begin(recipe(folder, options, precision, size, compiled=compiled))
            batch = next(batches)
            del batches
            times = []
            with float32_products(precision):
                began = wait()
                for _ in range(2):
                    train_step(run, batch.to(run.device))
                warm_up = wait() - began
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                for _ in range(options.rounds):
                    began = wait()
                    train_step(run, batch.to(run.device))
                    times.append(wait() - began)
            took = sorted(times)[len(times) // 2]
            held = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan")
            name = f"{precision}, compiled" if compiled else precision
            rows.append([name, str(size), f"{took:.3f}", f"{size / took:.1f}", f"{held:.2f}", f"{warm_up:.1f}"])
            print(rows[-1], flush=True)
    return table(["", "images a step", "a step, s", "images/s", "GB held", "first two steps, s"], rows)


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = losses(Path(folder), options)
        second = speed(Path(folder), options)
    text = f"Losses together, mean of a fifth of the steps:\n\n{first}\nSpeed and memory:\n\n{second}"
    write("precision", "Training in every precision", text, threads=torch.get_num_threads())


if __name__ == "__main__":
    main(tyro.cli(Options))
