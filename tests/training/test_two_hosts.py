"""Two hosts with addresses of their own train together, and one of them outlives the other.

The hosts are network namespaces, joined by two virtual Ethernet devices: each is a machine of its own to torchrun.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailseg.data.tiny_tail import generate
from tailseg.training import run_files

from . import small

HERE = Path(__file__).parent
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """The names of two namespaces; each one's device is called ``net``."""
    names = [f"ts{uuid.uuid4().hex[:6]}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to make network namespaces (ip netns): {getattr(error, 'stderr', error)}")
    try:
        ip("link", "add", "net", "netns", names[0], "type", "veth", "peer", "name", "net", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "net")
            ip("-n", name, "link", "set", "net", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def start(host: str, address: str, log: Path, *training: object) -> subprocess.Popen[bytes]:
    """torchrun on one of the hosts: it goes on with one host when the other is gone."""
    together = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", address]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29400", "--rdzv-id", "pair"]
    is_host = int(address == ADDRESSES[0])  # torchrun knows its own address by the host's name, which both share here
    meeting += ["--rdzv-conf", f"last_call_timeout=15,is_host={is_host}"]
    command = [sys.executable, "-m", "torch.distributed.run", *together, *meeting, "-m", "tailseg", "train"]
    settings = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "net", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, *command, *map(str, training)],
            cwd=HERE,
            env={**os.environ, **settings},
            stdout=file,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.slow
def test_two_hosts_train_together_and_one_goes_on_without_the_other(hosts, tmp_path):
    data, run, trouble = tmp_path / "data", tmp_path / "run", tmp_path / "trouble"
    generate(data, preset="test")
    trouble.write_text("kill host")  # the second host's torchrun and its process vanish in step 12 of 20
    training = ["small:troublesome", "--data.train", data / "train.json", "--data.val", data / "val.json"]
    training += ["--run.out", run, "--run.checkpoint-steps", 3]
    training += ["--loss.file", trouble, "--loss.call", 12, "--loss.rank", 1]
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    processes = [start(*each, *training) for each in zip(hosts, ADDRESSES, logs, strict=True)]
    try:
        codes = [process.wait(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = logs[0].read_text()
    assert codes[0] == 0, said
    assert codes[1] == -9, logs[1].read_text()
    assert "4 images a step of 2 processes" in said
    assert "another process of this training ended" in said
    last = said.rindex("continued after step 12")
    assert "of 2 processes" not in said[last:]
    assert run_files.get_latest(run) == run_files.step_path(run, 4 * small.STEPS_PER_EPOCH)
