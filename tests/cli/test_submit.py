"""A job says what torchrun is to do, and runs; SLURM itself is submitit's matter."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tailseg.cli import main
from tailseg.cli.submit import Submit, Training, submit, torchrun_command
from tailseg.data.tiny_tail import generate
from tailseg.training import run_files

TRAINING = Path(__file__).parents[1] / "training"


def test_machines_meet_on_the_first_one():
    command = torchrun_command(4, ["tiny_gumbel", "--optim.lr", "0.1"], ["n3", "n7"], "412")
    assert command[:2] == ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"]
    assert command[2:5] == [sys.executable, "-m", "torch.distributed.run"]
    text = " ".join(command)
    assert "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint n3:29400 --rdzv-id 412" in text
    assert text.endswith("--nproc-per-node 4 --max-restarts 3 -m tailseg train tiny_gumbel --optim.lr 0.1 --resume")
    assert "--standalone" in torchrun_command(1, ["tiny_gumbel"], ["n3"], "412")


def test_a_job_that_is_to_end_queues_again_as_it_was():
    again = Training(2, ["tiny_gumbel"]).checkpoint()
    assert again.function == Training(2, ["tiny_gumbel"])


class QueuedAgainError(Exception):
    """What submitit does at the end of its signal handler: the job's process ends."""


def test_a_signal_waits_until_the_processes_have_saved(tmp_path, monkeypatch):
    """The signal comes while the job waits for torchrun, as submitit's do."""
    torchrun = "trap 'sleep 0.2; touch saved; exit 1' TERM; touch started; while :; do sleep 0.01; done"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tailseg.cli.submit.torchrun_command", lambda *_: ["sh", "-c", torchrun])
    monkeypatch.setattr("submitit.JobEnvironment", lambda: SimpleNamespace(hostnames=["n3"], job_id="412"))
    training = Training(1, ["tiny_gumbel"])

    def preempted(*_):
        again = training.checkpoint()
        assert Path("saved").exists()
        raise QueuedAgainError(again)

    def too_late(*_):
        raise TimeoutError

    def preempt():
        while not Path("started").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGUSR2)

    handlers = {signal.SIGUSR2: preempted, signal.SIGALRM: too_late}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.alarm(20)
    threading.Thread(target=preempt).start()
    try:
        with pytest.raises(QueuedAgainError):
            training()
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
        training._torchrun.kill()
        training._torchrun.wait()


def test_wrong_usage_is_told_before_a_job_is_queued(tmp_path, capsys):
    assert main(["submit", "--nodes", "2"]) == 2
    assert "name the recipe after --" in capsys.readouterr().err
    assert main(["submit", "--logs", str(tmp_path), "--", "tiny_gumble"]) == 2
    assert "tiny_gumbel" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job on this machine of so many epochs, 5 steps each, that trains into tmp_path / "run"."""
    monkeypatch.chdir(TRAINING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TRAINING), os.environ.get("PYTHONPATH", "")]))
    generate(tmp_path / "data", preset="test")
    files = ["--data.train", str(tmp_path / "data/train.json"), "--data.val", str(tmp_path / "data/val.json")]

    def begin(epochs: int):
        training = ["small:recipe", *files, "--run.out", str(tmp_path / "run"), "--optim.epochs", str(epochs)]
        training += ["--run.eval-every", "0", "--no-report"]
        return submit(Submit(devices=1, cpus=1, logs=tmp_path / "logs", cluster="local"), training)

    return begin


@pytest.mark.slow
def test_a_local_job_trains(job, tmp_path):
    job(epochs=1).result()
    assert run_files.get_latest(tmp_path / "run") == run_files.step_path(tmp_path / "run", 5)


@pytest.mark.slow
def test_a_preempted_job_saves_and_goes_on(job, tmp_path):
    begun = job(epochs=20)
    while not run_files.get_latest(tmp_path / "run"):
        time.sleep(0.1)
    controller = begun._process.pid
    os.kill(int(Path(f"/proc/{controller}/task/{controller}/children").read_text()), signal.SIGUSR2)  # as SLURM does
    begun.result()
    assert "continued after step" in begun.stderr()
    assert run_files.get_latest(tmp_path / "run") == run_files.step_path(tmp_path / "run", 100)
