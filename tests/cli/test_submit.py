"""A job says what torchrun is to do, and runs; SLURM itself is submitit's matter."""

import os
import sys
from pathlib import Path

import pytest

from tailseg.cli import main
from tailseg.cli.submit import Submit, Training, submit, torchrun_command
from tailseg.data.tiny_tail import generate
from tailseg.training import checkpoint

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


def test_wrong_usage_is_told_before_a_job_is_queued(tmp_path, capsys):
    assert main(["submit", "--nodes", "2"]) == 2
    assert "stands behind --" in capsys.readouterr().err
    assert main(["submit", "--logs", str(tmp_path), "--", "tiny_gumble"]) == 2
    assert "tiny_gumbel" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_local_job_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(TRAINING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TRAINING), os.environ.get("PYTHONPATH", "")]))
    generate(tmp_path / "data", preset="test")
    files = ["--data.train", str(tmp_path / "data/train.json"), "--data.val", str(tmp_path / "data/val.json")]
    training = ["small:recipe", *files, "--run.out", str(tmp_path / "run"), "--optim.epochs", "1"]
    job = submit(Submit(devices=1, cpus=1, logs=tmp_path / "logs", cluster="local"), training)
    job.result()
    assert checkpoint.latest(tmp_path / "run") == checkpoint.step_path(tmp_path / "run", 5)
