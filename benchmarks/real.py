"""What a real long tail teaches a small network on two cores in half an hour, and what bounds it.

    uv run python benchmarks/real.py train runs/real/frozen --weights tf_efficientnet_lite0.safetensors
    uv run python benchmarks/real.py report runs/real/frozen
    uv run python benchmarks/real.py bounds runs/real/frozen
    uv run python benchmarks/real.py steps --weights tf_efficientnet_lite0.safetensors

``train`` trains the recipe custom_frozen on trashcan, photographs that are not part of the project, and writes the CPU
seconds of all its processes into the run folder, computing the maps included. More options go to ``tailseg train``.
``report`` writes benchmarks/results/trashcan-learnable.md. It also measures the last results with one class in place of
all: how well objects are found whatever their class is. ``bounds`` writes trashcan-bounds.md: training images against
validation images, with the boxes of the model and with the annotated ones. This tells what is not learned from what
does not carry over to other videos. ``steps`` writes trashcan-steps-DATE-cpu.md: what a step costs with and without
kept maps. benchmarks/backbones.py makes the weights.
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
from typing import Any, Literal, cast

import torch
from measure import RESULTS, machine, table, write
from study import FEW_IMAGES, score_few
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, roi_align

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.data.loader import DetectionDataset
from tailseg.data.transforms import evaluation_transform
from tailseg.detection.testing import detect_all
from tailseg.evaluation import evaluate
from tailseg.inference import Predictor
from tailseg.models import MaskRCNN
from tailseg.models.config import TimmConfig
from tailseg.models.precision import autocast
from tailseg.models.resnet import STRIDES
from tailseg.recipes import get_recipe
from tailseg.training.loop import train_step
from tailseg.training.run import start

ROOT = Path(__file__).parents[1]
COST = "cost.json"
LINEAR_DECAY = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/trashcan", help="folder of the data")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train")
    command.add_argument("run", type=Path)
    command.add_argument("--weights", type=Path, required=True)
    command = commands.add_parser("steps")
    command.add_argument("--weights", type=Path, required=True)
    command = commands.add_parser("bounds")
    command.add_argument("run", type=Path)
    command.add_argument("--checkpoint", choices=["best", "last"], default="last")
    command = commands.add_parser("report")
    command.add_argument("runs", type=Path, nargs="+")
    options, others = parser.parse_known_args()
    if options.command == "train":
        train(options.run, options.data, options.weights, others)
    elif options.command == "steps":
        measure_steps(options.data, options.weights)
    elif options.command == "bounds":
        measure_bounds(options.run, options.data, options.checkpoint)
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


def write_part(data: Path, file: Path, *, name: str = "train", count: int = 64) -> Path:
    """Writes an annotation file with about ``count`` images of one, at equal distances."""
    content = json.loads((data / f"{name}.json").read_text())
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
        one = measure_one_class(data / "val.json", json.loads((run / "results.json").read_text()))
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


def measure_one_class(file: Path, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of mask results when all classes are one."""
    content = json.loads(file.read_text())
    first = content["categories"][0]["id"]
    content["categories"] = [{"id": first, "name": "object"}]
    for record in content["annotations"]:
        record["category_id"] = first
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / "one.json"
        changed.write_text(json.dumps(content))
        results = [{**record, "category_id": first} for record in results]
        return evaluate(read_dataset(changed), results, iou_types=("segm",)).scores["segm"]


@torch.no_grad()
def measure_bounds(run: Path, data: Path, checkpoint: Literal["best", "last"]) -> None:
    """Measures a model on validation images and on as many training images."""
    torch.set_num_threads(1)
    predictor = Predictor.from_run(run, checkpoint=checkpoint)
    model, recipe = cast("MaskRCNN", predictor.model), predictor.recipe
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("train", "val"):
            file = write_part(data, Path(folder) / f"{name}.json", name=name, count=240)
            annotations = read_dataset(file, images=data / "images")
            batches = detect_all(
                model, annotations, recipe.data, device=predictor.device, precision=predictor.precision
            )
            results = [record for batch in batches for record in batch]
            scores = evaluate(annotations, results, iou_types=("segm",)).scores["segm"]
            one = measure_one_class(file, results)
            recall, right = measure_given_boxes(predictor, annotations)
            per_class = [values.mean() for values in right.values()]
            every = torch.cat(list(right.values()))
            rows.append(
                [
                    {"train": "training images", "val": "validation images"}[name],
                    f"{annotations.num_images}, {len(every)}",
                    *(percent(value) for value in (scores["AP"], one["AP"], one["AP50"])),
                    *(percent(recall[iou].item()) for iou in (0.5, 0.75)),
                    percent(every.mean().item()),
                    percent(torch.stack(per_class).mean().item()),
                ]
            )
    head = ["", "images, objects", "AP", "AP, one class", "AP50, one class", "recall at 0.5", "at 0.75"]
    head += ["class right", "mean over classes"]
    linear_head = ["Equal weights of", "training: right", "mean over classes", "validation: right", "mean over classes"]
    text = (
        "# What bounds custom_frozen on trashcan\n\n"
        f"`uv run python benchmarks/real.py bounds ...`; torch {torch.__version__}, {machine(1)}; step "
        f"{predictor.checkpoint.progress.step:,}. Masks. One class: see trashcan-learnable.md. Recall: the share of "
        f"objects with a proposal of this IoU among {model.config.rpn.test_post_nms}. Class right: the share of "
        "objects whose class has the highest score when the box head gets the annotated boxes.\n\n"
        f"{table(head, rows)}\nThe classes of all annotated boxes by linear classifiers of the frozen maps (means of "
        f"C3, C4 and C5 in the box; {LINEAR_DECAY} x squared weights added to the loss), in percent:\n\n"
        f"{table(linear_head, measure_linear(predictor, data, LINEAR_DECAY))}"
    )
    (RESULTS / "trashcan-bounds.md").write_text(text)
    print(text)


def measure_linear(predictor: Predictor, data: Path, decay: float) -> list[list[str]]:
    """How often linear classifiers of the frozen backbone's features name the class of an annotated box.

    The features are the means of the three coarser maps in the box. A classifier is fitted on all training objects with
    equal weights of the objects, or of the classes, and on nothing else.
    """
    parts = [collect_features(predictor, read_dataset(data / f"{name}.json")) for name in ("train", "val")]
    (x, y), _ = parts
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    rows = []
    for name, weights in (("objects", torch.ones(len(y))), ("classes", 1 / torch.bincount(y)[y])):
        layer = fit_linear((x - mean) / deviation, y, weights / weights.sum(), decay)
        row = [name]
        for features, labels in parts:
            right = (layer((features - mean) / deviation).argmax(1) == labels).float()
            by_class = torch.stack([right[labels == label].mean() for label in labels.unique()])
            row += [percent(right.mean().item()), percent(by_class.mean().item())]
        rows.append(row)
    return rows


@torch.enable_grad()
def fit_linear(x: Tensor, y: Tensor, weights: Tensor, decay: float) -> torch.nn.Linear:
    """A linear classifier with the least weighted cross entropy plus ``decay`` times its squared weights."""
    layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=80, line_search_fn="strong_wolfe")

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        loss = (F.cross_entropy(layer(x), y, reduction="none") * weights).sum() + decay * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(compute_loss)
    return layer


def collect_features(predictor: Predictor, annotations: Annotations) -> tuple[Tensor, Tensor]:
    """The features of all annotated boxes, and their labels."""
    model, data = cast("MaskRCNN", predictor.model), predictor.recipe.data
    dataset = DetectionDataset(annotations, evaluation_transform(data.test_short_side, data.max_long_side))
    features, labels = [], []
    for index in range(len(dataset)):
        image, target, _ = dataset[index, 0]
        if not len(target):
            continue
        with autocast(predictor.device, predictor.precision):
            maps, _ = model.compute_features([cast("Tensor", image)])
        pooled = [
            roi_align(level.float(), [target.boxes], 2, 1 / stride, aligned=True).mean((2, 3))
            for level, stride in zip(maps[1:], STRIDES[1:], strict=True)
        ]
        features.append(torch.cat(pooled, 1))
        labels.append(target.labels)
    return torch.cat(features), torch.cat(labels)


def measure_given_boxes(
    predictor: Predictor, annotations: Annotations
) -> tuple[dict[float, Tensor], dict[int, Tensor]]:
    """The recall of the proposals by IoU, and by class whether the highest score of the annotated boxes is right."""
    model, data = cast("MaskRCNN", predictor.model), predictor.recipe.data
    dataset = DetectionDataset(annotations, evaluation_transform(data.test_short_side, data.max_long_side))
    overlaps: list[Tensor] = []
    right: dict[int, list[Tensor]] = {}
    for index in range(len(dataset)):
        image, target, _ = dataset[index, 0]
        if not len(target):
            continue
        with autocast(predictor.device, predictor.precision):
            features, sizes = model.compute_features([cast("Tensor", image)])
            pyramid = model.fpn(features)
            (proposals,) = model.rpn.proposals(model.rpn(pyramid), sizes)
            logits = model.box_head.classifier(model.box_head(pyramid, [target.boxes]))
        overlaps.append(box_iou(target.boxes, proposals).amax(1))
        classes = model.box_head.loss.scores(logits).argmax(1)
        for label, found in zip(target.labels.tolist(), classes, strict=True):
            right.setdefault(label, []).append((found == label).float())
    best = torch.cat(overlaps)
    recall = {iou: (best >= iou).float().mean() for iou in (0.5, 0.75)}
    return recall, {label: torch.stack(values) for label, values in right.items()}


if __name__ == "__main__":
    main()
