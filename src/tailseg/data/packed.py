"""Rows of different lengths in one flat array."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """Row ``i`` is ``values[offsets[i] : offsets[i + 1]]``, a view.

    A million Python lists would be copied into every loader process as soon as their reference counts are touched;
    two arrays stay shared by all of them.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def pack(cls, rows: Sequence[np.ndarray], dtype: type[np.generic]) -> "Ragged":
        """The rows, each a one-dimensional array, end to end."""
        values = np.concatenate([np.empty(0, dtype), *rows]).astype(dtype, copy=False)
        return cls(values, offsets_of(len(row) for row in rows))

    @classmethod
    def pack_text(cls, rows: Iterable[str | bytes]) -> "Ragged":
        """Strings as UTF-8 bytes."""
        encoded = [row.encode() if isinstance(row, str) else row for row in rows]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets_of(len(row) for row in encoded))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def text(self, row: int) -> str:
        """Row ``row`` of strings that were packed by ``pack_text``."""
        return self[row].tobytes().decode()


def offsets_of(lengths: Iterable[int] | np.ndarray) -> np.ndarray:
    """``[0, l0, l0 + l1, ...]``, int64."""
    counts = np.fromiter(lengths, dtype=np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
