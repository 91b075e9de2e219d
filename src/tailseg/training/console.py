"""The output of a run: a progress bar on a terminal, lines at intervals elsewhere."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, track
from rich.text import Text

T = TypeVar("T")

PLAIN_INTERVAL = 20.0
"""Smallest number of seconds between two plain lines."""


class Speed:
    """Images per second over the last steps, and the time that the remaining steps take."""

    def __init__(self, batch_size: int, *, window: int = 50) -> None:
        self.batch_size = batch_size
        self._times: deque[float] = deque(maxlen=window)

    def step(self) -> None:
        """Counts a step."""
        self._times.append(time.monotonic())

    def pause(self) -> None:
        """Leaves out the time until the next step, such as that of an evaluation."""
        self._times.clear()

    @property
    def images_per_second(self) -> float:
        """Images per second over the last steps; 0 until two steps are done."""
        if len(self._times) < 2:
            return 0.0
        return (len(self._times) - 1) * self.batch_size / max(self._times[-1] - self._times[0], 1e-9)

    def seconds_left(self, steps: int) -> float | None:
        """Returns the seconds that ``steps`` more steps take; None while that is unknown."""
        return steps * self.batch_size / self.images_per_second if self.images_per_second else None


class TrainingConsole:
    """Progress on standard error.

    Args:
        epochs: of the whole run.
        total_steps: of the whole run.
        done_steps: steps that a resumed run has already made.
        speed: the loop counts its steps there.
        console: where to write; None writes to standard error.
    """

    def __init__(
        self, *, epochs: int, total_steps: int, done_steps: int, speed: Speed, console: Console | None = None
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.speed = speed
        self._epochs = epochs
        self._total = total_steps
        self._last_line = -PLAIN_INTERVAL
        self._losses = Text()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}")
        )
        self._training = self._progress.add_task("training", total=total_steps, completed=done_steps, rest="")
        self._evaluation = self._progress.add_task("evaluating", visible=False, rest="images")
        self._live = Live(Group(self._progress, self._losses), console=self.console, transient=True)

    def __enter__(self) -> "TrainingConsole":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        self.console.print(line, markup=False)

    def step(self, *, epoch: int, step: int, losses: Mapping[str, float]) -> None:
        """Moves the bar after a step.

        Args:
            epoch: from 0.
            step: steps done.
            losses: of the step, by name.
        """
        if not self.console.is_terminal:
            return
        self._progress.update(
            self._training,
            description=f"epoch {epoch + 1}/{self._epochs}",
            completed=step,
            rest=self._pace(step),
        )
        self._losses.plain = describe_losses(losses)

    def log(self, *, epoch: int, step: int, losses: Mapping[str, float], rate: float) -> None:
        """Prints the mean losses if there is no bar and the last line is `PLAIN_INTERVAL` seconds old.

        Args:
            epoch: from 0.
            step: steps done.
            losses: means since the last line of the log, by name.
            rate: the learning rate.
        """
        if self.console.is_terminal or time.monotonic() - self._last_line < PLAIN_INTERVAL:
            return
        self._last_line = time.monotonic()
        self.say(
            f"epoch {epoch + 1}/{self._epochs}  step {step}/{self._total}  {describe_losses(losses)}  "
            f"lr {rate:.3g}  {self._pace(step)}"
        )

    def show_evaluation(self, done: int, total: int) -> None:
        """Moves the bar of the evaluation; it disappears when all images are done."""
        self._progress.update(self._evaluation, completed=done, total=total, visible=done < total)

    def _pace(self, step: int) -> str:
        """Images a second and the time left; empty while they are not known."""
        seconds = self.speed.seconds_left(max(self._total - step, 0))
        return (
            "" if seconds is None else f"{self.speed.images_per_second:.1f} images/s, {describe_seconds(seconds)} left"
        )


def track_progress(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Iterates over the items and shows on standard error how many are done and how much time is left.

    On a terminal it shows a bar, elsewhere it prints a line every `PLAIN_INTERVAL` seconds.

    Args:
        items: the items.
        title: the work, as the user reads it.
        total: the number of items.

    Returns:
        The items.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_terminal:
        yield from track(items, title, total, console=console, transient=True)
        return
    start = last_line = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last_line >= PLAIN_INTERVAL:
            last_line = now
            left = describe_seconds((now - start) / done * (total - done))
            console.print(f"{title}: {done:,} of {total:,}, {left} left", markup=False)


def describe_losses(losses: Mapping[str, float]) -> str:
    """Writes the losses as ``loss 2.31 (rpn_cls 0.21, cls 1.10, ...)``."""
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.3g}" for name, value in losses.items())
    return f"loss {sum(losses.values()):.3f} ({parts})"


def describe_seconds(seconds: float) -> str:
    """Writes a duration as ``45 s``, ``12 min``, ``3 h 05 min`` or ``2 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
