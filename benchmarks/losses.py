"""Time and memory of the losses at LVIS's size, forward and backward, compared with alternatives.

    uv run python benchmarks/losses.py                     two CPU threads, or the GPU if there is one
    uv run python benchmarks/losses.py --threads 1

Every loss of tailseg is compared with

- the published composition of the Gumbel loss: clamp, exp, exp, binary cross entropy on the probabilities;
- ``binary_cross_entropy_with_logits`` with a one-hot target, made for each step, as in a training;
- the limit: one read of the logits and one write of a gradient, ``torch.mul(logits, 2, out=gradient)``.

One process measures all figures of a row in turns, because other work on the machine then affects all alike. A figure
is the median over rounds. Memory is the largest amount that a step held in addition to the logits, in tensors of their
size. It is measured separately from time: by CUDA's allocator, or on a CPU by torch's profiler.
"""

import datetime as dt
import itertools
import platform
import random
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tailseg import losses
from tailseg.losses import ClassificationLoss
from tailseg.structures import ClassFrequency

RESULTS = Path(__file__).parent / "results"
NUM_CLASSES = 1203
PUBLISHED, BCE, LIMIT = "published composition", "BCE with logits, one-hot", "read logits, write gradient"
PEERS = (PUBLISHED, BCE, LIMIT)
LOSSES = {
    "GumbelCE": losses.GumbelCEConfig(),
    "SigmoidCE": losses.SigmoidCEConfig(),
    "EQL, Gumbel": losses.EQLConfig(),
    "GOL (DropLoss, Gumbel)": losses.DropLossConfig(),
    "class-relative": losses.ClassRelativeLossConfig(),
    "GumbelCE, published": losses.GumbelCEConfig(published="2022"),
    "SoftmaxCE": losses.SoftmaxCEConfig(),
    "focal": losses.FocalLossConfig(),
    "EFL": losses.EqualizedFocalLossConfig(),
    "varifocal": losses.VarifocalLossConfig(),
    "EQLv2": losses.EQLv2Config(),
    "Seesaw": losses.SeesawLossConfig(),
    "BAGS": losses.BAGSLossConfig(),
    "federated": losses.FederatedLossConfig(),
    "balanced softmax": losses.LogitAdjustedSoftmaxConfig(),
    "ECM": losses.ECMLossConfig(),
    "LDAM": losses.LDAMLossConfig(),
    "PCB": losses.PCBLossConfig(),
    "PCB, Seesaw": losses.PCBLossConfig(base="seesaw"),
    "EBL": losses.EquilibriumLossConfig(),
    "ROG": losses.ROGLossConfig(),
}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    regions: tuple[int, ...] = (512, 2048, 8192)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    threads: int = 2
    """CPU threads."""
    rounds: int = 15
    """Number of measurements of each."""
    results: Path = RESULTS


def make_frequency() -> ClassFrequency:
    """Returns counts from 3,000 images down to 1, for as many classes as in LVIS v1."""
    images = (3000 ** torch.linspace(1, 0, NUM_CLASSES)).round().long()
    return ClassFrequency.from_counts(images, 2 * images, 99_388)


def encode_one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter_(1, labels.unsqueeze(1), 1.0)


def published(logits: Tensor, labels: Tensor) -> Tensor:
    p = 1 / torch.exp(torch.exp(-logits.clamp(-4, 10)))
    return F.binary_cross_entropy(p, encode_one_hot(logits, labels), reduction="none").sum() / len(labels)


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, encode_one_hot(logits, labels), reduction="sum") / len(labels)


def sum_terms(loss: ClassificationLoss) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, labels: torch.stack(list(loss(logits, labels).values())).sum()


def make_step(name: str, regions: int, dtype: torch.dtype, device: str) -> Callable[[], None]:
    """Returns a function of one forward and backward pass. The logits are like a detector's, mostly far below zero."""
    generator = torch.Generator().manual_seed(0)
    loss = None if name in PEERS else LOSSES[name].build(make_frequency()).to(device)
    width = NUM_CLASSES + 1 if loss is None else loss.num_logits
    logits = (torch.randn(regions, width, generator=generator) - 2).to(device, dtype)
    labels = torch.randint(0, NUM_CLASSES + 1, (regions,), generator=generator).to(device)
    if name == LIMIT:
        gradient = torch.empty_like(logits)
        return lambda: torch.mul(logits, 2, out=gradient)
    function = sum_terms(loss) if loss is not None else {PUBLISHED: published, BCE: bce}[name]

    def forward_and_backward() -> None:
        leaf = logits.detach().requires_grad_()
        function(leaf, labels).backward()

    return forward_and_backward


def measure_milliseconds(steps: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, float]:
    """Returns the median time of each, in turns and in random order: the memory of one step affects the next."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    shuffle = random.Random(0)
    for i in range(rounds + 3):  # the first ones warm up and compile
        for name, run in shuffle.sample(list(steps.items()), len(steps)):
            began = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            if i >= 3:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: median(values) for name, values in times.items()}


def measure_peak_memory(run: Callable[[], None], device: str) -> int:
    """Returns the most bytes that one step holds in addition to the logits."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


def names_for(dtype: str) -> list[str]:
    """The rows of a table; the published loss computes in float32 alone."""
    return [name for name in (*PEERS, *LOSSES) if name != "GumbelCE, published" or dtype == "float32"]


def format_table(regions: int, dtype: str, options: Options) -> str:
    """Returns a table of all losses and their alternatives at one size."""
    names = names_for(dtype)
    steps = {name: make_step(name, regions, getattr(torch, dtype), options.device) for name in names}
    times = measure_milliseconds(steps, options.rounds, options.device)
    size = regions * (NUM_CLASSES + 1) * getattr(torch, dtype).itemsize
    held = {name: measure_peak_memory(run, options.device) / size for name, run in steps.items()}
    lines = [
        f"## {regions} x {NUM_CLASSES + 1}, {dtype}",
        "",
        "| | ms | published / this | BCE / this | this / limit | memory |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        ratios = f"{times[PUBLISHED] / times[name]:.2f} | {times[BCE] / times[name]:.2f} | "
        ratios += f"{times[name] / times[LIMIT]:.1f}"
        lines.append(f"| {name} | {times[name]:.2f} | {ratios} | {held[name]:.2f} |")
        print(lines[-1], flush=True)
    return "\n".join([*lines, ""])


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    device = platform.machine() if options.device == "cpu" else torch.cuda.get_device_name()
    where = f"{device}, {options.threads} threads" if options.device == "cpu" else device
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    parts = [format_table(regions, dtype, options) for dtype in options.dtypes for regions in options.regions]
    command = shlex.join(["uv", "run", "python", "benchmarks/losses.py", *sys.argv[1:]])
    text = (
        f"# Losses: forward and backward, {today}\n\n`{command}`; torch {torch.__version__}, {where}. "
        "Memory: the most held in addition to the logits, in tensors of their size.\n\n" + "\n".join(parts)
    )
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"losses-{today}-{'cpu' if options.device == 'cpu' else 'cuda'}.md"
    path.write_text(text)
    print(path)


if __name__ == "__main__":
    main(tyro.cli(Options))
