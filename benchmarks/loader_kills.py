"""Kills loader processes of a training at random times and compares the training with an undisturbed one.

    python benchmarks/loader_kills.py [--kills 50] [--out /tmp/kills]

The images are large and their outlines have many points: a batch is larger than a pipe. The script prints the number of
kills, the longest wait for a batch, and whether losses and weights are bit for bit those of the undisturbed run.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tailseg.data.loader import Loader
from tailseg.losses import GumbelCEConfig
from tailseg.models.config import BoxHeadConfig, FPNConfig, MaskHeadConfig, ModelConfig, ResNetConfig, RPNConfig
from tailseg.recipes.recipe import DataConfig, Recipe, RunConfig, SGDConfig
from tailseg.training import checkpoint, run_files
from tailseg.training.loop import train

IMAGES, POINTS, BATCH = 40, 5000, 2


def make_data(folder: Path) -> None:
    """Images of 640 x 480 with three objects each, whose outlines have thousands of points."""
    (folder / "images").mkdir(parents=True)
    draws = np.random.default_rng(0)
    images, annotations = [], []
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    for number in range(1, IMAGES + 1):
        pixels = draws.integers(0, 255, (480, 640, 3), dtype=np.uint8)
        name = f"{number:03}.png"
        Image.fromarray(pixels).save(folder / "images" / name, compress_level=0)
        images.append({"id": number, "file_name": name, "width": 640, "height": 480})
        for kind in (1, 2, 3):
            x, y = draws.integers(110, 370, 2).tolist()
            outline = np.stack([x + 100 * np.cos(angles), y + 100 * np.sin(angles)], axis=1).round(3)
            box = [x - 100, y - 100, 200, 200]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": kind,
                    "bbox": box,
                    "area": 31416,
                    "iscrowd": 0,
                    "segmentation": [outline.ravel().tolist()],
                }
            )
    categories = [{"id": kind, "name": f"kind {kind}"} for kind in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content))


def recipe(data: Path, out: Path, epochs: int) -> Recipe:
    return Recipe(
        name="kills",
        data=DataConfig(
            train=str(data / "train.json"),
            val=str(data / "train.json"),
            short_sides=(64,),
            test_short_side=64,
            max_long_side=128,
            batch_size=BATCH,
            workers=2,
        ),
        model=ModelConfig(
            backbone=ResNetConfig(depth=18, base_width=8, weights="none", frozen_stages=0),
            fpn=FPNConfig(channels=16),
            rpn=RPNConfig(anchors_per_image=32, train_pre_nms=50, train_post_nms=30, test_pre_nms=30, test_post_nms=30),
            box=BoxHeadConfig(hidden=32, rois_per_image=16),
            mask=MaskHeadConfig(channels=8, num_convs=1),
        ),
        loss=GumbelCEConfig(),
        optim=SGDConfig(lr=0.005, epochs=epochs, milestones=(epochs,), warmup_iterations=3),
        run=RunConfig(out=str(out), device="cpu", log_every=1, eval_every=0, checkpoint_every=1000),
    )


class Killer(threading.Thread):
    """Kills a loader process again and again, each time after the one before was replaced and a batch came."""

    def __init__(self, kills: int) -> None:
        super().__init__(daemon=True)
        self.left, self.done, self.batches, self.longest = kills, 0, 0, 0.0

    def run(self) -> None:
        moments = random.Random(0)
        while self.left > 0:
            seen = self.batches
            while self.batches < seen + 5:  # both workers were waited for, so that no batch meets two deaths
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.1))
            if loaders := multiprocessing.active_children():
                moments.choice(loaders).kill()
                self.left, self.done = self.left - 1, self.done + 1

    def watch(self) -> None:
        """Counts the batches that come, and times the waits for them."""
        batches = Loader.batches

        def timed(loader, **how):
            made = batches(loader, **how)
            while True:
                start = time.monotonic()
                batch = next(made, None)
                if batch is None:
                    return
                self.longest = max(self.longest, time.monotonic() - start)
                self.batches += 1
                yield batch

        Loader.batches = timed


def losses(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key != "images_per_second"} for line in lines if line["kind"] == "train"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("/tmp/tailseg_kills"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(options.out, ignore_errors=True)
    make_data(options.out / "data")
    steps = 8 * options.kills
    epochs = -(-steps * BATCH // IMAGES)
    made = {name: recipe(options.out / "data", options.out / name, epochs) for name in ("undisturbed", "killed")}
    start = time.monotonic()
    train(replace(made["undisturbed"], data=replace(made["undisturbed"].data, workers=0)))
    middle = time.monotonic()
    killer = Killer(options.kills)
    killer.watch()
    killer.start()
    train(made["killed"])
    end = time.monotonic()
    same = losses(options.out / "undisturbed") == losses(options.out / "killed")
    first, second = [checkpoint.load(run_files.get_latest(options.out / name)).model for name in made]
    same_weights = all(torch.equal(first[name], second[name]) for name in first)
    print(f"{killer.done} kills in {killer.batches} batches, {end - middle:.0f} s ({middle - start:.0f} s undisturbed)")
    print(f"longest wait for a batch: {killer.longest:.1f} s")
    print(f"the same losses: {same}; the same weights: {same_weights}")


if __name__ == "__main__":
    main()
