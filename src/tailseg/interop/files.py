"""Weights in files of other projects: read without running anybody's code, written whole or not at all."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct, scalar
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from tailseg.files import CONVERTED, write_atomically
from tailseg.interop.rules import few
from tailseg.training.checkpoint import CheckpointError

STATE_KEYS = ("state_dict", "model")
"""Where training programs put the state dict beside the rest: mmdetection and torchvision's references."""
COPIED_PREFIX = "module."
"""What DistributedDataParallel puts before every name."""
READABLE = ".safetensors, or torch's format under any other name (.pth, .pt)"


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        path: where it was read.
        state: tensors by name, floating ones all finite.
        class_names: as the file states them (mmdetection does), by label; None where it does not.
    """

    path: Path
    state: dict[str, Tensor]
    class_names: tuple[str, ...] | None


def read_weights_file(path: Path) -> WeightsFile:
    """Reads a ``.safetensors`` file, or a ``.pth``: ``{meta, state_dict, ...}``, ``{model, ...}`` or a bare state dict.

    Raises:
        CheckpointError: no such file, a truncated one, one that would run code, one without weights, or weights that
            are not finite; the message says which.
    """
    if not path.is_file():
        raise CheckpointError(f"no file {path}: expected a checkpoint ({READABLE})")
    content: object = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _state(content, path)
    infinite = [
        key for key, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if infinite:
        raise CheckpointError(
            f"{path} holds weights that are not finite (NaN or infinite): {few(infinite)}. The training that wrote it "
            "had diverged, or the file is damaged: take an earlier checkpoint"
        )
    return WeightsFile(path, state, _class_names(content))


def write_torch_file(path: Path, state: Mapping[str, Tensor], class_names: Sequence[str]) -> None:
    """Writes ``{meta, state_dict}`` as mmdetection reads it: class names where its version 2 and where 3 look."""
    # what tells it as our own comes first: the names may be thousands
    meta = {"made_by": CONVERTED, "CLASSES": tuple(class_names), "dataset_meta": {"classes": tuple(class_names)}}
    content = {"meta": meta, "state_dict": {key: tensor.detach().cpu() for key, tensor in state.items()}}
    with write_atomically(path) as file:
        torch.save(content, file)


def write_safetensors_file(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes the tensors alone, whole or not at all."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    with write_atomically(path) as file:
        file.write_bytes(to_bytes(tensors, {"made_by": CONVERTED}))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated, or no safetensors file ({error})") from None


class _Ignored:
    """Stands for an object beside the weights that nothing here looks at; takes anything, does nothing."""

    def __init__(self, *args: object) -> None:
        del args

    def __setstate__(self, state: object) -> None:
        del state


def _plain_globals() -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """What a file may name beyond torch's own list, and what it gets.

    numpy's numbers and arrays (best scores, class names) are data. mmdetection 3 keeps its history in a class of its
    own, pickled with ``getattr``: both get a stand-in, and nothing of theirs is run.
    """
    numpy: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
        (np.dtype, "numpy.dtype"),
        (np.ndarray, "numpy.ndarray"),
    ]
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):  # numpy 2 and before
        numpy += [(scalar, f"{module}.scalar"), (_reconstruct, f"{module}._reconstruct")]
    names = [name for name in dir(np.dtypes) if name.endswith("DType")]
    numpy += [(getattr(np.dtypes, name), f"numpy.dtypes.{name}") for name in names]
    return [
        *numpy,
        (_Ignored, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_Ignored, "builtins.getattr"),
        (_Ignored, "__builtin__.getattr"),
    ]


BYTEARRAYS = (b"c__builtin__\nbytearray\n", b"cbuiltins\nbytearray\n")


def _asks_for_memory(path: Path) -> bool:
    """Whether a small file may fill the memory: torch would inflate its parts, and make it a bytearray of any size."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return any(content.find(name) >= 0 for name in BYTEARRAYS)
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        return sum(part.file_size for part in parts) > path.stat().st_size or any(
            name in archive.read(part) for part in parts if part.filename.endswith(".pkl") for name in BYTEARRAYS
        )


def _read_torch(path: Path) -> object:
    try:
        if _asks_for_memory(path):
            raise CheckpointError(_unreadable(path, "it asks for more memory than it has bytes"))
        with warnings.catch_warnings(), torch.serialization.safe_globals(_plain_globals()):
            warnings.simplefilter("ignore", UserWarning)  # about the pickle's protocol: errors say what matters
            # mapped, not read: an optimizer's state is as large as two models, and nothing here touches it
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if reason := _no_torch_file(path):
            raise CheckpointError(_unreadable(path, reason)) from None
        named = re.search(r"(?:GLOBAL|global) `?([\w.]+)", str(error))
        raise CheckpointError(
            f"{path} holds more than weights{f' ({named[1]})' if named else ''}, and reading that could run code: "
            "refused. If you trust the file, load it where it was made and save its state_dict alone"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, zipfile.BadZipFile) as error:
        said = str(error).strip().split("\n")[0].split(". ")[0]
        raise CheckpointError(_unreadable(path, _no_torch_file(path) or said or type(error).__name__)) from None


def _no_torch_file(path: Path) -> str | None:
    """What the file is, if its first byte is neither a zip's nor a pickle's."""
    with path.open("rb") as file:
        first = file.read(1)
    return None if first in (b"P", b"\x80") else "of another format" if first else "it is empty"


def _unreadable(path: Path, reason: str) -> str:
    return f"{path} cannot be read: truncated, damaged, or no checkpoint at all ({reason}); expected {READABLE}"


def _state(content: object, path: Path) -> dict[str, Tensor]:
    found = content
    if isinstance(found, dict):
        found = next((found[key] for key in STATE_KEYS if isinstance(found.get(key), dict)), found)
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{path} is no checkpoint: expected tensors by name, found {_kind(found)}")
    other = [f"{key} ({_kind(value)})" for key, value in found.items() if not isinstance(value, Tensor)]
    if other:
        raise CheckpointError(
            f"{path} is no checkpoint: expected tensors by name, alone or under {' or '.join(STATE_KEYS)}; found "
            f"{few(other)}"
        )
    packed = [str(key) for key, value in found.items() if value.layout != torch.strided or value.is_quantized]
    if packed:
        raise CheckpointError(f"{path} holds sparse or quantized tensors, expected dense ones: {few(packed)}")
    spread = [str(key) for key, value in found.items() if value.nbytes > value.untyped_storage().nbytes()]
    if spread:
        raise CheckpointError(f"{path} holds tensors that repeat a few numbers, expected whole ones: {few(spread)}")
    state = {str(key): value for key, value in found.items()}
    if all(key.startswith(COPIED_PREFIX) for key in state):
        return {key.removeprefix(COPIED_PREFIX): value for key, value in state.items()}
    return state


def _kind(value: object) -> str:
    return "nothing" if isinstance(value, dict) and not value else type(value).__name__


def _class_names(content: object) -> tuple[str, ...] | None:
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict):
        return None
    newer = meta.get("dataset_meta")
    names = meta.get("CLASSES") or (newer.get("classes") if isinstance(newer, dict) else None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else None
