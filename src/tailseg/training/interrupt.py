"""Stopping a run between two steps without losing its state."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopTraining(Exception):  # noqa: N818 (like StopIteration, it is no error)
    """A callback raises it to end the training: the state is saved, the model is evaluated, and `train` returns."""


class TrainingStopped(KeyboardInterrupt):
    """Ctrl-C or a termination signal ended the run after a complete step; the state is saved."""


class StopRequest:
    """In this context Ctrl-C and SIGTERM ask for a stop at the next safe place; a second signal stops at once.

    A Ctrl-C in the terminal reaches the loader processes as well. They inherit the handler and ignore the signal, since
    they have batches to finish. Signals can be handled in the main thread only: in others the context does nothing.

    Args:
        after: what is finished before the stop, for the message.
        waits: whether there is a state to save. False: the first signal stops at once, too. May be set later.
    """

    def __init__(self, after: str = "this step", *, waits: bool = True) -> None:
        self.waits = waits
        self._after = after
        self._asked = False
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Ends the run if a stop was asked for; to be called where the state can be saved.

        Raises:
            TrainingStopped: a stop was asked for.
        """
        if self._asked:
            raise TrainingStopped("the run was asked to stop")

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self._asked or not self.waits:
            raise KeyboardInterrupt
        self._asked = True
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            line = (
                f"\nStopping after {self._after}; the state will be saved. "
                "Press Ctrl-C again to stop at once without saving.\n"
            )
            os.write(2, line.encode())
