"""CPU seconds of a training step of recipes on tiny_tail on one thread, with loading of the images.

    uv run python benchmarks/tiny_steps.py

The figures are medians of 15 steps after 5 steps. The recipes take turns of 5 steps, so that a slow minute of the
machine affects all of them.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median

import torch
import tyro

from tailseg.recipes import get_recipe
from tailseg.training.loop import train_step
from tailseg.training.run import start


@dataclass(frozen=True)
class Options:
    """What to time."""

    recipes: tuple[str, ...] = tuple(
        f"tiny_{detector}{loss}" for detector in ("", "cascade_", "htc_") for loss in ("softmax", "gumbel", "gol")
    )
    steps: int = 15
    warmup: int = 5
    turn: int = 5
    """Steps of one recipe before it is the next one's turn."""


def step_times(name: str) -> Iterator[float]:
    """The seconds of one step after another."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = get_recipe(name)
        recipe = replace(
            recipe, data=replace(recipe.data, workers=0), run=replace(recipe.run, out=folder, device="cpu")
        )
        run = start(recipe, resume=False)
        run.sampler.set_epoch(0)
        batches = iter(run.loader)
        while True:
            begun = time.process_time()
            train_step(run, next(batches))
            run.progress.step += 1
            yield time.process_time() - begun


def main(options: Options) -> None:
    torch.set_num_threads(1)
    steps = {name: step_times(name) for name in options.recipes}
    times: dict[str, list[float]] = {name: [] for name in options.recipes}
    for _ in range(0, options.warmup + options.steps, options.turn):
        for name, taken in times.items():
            taken += islice(steps[name], options.turn)
    print("| Recipe | s a step |\n|---|---|")
    for name, taken in times.items():
        print(f"| {name} | {median(taken[options.warmup :]):.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
