"""Reads pickles of plain data, as detectron2's ``.pkl`` files: no code of the file runs.

A pickle names the functions that rebuild its objects. Only the names in `_ALLOWED` are known here, and each stands for
a function of this module: containers, texts, numbers, NumPy's arrays and torch's tensors. Every other name is refused.
"""

import io
import pickle
import pickletools
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

MEMO_OPERATIONS: Final = {"PUT", "BINPUT", "LONG_BINPUT"}
"""Operations whose argument is a place in a table that Python makes as long as the argument says."""


class RefusedError(pickle.UnpicklingError):
    """The pickle names an object that is not plain data; ``str`` is its name."""


def read_plain_pickle(content: bytes) -> object:
    """Reads a pickle of plain data.

    Args:
        content: the bytes of the file. Strings of Python 2 are read as Latin-1.

    Returns:
        The object. If it is a mapping, arrays in it and in its mappings are tensors.

    Raises:
        RefusedError: the pickle names something else.
        ValueError: it is truncated or no pickle, or an array does not fit its bytes.
    """
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in MEMO_OPERATIONS and isinstance(argument, int) and argument > len(content):
            raise ValueError("it asks for more memory than it has bytes")
    loaded = _Reader(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(loaded, Mapping):
        return loaded
    return {
        key: _with_tensors(value) if isinstance(value, Mapping) else _to_tensor(value) for key, value in loaded.items()
    }


def _with_tensors(entries: Mapping[object, object]) -> dict[object, object]:
    return {key: _to_tensor(value) for key, value in entries.items()}


def _to_tensor(value: object) -> object:
    return value.to_tensor() if isinstance(value, _Array) else value


class _Type:
    """A NumPy type: whole numbers, floating point numbers or truth values of 1 to 8 bytes."""

    def __init__(self, name: str, *_: object) -> None:
        if not (isinstance(name, str) and re.fullmatch(r"[biuf][1248]", name)):
            raise RefusedError(f"numpy.dtype({name!r})")
        self.type = np.dtype(name)

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.type = self.type.newbyteorder(">" if state[1] == ">" else "<")


class _Array:
    """An array: a pickle first names an empty one and then gives its content."""

    def __init__(self, *_: object) -> None:
        self.values = np.zeros(0)

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, kind, by_column, content = state
        raw = content.encode("latin1") if isinstance(content, str) else content
        self.values = _read_array(raw, kind, shape, "F" if by_column else "C").values

    def to_tensor(self) -> Tensor:
        return torch.from_numpy(np.array(self.values, dtype=self.values.dtype.newbyteorder("="), order="C"))


def _read_array(content: object, kind: object, shape: object, order: object = "C") -> _Array:
    """Reads an array as protocol 5 of pickle stores it."""
    if not (isinstance(kind, _Type) and isinstance(content, bytes | bytearray)):
        raise RefusedError("numpy.ndarray of objects")
    array = _Array()
    array.values = np.frombuffer(content, kind.type).reshape(shape, order="F" if order == "F" else "C")  # ty: ignore[no-matching-overload]
    return array


def _read_scalar(kind: object, content: object) -> object:
    raw = content.encode("latin1") if isinstance(content, str) else content
    return _read_array(raw, kind, ()).values.item()


def _encode(text: object, encoding: object) -> bytes:
    """Protocol 2 stores bytes as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError("_codecs.encode")
    return text.encode("latin1")


def _make_no_bytes() -> bytes:
    """Protocol 2 stores no bytes as a call without arguments."""
    return b""


def _read_storage(content: bytes) -> object:
    """The numbers of a tensor, which torch stores as a file of its own."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle's protocol
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RefusedError("something else in place of a tensor's numbers") from None


_ALLOWED: Final[dict[tuple[str, str], Callable[..., object]]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _make_no_bytes,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # numpy 1 and 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _read_scalar),
            ("numeric", "_frombuffer", _read_array),
        )
    },
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _read_storage,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in _ALLOWED:
            raise RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]
