"""What a real long tail teaches a small network on two cores in half an hour, and what bounds it.

    uv run python benchmarks/real.py train runs/real/frozen --weights tf_efficientnet_lite0.safetensors
    uv run python benchmarks/real.py report runs/real/frozen
    uv run python benchmarks/real.py steps --weights tf_efficientnet_lite0.safetensors

``train`` trains the recipe custom_frozen on trashcan, photographs that are not part of the project, and writes the CPU
seconds of all its processes into the run folder, computing the maps included. More options go to ``tailseg train``.
``report`` writes benchmarks/results/trashcan-learnable.md. It also measures the last results with one class in place of
all: how well objects are found whatever their class is. ``steps`` writes trashcan-steps-DATE-cpu.md: what a step costs
with and without kept maps. benchmarks/backbones.py makes the weights.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from measure import RESULTS, machine, table, write
from study import FEW_IMAGES, score_few

from tailseg.annotations.read import read_dataset
from tailseg.evaluation import evaluate
from tailseg.models.config import TimmConfig
from tailseg.recipes import get_recipe
from tailseg.training.loop import train_step
from tailseg.training.run import start

ROOT = Path(__file__).parents[1]
COST = "cost.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/trashcan", help="folder of the data")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train")
    command.add_argument("run", type=Path)
    command.add_argument("--weights", type=Path, required=True)
    command = commands.add_parser("steps")
    command.add_argument("--weights", type=Path, required=True)
    command = commands.add_parser("report")
    command.add_argument("runs", type=Path, nargs="+")
    options, others = parser.parse_known_args()
    if options.command == "train":
        train(options.run, options.data, options.weights, others)
    elif options.command == "steps":
        measure_steps(options.data, options.weights)
    else:
        report(options.runs, options.data)


def train(run: Path, data: Path, weights: Path, options: list[str]) -> None:
    """Trains the recipe and writes what it cost into the run folder."""
    command = [
        *("tailseg", "train", "custom_frozen", "--run.out", str(run), "--model.backbone.weights", str(weights)),
        *("--data.train", str(data / "train.json"), "--data.val", str(data / "val.json"), *options),
    ]
    began = time.monotonic()
    code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {
        "command": " ".join([*command[:5], "FILE", *options]),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "seconds": time.monotonic() - began,
    }
    if code == 0:
        (run / COST).write_text(json.dumps(cost))
    sys.exit(code)


def measure_steps(data: Path, weights: Path, count: int = 6) -> None:
    """Measures the CPU seconds of a step: the same images, with more and more of the work done before."""
    torch.set_num_threads(1)
    recipe = get_recipe("custom_frozen")
    backbone = replace(cast("TimmConfig", recipe.model.backbone), weights=str(weights))
    rows = []
    for name, frozen_stages, keep_maps, precision in (
        ("the whole network is trained", 0, False, "float32"),
        ("backbone frozen", 4, False, "float32"),
        ("backbone frozen, bfloat16", 4, False, "bfloat16"),
        ("maps kept", 4, True, "float32"),
        ("maps kept, bfloat16 (custom_frozen)", 4, True, "bfloat16"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            part = str(write_part(data, Path(folder) / "part.json"))
            images = str((data / "images").resolve())
            files = {"train": part, "val": part, "train_images": images, "val_images": images}
            changed = replace(
                recipe,
                data=replace(recipe.data, keep_maps=keep_maps, **files),
                model=replace(recipe.model, backbone=replace(backbone, frozen_stages=frozen_stages)),
                run=replace(recipe.run, out=f"{folder}/run", precision=precision),
            )
            run = start(changed, resume=False)
            run.sampler.set_epoch(0)
            run.model.train()
            batches, times = iter(run.loader), []
            for _ in range(count):
                began = time.process_time()
                train_step(run, next(batches))
                times.append(time.process_time() - began)
        least = min(times[1:])
        rows.append([name, f"{least:.2f}", f"{1000 * least / recipe.data.batch_size:.0f}"])
        print(rows[-1])
    text = table(["", "CPU seconds of a step", "ms an image"], rows)
    title = f"A step of custom_frozen, {recipe.data.batch_size} images of up to 512 x 288 pixels"
    write("real", title, text, threads=1, file="trashcan-steps")


def write_part(data: Path, file: Path, count: int = 64) -> Path:
    """Writes an annotation file with each 36th image, so that few maps are computed."""
    content = json.loads((data / "train.json").read_text())
    content["images"] = content["images"][:: len(content["images"]) // count]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
    file.write_text(json.dumps(content))
    return file


def report(runs: list[Path], data: Path) -> None:
    """Writes the table of the runs."""
    head = ["Run", "CPU minutes", "steps", "AP", "APfew", "AP50", "APr", "APc", "APf", "APb", "AP, one class", "AR"]
    rows, curves = [], []
    for run in runs:
        scores = json.loads((run / "metrics.json").read_text())["scores"]
        masks, boxes = scores["segm"], scores["bbox"]
        cost = json.loads((run / COST).read_text())
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        steps = max(line["step"] for line in lines if "step" in line)
        one = measure_one_class(run, data)
        rows.append(
            [
                run.name,
                f"{cost['cpu_seconds'] / 60:.1f}",
                f"{steps:,}",
                percent(masks["AP"]),
                f"{score_few(data / 'train.json', run)['APfew']:.1f}",
                *(percent(masks[name]) for name in ("AP50", "APr", "APc", "APf")),
                percent(boxes["AP"]),
                percent(one["AP"]),
                percent(masks["AR"]),
            ]
        )
        values = [(line["step"], line["segm/AP"]) for line in lines if "segm/AP" in line]
        curves.append(f"- {run.name}: `{cost['command']}`; " + ", ".join(f"step {s} {percent(ap)}" for s, ap in values))
    text = (
        "# A real long tail on two cores\n\n"
        f"`uv run python benchmarks/real.py report ...`; torch {torch.__version__}, {machine(1)}. Masks unless said "
        f"(APb: boxes). APfew: the classes with at most {FEW_IMAGES} training images. One class: all classes of the "
        "annotations and of the detections are made one, which says how well objects are found and outlined whatever "
        "their class is. CPU minutes are those of all processes, with the maps of the backbone and the evaluations.\n\n"
        f"{table(head, rows)}\nMask AP in the course of the trainings:\n\n" + "\n".join(curves) + "\n"
    )
    (RESULTS / "trashcan-learnable.md").write_text(text)
    print(text)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def measure_one_class(run: Path, data: Path) -> dict[str, Any]:
    """The figures of the last results when all classes are one."""
    content = json.loads((data / "val.json").read_text())
    first = content["categories"][0]["id"]
    content["categories"] = [{"id": first, "name": "object"}]
    results = json.loads((run / "results.json").read_text())
    for record in [*content["annotations"], *results]:
        record["category_id"] = first
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "val.json"
        file.write_text(json.dumps(content))
        return evaluate(read_dataset(file), results, iou_types=("segm",)).scores["segm"]


if __name__ == "__main__":
    main()
