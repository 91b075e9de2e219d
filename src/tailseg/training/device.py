"""The device of a run, and the seeds of its random numbers."""

import random

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seeds torch, NumPy and Python from the numbers.

    The loop does so before every step, with the seed of the run and the number of the step. So a resumed run needs no
    saved random states, and evaluations and loader processes do not change what is drawn.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- for the losses and transforms of users
    random.seed(seed)


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is cuda when there is one, else cpu. Apple's GPU is ``mps``.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"run.device: {name!r} is not a device ({str(error).splitlines()[0]})") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device is cuda, but torch finds no GPU here: use auto or cpu, or install a driver")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("run.device is mps, but torch finds no Apple GPU here: use auto or cpu")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())  # each process of a machine has its own
    return device
