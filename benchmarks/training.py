"""A training step of Mask R-CNN R50-FPN at LVIS scale: tailseg and torchvision with the same weights.

    uv run python benchmarks/training.py
    uv run python benchmarks/training.py --checkpoint-blocks
    uv run python benchmarks/training.py --batch 16 --precision bfloat16

1,203 classes, images of 800 x 1216 pixels, 20 objects with one polygon each, 512 RoIs, 128 of them on objects, softmax
cross entropy, SGD. Both run their RPN and then use the same 1,000 proposals, which are as good as those of a trained
RPN: an RPN with random weights finds no object, and the mask heads would have nothing to do. torchvision's data sets
draw a bitmap of every object in a loader process: here the bitmaps are ready, but must be moved to the device. tailseg
makes its targets in the step. Memory is the peak above the memory before, on a CPU in a separate process.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import tyro
from measure import device, held_alone, peak_memory, seconds, table, write
from peers import LVIS, smooth_noise, star, tailseg_model, torchvision_model
from pycocotools import mask as coco
from torch import Tensor, nn
from torch.optim import SGD

from tailseg.models import resnet
from tailseg.models.precision import Precision, autocast
from tailseg.ops.boxes import clip_boxes
from tailseg.structures import Frame, Target

HEIGHT, WIDTH, OBJECTS = 800, 1216, 20


@dataclass(frozen=True)
class Options:
    """What to measure."""

    threads: int = 2
    """CPU threads; with 1 CPU time is measured, else wall time."""
    rounds: int = 3
    """Turns that each takes."""
    batch: int = 1
    """Images a step."""
    precision: Precision = "float32"
    """Of the layers, of both."""
    compile: bool = False
    """tailseg's backbone and FPN through torch.compile, as `--run.compile` does."""
    checkpoint_blocks: bool = False
    """tailseg's backbone computes its blocks again in the backward pass."""
    separate_norms: bool = False
    """tailseg's fixed norms are layers of their own, not folded into the convolutions: what the folding is worth."""
    memory: Literal["tailseg", "torchvision"] | None = None
    """Measure the memory of this one alone, and print it as JSON."""


def objects(seed: int) -> tuple[list[np.ndarray], Tensor, Tensor]:
    """Polygons, boxes ``[N, 4]`` and labels ``[N]`` of an image."""
    generator = np.random.default_rng(seed)
    centers = generator.uniform([150, 150], [WIDTH - 150, HEIGHT - 150], (OBJECTS, 2))
    polygons = [star(center, generator.uniform(20, 150), generator) for center in centers]
    boxes = torch.tensor([[*polygon.min(0), *polygon.max(0)] for polygon in polygons], dtype=torch.float32)
    return polygons, boxes, torch.from_numpy(generator.integers(0, LVIS, OBJECTS))


def proposals(boxes: Tensor) -> Tensor:
    """300 boxes on the objects, 15 each, with IoUs from 0.6, and 700 anywhere, ``[1000, 4]``."""
    generator = torch.Generator().manual_seed(0)
    near = boxes.repeat(15, 1)
    sides = near[:, 2:] - near[:, :2]
    near = near + 0.1 * (2 * torch.rand(300, 4, generator=generator) - 1) * sides.repeat(1, 2)
    corner = torch.rand(700, 2, generator=generator) * torch.tensor([WIDTH - 150, HEIGHT - 150])
    anywhere = torch.cat([corner, corner + 20 + 130 * torch.rand(700, 2, generator=generator)], dim=1)
    return clip_boxes(torch.cat([near, anywhere]), HEIGHT, WIDTH)


def exchanged(function: Callable, result: object) -> Callable:
    """A function that does its work and returns something else."""

    def run(*arguments: object) -> object:
        function(*arguments)
        return result

    return run


def stepping(model: nn.Module, losses: Callable[[], dict[str, Tensor]], options: Options) -> Callable[[], None]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device(), options.precision):
            total = torch.stack(list(losses().values())).sum()
        total.backward()
        optimizer.step()

    return step


def bitmaps(polygons: list[np.ndarray]) -> Tensor:
    rles = [coco.merge(coco.frPyObjects([polygon.ravel()], HEIGHT, WIDTH)) for polygon in polygons]
    return torch.from_numpy(np.ascontiguousarray(coco.decode(rles).transpose(2, 0, 1)))


def build(options: Options) -> dict[str, Callable[[], None]]:
    annotated = [objects(seed) for seed in range(options.batch)]
    images = [smooth_noise(HEIGHT, WIDTH, seed).to(device()) for seed in range(options.batch)]
    if options.separate_norms:
        resnet.conv_norm = lambda x, conv, norm: norm(conv(x))
    peer = torchvision_model(LVIS)
    model = tailseg_model(LVIS, peer, checkpoint_blocks=options.checkpoint_blocks).to(device()).train()
    if options.compile:
        model.backbone.compile()
        model.fpn.compile()
    peer = peer.to(device()).train()
    targets = [
        Target(boxes, labels, tuple((polygon,) for polygon in polygons), Frame(), torch.zeros(0, 4))
        for polygons, boxes, labels in annotated
    ]
    masks = [bitmaps(polygons) for polygons, _, _ in annotated]
    if device().type == "cuda":
        masks = [mask.pin_memory() for mask in masks]

    given = [proposals(boxes).to(device()) for _, boxes, _ in annotated]
    model.rpn.proposals = exchanged(model.rpn.proposals, given)
    peer.rpn.filter_proposals = exchanged(peer.rpn.filter_proposals, (given, [boxes[:, 0] for boxes in given]))

    def ours() -> dict[str, Tensor]:
        return model(images, [target.to(device()) for target in targets])

    def theirs() -> dict[str, Tensor]:
        moved = [
            {
                "boxes": target.boxes.to(device()),
                "labels": target.labels.to(device()) + 1,
                "masks": mask.to(device(), non_blocking=True),
            }
            for target, mask in zip(targets, masks, strict=True)
        ]
        return peer([image.float() / 255 for image in images], moved)

    return {"tailseg": stepping(model, ours, options), "torchvision": stepping(peer, theirs, options)}


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    built = build(options)
    if options.memory:
        run = built[options.memory]
        run()
        print(json.dumps(peak_memory(run)))
        return
    times = seconds(built, rounds=options.rounds)
    held = {name: held_alone(run, __file__, *sys.argv[1:], "--memory", name) for name, run in built.items()}
    ratio = f"{times['torchvision'] / times['tailseg']:.2f}"
    rows = [
        ["a step, s", *(f"{took:.3f}" for took in times.values()), ratio],
        ["images a second", *(f"{options.batch / took:.2f}" for took in times.values()), ratio],
        ["peak above start, GB", *(f"{peak / 1e9:.2f}" for peak in held.values())],
    ]
    rows[-1].append(f"{held['torchvision'] / held['tailseg']:.2f}")
    text = table(["", *times, "torchvision / tailseg"], rows)
    kind = ["checkpoint"] * options.checkpoint_blocks + [f"batch{options.batch}"] * (options.batch > 1)
    kind += [options.precision] * (options.precision != "float32") + ["compiled"] * options.compile
    kind += ["separate_norms"] * options.separate_norms
    name = "-".join(["training", *kind])
    write("training", "A training step, Mask R-CNN R50-FPN", text, threads=options.threads, file=name)


if __name__ == "__main__":
    main(tyro.cli(Options))
