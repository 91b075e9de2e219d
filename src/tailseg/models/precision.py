"""How precisely a detector computes."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from tailseg.models.config import Precision

HALF: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""The types of the precisions that have one of their own."""


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Generator[None, None, None]:
    """Within, a model's products are as precise as the recipe says."""
    with (
        float32_products(precision),
        torch.autocast(device.type, dtype=HALF.get(precision), enabled=precision in HALF),
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
