"""torchvision's RetinaNet on photographs with a long tail: its own focal loss, and losses of tailseg by `use_loss`.

    python benchmarks/backbones.py runs
    uv run python benchmarks/retinanet.py --weights runs/tf_efficientnet_lite0.safetensors

The data set is TrashCAN in ``--data``, which is not part of the project: train.json, val.json and images. All variants
have the same network, data, settings and, by seed, the same first weights and order of images. Only the loss and the
first bias of the classifier (p = 0.01 for all) differ, and no setting was tuned for any of them.

A training takes minutes on one CPU thread: the backbone (EfficientNet-Lite0, trained on ImageNet) is frozen, and its
maps of stride 16 and 32 are computed once, of each image and its mirror image. torchvision's model gets them packed as
an image of three channels. Its own code matches the anchors, computes the loss and selects the detections. A finished
training is not repeated: the script can be stopped and called again.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import timm
import torch
import tyro
from measure import table, write
from PIL import Image
from seeds import format_difference, format_mean
from study import FEW_IMAGES
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.evaluation import Evaluator
from tailseg.interop import read_classes
from tailseg.interop.torchvision import use_loss
from tailseg.losses import ClassificationLoss, DropLoss, EqualizedFocalLoss, FocalLoss, GumbelCE, binary
from tailseg.losses.focal import BIASES
from tailseg.structures import ClassFrequency

HEIGHT, WIDTH = 224, 288
SHAPES = ((112, 14, 18), (320, 7, 9))
"""Of the backbone's maps of stride 16 and 32."""
COLUMNS = ("AP", "AP50", "APr", "APc", "APf", "APfew")
OWN = "torchvision's focal"
LOSSES: dict[str, Callable[[ClassFrequency], ClassificationLoss | None]] = {
    OWN: lambda _: None,
    "Gumbel focal": lambda frequency: FocalLoss(frequency, link="gumbel"),
    "GOL (DropLoss)": lambda frequency: DropLoss(frequency, tail="rc", init_bias=BIASES["gumbel"]),
    "EFL": EqualizedFocalLoss,
    "Gumbel CE": lambda frequency: GumbelCE(frequency, background=False, init_bias=BIASES["gumbel"]),
}


@dataclass(frozen=True)
class Options:
    """What to train."""

    weights: Path
    """The weights of tf_efficientnet_lite0, see backbones.py."""
    data: Path = Path("../shared/data/trashcan")
    runs: Path = Path("runs/retinanet")
    """Folder of the maps and of the figures."""
    losses: tuple[str, ...] = tuple(LOSSES)[:4]
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 3
    batch_size: int = 8
    lr: float = 1e-3
    report_only: bool = False
    """Train nothing; write the table of what is finished."""


# ---- data


def keep_maps(options: Options, split: str, annotations: Annotations) -> np.ndarray:
    """Reads or computes the maps of all images and, of the training set, of their mirror images."""
    path = options.runs / f"{split}.npy"
    if not path.exists():
        backbone = timm.create_model(
            "tf_efficientnet_lite0",
            features_only=True,
            out_indices=(3, 4),
            pretrained=True,
            pretrained_cfg_overlay={"file": str(options.weights)},
        ).eval()
        rows = []
        for index in range(annotations.num_images):
            picture = Image.open(annotations.get_info(index).file).convert("RGB").resize((WIDTH, HEIGHT))
            image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
            sides = torch.cat([image, image.flip(3)]) if split == "train" else image
            with torch.inference_mode():
                rows.append(torch.cat([level.flatten(1) for level in backbone(sides)], dim=1).half().numpy())
        options.runs.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, np.stack(rows))
        temporary.rename(path)
    return np.load(path, mmap_mode="r")


def read_targets(annotations: Annotations) -> list[dict[str, Tensor]]:
    """Boxes in pixels of the resized image, and labels from 0."""
    targets = []
    for index in range(annotations.num_images):
        info, record = annotations.get_info(index), annotations.get_record(index)
        scale = torch.tensor([WIDTH / info.width, HEIGHT / info.height] * 2)
        targets.append({"boxes": torch.from_numpy(record.boxes) * scale, "labels": torch.from_numpy(record.labels)})
    return targets


def pack(maps: np.ndarray) -> Tensor:
    """The maps of an image as an image of three channels, filled with zeros."""
    values = torch.from_numpy(maps.astype(np.float32))
    return F.pad(values, (0, 3 * HEIGHT * WIDTH - len(values))).view(3, HEIGHT, WIDTH)


def mirror(target: dict[str, Tensor]) -> dict[str, Tensor]:
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    return target | {"boxes": torch.stack([WIDTH - x2, y1, WIDTH - x1, y2], dim=1)}


# ---- the model


class Pyramid(nn.Module):
    """Feature maps of stride 16, 32 and 64 from packed images."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__()
        channels = [shape[0] for shape in SHAPES]
        self.fpn = FeaturePyramidNetwork(channels, self.out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        sizes = [channels * rows * columns for channels, rows, columns in SHAPES]
        parts = images.flatten(1)[:, : sum(sizes)].split(sizes, dim=1)
        maps = [part.unflatten(1, shape) for part, shape in zip(parts, SHAPES, strict=True)]
        return self.fpn({str(level): features for level, features in enumerate(maps)})


def build_model(num_classes: int) -> RetinaNet:
    """torchvision's RetinaNet with a small head; labels from 0, so that no column is without a class."""
    anchors = AnchorGenerator(((24,), (56,), (128,)), ((0.5, 1.0, 2.0),) * 3)
    # With group norms, as in torchvision's retinanet_resnet50_fpn_v2: without them, short trainings learn nothing.
    head = RetinaNetHead(Pyramid.out_channels, 3, num_classes, norm_layer=partial(nn.GroupNorm, 16))
    for part in (head.classification_head, head.regression_head):
        part.conv = part.conv[:2]
    return RetinaNet(
        Pyramid(),
        num_classes,
        anchor_generator=anchors,
        head=head,
        min_size=HEIGHT,
        max_size=WIDTH,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        score_thresh=1e-3,
        detections_per_img=100,
    )


# ---- training and testing


def train(model: RetinaNet, maps: np.ndarray, targets: list[dict[str, Tensor]], options: Options) -> list[float]:
    """Trains with AdamW and a cosine schedule; returns the mean loss of each epoch."""
    steps = options.epochs * (len(targets) // options.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=1e-4)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=50)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = []
    model.train()
    for _ in range(options.epochs):
        order = torch.randperm(len(targets)).tolist()
        sides = torch.randint(2, (len(targets),)).tolist()
        values = []
        for start in range(0, len(order) - options.batch_size + 1, options.batch_size):
            batch = order[start : start + options.batch_size]
            losses = model(
                [pack(maps[i, sides[i]]) for i in batch],
                [mirror(targets[i]) if sides[i] else targets[i] for i in batch],
            )
            total = losses["classification"] + losses["bbox_regression"]
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            warmup.step()
            cosine.step()
            values.append(total.item())
        history.append(mean(values))
    return history


def test(model: RetinaNet, maps: np.ndarray, annotations: Annotations, options: Options) -> dict[str, float]:
    """Detects in the validation set, and computes the figures in percent."""
    evaluator = Evaluator(
        str(options.data / "val.json"), train=str(options.data / "train.json"), labels="from_0", iou_types=("bbox",)
    )
    model.eval()
    for index in range(annotations.num_images):
        info = annotations.get_info(index)
        with torch.inference_mode():
            (output,) = model([pack(maps[index, 0])])
        boxes = output["boxes"] * torch.tensor([info.width / WIDTH, info.height / HEIGHT] * 2)
        evaluator.update([output | {"boxes": boxes}], image_ids=[info.image_id])
    metrics = evaluator.compute()
    figures = {name: 100 * metrics["bbox"][name] for name in COLUMNS[:-1]}
    records = json.loads((options.data / "train.json").read_text())["annotations"]
    counts = Counter(category for category, _ in {(one["category_id"], one["image_id"]) for one in records})
    few = [
        one.AP for one in metrics.per_class["bbox"] if one.AP is not None and 0 < counts[one.category_id] <= FEW_IMAGES
    ]
    return figures | {"APfew": 100 * mean(few), "classes of APfew": len(few)}


def run(name: str, seed: int, options: Options, frequency: ClassFrequency, train_set: Any, val_set: Any) -> None:
    """Trains and tests one variant, unless its figures are there."""
    path = options.runs / f"{name}-{seed}.json"
    if path.exists():
        return
    began = time.process_time()
    torch.manual_seed(seed)
    model = build_model(frequency.num_classes)
    loss = LOSSES[name](frequency)
    if loss is not None:
        use_loss(model, loss, reset_bias=True)
    torch.manual_seed(seed)  # whatever the loss has drawn, the order of the images is that of the seed
    history = train(model, *train_set, options)
    trained = time.process_time() - began
    figures = test(model, *val_set, options)
    result = {"figures": figures, "losses": history, "epochs": options.epochs, "train": trained}
    path.write_text(json.dumps(result | {"seconds": time.process_time() - began}))
    print(name, seed, {key: round(value, 2) for key, value in result["figures"].items()}, history, flush=True)


def report(options: Options) -> None:
    """Writes the table of all finished trainings: mean and deviation over seeds, and paired differences."""
    results: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in options.losses}
    for name, by_seed in results.items():
        for seed in options.seeds:
            path = options.runs / f"{name}-{seed}.json"
            if path.exists():
                by_seed[seed] = json.loads(path.read_text())
    rows, differences = [], []
    for name, by_seed in results.items():
        if not by_seed:
            continue
        figures = {seed: one["figures"] for seed, one in by_seed.items()}
        cells = [format_mean([one[column] for one in figures.values()]) for column in COLUMNS]
        rows.append([name, str(len(figures)), *cells])
        base = {seed: one["figures"] for seed, one in results[OWN].items() if seed in figures}
        if name != OWN and base:
            pairs = [[figures[seed][column] - base[seed][column] for seed in base] for column in COLUMNS]
            differences.append([name, str(len(base)), *map(format_difference, pairs)])
    classes = next(int(one["figures"]["classes of APfew"]) for by_seed in results.values() for one in by_seed.values())
    text = (
        f"Box AP in percent on TrashCAN's validation set, {options.epochs} epochs, frozen EfficientNet-Lite0, "
        f"{WIDTH} x {HEIGHT} pixels. APr, APc, APf: at most 10, at most 100, more training images. APfew: the "
        f"{classes} classes of the validation set with at most {FEW_IMAGES} training images. Mean ± standard deviation "
        "over seeds. No setting was tuned for a loss.\n\n"
        + table(["Loss", "seeds", *COLUMNS], rows)
        + f"\nPaired differences from {OWN}, with 95 % intervals (paired t over seeds):\n\n"
        + table(["Loss", "seeds", *COLUMNS], differences)
    )
    if any(len(by_seed) < len(options.seeds) for by_seed in results.values()):
        text += "\nNot all trainings are finished: differences of one seed may be chance.\n"
    write("retinanet", "Losses in torchvision's RetinaNet, TrashCAN", text, threads=1)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    binary.COMPILE_FROM["cpu"] = 2**17  # a step has 313,560 logits, and many steps are worth the seconds of compiling
    if not options.report_only:
        train_annotations = read_dataset(options.data / "train.json")
        val_annotations = read_dataset(options.data / "val.json", frequency_from=train_annotations)
        _, frequency = read_classes(options.data / "train.json")
        train_set = keep_maps(options, "train", train_annotations), read_targets(train_annotations)
        val_set = keep_maps(options, "val", val_annotations), val_annotations
        for seed in options.seeds:
            for name in options.losses:
                run(name, seed, options, frequency, train_set, val_set)
    report(options)


if __name__ == "__main__":
    main(tyro.cli(Options))
