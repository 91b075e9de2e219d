"""Worker processes that prepare batches, and a main process that never waits for a dead one.

Each worker has its own two pipes, one for its tasks and one for its results. Two workers share nothing: no queue and no
lock. So a worker that dies while it sends a batch ends its own pipe alone, and the others can go on writing. A shared
queue cannot promise that. (torch's DataLoader has such a queue, and its main process then reads from it for ever.)
"""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, Final

import torch

AHEAD: Final = 2
"""Tasks of each worker at a time: while it sends one batch, it makes the next one."""
PATIENCE: Final = 1.0
"""Seconds between two checks whether a wait must end, and whether the main process is still alive."""

Make = Callable[[Any], Any]


class WorkerError(ChildProcessError):
    """A loader process died: killed, or out of memory."""


@dataclass(frozen=True)
class _Failure:
    """What a worker sends when its task raised."""

    trace: str


class Workers:
    """Worker processes, started when they are first needed.

    They are forked on Linux, and share the memory of ``make``. They end when the process that started them ends.

    Args:
        make: called in the workers with each task; what it returns is pickled, tensors go through shared memory.
        count: processes, at least 1.
    """

    def __init__(self, make: Make, count: int) -> None:
        self._make, self._count = make, count
        self._workers: list[_Worker] = []

    def map(
        self, tasks: Iterable[Any], *, say: Callable[[str], None], check: Callable[[], None]
    ) -> Generator[Any, None, None]:
        """What ``make`` returns for each task, in order.

        Another worker takes the place of one that died, and gets the same tasks.

        Args:
            tasks: read a little ahead, in this process.
            say: called with a line when a worker was replaced.
            check: called about once a second while the next result is not there; may raise.

        Raises:
            WorkerError: a worker died, and so did its replacement, over the same task.
            RuntimeError: ``make`` raised; the message has its stack trace.
            OSError: the results need more open files than the system allows.
        """
        if not self._workers:
            self._workers = [_Worker(self._make) for _ in range(self._count)]
        turns, due = cycle(self._workers), deque[_Worker]()
        rest = zip(tasks, turns)  # noqa: B905 - the turns never end
        try:
            for task, worker in islice(rest, AHEAD * self._count):
                worker.give(task)
                due.append(worker)
            while due:
                result = _take(due[0], say, check)
                due.popleft()
                for task, worker in islice(rest, 1):
                    worker.give(task)
                    due.append(worker)
                yield result
        finally:
            if due:  # the workers still work on tasks whose results nobody needs
                self.stop()

    def stop(self) -> None:
        """Ends the workers; others start when they are needed again."""
        for worker in self._workers:
            worker.stop()
        self._workers = []


def _take(worker: "_Worker", say: Callable[[str], None], check: Callable[[], None]) -> Any:  # noqa: ANN401 - of make
    """Returns the next result of a worker, or of its replacement."""
    try:
        return worker.take(check)
    except WorkerError as error:
        say(f"{error}; another one takes its place")
    worker.replace()
    try:
        result = worker.take(check)
    except WorkerError as error:
        raise WorkerError(
            f"{error}, and so did its replacement. Loader processes end like this if the memory or /dev/shm is full: "
            "use fewer of them (--data.workers), or enlarge /dev/shm (docker run --shm-size)"
        ) from None
    worker.go_on()
    return result


class _Worker:
    """One process, its two pipes, and the tasks without a result so far."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._given: deque[Any] = deque()
        self._start()

    def _start(self) -> None:
        util.get_temp_dir()  # this process removes its folder; a killed worker would leave its own
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        tasks, self._tasks = context.Pipe(duplex=False)
        self._results, results = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_work, args=(self._make, tasks, results, os.getpid()), daemon=True
        )
        self._process.start()
        tasks.close()  # only the worker holds its ends, so both pipes close when it dies
        results.close()
        self._end = util.Finalize(self, _end, args=(self._process, self._tasks, self._results), exitpriority=10)

    def give(self, task: Any) -> None:  # noqa: ANN401 - as make takes it
        """Adds a task."""
        self._given.append(task)
        self._send(task)

    def _send(self, task: Any) -> None:  # noqa: ANN401
        with suppress(ConnectionError):  # it has died, which `take` will notice
            self._tasks.send(task)

    def take(self, check: Callable[[], None]) -> Any:  # noqa: ANN401 - as make returns it
        """Waits for the result of the oldest task, and returns it.

        Raises:
            WorkerError: the process has died.
            RuntimeError: the task raised.
        """
        while not wait([self._results], PATIENCE):
            check()
        try:
            result = self._results.recv()
        except (EOFError, OSError, RuntimeError) as error:
            if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or "ancdata" in str(error):
                raise OSError(
                    "the loader processes need more open files than the system allows: raise `ulimit -n`"
                ) from error
            if isinstance(error, RuntimeError):
                raise
            raise WorkerError(self._describe_death()) from None
        if isinstance(result, _Failure):
            raise RuntimeError(f"a loader process failed:\n{result.trace}")
        self._given.popleft()
        return result

    def _describe_death(self) -> str:
        self._process.join(PATIENCE)
        code, name = self._process.exitcode, f"loader process {self._process.pid} exited unexpectedly"
        if code is None:  # its socket ended before it did
            return f"{name} while it sent a batch"
        return f"{name} ({signal.Signals(-code).name})" if code < 0 else f"{name} (code {code})"

    def replace(self) -> None:
        """Ends the process, and gives only its oldest task to a new one: a later task may kill the process."""
        self.stop()
        self._start()
        self._send(self._given[0])

    def go_on(self) -> None:
        """Gives the process that took the place of another one the other tasks."""
        for task in self._given:
            self._send(task)

    def stop(self) -> None:
        """Ends the process."""
        self._end()


def _end(process: BaseProcess, tasks: Connection, results: Connection) -> None:
    """Kills the worker: it has nothing to save, and may be in a call that cannot be interrupted otherwise."""
    process.kill()
    process.join(5)
    tasks.close()
    results.close()


def _work(make: Make, tasks: Connection, results: Connection, parent: int) -> None:
    """In the worker: makes what it is asked for until the main process is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # reach all processes of a terminal: the main process decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    ready: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_hand_over, args=(ready, results), daemon=True).start()
    while True:
        try:
            task = tasks.recv()
        except EOFError:
            return
        try:
            ready.put(make(task))
        except Exception:  # noqa: BLE001 - whatever it is, the main process raises it
            ready.put(_Failure(traceback.format_exc()))


def _hand_over(ready: "SimpleQueue[Any]", results: Connection) -> None:
    """Sends what is ready; a pipe takes less than a batch, so that a send ends when the main process reads."""
    try:
        while True:
            results.send(ready.get())
    except ConnectionError:  # the main process is gone
        os._exit(1)
    except Exception:  # noqa: BLE001 - else the main process would wait for a batch that never comes
        traceback.print_exc()
        os._exit(1)


def end_with(parent: int) -> None:
    """Ends this process when its parent has ended: another one has then adopted it."""
    while os.getppid() == parent:
        time.sleep(PATIENCE)
    os._exit(1)
