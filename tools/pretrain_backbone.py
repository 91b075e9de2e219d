"""Trains the small backbone in tailseg on shapes and surfaces that tiny_tail does not have.

    uv run python tools/pretrain_backbone.py
    uv run python tools/pretrain_backbone.py --activation aglu --out aglu.safetensors
    uv run python tools/pretrain_backbone.py --gate apa --out se_apa.safetensors

As ImageNet does for large detectors: the backbone learns to name the 48 classes of ``tiny_tail:pretrain`` from crops
around its objects, then its classifier is dropped. ResNet-18 at half width, 5.6 MB in float16. No loss compared on
tiny_tail had a hand in it but softmax cross entropy, the custom of classifiers.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.data.images import read_image
from tailseg.data.tiny_tail import prepare
from tailseg.models.config import ResNetConfig, SEConfig
from tailseg.models.images import ImageBatcher
from tailseg.models.resnet import ResNet

CROP = 64


@dataclass(frozen=True)
class Options:
    steps: int = 5000
    batch: int = 64
    lr: float = 0.1
    seed: int = 0
    activation: Literal["relu", "silu", "aglu"] = "relu"
    gate: Literal["none", "sigmoid", "apa"] = "none"
    """The gate of squeeze and excitation; none is without it."""
    out: Path = Path(__file__).parents[1] / "src/tailseg/models/tiny_backbone.safetensors"
    """Path of the backbone's file."""


class Crops:
    """The objects of one split as square windows around their boxes."""

    def __init__(self, annotations: Annotations) -> None:
        batcher = ImageBatcher()
        self.images = [batcher([read_image(annotations.get_info(i))]).tensors for i in range(annotations.num_images)]
        records = [annotations.get_record(i) for i in range(annotations.num_images)]
        self.boxes = torch.cat([torch.from_numpy(record.boxes) for record in records]).float()
        self.labels = torch.cat([torch.from_numpy(record.labels) for record in records])
        self.image = [i for i, record in enumerate(records) for _ in record.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def crop(self, object_: int, sides: float, shift: Tensor) -> Tensor:
        """Cuts a window with ``sides`` times the object's longer side, shifted by a fraction of it."""
        low, high = self.boxes[object_].view(2, 2)
        side = (high - low).max() * sides
        middle = (low + high) / 2 + shift * side
        window = torch.cat([middle - side / 2, middle + side / 2])[None]
        return roi_align(self.images[self.image[object_]], [window], CROP, aligned=True, sampling_ratio=1)[0]

    def augmented(self, objects: Tensor) -> Tensor:
        """Draws a batch of random windows; the batch is mirrored and transposed at random."""
        sides = torch.empty(len(objects)).uniform_(0.9, 2.0).tolist()
        shifts = torch.empty(len(objects), 2).uniform_(-0.15, 0.15)
        batch = torch.stack([self.crop(*each) for each in zip(objects.tolist(), sides, shifts, strict=True)])
        for change in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)):
            batch = change(batch) if torch.rand(()) < 0.5 else batch
        return batch


def scores(backbone: ResNet, classifier: nn.Linear, batch: Tensor) -> Tensor:
    return classifier(backbone(batch)[-1].mean((2, 3)))


@torch.inference_mode()
def accuracy(backbone: ResNet, classifier: nn.Linear, crops: Crops) -> float:
    backbone.eval()
    correct = 0
    for objects in torch.arange(len(crops)).split(64):
        batch = torch.stack([crops.crop(i, 1.2, torch.zeros(2)) for i in objects.tolist()])
        correct += int((scores(backbone, classifier, batch).argmax(1) == crops.labels[objects]).sum())
    backbone.train()
    return correct / len(crops)


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    train, val = (Crops(read_dataset(path)) for path in prepare("tiny_tail:pretrain", progress=True))
    config = ResNetConfig(
        depth=18,
        base_width=32,
        activation=options.activation,
        se=None if options.gate == "none" else SEConfig(gate=options.gate),
        weights="none",
        frozen_stages=0,
        fixed_norm=False,
    )
    backbone, classifier = ResNet(config), nn.Linear(256, int(train.labels.max()) + 1)
    parameters = [*backbone.parameters(), *classifier.parameters()]
    optimizer = torch.optim.SGD(parameters, options.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / options.steps)),
    )
    backbone.train()
    for step in track(range(1, options.steps + 1), "backbone"):
        objects = torch.randint(len(train), (options.batch,))
        loss = F.cross_entropy(
            scores(backbone, classifier, train.augmented(objects)), train.labels[objects], label_smoothing=0.1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(f"step {step}: loss {loss.item():.2f}, val accuracy {accuracy(backbone, classifier, val):.1%}")
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    temporary = options.out.with_suffix(".tmp")
    save_file(weights, temporary)
    temporary.rename(options.out)
    print(f"{options.out}: {len(weights)} tensors, {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(tyro.cli(Options))
