"""Loader processes that die at any moment: another takes their place, nobody waits for ever, nobody is left over."""

import itertools
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tailseg.data import workers as module
from tailseg.data.workers import WorkerError, Workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="relies on fork")

LARGE = 3_000_000
"""Bytes, many times what a pipe takes."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Workers are forked: OpenMP's threads do not survive a fork."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def at_most_a_minute() -> Iterator[None]:
    """A main process that waits for ever fails its test."""

    def end(*_):
        raise TimeoutError("still waiting after a minute")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def run(workers: Workers, tasks, said: list[str] | None = None, check=lambda: None):
    return workers.map(tasks, say=(said if said is not None else []).append, check=check)


def content(task: int) -> tuple[int, bytes, torch.Tensor]:
    return task, bytes([task % 256]) * LARGE, torch.full((3, 100, 100), task % 256, dtype=torch.uint8)


def assert_all_there(made, tasks) -> None:
    made = list(made)
    assert [task for task, _, _ in made] == list(tasks)
    for task, text, tensor in made:
        assert text == bytes([task % 256]) * LARGE
        assert tensor.eq(task % 256).all()


def loaders() -> list:
    return multiprocessing.active_children()


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_their_tasks_pass_after_pass(count: int) -> None:
    workers = Workers(content, count)
    assert_all_there(run(workers, range(10)), range(10))
    first = {process.pid for process in loaders()}
    assert len(first) == count
    assert_all_there(run(workers, range(3)), range(3))
    assert {process.pid for process in loaders()} == first, "they stay"
    workers.stop()
    assert not loaders()


def test_workers_stay_where_no_more_than_the_last_result_is_asked_for() -> None:
    """As an epoch does that counts its steps: forking again for each took half of a short one's time."""
    workers = Workers(lambda _: os.getpid(), 2)
    passes = []
    for _ in range(3):
        made = run(workers, range(6))
        passes.append([next(made) for _ in range(6)])
        made.close()
    assert passes[0] == passes[1] == passes[2]
    made = run(workers, range(6))
    next(made)
    made.close()
    assert set(run(workers, range(6))).isdisjoint(passes[0]), "after a pass that was left early others take over"
    workers.stop()


def test_a_worker_killed_while_half_of_its_batch_is_in_the_pipe_is_replaced() -> None:
    """All that the pipe takes is in it, and the main process reads on: where workers share a queue it does for ever."""
    said: list[str] = []
    workers = Workers(content, 2)
    results = run(workers, range(8), said)
    made = [next(results)]
    time.sleep(0.5)  # both have sent as much of their next batch as the pipe takes
    for process in loaders():
        process.kill()
    assert_all_there([*made, *results], range(8))
    assert len(said) == 2
    assert all("exited unexpectedly (SIGKILL); another one takes its place" in line for line in said)


# benchmarks/loader_kills.py kills fifty times, in a training.
def test_workers_killed_at_random_moments_lose_nothing() -> None:
    said: list[str] = []
    made, kills, moments = [], 8, random.Random(0)
    results = run(Workers(content, 2), itertools.count(), said)
    for _ in range(kills):
        made += itertools.islice(results, 2)
        timer = threading.Timer(moments.uniform(0, 0.05), moments.choice(loaders()).kill)
        timer.start()
        made += itertools.islice(results, 6)
        timer.join()
        made += itertools.islice(results, 6)  # it was waited for by then
    assert_all_there(made, range(14 * kills))
    assert len(said) == kills


def test_a_worker_that_dies_over_the_same_task_again_is_an_error() -> None:
    def die_at_three(task: int) -> int:
        if task == 3:
            os._exit(9)
        return task

    said: list[str] = []
    results = run(Workers(die_at_three, 2), range(6), said)
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(WorkerError, match=r"\(code 9\), and so did its replacement.*--data\.workers"):
        next(results)
    assert 1 <= len(said) <= 2, "it may die before what it made of task 1 is handed over"
    assert not loaders()


def test_what_the_task_raises_and_what_cannot_be_sent_end_the_wait(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(task: int) -> int:
        raise KeyError(f"in task {task}")

    with pytest.raises(RuntimeError, match=r"a loader process failed:\n(.|\n)*KeyError: 'in task 0'"):
        next(run(Workers(fail, 1), range(2)))
    with pytest.raises(WorkerError, match="exited unexpectedly"):
        next(run(Workers(lambda _task: lambda: None, 1), range(2)))
    assert "local object" in capfd.readouterr().err


def test_a_wait_for_a_worker_that_hangs_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    workers = Workers(lambda _task: time.sleep(3600), 2)
    with pytest.raises(KeyboardInterrupt):
        next(run(workers, range(4), check=check))
    assert not loaders()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_main_process(number: int) -> None:
    """They have more to send than the pipe takes, to one who is gone."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def main() -> None:
        workers = Workers(content, 3)
        results = run(workers, range(100))
        next(results)
        sender.send([process.pid for process in loaders()])
        time.sleep(3600)

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    pids = receiver.recv()
    os.kill(process.pid, number)
    process.join()
    end = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert [pid for pid in pids if is_running(pid)] == []


def test_a_program_that_ends_normally_does_not_wait_for_its_workers() -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def main() -> None:
        workers = Workers(content, 2)
        list(run(workers, range(4)))
        sender.send([process.pid for process in loaders()])

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    pids = receiver.recv()
    process.join(20)
    assert process.exitcode == 0
    assert not any(map(is_running, pids))
