"""The run's log: one JSON object a line in log.jsonl, and the same figures for TensorBoard."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter


class Log:
    """Writes ``<run>/log.jsonl`` and ``<run>/tensorboard``.

    A resumed run forgets what was logged after its checkpoint, so that every step stands there once.

    Args:
        run: the run's folder.
        step: steps done: 0, or the checkpoint's.
    """

    def __init__(self, run: Path, *, step: int) -> None:
        path = run / "log.jsonl"
        lines = path.read_text().splitlines() if path.is_file() and step else []
        kept = [line for line in lines if _step(line) <= step]
        path.write_text("".join(f"{line}\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._tensorboard = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._tensorboard.close()

    def write(self, kind: str, *, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """One line: ``kind`` (train or val), epoch, step and the finite values; in TensorBoard ``kind/name``."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"kind": kind, "epoch": epoch, "step": step, **finite}) + "\n")
        for name, value in finite.items():
            self._tensorboard.add_scalar(f"{kind}/{name}", value, step)


def _step(line: str) -> float:
    """The step of a line; a line cut short by a crash belongs to no step that is kept."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
