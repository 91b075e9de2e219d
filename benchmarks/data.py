"""A data set of LVIS's size: time to open it, memory of loader workers, and samples per CPU second.

    uv run python benchmarks/data.py                       everything at full size: 8 GB of memory, some minutes
    uv run python benchmarks/data.py --scale 0.1           a tenth of the images and objects

The annotation file is synthetic (`synthetic_lvis.py`). It is written to ``--folder`` once (1.1 GB, and 1 GB of cache).
Each system is measured in its own process:

- *tailseg, first* parses the file and writes the cache; *tailseg, later* opens the cache.
- *torchvision*: ``CocoDetection``, which is pycocotools' ``COCO`` and Pillow, with transforms.v2. It parses each time.
- *detectron2's way*: its loading (``COCO``, one dictionary per image, each pickled into one array) and the work of its
  mapper (Pillow's decoding and resizing, polygons moved as arrays). It is reimplemented here, because detectron2 is on
  no package index.

A sample is one of the first thousand images, decoded and resized to a short side of 800, with the boxes, labels and
polygons of its objects, in one thread. The memory of a worker is its private memory (``Private_Dirty``) after it has
read the annotations of all images. Two workers run at once, forked as by DataLoader; *nothing* is a worker without a
data set.
"""

import datetime as dt
import json
import multiprocessing
import os
import pickle
import platform
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from synthetic_lvis import HEIGHT, WIDTH, write_lvis
from torchvision.datasets import CocoDetection
from torchvision.transforms import v2

from tailseg.annotations.read import read_dataset
from tailseg.data.loader import DetectionDataset
from tailseg.data.transforms import evaluation_transform

RESULTS = Path(__file__).parent / "results"
COUNTS = Path(__file__).parents[2] / "shared" / "data" / "lvis" / "categories_v1.json"
SHORT, LONG = 800, 1333
WORKERS = 2

Touch = Callable[[], float]
"""Reads the annotations of every image."""
Sample = Callable[[int], Any]


@dataclass(frozen=True)
class Options:
    """What to measure."""

    systems: tuple[str, ...] = ("nothing", "tailseg, first", "tailseg, later", "torchvision", "detectron2's way")
    scale: float = 1.0
    """Of the numbers of images and objects."""
    samples: int = 200
    folder: Path = Path.home() / ".cache" / "tailseg-benchmark"
    counts: Path | None = COUNTS if COUNTS.is_file() else None
    """LVIS's classes and their counts."""
    results: Path = RESULTS
    measure: bool = False
    """Measure the one system here, and print it as JSON."""


def open_nothing(_: Path) -> tuple[Touch, Sample | None]:
    return lambda: 0.0, None


def open_tailseg(file: Path) -> tuple[Touch, Sample | None]:
    annotations = read_dataset(file)
    dataset = DetectionDataset(annotations, evaluation_transform(SHORT, LONG))

    def touch() -> float:
        return sum(
            float(polygon[0, 0])
            for i in range(annotations.num_images)
            for mask in annotations.get_record(i).segmentations
            for polygon in mask
        )

    return touch, lambda index: dataset[index, 0]


def open_torchvision(file: Path) -> tuple[Touch, Sample | None]:
    resize = v2.Compose([v2.PILToTensor(), v2.Resize(SHORT, max_size=LONG, antialias=True)])
    dataset = CocoDetection(file.parent / "images", file, transform=resize)

    def target(index: int) -> list[dict[str, Any]]:
        return dataset.coco.loadAnns(dataset.coco.getAnnIds(dataset.ids[index]))

    def touch() -> float:
        return sum(polygon[0] for i in range(len(dataset)) for found in target(i) for polygon in found["segmentation"])

    def sample(index: int) -> Any:
        image, found = dataset[index]
        scale = image.shape[-1] / WIDTH
        boxes = scale * torch.tensor([a["bbox"] for a in found]).reshape(-1, 4)
        polygons = [[scale * np.asarray(polygon) for polygon in a["segmentation"]] for a in found]
        return image, boxes, torch.tensor([a["category_id"] for a in found]), polygons

    return touch, sample


def open_detectron2(file: Path) -> tuple[Touch, Sample | None]:
    from pycocotools.coco import COCO

    coco = COCO(file)
    wanted = ("iscrowd", "bbox", "category_id", "segmentation")
    records = [
        {
            "file_name": str(file.parent / "images" / image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [{key: a[key] for key in wanted if key in a} for a in coco.imgToAnns[image["id"]]],
        }
        for image in coco.loadImgs(sorted(coco.imgs))
    ]
    del coco
    pickled = [np.frombuffer(pickle.dumps(record, protocol=-1), np.uint8) for record in records]
    del records
    ends = np.cumsum([len(record) for record in pickled])
    packed = np.concatenate(pickled)
    del pickled

    def record(index: int) -> dict[str, Any]:
        return pickle.loads(memoryview(packed[0 if index == 0 else ends[index - 1] : ends[index]]))

    def touch() -> float:
        return sum(p[0] for i in range(len(ends)) for a in record(i)["annotations"] for p in a["segmentation"])

    def sample(index: int) -> Any:
        found = record(index)
        with Image.open(found["file_name"]) as file:
            image = np.asarray(file.convert("RGB"))
        scale = min(SHORT / min(HEIGHT, WIDTH), LONG / max(HEIGHT, WIDTH))
        size = (int(scale * WIDTH + 0.5), int(scale * HEIGHT + 0.5))
        resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        polygons = [[scale * np.asarray(p).reshape(-1, 2) for p in a["segmentation"]] for a in found["annotations"]]
        boxes = scale * np.array([a["bbox"] for a in found["annotations"]]).reshape(-1, 4)
        labels = torch.tensor([a["category_id"] for a in found["annotations"]])
        return torch.from_numpy(resized.transpose(2, 0, 1).copy()), torch.from_numpy(boxes), labels, polygons

    return touch, sample


SYSTEMS = {
    "nothing": open_nothing,
    "tailseg, first": open_tailseg,
    "tailseg, later": open_tailseg,
    "torchvision": open_torchvision,
    "detectron2's way": open_detectron2,
}


def memory(field: str, file: str = "status") -> float:
    """In MB, of this process."""
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def worker_memory(touch: Touch) -> float:
    """The most that one of the workers has to itself after reading everything, while all are alive, in MB."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(WORKERS), context.SimpleQueue()

    def work() -> None:
        touch()
        barrier.wait()
        queue.put(memory("Private_Dirty", "smaps_rollup"))
        barrier.wait()

    workers = [context.Process(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    found = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    return max(found)


def measure(system: str, file: Path, samples: int) -> dict[str, Any]:
    """One system, in this process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.sync()  # pages that are not yet written would count as a worker's own
    before, began, used = memory("VmRSS"), time.perf_counter(), time.process_time()
    touch, sample = SYSTEMS[system](file)
    row: dict[str, Any] = {"system": system, "open_s": time.perf_counter() - began}
    row["open_cpu_s"] = time.process_time() - used
    row["peak_mb"] = memory("VmHWM") - before
    row["held_mb"] = memory("Anonymous", "smaps_rollup")
    os.sync()
    row["worker_mb"] = worker_memory(touch)
    if sample is not None:
        generator = random.Random(0)
        indices = [generator.randrange(1000) for _ in range(samples)]
        for index in indices[:10]:
            sample(index)
        used = time.process_time()
        for index in indices:
            sample(index)
        row["samples_per_cpu_s"] = samples / (time.process_time() - used)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| | open, s | CPU s | peak, MB | a worker's own, MB | samples a CPU second |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate = f"{row['samples_per_cpu_s']:.0f}" if "samples_per_cpu_s" in row else ""
        times = f"{row['open_s']:.2f} | {row['open_cpu_s']:.2f}"
        lines.append(f"| {row['system']} | {times} | {row['peak_mb']:,.0f} | {row['worker_mb']:,.0f} | {rate} |")
    return "\n".join(lines)


def main(options: Options) -> None:
    file = write_lvis(options.folder, scale=options.scale, counts=options.counts)
    os.environ["TAILSEG_HOME"] = str(options.folder / "home")
    if options.measure:
        print(json.dumps(measure(options.systems[0], file, options.samples)))
        return
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    log = options.results / f"data-{today}-scale{options.scale:g}.jsonl"
    options.results.mkdir(parents=True, exist_ok=True)
    for system in options.systems:
        if system == "tailseg, first":
            for cache in (options.folder / "home").glob("annotations/*.safetensors"):
                cache.unlink()
        command = [sys.executable, __file__, "--measure", "--systems", system, "--scale", str(options.scale)]
        command += ["--folder", str(options.folder), "--samples", str(options.samples)]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        print(line, flush=True)
        with log.open("a") as lines:
            lines.write(line + "\n")
    rows = {row["system"]: row for row in map(json.loads, log.read_text().splitlines())}  # the last of each
    text = (
        f"# A data set of LVIS's size, {today}\n\n`uv run python benchmarks/data.py --scale {options.scale:g}`; "
        f"{file.stat().st_size / 1e6:,.0f} MB of JSON, torch {torch.__version__}, {platform.machine()}, one thread.\n\n"
        f"{table([rows[system] for system in SYSTEMS if system in rows])}\n"
    )
    print(text)
    log.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
