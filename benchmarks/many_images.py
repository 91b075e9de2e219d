"""Many images: is the memory flat, and how much of the network's own throughput does `predict` reach?

    uv run python benchmarks/many_images.py                     10,000 images, both cores
    uv run python benchmarks/many_images.py --images 2000 --threads 1

The script draws photographs of 640 x 480 pixels (JPEG, a few hundred different ones, the others are links to them),
trains the small network (`custom_small`, 320 pixels) for one epoch, and measures in turn

- the network alone: images that are decoded in memory before the clock starts, one after the other, with all that makes
  detections of them (resizing, network, NMS, masks as run lengths);
- `tailseg predict --no-pictures` as a user runs it, in a process of its own: listing, reading, network, writing.

It prints the images a second of both, their ratio, and the memory of the process (VmRSS) after each tenth of the
images.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

DIFFERENT = 200


def draw_photographs(folder: Path, count: int) -> None:
    draws = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number >= DIFFERENT:
            path.hardlink_to(folder / f"{number % DIFFERENT:06}.jpg")
            continue
        coarse = draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)


def make_run(folder: Path, size: int) -> Path:
    """A run of the small network, hardly trained."""
    from tailseg.cli import main

    arguments = ["--data.test-short-side", str(size), "--data.short-sides", str(size)]
    data = ["--data.train=tiny_tail:test", "--data.val=tiny_tail:test", "--data.workers=0", "--no-report"]
    quick = ["--optim.epochs=1", "--optim.milestones", "--data.batch-size=16"]
    assert main(["train", "custom_small", *data, *arguments, *quick, f"--run.out={folder}"]) == 0
    return folder


def measure_network(run: Path, photos: list[Path], seconds: float) -> float:
    """Images a second of the network alone."""
    from tailseg.inference import Predictor

    predictor = Predictor.from_run(run, device="cpu")
    images = [predictor.read(path) for path in photos]
    predictor.detect(images[0])
    done, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        predictor.detect(images[done % len(images)]).above(0.3).to_coco(1, range(len(predictor.names)))
        done += 1
    return done / (time.perf_counter() - start)


def read_memory(process: int) -> float:
    """MB of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure_predict(run: Path, photos: Path, count: int, out: Path) -> tuple[float, list[tuple[int, float]]]:
    """Images a second of the command after its first 50 images, and its memory after each tenth."""
    command = [sys.executable, "-m", "tailseg", "predict", str(run), str(photos), "--no-pictures", "--out", str(out)]
    lines, memory = out / "results.jsonl", []
    with subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.DEVNULL) as process:
        first = None
        while process.poll() is None:
            time.sleep(0.2)
            done = count_lines(lines)
            if first is None and done >= 50:
                first = (time.perf_counter(), done)
            if done >= (len(memory) + 1) * count / 10 and process.poll() is None:
                memory.append((done, read_memory(process.pid)))
        end = time.perf_counter()
    assert process.returncode == 0
    assert first is not None
    assert count_lines(lines) == count
    return (count - first[1]) / (end - first[0]), memory


_read: dict[Path, tuple[int, int]] = {}


def count_lines(path: Path) -> int:
    """Lines of a growing file; each call reads what is new."""
    if not path.is_file():
        return 0
    place, lines = _read.get(path, (0, 0))
    with path.open("rb") as file:
        file.seek(place)
        new = file.read()
    _read[path] = (place + len(new), lines + new.count(b"\n"))
    return _read[path][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=320, help="short side of the resized image")
    parser.add_argument("--threads", type=int, default=None, help="of the network; all cores by default")
    parser.add_argument("--seconds", type=float, default=30, help="for the network alone, before and after")
    parser.add_argument("--folder", type=Path, default=None, help="keeps the run and the photographs there")
    options = parser.parse_args()
    threads = options.threads or os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        photos, run = folder / f"photos_{options.images}", folder / f"run_{options.size}"
        if not photos.is_dir():
            draw_photographs(photos, options.images)
        if not run.is_dir():
            make_run(run, options.size)
        some = sorted(photos.iterdir())[:DIFFERENT]
        before = measure_network(run, some, options.seconds)
        predict, memory = measure_predict(run, photos, options.images, Path(temporary) / "out")
        after = measure_network(run, some, options.seconds)
    network = (before + after) / 2
    print(f"threads of the network: {threads}; cores: {os.cpu_count()}; images: {options.images}")
    print(f"network alone: {before:.2f} images/s before, {after:.2f} after; predict: {predict:.2f}")
    print(f"ratio: {predict / network:.3f}")
    print("memory, MB: " + ", ".join(f"{megabytes:.0f} after {done}" for done, megabytes in memory))


if __name__ == "__main__":
    main()
