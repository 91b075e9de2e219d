"""The run's log: one JSON object a line in log.jsonl, and the same figures for TensorBoard and other trackers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tailseg.files import make_write_error, write_text
from tailseg.lazy import needs_extra
from tailseg.training.trackers import Trackers

with needs_extra("train"):
    from torch.utils.tensorboard import SummaryWriter


class Log:
    """Writes ``<run>/log.jsonl`` and ``<run>/tensorboard``.

    A resumed run removes the lines after its checkpoint: every step is logged once.

    Args:
        run: the run's folder; None writes nothing, for the processes other than the main one.
        step: steps done: 0, or the checkpoint's.
        trackers: get the figures as well.
    """

    def __init__(self, run: Path | None, *, step: int, trackers: Trackers | None = None) -> None:
        self._writes, self._trackers = run is not None, trackers
        if run is None:
            return
        self._path = run / "log.jsonl"
        lines = self._path.read_text().splitlines() if self._path.is_file() and step else []
        earlier = [line for line in lines if _step(line) <= step]
        write_text(self._path, "".join(f"{line}\n" for line in earlier))
        self._file = self._path.open("a", buffering=1)
        self._tensorboard = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._writes:
            return
        for writer in (self._file, self._tensorboard):
            try:
                writer.close()
            except OSError as failed:
                if error is None:
                    raise make_write_error(self._path, failed) from failed

    def write(self, kind: str, *, epoch: int, step: int, values: Mapping[str, float], text: str = "") -> None:
        """Writes one line, and its values to TensorBoard as ``kind/name``.

        Args:
            kind: train, val or image.
            epoch: of the line.
            step: of the line.
            values: by name; those that are not finite are left out.
            text: is written to the line alone.

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
        if self._trackers is not None:
            self._trackers.write({f"{kind}/{name}": value for name, value in finite.items()}, step)


def _step(line: str) -> float:
    """The step of a line; infinity for a line that a crash cut short, which is then removed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
