"""Where a run computes, how precisely, and with which random numbers."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
"""float32 is IEEE's everywhere; tf32 lets GPUs since Ampere round the factors of products to 10 bits; bfloat16 and
float16 are autocast's types, for layers that bear it."""
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def seed_everything(*numbers: int) -> None:
    """Seeds torch, NumPy and Python from the numbers.

    The loop does so before every step, with the run's seed and the step's number. A resumed run then needs no saved
    random states, and neither evaluations nor loader processes change what is drawn.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- for losses and transforms that are not ours
    random.seed(seed)


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is cuda when there is one, else cpu.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"run.device: {name!r} is no device ({str(error).splitlines()[0]})") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device is cuda, but torch finds no GPU here: use auto or cpu, or install a driver")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())  # each process of a machine has its own
    return device


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Generator[None, None, None]:
    """Within, a model's products are as precise as the recipe says."""
    with (
        float32_products(precision),
        torch.autocast(device.type, dtype=_AUTOCAST.get(precision), enabled=precision in _AUTOCAST),
    ):
        yield


@contextmanager
def float32_products(precision: Precision) -> Generator[None, None, None]:
    """Within, a GPU's float32 products are TensorFloat-32 if the recipe says so, else IEEE float32.

    torch left to itself takes TensorFloat-32 in convolutions and float32 in matrix products.
    """
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = precision == "tf32"
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
