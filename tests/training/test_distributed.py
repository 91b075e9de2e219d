"""Several processes learn, find and report what one does; what one of them meets, all of them say.

torchrun starts the processes, as it does for users; they compute on CPUs and talk by gloo.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tailseg.cli import test as command_test
from tailseg.data.tiny_tail import generate
from tailseg.training import checkpoint, run_files
from tailseg.training.loop import train

from . import several, small

HERE = Path(__file__).parent
STEPS = 4 * small.STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def alone(data, one_thread, tmp_path_factory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(small.shared(data, folder))
    return folder


def launch(*arguments: object, check: bool = True, cwd: Path = HERE) -> subprocess.CompletedProcess[str]:
    """A command of Python, which finds `small`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def torchrun(processes: int, *arguments: object) -> list[object]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *arguments]


def command(recipe: str, data: Path, out: Path | None, *options: object) -> list[object]:
    files = ["--data.train", data / "train.json", "--data.val", data / "val.json"]
    place = ["--run.out", out] if out else []
    return ["-m", "tailseg", "train", f"small:{recipe}", *files, *place, *options]


@pytest.fixture(scope="module")
def two(data, tmp_path_factory) -> Path:
    """The run of two processes, by the command line. The folder of its recipe has another run already."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "runs/two/checkpoints").mkdir(parents=True)
    (folder / "runs/two/checkpoints/best.pt").touch()
    done = launch(*command("numbered", data, None, "--devices", 2), cwd=folder)
    assert done.stdout.count("runs/two has a run already, so this run is in runs/two-2.") == 1  # one process speaks
    assert done.stdout.count("Saved in runs/two-2. Next:") == 1
    assert "4 images a step of 2 processes" in done.stderr
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["two", "two-2"]
    return folder / "runs/two-2"


@pytest.fixture(scope="module")
def four(data, alone, tmp_path_factory) -> Path:
    """The folder of everything that four processes do, see several.py."""
    folder = tmp_path_factory.mktemp("four")
    bad = folder / "bad"
    generate(bad, preset="test")
    image = sorted((bad / "train").iterdir())[7]
    image.write_bytes(image.read_bytes()[:100])
    launch(*torchrun(4, HERE / "several.py", folder, data, alone))
    return folder


@pytest.fixture(scope="module")
def outcomes(four) -> list[dict]:
    """What came of it in each process."""
    return [json.loads((four / f"{rank}.json").read_text()) for rank in range(4)]


def losses(run: Path) -> torch.Tensor:
    """The losses of every step by name, ``[steps, names]``."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    names = sorted(name for name in steps[0] if name.startswith("loss"))
    return torch.tensor([[line[name] for name in names] for line in steps], dtype=torch.float64)


@pytest.fixture(params=["two", pytest.param("four", marks=pytest.mark.slow)])
def shared_run(request) -> Path:
    """The run of two processes, or of four."""
    folder = request.getfixturevalue(request.param)
    return folder / "run" if request.param == "four" else folder


def test_several_processes_learn_what_one_learns(alone, shared_run):
    """20 steps, repeat factors and EQLv2's counts included. Sums of float32 in another order differ in the last bits,
    and 20 steps make that up to a few thousandths of a loss that is nearly 0."""
    torch.testing.assert_close(losses(shared_run), losses(alone), rtol=2e-3, atol=2e-4)
    weights, expected = (checkpoint.load(run_files.step_path(run, STEPS)).model for run in (shared_run, alone))
    torch.testing.assert_close(weights, expected, rtol=2e-3, atol=2e-4)


def test_the_first_step_is_the_same_to_float_precision(alone, shared_run):
    torch.testing.assert_close(losses(shared_run)[0], losses(alone)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_four_processes_find_what_one_finds_to_the_byte(alone, four):
    for name in ("results.json", "metrics.json"):
        assert (four / "alone" / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.slow
def test_the_checkpoint_finds_what_four_processes_found_with_learned_norms(four, data, tmp_path, one_thread):
    """Each process has normalized other images; they test, and save, with one set of running statistics."""
    run = four / "run_norms"
    shutil.copytree(run, tmp_path / "copy")
    options = command_test.Test(
        run=tmp_path / "copy", device="cpu", recipe=f"{small.__name__}:shared", checkpoint="last"
    )
    command_test.evaluate_run(options)
    for name in ("results.json", "metrics.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (run / name).read_bytes()
    assert len(json.loads((run / "results.json").read_text())) > 100
    saved = checkpoint.load(run_files.step_path(run, 2 * small.STEPS_PER_EPOCH))
    means = "backbone.bn1.running_mean"
    assert not torch.equal(saved.model[means], saved.trained[means])


@pytest.mark.slow
def test_every_process_knows_the_figures(four, outcomes):
    written = (four / "run" / "metrics.json").read_text()
    assert all(outcome["metrics"] == written for outcome in outcomes)


@pytest.mark.slow
def test_what_one_process_meets_ends_all_with_its_reason(outcomes):
    for rank, outcome in enumerate(outcomes):
        whose = "" if rank == 1 else "process 1 of 4: "
        assert outcome["failed alone"] == f"ValueError: {whose}repair this"
    assert outcomes[1]["unforeseen"] == "KeyError: 'absent'"
    assert outcomes[0]["unforeseen"] == "RuntimeError: process 1 of 4: KeyError: 'absent'"


@pytest.mark.slow
def test_nan_in_one_process_ends_all_and_names_its_images(outcomes):
    for outcome in outcomes:
        assert outcome["nan"].startswith("NonFiniteLossError: ")
        assert "step 2: loss_cls is nan on the images with ids [" in outcome["nan"]


@pytest.mark.slow
def test_a_nan_gradient_of_one_process_ends_all_before_the_step(four, outcomes):
    for outcome in outcomes:
        assert outcome["nan gradient"].startswith("NonFiniteLossError: ")
        assert "step 2: gradient_norm is nan on the images with ids [" in outcome["nan gradient"]
    assert run_files.get_latest(four / "run_nan gradient") is None


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(four, outcomes):
    for outcome in outcomes:
        assert outcome["sigterm"].startswith("TrainingStopped: ")
        assert "saved after step 3 in" in outcome["sigterm"]
    assert run_files.get_latest(four / "run_sigterm") == run_files.step_path(four / "run_sigterm", 3)


@pytest.mark.slow
def test_an_image_that_one_process_cannot_read_is_named_by_all(four, outcomes):
    image = sorted((four / "bad" / "train").iterdir())[7]
    for outcome in outcomes:
        assert outcome["bad image"].startswith("ImageError: ")
        assert image.name in outcome["bad image"]
        assert "saved after step" in outcome["bad image"]


@pytest.mark.slow
def test_parts_of_the_batch_of_four_processes_give_the_gradient_of_the_whole(data, outcomes, tmp_path):
    """Eight images: at once in one process, or in two parts of four, one an image and process."""
    recipe = several.parts(data, tmp_path, 1)
    expected = several.gradient(replace(recipe, data=several.eight_images(data)))
    for outcome in outcomes:
        assert outcome["gradient"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_images_that_cannot_be_shared_equally_are_refused(outcomes):
    message = "ValueError: a step's 4 images cannot be shared by 4 processes that take them in 2 equal parts"
    assert all(outcome["shares"].startswith(message) for outcome in outcomes)


@pytest.mark.slow
def test_the_first_process_goes_first(outcomes):
    assert outcomes[0]["order"][0] == 0
    assert sorted(outcomes[0]["order"]) == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_torchrun_goes_on(two, data, tmp_path):
    """Process 1 is killed in step 12 of 20: process 0 says so and ends, and both start again from the checkpoint."""
    trouble = tmp_path / "trouble"
    trouble.write_text(str(int(signal.SIGKILL)))
    options = ["--loss.file", trouble, "--loss.call", 12, "--loss.rank", 1, "--run.checkpoint-steps", 3]
    train_command = command("troublesome", data, tmp_path / "run", *options)
    done = launch(*torchrun(2, "--max-restarts", 1, *train_command))
    assert not trouble.exists()
    assert "another process of this training ended" in done.stderr
    assert "continued after step 12" in done.stderr
    assert losses(tmp_path / "run").isfinite().all()
