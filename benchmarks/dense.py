"""Time and memory of losses of a dense head at LVIS's size, forward and backward, on one CPU thread or a GPU.

    uv run python benchmarks/dense.py
    uv run python benchmarks/dense.py --losses Gumbel --dtypes float32

100,000 anchors x 1,203 classes need 6 GB of memory. 1 of 1,000 anchors has a class. All losses get the class of each
anchor and divide by the number of those with a class. torchvision's focal loss needs a one-hot target, made in each
step, as in torchvision's RetinaNet.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from measure import seconds, table, write
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from losses import NUM_CLASSES, make_frequency, measure_peak_memory
from tailseg.losses import DropLossConfig, EqualizedFocalLossConfig, FocalLossConfig, GumbelCEConfig

PEER = "torchvision, sigmoid_focal_loss"
LOSSES = {
    "Gumbel": GumbelCEConfig(background=False),
    "GOL (DropLoss, Gumbel)": DropLossConfig(),
    "focal": FocalLossConfig(),
    "EFL": EqualizedFocalLossConfig(),
}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    anchors: int = 100_000
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    losses: tuple[str, ...] = tuple(LOSSES)
    rounds: int = 3
    """Number of measurements of each."""


def make_step(name: str, logits: Tensor, labels: Tensor) -> Callable[[], None]:
    """Returns a function of one forward and backward pass."""
    positives = float((labels < NUM_CLASSES).sum())
    loss = LOSSES[name].build(make_frequency()).to(logits.device) if name in LOSSES else None

    def forward_and_backward() -> None:
        leaf = logits.detach().requires_grad_()
        if loss is not None:
            loss.dense(leaf, labels, normalizer=positives).backward()
            return
        target = torch.zeros_like(leaf)
        rows = (labels < NUM_CLASSES).nonzero().squeeze(1)
        target[rows, labels[rows]] = 1
        (sigmoid_focal_loss(leaf, target, reduction="sum") / positives).backward()

    return forward_and_backward


def main(options: Options) -> None:
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((options.anchors,), NUM_CLASSES)
    labels[::1000] = torch.randint(NUM_CLASSES, (len(labels[::1000]),), generator=generator)
    # Like a detector's, mostly far below zero.
    values = torch.randn(options.anchors, NUM_CLASSES, generator=generator) - 2
    rows = []
    for dtype in options.dtypes:
        logits = values.to(device, getattr(torch, dtype))
        steps = {name: make_step(name, logits, labels.to(device)) for name in (PEER, *options.losses)}
        times = seconds(steps, rounds=options.rounds)
        held = {name: measure_peak_memory(run, device) / logits.nbytes for name, run in steps.items()}
        for name in steps:
            row = [name, dtype, f"{1e3 * times[name]:.0f}", f"{times[PEER] / times[name]:.1f}"]
            rows.append([*row, f"{held[name]:.2f}", f"{held[name] / held[PEER]:.2f}"])
    head = ["Loss", "type", "ms", "times as fast as torchvision", "memory", "of torchvision's"]
    text = "Memory: the most held in addition to the logits, in tensors of their size.\n\n" + table(head, rows)
    title = f"Losses of a dense head, {options.anchors} x {NUM_CLASSES}, forward and backward"
    write("dense", title, text, threads=1)


if __name__ == "__main__":
    main(tyro.cli(Options))
