"""The loss of the whole is the loss of its parts, whatever the loss and however the regions are shared.

Two real processes by gloo, and eight threads that stand for processes, some of them without regions.
"""

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest
import torch

from tailseg.losses import (
    BAGSLossConfig,
    ClassRelativeLossConfig,
    DropLossConfig,
    EQLConfig,
    FederatedLossConfig,
    GumbelCEConfig,
    LossConfig,
    ROGLossConfig,
    SigmoidCEConfig,
    SoftmaxCEConfig,
    drop_loss,
    processes,
)
from tailseg.structures import ClassFrequency

from . import two_processes
from .test_rivals import CONFIGS, STATE, long_tail, problem

EVERY = CONFIGS | {
    "sigmoid": SigmoidCEConfig(),
    "softmax": SoftmaxCEConfig(),
    "Gumbel": GumbelCEConfig(),
    "class-relative": ClassRelativeLossConfig(),
    "EQL": EQLConfig(tail="rc"),
    "DropLoss": DropLossConfig(tail="rc"),
    "DropLoss, sigmoid": DropLossConfig(tail=0.1, link="sigmoid"),
    "ROG": ROGLossConfig(strength=1.0),
}
REGIONS = 40


class Threads:
    """What `tailseg.losses.processes` asks of torch.distributed, for threads instead of processes."""

    def __init__(self, count):
        self.count, self.barrier, self.held = count, threading.Barrier(count, timeout=60), [None] * count
        self.this = threading.local()

    def is_available(self):
        return True

    def is_initialized(self):
        return hasattr(self.this, "rank")

    def get_rank(self):
        return self.this.rank

    def get_world_size(self):
        return self.count

    def exchange(self, tensor):
        """What every thread holds."""
        self.held[self.this.rank] = tensor.clone()
        self.barrier.wait()
        every = list(self.held)
        self.barrier.wait()
        return every

    def all_reduce(self, tensor):
        tensor.copy_(sum(self.exchange(tensor)))

    def broadcast(self, tensor, source):
        tensor.copy_(self.exchange(tensor)[source])

    def run(self, work):
        """What ``work`` returns for every rank, each in a thread of its own."""

        def one(rank):
            self.this.rank = rank
            return work(rank)

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(one, range(self.count)))


def problems():
    """Four batches for every loss; the first regions have all objects of the tail, the last are background alone."""
    made = {}
    for name, config in EVERY.items():
        frequency = long_tail(6)
        loss = config.build(frequency)
        batches = [problem(loss, REGIONS, seed) for seed in range(4)]
        for _, labels in batches:
            labels[5:] = labels[5:].clamp(max=3)  # classes 4 and 5 are in the first part alone
            labels[30:] = loss.num_classes
        made[name] = (config, frequency, batches)
    return made


def assert_parts_make_the_whole(parts, sizes, monkeypatch, rtol=1e-9):
    """Up to rounding; shares of processes are float32."""
    monkeypatch.setattr(drop_loss, "draw_uniform", two_processes.without_chance(lambda: 0, [sum(sizes)]))
    whole = two_processes.run(problems(), 0, [sum(sizes)])
    for name, (values, gradients, state) in whole.items():
        ours = [part[name] for part in parts]
        torch.testing.assert_close(sum(part[0] for part in ours), values, rtol=rtol, atol=0, msg=name)
        for step, gradient in enumerate(gradients):
            found = torch.cat([part[1][step] for part in ours])
            torch.testing.assert_close(found, gradient, rtol=rtol, atol=1e-3 * rtol, msg=name)
        for part in ours:  # sums of gradients are taken in another order
            torch.testing.assert_close(part[2], state, rtol=1e-12, atol=0, msg=name)


def test_every_registered_loss_is_here():
    assert {type(config) for config in EVERY.values()} == set(get_args(LossConfig))


def test_two_processes_have_the_losses_of_one(tmp_path, monkeypatch):
    sizes = [25, 15]
    (tmp_path / "problems.pkl").write_bytes(pickle.dumps((problems(), sizes)))
    script = Path(two_processes.__file__)
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path), str(rank)], env=environment) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert_parts_make_the_whole(parts, sizes, monkeypatch)
    assert {name for name, (_, _, state) in parts[0].items() if state} == {*STATE, "ROG"}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("sizes", "rtol"), [([5] * 8, 1e-9), ([3, 9, 0, 1, 7, 10, 10, 0], 1e-6)])
def test_eight_parts_have_the_losses_of_the_whole(sizes, rtol, monkeypatch):
    threads, given = Threads(8), problems()
    with monkeypatch.context() as patch:
        patch.setattr(processes, "dist", threads)
        patch.setattr(drop_loss, "draw_uniform", two_processes.without_chance(threads.get_rank, sizes))
        parts = threads.run(lambda rank: two_processes.run(given, rank, sizes))
    assert_parts_make_the_whole(parts, sizes, monkeypatch, rtol)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_group_that_one_process_alone_sees_costs_what_it_costs(count, monkeypatch):
    """40 regions without a preference, one of the tail: each group is a choice of two, of which log 2 is the cost."""
    frequency = ClassFrequency.from_counts(torch.tensor([2000, 4]), torch.tensor([3000, 4]), 2000)
    loss, threads = BAGSLossConfig().build(frequency), Threads(count)
    labels = torch.full((40,), 2)
    labels[0] = 1
    monkeypatch.setattr(processes, "dist", threads)
    parts = threads.run(lambda rank: loss(torch.zeros(40 // count, loss.num_logits), labels.chunk(count)[rank]))
    assert sum(float(part["loss_cls"]) for part in parts) / count == pytest.approx(2 * torch.tensor(2.0).log())


@pytest.mark.usefixtures("one_thread")
def test_others_are_drawn_among_the_regions_of_all_processes(monkeypatch):
    """Two of ten others, each as likely as the other, wherever they are."""
    frequency = ClassFrequency.from_counts(torch.tensor([2000, 4]), torch.tensor([3000, 4]), 2000)
    loss, threads, draws = BAGSLossConfig(beta=2.0).build(frequency), Threads(2), 400
    labels = torch.full((11,), 2)
    labels[0] = 1
    monkeypatch.setattr(processes, "dist", threads)

    def work(rank):
        part = labels.split([4, 7])[rank]
        return torch.stack([loss.sample(part)[0] for _ in range(draws)])

    chosen = torch.cat(threads.run(work), dim=1)
    assert chosen[:, 0].all()
    assert (chosen.sum(1) == 3).all()
    assert ((chosen[:, 1:].double().mean(0) - 0.2).abs() < 4 * (0.2 * 0.8 / draws) ** 0.5).all()


@pytest.mark.usefixtures("one_thread")
def test_the_federated_loss_asks_all_processes_about_the_same_classes(monkeypatch):
    loss, threads = FederatedLossConfig(num_sampled=4).build(long_tail(12)), Threads(3)
    labels = [torch.tensor([0, 12]), torch.tensor([7]), torch.tensor([], dtype=torch.int64)]
    monkeypatch.setattr(processes, "dist", threads)
    drawn = threads.run(lambda rank: torch.stack([loss.sample(labels[rank]) for _ in range(20)]))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert drawn[0][:, [0, 7]].all()
    assert (drawn[0].sum(1) == 4).all()
    assert len(drawn[0].unique(dim=0)) > 1
