"""Weights files of other projects: reading runs no code of the file, and a file is written whole or not at all."""

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
from tailseg.interop.plain_pickle import RefusedError, read_plain_pickle
from tailseg.interop.rules import shorten
from tailseg.training.checkpoint import MALFORMED, CheckpointError

STATE_KEYS = ("state_dict", "model", "blobs")
"""The keys of the state dict: of mmdetection; of torchvision's reference programs and detectron2; of Caffe2."""
COPIED_PREFIX = "module."
"""The prefix that DistributedDataParallel adds to every name."""
READABLE = ".safetensors, .pkl (arrays by name, as detectron2), or torch's format under any other name (.pth, .pt)"


WHOLE_MODELS = {
    name: f". The file is a whole model of {project}, whose networks tailseg does not have"
    for name, project in (("ultralytics", "ultralytics"), ("models", "YOLOv5"), ("transformers", "transformers"))
}
"""What the error for a refused file adds, by the first part of the refused name."""


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Attributes:
        path: the file.
        state: tensors by name; all floating point values are finite.
        class_names: the class names by label, if the file has them (mmdetection's have), else None.
    """

    path: Path
    state: dict[str, Tensor]
    class_names: tuple[str, ...] | None


def read_weights_file(path: Path) -> WeightsFile:
    """Reads a ``.safetensors`` file, or a ``.pth``: ``{meta, state_dict, ...}``, ``{model, ...}`` or a bare state dict.

    A ``.pkl`` may also be a plain pickle of arrays by name, alone or under ``model`` or ``blobs``.

    Raises:
        CheckpointError: there is no such file; or it is truncated, would run code, has no weights, or has weights that
            are not finite. The message says which.
    """
    if not path.is_file():
        raise CheckpointError(f"no file {path}: expected a checkpoint ({READABLE})")
    if path.suffix == ".pkl" and not zipfile.is_zipfile(path):
        content = _read_pickle(path)
    else:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _state(content, path)
    infinite = [
        key for key, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if infinite:
        raise CheckpointError(
            f"{path} holds weights that are not finite (NaN or infinite): {shorten(infinite)}. The training that wrote "
            "it had diverged, or the file is damaged: use an earlier checkpoint"
        )
    return WeightsFile(path, state, _class_names(content))


def write_torch_file(path: Path, state: Mapping[str, Tensor], class_names: Sequence[str]) -> None:
    """Writes ``{meta, state_dict}`` as mmdetection reads it.

    Args:
        path: the file.
        state: tensors by mmdetection's names.
        class_names: by label; they are stored where version 2 and where version 3 look for them.
    """
    # the mark of our own files comes first, because there may be thousands of names
    meta = {"made_by": CONVERTED, "CLASSES": tuple(class_names), "dataset_meta": {"classes": tuple(class_names)}}
    content = {"meta": meta, "state_dict": {key: tensor.detach().cpu() for key, tensor in state.items()}}
    with write_atomically(path) as file:
        torch.save(content, file)


def write_model_file(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes ``{model}`` as detectron2 and torchvision's reference programs read it, the whole file or nothing."""
    with write_atomically(path) as file:
        torch.save({"made_by": CONVERTED, "model": {key: tensor.detach().cpu() for key, tensor in state.items()}}, file)


def write_safetensors_file(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes the tensors without class names, the whole file or nothing."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    with write_atomically(path) as file:
        file.write_bytes(to_bytes(tensors, {"made_by": CONVERTED}))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated, or not a safetensors file ({error})") from None


def _read_pickle(path: Path) -> object:
    try:
        return read_plain_pickle(path.read_bytes())
    except RefusedError as error:
        raise CheckpointError(_refused(path, str(error))) from None
    except (pickle.UnpicklingError, MemoryError, RecursionError, *MALFORMED, EOFError, AttributeError) as error:
        reason = _no_torch_file(path) or str(error).strip() or type(error).__name__
        raise CheckpointError(_unreadable(path, reason)) from None


class _Ignored:
    """A stand-in for objects other than weights. It accepts any arguments and does nothing."""

    def __init__(self, *args: object) -> None:
        del args

    def __setstate__(self, state: object) -> None:
        del state


def _plain_globals() -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """Lists what a file may name in addition to torch's own list, and what is used for it.

    numpy's numbers and arrays (best scores, class names) are data. mmdetection 3 stores its history in its own class,
    pickled with ``getattr``: both are replaced by a stand-in, and none of their code runs.
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
    """Checks whether a small file could fill the memory: torch inflates its parts, and makes bytearrays of any size."""
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
        raise CheckpointError(_refused(path, named[1] if named else "")) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, zipfile.BadZipFile) as error:
        said = str(error).strip().split("\n")[0].split(". ")[0]
        raise CheckpointError(_unreadable(path, _no_torch_file(path) or said or type(error).__name__)) from None


def _refused(path: Path, name: str) -> str:
    """Says that a file names something else than data; ``name`` begins with the package that wrote it."""
    return (
        f"{path} holds more than weights{f' ({name})' if name else ''}, and reading that could run code: refused. If "
        "you trust the file, load it where it was made and save only its state_dict"
        f"{WHOLE_MODELS.get(name.partition('.')[0], '')}"
    )


def _no_torch_file(path: Path) -> str | None:
    """Says what is wrong with a file whose first byte is not that of a zip or pickle file; None for other files."""
    with path.open("rb") as file:
        first = file.read(1)
    return None if first in (b"P", b"\x80") else "of another format" if first else "it is empty"


def _unreadable(path: Path, reason: str) -> str:
    return f"{path} cannot be read: truncated, damaged, or no checkpoint at all ({reason}); expected {READABLE}"


def _state(content: object, path: Path) -> dict[str, Tensor]:
    entries = content
    if isinstance(entries, dict):
        entries = next((entries[key] for key in STATE_KEYS if isinstance(entries.get(key), dict)), entries)
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(f"{path} is not a checkpoint: expected tensors by name, found {_kind(entries)}")
    other = [f"{key} ({_kind(value)})" for key, value in entries.items() if not isinstance(value, Tensor)]
    if other:
        raise CheckpointError(
            f"{path} is not a checkpoint: expected tensors by name, alone or under {' or '.join(STATE_KEYS)}; "
            f"found {shorten(other)}"
        )
    packed = [str(key) for key, value in entries.items() if value.layout != torch.strided or value.is_quantized]
    if packed:
        raise CheckpointError(f"{path} holds sparse or quantized tensors, expected dense ones: {shorten(packed)}")
    spread = [str(key) for key, value in entries.items() if value.nbytes > value.untyped_storage().nbytes()]
    if spread:
        raise CheckpointError(
            f"{path} holds tensors that repeat a few numbers (expanded ones), expected full ones: {shorten(spread)}"
        )
    state = {str(key): value for key, value in entries.items()}
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
