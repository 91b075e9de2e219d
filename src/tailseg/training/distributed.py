"""Training in several processes: torchrun starts them, torch.distributed connects them, the main process writes files.

All functions work in a single process as well; they do nothing there. An event in one process (an unreadable image, a
signal, a loss that is NaN) is sent to all before they wait for each other: `all_or_none`.
"""

import os
import pickle
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NoReturn, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tailseg.training.interrupt import StopTraining

T = TypeVar("T")

dist: Any = torch.distributed
"""torch.distributed. Some builds of torch lack most of its functions; a single process needs none of them."""


class ProcessLostError(ConnectionError):
    """Another process of the training ended: it was killed, ran out of memory, or lost its machine."""


def is_joined() -> bool:
    """Whether this process belongs to a group of processes; under torchrun a single process does as well."""
    return bool(dist.is_available() and dist.is_initialized())


def rank() -> int:
    """The number of this process, ``0 .. world_size() - 1``."""
    return dist.get_rank() if is_joined() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if is_joined() else 1


def is_main_process() -> bool:
    """Whether this is the process that writes files."""
    return rank() == 0


def is_under_torchrun() -> bool:
    """Whether torchrun, or a program that sets its environment variables, started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def local_rank() -> int:
    """The number of this process among those of its machine, from torchrun's environment variable."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def was_restarted() -> bool:
    """Whether torchrun started the processes again after some of them ended; the run then continues."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def joined() -> Generator[None, None, None]:
    """Connects the processes that torchrun started within the context; without torchrun this does nothing.

    CPU tensors are sent by gloo, GPU tensors by nccl. At the end the processes wait for each other, since one may still
    need another.

    Raises:
        ProcessLostError: another process ended within the context.
    """
    if not is_under_torchrun() or is_joined():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    try:
        store, this, count = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=_without_old_entries(store), rank=this, world_size=count)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Grad strides do not match")  # of 1x1 kernels: the same memory
            yield
        barrier()
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        lost = ProcessLostError(
            f"another process of this training ended ({_get_reason(error)}). The last checkpoint is not affected. "
            "torchrun --max-restarts N restarts by itself"
        )
        for note in getattr(error, "__notes__", ()):  # how to continue
            lost.add_note(note)
        raise lost from None
    finally:
        if is_joined():
            dist.destroy_process_group()


def _without_old_entries(store: object) -> object:
    """Hides the entries that processes before a restart left in the store.

    Since torch 2.15 torchrun's own store outlives restarts, with the addresses of processes that have ended. On one
    machine, the number of restarts distinguishes the generations. Several machines count restarts separately;
    docs/reliability.md says what to set for them.
    """
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    return dist.PrefixStore(f"restart_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def start_processes(count: int, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by torchrun with ``count`` processes on this machine, each ``tailseg ARGUMENTS``.

    Raises:
        ValueError: a count below 1, or more than there are GPUs.
    """
    gpus = torch.cuda.device_count()
    if count < 1 or 0 < gpus < count:
        raise ValueError(f"--devices is a number of processes, 1 to {gpus or 'any'} here, got {count}")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "tailseg"]
    os.execv(sys.executable, [sys.executable, *torchrun, *arguments])  # noqa: S606 (no shell is meant)


def leave(code: int) -> NoReturn:
    """Ends a process of a group at once; its files must be closed.

    Threads of torch.distributed may outlive their group. At its end the interpreter sometimes removes objects that they
    use, which aborts the process although its work is done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_lost_peer(error: RuntimeError) -> bool:
    """Whether gloo or nccl raised the error. torch has a class for nccl's errors only."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return "gloo" in text or "connection closed" in text or "connection reset" in text or "nccl" in text


def _get_reason(error: BaseException) -> str:
    """The first sentence of the error, without the position in the source at its beginning."""
    return str(error).strip().partition("] ")[2].partition(". ")[0] or type(error).__name__


def barrier() -> None:
    """Waits for all processes."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


def total(*numbers: float) -> list[float]:
    """Computes the sums of the numbers over all processes."""
    if world_size() == 1:
        return list(numbers)
    tensor = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.tolist()


def mean(values: Tensor) -> Tensor:
    """Computes the mean of a tensor on the device of the training over all processes, without gradient."""
    values = values.detach()
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size()


def gather(value: T) -> list[T] | None:
    """Returns the values of all processes in order on the main process, and None on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main_process() else None
    dist.gather_object(value, values)
    return values


def gather_on_all(value: T) -> list[T]:
    """Returns the values of all processes in order, on every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_batches(work: Callable[[], Sequence[Sequence[T]]]) -> list[T]:
    """Collects the results of all processes, in the order of a single process. Only the main process gets them.

    The processes take batches in turns: of P processes, process p takes the batches p, p + P, p + 2 P ...

    Args:
        work: returns this process's results, one sequence for each of its batches. If it raises on one process, all
            processes raise.

    Returns:
        The items of all batches; an empty list on the other processes.
    """
    with all_or_none():
        batches = work()
    batches_of_processes = gather(batches) or []
    return [item for turn in zip_longest(*batches_of_processes, fillvalue=()) for batch in turn for item in batch]


def on_main_process(make: Callable[[], T]) -> T:
    """Calls ``make`` on the main process; all processes return its result, or raise its error."""
    if world_size() == 1:
        return make()
    results: list[Any] = [None]
    with all_or_none():
        if is_main_process():
            results = [make()]
    dist.broadcast_object_list(results)
    return cast(T, results[0])


@contextmanager
def all_or_none() -> Generator[None, None, None]:
    """An error within the context on one process is raised on all of them.

    An error that a user can correct keeps its type everywhere. Another error arrives as a RuntimeError that names the
    process.
    """
    if world_size() == 1:
        yield
        return
    failure: BaseException | None = None
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, RuntimeError) and _is_lost_peer(error):
            raise
        failure = error
    try:
        failures = total(failure is not None)[0]
    except RuntimeError:
        if failure:  # the others wait for something else or have ended: the user needs the error of this process
            raise failure from None
        raise
    if failures:
        first = next(packed for packed in gather_on_all(_pack(failure)) if packed)
        raise failure or pickle.loads(first)  # noqa: S301 (from the processes of this training)


def _pack(error: BaseException | None) -> bytes | None:
    if error is None:
        return None
    plain = type(error)(f"process {rank()} of {world_size()}: {error}") if _is_plain(error) else None
    return pickle.dumps(plain or RuntimeError(f"process {rank()} of {world_size()}: {type(error).__name__}: {error}"))


def _is_plain(error: BaseException) -> bool:
    """Whether a user can correct the error, and it has only a message."""
    kinds = (ValueError, OSError, FloatingPointError, KeyboardInterrupt, StopTraining)
    return isinstance(error, kinds) and len(error.args) == 1


@contextmanager
def main_process_first() -> Generator[None, None, None]:
    """Lets the main process run the context first, then one process of each other machine, then the rest.

    The later processes find what the earlier ones prepare, such as a downloaded file.
    """
    turn = 0 if is_main_process() else 1 if local_rank() == 0 else 2
    with all_or_none():
        for _ in range(turn):
            barrier()
        try:
            yield
        finally:
            for _ in range(2 - turn):
                barrier()


def distribute(model: nn.Module, device: torch.device) -> nn.Module:
    """Wraps the model for training, so that its gradients are the mean over the processes.

    All processes start from the weights of the main process. Buffers are not synchronized here: they are constant, or
    counts that the losses sum themselves, or statistics of batch norms (see `tailseg.training.norms`).
    """
    if world_size() == 1:
        return model
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False)
