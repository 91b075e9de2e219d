"""Shared functions of the benchmarks: times in turns, time by part, peak memory, tables and result files."""

import datetime as dt
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clock() -> float:
    """Seconds of work: CPU time on one thread, which other programs do not touch, else wall time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(steps: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> dict[str, float]:
    """The least `clock` time of each, taken in turns and each round in another order: other work hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    shuffle = random.Random(0)
    for i in range(rounds + warm_up):
        for name, run in shuffle.sample(list(steps.items()), len(steps)):
            began = clock()
            run()
            if i >= warm_up:
                times[name].append(clock() - began)
    return {name: min(values) for name, values in times.items()}


class Parts:
    """`clock` time by part of a program: what a function takes, less what wrapped functions inside it take."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}
        self._now: dict[str, float] = {}
        self._inner = [0.0]

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Counts calls of ``owner.name`` as ``part`` from now on."""
        function = getattr(owner, name)

        def timed(*arguments: object, **named: object) -> object:
            began = clock()
            self._inner.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                took = clock() - began
                self._now[part] = self._now.get(part, 0.0) + took - self._inner.pop()
                self._inner[-1] += took

        setattr(owner, name, timed)

    @contextmanager
    def step(self):
        """One step of the program: its times are kept together."""
        self._now = {}
        yield
        for part, took in self._now.items():
            self.times.setdefault(part, []).append(took)

    def least(self) -> dict[str, float]:
        """The least time that each part took in a step."""
        return {part: min(times) for part, times in self.times.items()}


def kernel_memory(field: str) -> int:
    """VmRSS (held now) or VmHWM (held at most) of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def peak_memory(run: Callable[[], object]) -> int:
    """The most that a step holds above what is held before it, in bytes.

    By CUDA's allocator, or on a CPU by the kernel: there it is right in a process whose tensors are mapped apart, see
    `in_own_process`.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held now
    before = kernel_memory("VmRSS")
    run()
    return kernel_memory("VmHWM") - before


def held_alone(run: Callable[[], object], script: str, *arguments: str) -> int:
    """`peak_memory` of a step; on a CPU that of the script, which prints it when it is called with these arguments."""
    return peak_memory(run) if torch.cuda.is_available() else in_own_process(script, *arguments)


def in_own_process(script: str, *arguments: str) -> Any:
    """What a script prints as JSON when it runs in a process that gives freed tensors back to the system at once."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def machine(threads: int) -> str:
    """The GPU, or the processor and how many of its threads are used."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    kind = "CPU time on one thread" if threads == 1 else f"wall time on {threads} threads"
    return f"{names[0] if names else 'CPU'}, {kind}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def write(name: str, title: str, text: str, *, threads: int, file: str | None = None) -> None:
    """Prints what a script found and writes it, with the date and the machine, to benchmarks/results."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    head = f"# {title}, {today}\n\n`uv run python benchmarks/{name}.py {' '.join(sys.argv[1:])}".rstrip() + "`"
    text = f"{head}; torch {torch.__version__}, {machine(threads)}.\n\n{text}"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{file or name}-{today}-{kind}.md"
    path.write_text(text)
    print(text)
    print(path)
