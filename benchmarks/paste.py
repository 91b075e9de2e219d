"""Samples a CPU second of the loader: large-scale jitter alone, and with copy-paste.

    uv run python benchmarks/paste.py                                       tiny_tail, and coco_tail if it is there
    uv run python benchmarks/paste.py --rounds 9                            more rounds, for a busy machine
    uv run python benchmarks/paste.py --annotations my.json                 your own file

A loader process reads, jitters and pastes into the images of an epoch, and hands them to this process. The time is the
CPU time of both, with one thread each. The ways take the same images with the same random numbers in turns, and each
counts with its least time of all rounds: so other programs on the machine change the figures little. The ratio is that
of the samples a second: 1 would mean that copy-paste takes no time.
"""

import multiprocessing
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
import tyro
from measure import table, write

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.data.cutouts import open_cutouts
from tailseg.data.loader import DetectionDataset, train_loader
from tailseg.data.paste import CopyPaste
from tailseg.data.sampler import TrainSampler
from tailseg.data.settings import CopyPasteConfig, JitterConfig
from tailseg.data.tiny_tail import prepare
from tailseg.data.transforms import train_transform

COCO_TAIL: Final = Path(__file__).parents[2] / "shared" / "data" / "coco_tail" / "train.json"
BATCH: Final = 4


@dataclass(frozen=True)
class Options:
    """What to measure."""

    annotations: tuple[Path, ...] = ()
    """Annotation files; none takes tiny_tail and coco_tail."""
    sizes: tuple[int, ...] = (416, 1024)
    """Sides of the jittered square in pixels, for photographs."""
    samples: int = 160
    rounds: int = 5
    write: bool = False
    """Write the table into benchmarks/results, with the date."""


def measure(annotations: Annotations, size: int, options: Options) -> dict[str, float]:
    """Milliseconds of CPU time a sample of each way: jitter alone, and several settings of copy-paste."""
    transform = train_transform([size], size, 0.5, jitter=JitterConfig(size=size))
    config = CopyPasteConfig()
    cutouts = open_cutouts(annotations, objects_per_class=config.objects_per_class, max_megabytes=config.max_megabytes)
    configs = {
        "default": config,
        "up to 3 objects": replace(config, max_objects=3),
        "blurred edges": replace(config, edge="blurred"),
        "every image": replace(config, probability=1.0),
    }
    weights = np.ones(annotations.num_classes)
    pastes = {"jitter": None, **{name: CopyPaste(cutouts, each, weights) for name, each in configs.items()}}
    sampler = TrainSampler(annotations, batch_size=BATCH, seed=0)
    steps = sampler.steps_per_epoch - min(sampler.steps_per_epoch, options.samples // BATCH)
    sampler.set_epoch(0, start_step=steps)
    loaders = {
        name: train_loader(DetectionDataset(annotations, transform, paste=paste), sampler, BATCH, workers=1)
        for name, paste in pastes.items()
    }
    shuffle, least = random.Random(0), dict.fromkeys(loaders, float("inf"))
    for number in range(options.rounds + 1):
        for name, loader in shuffle.sample(list(loaders.items()), len(loaders)):
            began = count_seconds()
            count = sum(len(batch) for batch in loader)
            if number:  # the first round starts the processes
                least[name] = min(least[name], 1e3 * (count_seconds() - began) / count)
    return least


def count_seconds() -> float:
    """CPU seconds of this process and of the loader processes."""
    tasks = (
        task
        for child in multiprocessing.active_children()
        for task in Path(f"/proc/{child.pid}/task").glob("*/schedstat")
    )
    return time.process_time() + sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def main() -> None:
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False  # the loader runs on the CPU, and so does the clock
    cases: list[tuple[str, Path, int]] = []
    if not options.annotations:
        cases.append(("tiny_tail", prepare("tiny_tail")[0], 192))
    files = options.annotations or ((COCO_TAIL,) if COCO_TAIL.is_file() else ())
    cases += [(file.parent.name, file, size) for file in files for size in options.sizes]
    rows = []
    for name, file, size in cases:
        times = measure(read_dataset(file), size, options)
        plain = times.pop("jitter")
        for setting, pasted in times.items():
            speeds = (f"{1e3 / plain:.0f}", f"{1e3 / pasted:.0f}", f"{plain / pasted:.2f}")
            rows.append([name, str(size), setting, *speeds])
    head = ["data", "side", "copy-paste", "jitter alone, samples a CPU second", "with copy-paste", "ratio"]
    text = table(head, rows)
    if options.write:
        write("paste", "Samples of the loader with copy-paste", text, threads=1)
    else:
        print(text)


if __name__ == "__main__":
    main()
