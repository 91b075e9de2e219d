"""The run's log: one JSON object a line in log.jsonl, and the same figures for TensorBoard."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from tailseg.files import make_write_error, write_text


class Log:
    """Writes ``<run>/log.jsonl`` and ``<run>/tensorboard``.

    A resumed run forgets what was logged after its checkpoint, so that every step stands there once.

    Args:
        run: the run's folder; None writes nothing: of several processes one alone does.
        step: steps done: 0, or the checkpoint's.
    """

    def __init__(self, run: Path | None, *, step: int) -> None:
        self._writes = run is not None
        if run is None:
            return
        self._path = run / "log.jsonl"
        lines = self._path.read_text().splitlines() if self._path.is_file() and step else []
        kept = [line for line in lines if _step(line) <= step]
        write_text(self._path, "".join(f"{line}\n" for line in kept))
        self._file = self._path.open("a", buffering=1)
        self._tensorboard = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._writes:
            return
        for each in (self._file, self._tensorboard):
            try:
                each.close()
            except OSError as failed:
                if error is None:
                    raise make_write_error(self._path, failed) from failed

    def write(self, kind: str, *, epoch: int, step: int, values: Mapping[str, float], text: str = "") -> None:
        """One line: ``kind`` (train, val or image), epoch, step, the finite values; in TensorBoard ``kind/name``.

        A ``text`` stands in the line alone.

        Raises:
            OSError: the disk is full; names the file.
        """
        if not self._writes:
            return
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"kind": kind, "epoch": epoch, "step": step, **finite, **({"text": text} if text else {})}
        try:
            self._file.write(json.dumps(line) + "\n")
            for name, value in finite.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)
        except OSError as error:
            raise make_write_error(self._path, error) from error


def _step(line: str) -> float:
    """The step of a line; a line cut short by a crash belongs to no step that is kept."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
