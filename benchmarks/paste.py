"""Samples a CPU second of the loader: large-scale jitter alone, and with copy-paste.

    uv run python benchmarks/paste.py                                       tiny_tail, and coco_tail if it is there
    uv run python benchmarks/paste.py --rounds 9                            more rounds, for a busy machine
    uv run python benchmarks/paste.py --annotations my.json                 your own file

A sample is read, jittered, pasted into, given its target, put into shared memory and pickled, on one thread: all that a
loader process does. The ways take the same samples with the same random numbers in turns, in this process. Each sample
of each way counts with its least CPU time of all rounds: so other programs on the machine change the figures little.
The ratio is that of the samples a second: 1 would mean that copy-paste takes no time.
"""

import pickle
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
import tyro
from measure import clock, table, write

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.data.cutouts import open_cutouts
from tailseg.data.loader import DetectionDataset, _pack
from tailseg.data.paste import CopyPaste
from tailseg.data.settings import CopyPasteConfig, JitterConfig
from tailseg.data.tiny_tail import prepare
from tailseg.data.transforms import train_transform

COCO_TAIL: Final = Path(__file__).parents[2] / "shared" / "data" / "coco_tail" / "train.json"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    annotations: tuple[Path, ...] = ()
    """Annotation files; none takes tiny_tail and coco_tail."""
    sizes: tuple[int, ...] = (416, 1024)
    """Sides of the jittered square in pixels, for photographs."""
    samples: int = 80
    rounds: int = 12
    write: bool = False
    """Write the table into benchmarks/results, with the date."""


def measure(annotations: Annotations, size: int, options: Options) -> dict[str, float]:
    """Milliseconds of CPU time a sample of each way: jitter alone, and several settings of copy-paste."""
    transform = train_transform([size], size, 0.5, jitter=JitterConfig(size=size))
    config = CopyPasteConfig()
    cutouts = open_cutouts(annotations, objects_per_class=config.objects_per_class, max_megabytes=config.max_megabytes)
    configs = {
        "default": config,
        "up to 6 objects": replace(config, max_objects=6),
        "blurred edges": replace(config, edge="blurred"),
        "every image": replace(config, probability=1.0),
    }
    weights = np.ones(annotations.num_classes)
    pastes = {"jitter": None, **{name: CopyPaste(cutouts, each, weights) for name, each in configs.items()}}
    datasets = {name: DetectionDataset(annotations, transform, paste=paste) for name, paste in pastes.items()}
    shuffle, least = random.Random(0), {name: [float("inf")] * options.samples for name in datasets}
    samples = [(shuffle.randrange(annotations.num_images), shuffle.randrange(2**62)) for _ in range(options.samples)]
    for _ in range(options.rounds):
        for number, sample in enumerate(samples):
            for name, dataset in shuffle.sample(list(datasets.items()), len(datasets)):
                began = clock()
                image, target, info = dataset[sample]
                image.share_memory_()
                pickle.dumps((_pack(target), info))
                least[name][number] = min(least[name][number], clock() - began)
    return {name: 1e3 * sum(times) / len(times) for name, times in least.items()}


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
