"""Inference on one image with Mask R-CNN R50-FPN at LVIS scale: tailseg and torchvision with the same weights.

    uv run python benchmarks/inference.py                         the table by parts
    uv run python benchmarks/inference.py --grow classes          growth of the time; or detections, batch
    uv run python benchmarks/inference.py --compile --precision bfloat16

1,203 classes, 800 x 1216 pixels, 1,000 proposals, one in ten of (region, class) pairs above the threshold, 300
detections, masks as run lengths of the whole image (torchvision's by pycocotools). The script runs on a GPU if there is
one. Memory is the peak above the memory before, on a CPU in a separate process.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import tyro
from measure import Parts, clock, device, held_alone, peak_memory, table, write
from peers import LVIS, smooth_noise, tailseg_model, torchvision_model
from pycocotools import mask as coco
from torch import Tensor, nn
from torchvision.models.detection import roi_heads

from tailseg.models import box_head, mask_head
from tailseg.models.detector import Detector
from tailseg.models.optimize import InferenceConfig, for_inference
from tailseg.models.precision import Precision, autocast

HEIGHT, WIDTH = 800, 1216
GROWTH = {"classes": (80, 365, 1203, 13_204, 21_841), "detections": (100, 300, 1000), "batch": (1, 4, 16)}
PARTS = (
    "backbone + FPN",
    "RPN",
    "box pooling + head",
    "box predictor",
    "threshold + NMS",
    "masks",
    "paste + run lengths",
    "rest",
)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    threads: int = 2
    """CPU threads; with 1 CPU time is measured, else wall time."""
    rounds: int = 3
    """Turns that each takes."""
    grow: Literal["classes", "detections", "batch"] | None = None
    """Measure tailseg alone while this grows."""
    compile: bool = False
    """tailseg's backbone and FPN through torch.compile."""
    precision: Precision = "float32"
    """Of the layers, of both."""
    memory: Literal["tailseg", "torchvision"] | None = None
    """Measure the memory of this one alone, and print it as JSON."""
    size: int | None = None
    """With --memory and --grow: how many of what grows."""


Run = Callable[[], object]


def ours(model: Detector, images: list[Tensor], options: Options) -> Run:
    @torch.no_grad()
    def run() -> object:
        with autocast(device(), options.precision):
            return model(images)

    return run


def torchvisions(model: nn.Module, images: list[Tensor], options: Options) -> Run:
    scaled = [image.float() / 255 for image in images]

    @torch.no_grad()
    def run() -> object:
        with autocast(device(), options.precision):
            return [encode(found["masks"]) for found in model(scaled)]

    return run


def encode(masks: Tensor) -> list[dict]:
    return [coco.encode(np.asfortranarray(mask[0].cpu().numpy().astype(np.uint8))) for mask in masks >= 0.5]


def watch_ours(model: Detector, parts: Parts) -> None:
    call = "_compiled_call_impl" if model.fpn._compiled_call_impl else "forward"  # noqa: SLF001 (nothing public)
    for owner, name, part in (
        (model.backbone, call, "backbone + FPN"),
        (model.fpn, call, "backbone + FPN"),
        (model.rpn, "forward", "RPN"),
        (model.rpn, "proposals", "RPN"),
        (model.box_head, "forward", "box pooling + head"),
        (model.box_head.classifier, "forward", "box predictor"),
        (model.box_head.loss, "scores", "box predictor"),
        (box_head, "class_nms", "threshold + NMS"),
        (model.mask_head, "forward", "masks"),
        (mask_head, "paste_masks", "paste + run lengths"),
    ):
        parts.wrap(owner, name, part)


def watch_torchvision(model: nn.Module, parts: Parts) -> None:
    heads = model.roi_heads
    for owner, name, part in (
        (model.backbone, "forward", "backbone + FPN"),
        (model.rpn, "forward", "RPN"),
        (heads.box_roi_pool, "forward", "box pooling + head"),
        (heads.box_head, "forward", "box pooling + head"),
        (heads.box_predictor, "forward", "box predictor"),
        (heads, "postprocess_detections", "threshold + NMS"),
        (heads.mask_roi_pool, "forward", "masks"),
        (heads.mask_head, "forward", "masks"),
        (heads.mask_predictor, "forward", "masks"),
        (roi_heads, "maskrcnn_inference", "masks"),
        (model.transform, "postprocess", "paste + run lengths"),
        (sys.modules[__name__], "encode", "paste + run lengths"),
    ):
        parts.wrap(owner, name, part)


def build(
    options: Options, *, classes: int = LVIS, detections: int = 300, batch: int = 1
) -> dict[str, tuple[Run, Parts]]:
    peer = torchvision_model(classes, detections=detections)
    model = tailseg_model(classes, peer, detections=detections)
    model = for_inference(model.to(device()), InferenceConfig(options.precision, options.compile))
    images = [smooth_noise(HEIGHT, WIDTH, seed).to(device()) for seed in range(batch)]
    parts = {"tailseg": Parts(), "torchvision": Parts()}
    watch_ours(model, parts["tailseg"])
    watch_torchvision(peer, parts["torchvision"])
    runs = {"tailseg": ours(model, images, options), "torchvision": torchvisions(peer.to(device()), images, options)}
    return {name: (run, parts[name]) for name, run in runs.items()}


def measure(run: Run, parts: Parts, rounds: int) -> tuple[float, dict[str, float]]:
    """The least time of an image, and of each part."""
    run()
    times = []
    for _ in range(rounds):
        with parts.step():
            began = clock()
            run()
            times.append(clock() - began)
    return min(times), parts.least()


def compare(options: Options) -> str:
    built = build(options)
    measured = {name: measure(run, parts, options.rounds) for name, (run, parts) in built.items()}
    held = {name: held_alone(run, __file__, *sys.argv[1:], "--memory", name) for name, (run, _) in built.items()}
    rows = []
    for part in PARTS:
        taken = [times.get(part, total - sum(times.values())) for total, times in measured.values()]
        rows.append([part, *(f"{seconds:.3f}" for seconds in taken), f"{taken[1] / taken[0]:.1f}"])
    totals = [total for total, _ in measured.values()]
    rows.append(["an image, s", *(f"{total:.3f}" for total in totals), f"{totals[1] / totals[0]:.2f}"])
    peaks = [held[name] / 1e9 for name in measured]
    rows.append(["peak above start, GB", *(f"{peak:.2f}" for peak in peaks), f"{peaks[1] / peaks[0]:.1f}"])
    return table(["", *measured, "torchvision / tailseg"], rows)


def grow(options: Options, what: str) -> str:
    rows, first = [], None
    for value in GROWTH[what]:
        run, parts = build(options, **{what: value})["tailseg"]
        total, _ = measure(run, parts, options.rounds)
        held = held_alone(run, __file__, *sys.argv[1:], "--memory", "tailseg", "--size", str(value))
        first = first or total
        rows.append([f"{value:,}", f"{total:.3f}", f"{total / first:.2f}", f"{held / 1e9:.2f}"])
    return table([what, "s", "times the first", "peak above start, GB"], rows)


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    if options.memory:
        sizes = {options.grow: options.size} if options.grow and options.size else {}
        run, _ = build(options, **sizes)[options.memory]
        run()
        print(json.dumps(peak_memory(run)))
        return
    kind = [options.grow] if options.grow else []
    kind += [options.precision] * (options.precision != "float32") + ["compiled"] * options.compile
    name = "-".join(["inference", *kind])
    text = grow(options, options.grow) if options.grow else compare(options)
    write("inference", "Inference, Mask R-CNN R50-FPN", text, threads=options.threads, file=name)


if __name__ == "__main__":
    main(tyro.cli(Options))
