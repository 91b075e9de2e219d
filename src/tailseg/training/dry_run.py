"""A dry run: the first steps of a training, to know its time and its memory. Nothing is written into its folder."""

import os
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from typing import Final

import torch

from tailseg.models.precision import float32_products
from tailseg.recipes.recipe import Recipe, run_folder
from tailseg.training.console import describe_seconds
from tailseg.training.distributed import all_or_none, gather_on_all, on_main_process, world_size
from tailseg.training.loop import train_step
from tailseg.training.run import Run, describe, describe_data, start
from tailseg.training.run_files import require_no_run
from tailseg.words import count_noun

MAX_STEPS: Final = 6
"""Steps that a dry run makes: a first one, and at most five whose time is measured."""
MAX_SECONDS: Final = 20.0
"""A dry run begins no step after this time, if it has measured one."""


def dry_run(recipe: Recipe) -> list[str]:
    """Makes the first steps of a training, with its data, its model and its optimizer.

    The run's files are in a temporary folder, which is removed.

    Args:
        recipe: every setting of the run.

    Returns:
        Lines for the user: the data, the time of a step, of an epoch and of the run, and the memory.

    Raises:
        ValueError: as `train`, also if the folder has a run already; or the processes run on several machines.
    """
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        raise ValueError("--dry-run works on one machine: use it with the number of processes of one machine")
    on_main_process(lambda: require_no_run(recipe, run_folder(recipe)))
    with tempfile.TemporaryDirectory(prefix="tailseg-") as temporary, float32_products(recipe.run.precision):
        folder = on_main_process(lambda: temporary)
        run = start(replace(recipe, run=replace(recipe.run, out=folder)), resume=False)
        lines = [describe(run), *describe_data(run), *run.notes]
        lines = [line.replace(folder, str(run_folder(recipe))) for line in lines]
        first, times = _measure_steps(run)
        return [*lines, "", *_describe_times(run, first, times), _describe_memory(run)]


def measure_pace(recipe: Recipe) -> tuple[float, int]:
    """Makes the first steps of a training in a temporary folder.

    Args:
        recipe: every setting of the run.

    Returns:
        The seconds of a step, and the steps of an epoch.

    Raises:
        ValueError: as `tailseg.training.loop.train`.
    """
    with tempfile.TemporaryDirectory(prefix="tailseg-") as folder, float32_products(recipe.run.precision):
        run = start(replace(recipe, run=replace(recipe.run, out=folder)), resume=False)
        first, times = _measure_steps(run)
    return (sum(times) / len(times) if times else first), run.sampler.steps_per_epoch


def _measure_steps(run: Run) -> tuple[float, list[float]]:
    """Makes the steps; returns the seconds of the first one, which also prepares things, and of the others."""
    run.sampler.set_epoch(0)
    run.model.train()
    batches, began = islice(iter(run.loader), min(MAX_STEPS, run.sampler.steps_per_epoch)), time.monotonic()
    times: list[float] = []
    while True:
        start_time = time.monotonic()
        with all_or_none():
            batch = next(batches, None)
        if batch is None:
            break
        train_step(run, batch.to(run.device))
        if run.device.type != "cpu":
            torch.accelerator.synchronize(run.device)
        run.progress.step += 1
        times.append(time.monotonic() - start_time)
        if len(times) > 1 and max(gather_on_all(time.monotonic() - began)) > MAX_SECONDS:
            break
    return times[0], times[1:]


def _describe_times(run: Run, first: float, times: list[float]) -> list[str]:
    epochs, steps = run.recipe.optim.epochs, run.sampler.steps_per_epoch
    seconds = sum(times) / len(times) if times else first
    how = f"the mean of {count_noun(len(times), 'step')}, after a first step of {_describe_step(first)}"
    if not times:
        how = "the first step, which is slower than others; an epoch has no second one"
    length = f"{count_noun(epochs, 'epoch')}, {count_noun(steps * epochs, 'step')}"
    return [
        f"step:    {_describe_step(seconds)} ({how})",
        f"epoch:   {describe_seconds(seconds * steps)} for {count_noun(steps, 'step')}",
        f"run:     {describe_seconds(seconds * steps * epochs)} for {length}, without evaluations and checkpoints",
    ]


def _describe_step(seconds: float) -> str:
    return f"{seconds:.3g} s"


def _describe_memory(run: Run) -> str:
    """Describes the peak of the memory; of several processes the largest."""
    parts = []
    if run.device.type == "cuda":
        allocated, reserved = (
            _describe_bytes(max(gather_on_all(read(run.device))))
            for read in (torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved)
        )
        parts.append(f"{allocated} of the GPU allocated, {reserved} reserved by torch")
    if peak := max(gather_on_all(_get_peak_memory())):
        workers = run.recipe.data.workers
        loaders = f", without its {count_noun(workers, 'loader process')}" if workers else ""
        parts.append(f"{_describe_bytes(peak)} of main memory{loaders}")
    each = f" in each of {world_size()} processes" if world_size() > 1 else ""
    return f"memory:  at the peak {'; '.join(parts) or 'not known on this system'}{each}"


def _get_peak_memory() -> int:
    """The largest number of bytes that this process has had in the main memory; 0 if the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _describe_bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
