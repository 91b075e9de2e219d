"""How precisely a detector computes."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

import torch

from tailseg.models.config import Precision

HALF: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""The data types of the half precisions."""


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Generator[None, None, None]:
    """A context in which a model's products have the precision of the recipe."""
    with (
        float32_products(precision),
        torch.autocast(device.type, dtype=HALF.get(precision), enabled=precision in HALF),
    ):
        yield


_BACKENDS = (torch.backends.cudnn, torch.backends.cuda.matmul)
_lock = threading.Lock()
_active: dict[object, bool] = {}
"""Whether TensorFloat-32 is allowed, for each use of `float32_products` that is active, in any thread."""
_outside: list[bool] = []
"""The flags before the first active use."""


@contextmanager
def float32_products(precision: Precision) -> Generator[None, None, None]:
    """Within, a GPU's float32 products are TensorFloat-32 if the recipe says so, else IEEE float32.

    By default torch takes TensorFloat-32 in convolutions and float32 in matrix products.

    The flags belong to the process: threads that compute at one time need one precision (of tf32 and the others). The
    last use that ends restores the flags, so that no thread changes them while another one computes.
    """
    use = object()
    with _lock:
        if not _active:
            _outside[:] = [backend.allow_tf32 for backend in _BACKENDS]
        _active[use] = precision == "tf32"
        _set_tf32([_active[use]] * len(_BACKENDS))
    try:
        yield
    finally:
        with _lock:
            del _active[use]
            _set_tf32([next(reversed(_active.values()))] * len(_BACKENDS) if _active else _outside)


def _set_tf32(flags: list[bool]) -> None:
    for backend, allowed in zip(_BACKENDS, flags, strict=True):
        backend.allow_tf32 = allowed
