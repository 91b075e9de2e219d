"""What happens to a run when processes are killed, disks fill up and files change: for real, not by mocks."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.resource_sharer import DupFd
from pathlib import Path

import pytest
import torch

from tailseg.annotations.dataset import Category
from tailseg.annotations.image_files import ImageError
from tailseg.data.workers import WorkerError
from tailseg.recipes.recipe import Recipe
from tailseg.training import checkpoint, run_files
from tailseg.training.checkpoint import CheckpointError
from tailseg.training.interrupt import TrainingStopped
from tailseg.training.loop import train

from . import small

LAST = 3 * small.STEPS_PER_EPOCH


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """No threads that a forked process would miss, in the processes that the tests start too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train(small.recipe(data, folder))
    return folder


def assert_same_run(run: Path, other: Path) -> None:
    """All losses, results and final weights are the same to the bit."""
    ours, theirs = [[line for line in log(each) if line["kind"] == "train"] for each in (run, other)]
    assert ours == theirs
    assert (run / "results.json").read_bytes() == (other / "results.json").read_bytes()
    ours, theirs = [checkpoint.load(run_files.step_path(each, LAST)) for each in (run, other)]
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in theirs.model)
    assert all(
        torch.equal(ours.optimizer["state"][key]["momentum_buffer"], state["momentum_buffer"])
        for key, state in theirs.optimizer["state"].items()
    )


def log(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


@pytest.fixture(scope="module")
def start_training(_one_thread) -> Callable[[Recipe], multiprocessing.Process]:
    """Starts, or goes on with, a run in a process of its own: from a process that has imported all and done nothing."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tailseg.training.loop"])

    def begin(recipe: Recipe) -> multiprocessing.Process:
        process = server.Process(target=train, args=(recipe,), kwargs={"resume": True})
        process.start()
        return process

    return begin


# Killed at random moments of steps, evaluations and writing: 3 times in every test run, 40 in the long one.
@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_is_the_undisturbed_run(undisturbed, data, tmp_path, start_training, kills):
    recipe = small.recipe(data, tmp_path)
    recipe = replace(recipe, run=replace(recipe.run, checkpoint_steps=1))
    moments = random.Random(0)
    done = 0
    while done < kills:
        process = start_training(recipe)
        wait_for_a_moment(process, tmp_path, moments)
        if process.exitcode is None:
            process.kill()
            process.join()
            done += 1
        elif process.exitcode == 0:
            shutil.rmtree(tmp_path / "checkpoints")  # done before its last kill: the rest of the kills in another go
    process = start_training(recipe)
    process.join()
    assert process.exitcode == 0
    assert_same_run(tmp_path, undisturbed)
    assert not list(tmp_path.rglob("*.unfinished"))


def wait_for_a_moment(process: multiprocessing.Process, run: Path, moments: random.Random) -> None:
    """Three times of four until it has saved something, and then for up to 0.3 seconds."""
    newest = run_files.get_latest(run)
    if moments.random() < 0.75:
        while process.is_alive() and run_files.get_latest(run) == newest:
            time.sleep(0.005)
    process.join(moments.uniform(0, 0.3))


def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path):
    """The writer does nothing but write, so that a kill meets it writing; what it had said to be written is there."""
    path, moments = tmp_path / "x.pt", random.Random(0)
    saved = contents(0)
    checkpoint.save(saved, path)
    for _ in range(20):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        start = checkpoint.load(path).progress.step

        def write(sender=sender, start=start) -> None:
            for step in range(start + 1, start + 10_000):
                checkpoint.save(contents(step), path)
                sender.send(step)

        process = multiprocessing.get_context("fork").Process(target=write)
        process.start()
        receiver.poll(30)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        said = start
        while receiver.poll():
            said = receiver.recv()
        loaded = checkpoint.load(path)
        assert loaded.progress.step in (said, said + 1)
        assert loaded.model["weight"].eq(loaded.progress.step).all()


def contents(step: int) -> checkpoint.Checkpoint:
    counts = torch.tensor([5, 50])
    return checkpoint.Checkpoint(
        recipe={"recipe": "small", "resolved": {}},
        categories=(Category(1, "cup", "r"), Category(2, "hat", "c")),
        frequency=checkpoint.ClassFrequency.from_counts(counts, counts, 60),
        model={"weight": torch.full((200_000,), float(step))},
        optimizer={},
        progress=checkpoint.Progress(step=step),
    )


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "x.pt"
    saved = replace(contents(3), model={"weight": torch.arange(500.0)})
    checkpoint.save(saved, path)
    assert checkpoint.load(path).progress == saved.progress
    whole, found, positions = path.read_bytes(), 0, random.Random(0)
    for position in positions.sample(range(8 * len(whole)), 300):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load(path)
        except CheckpointError:
            found += 1
        else:  # a date, or the padding between two tensors
            assert torch.equal(loaded.model["weight"], saved.model["weight"])
            assert (loaded.progress, loaded.recipe) == (saved.progress, saved.recipe)
    assert found > 100
    weights = tmp_path / "x.safetensors"
    checkpoint.save_weights(saved, weights)
    whole = bytearray(weights.read_bytes())
    whole[-5] ^= 1
    weights.write_bytes(whole)
    with pytest.raises(CheckpointError, match="the bytes of weight have changed"):
        checkpoint.load(weights)


def test_a_run_goes_on_from_the_last_checkpoint_that_is_whole(undisturbed, data, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    newest = run_files.step_path(run, LAST)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train(small.recipe(data, run), resume=True)
    said = capsys.readouterr().err
    assert f"{newest} cannot be read as a checkpoint: truncated, damaged" in said
    assert "continued after step 10" in said
    assert_same_run(run, undisturbed)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.pt", "step_0000010.pt", "step_0000015.pt", "step_0000015.pt.damaged"]
    for path in (run / "checkpoints").glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of the run's checkpoints can be read: .*step_0000015\.pt"):
        train(small.recipe(data, run), resume=True)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system for a checkpoint and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tailseg", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a small file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_with_what_was_saved_whole(undisturbed, data, small_disk):
    recipe = small.recipe(data, small_disk / "run")
    with pytest.raises(
        OSError, match=r"step_00000\d\d\.pt could not be written .*MB are free there.*before are complete"
    ):
        train(recipe)
    saved = run_files.get_latest(small_disk / "run")
    assert checkpoint.load(saved).progress.step in (5, 10)
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    train(recipe, resume=True)
    assert_same_run(small_disk / "run", undisturbed)


# TensorBoard's own thread meets it too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_that_the_log_meets_is_named(data, small_disk):
    """A checkpoint comes after the last of the 30 epochs only."""
    recipe = small.recipe(data, small_disk / "run")
    run = replace(recipe.run, eval_every=0, checkpoint_every=100)
    recipe = replace(recipe, run=run, optim=replace(recipe.optim, epochs=30))
    with pytest.raises(OSError, match=r"log\.jsonl could not be written .*MB are free there"):
        train(troubled(recipe, small_disk, f"fill {small_disk / 'full'}", 1))
    for thread in threading.enumerate():
        if type(thread).__name__ == "_EventLoggerThread":
            thread.join(5)  # so that its error belongs to this test, and not to the next one


def test_one_training_at_a_time_writes_into_a_folder(data, tmp_path, start_training, monkeypatch):
    recipe = small.recipe(data, tmp_path)
    recipe = replace(recipe, optim=replace(recipe.optim, epochs=1000))
    first = start_training(recipe)
    while not (tmp_path / "log.jsonl").exists():
        time.sleep(0.01)
    monkeypatch.setattr("tailseg.training.run_files.PATIENCE", 0.1)
    with pytest.raises(ValueError, match=r"another training writes into .*--run\.out"):
        train(recipe, resume=True)
    assert first.exitcode is None
    first.kill()
    first.join()
    train(replace(recipe, optim=replace(recipe.optim, epochs=1)))  # the lock went with the process
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file cannot be made \(File exists\): name another folder"):
        train(small.recipe(data, tmp_path / "file"))


def troubled(recipe: Recipe, folder: Path, trouble: str, call: int) -> Recipe:
    file = folder / "trouble"
    file.write_text(trouble)
    return replace(recipe, loss=small.TroublesomeConfig(file=str(file), call=call))


def test_a_loader_process_that_dies_is_replaced(undisturbed, data, tmp_path, capsys):
    recipe = small.recipe(data, tmp_path / "run")
    recipe = replace(recipe, data=replace(recipe.data, workers=2))
    train(troubled(recipe, tmp_path, "kill loaders", 1))
    assert "another one takes its place" in capsys.readouterr().err
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("error", [ConnectionResetError, ConnectionRefusedError, EOFError])
def test_a_loader_process_whose_socket_dies_before_it_is_replaced(data, tmp_path, capsys, monkeypatch, error):
    """For a moment, too short to kill it in, what it queued is there, its socket is not, and it counts as alive."""
    detach, failed = DupFd.detach, []

    def fail_once(handle):
        if not failed:
            failed.append(handle)
            raise error
        return detach(handle)

    monkeypatch.setattr(DupFd, "detach", fail_once)
    recipe = small.recipe(data, tmp_path / "run")
    train(replace(recipe, data=replace(recipe.data, workers=1)))
    assert failed
    assert "exited unexpectedly while it sent a batch; another one takes" in capsys.readouterr().err


def test_loader_processes_that_die_again_end_the_run(data, tmp_path, monkeypatch):
    def die(_annotations, _info):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("tailseg.data.loader.read_annotated", die)  # forked processes inherit it
    recipe = small.recipe(data, tmp_path)
    with pytest.raises(WorkerError, match=r"so did its replacement.*--data\.workers.*saved after step 0"):
        train(replace(recipe, data=replace(recipe.data, workers=1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_deleted_in_the_middle_is_replaced_and_named(data, tmp_path, capsys, workers):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    image = sorted((copy / "train").iterdir())[3]
    recipe = small.recipe(copy, tmp_path / "run")
    recipe = replace(recipe, data=replace(recipe.data, workers=workers, max_bad_images=0.1))
    train(troubled(recipe, tmp_path, f"delete {image}", 4))
    said = capsys.readouterr().err
    assert f"{image.name} not found" in said
    assert "1 image could not be used and was replaced by others" in said
    lines = [line for line in log(tmp_path / "run") if line["kind"] == "image"]
    assert [(line["replaced"], image.name in line["text"]) for line in lines] == [(1, True)]
    saved = checkpoint.load(run_files.step_path(tmp_path / "run", LAST))
    assert [image.name in reason for reason in saved.progress.replaced] == [True]


def test_more_unusable_images_than_stated_end_the_run(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    for image in sorted((copy / "train").iterdir())[3:6]:
        image.write_bytes(b"")
    recipe = small.recipe(copy, tmp_path / "run")
    with pytest.raises(ImageError, match=r"2 of 16 images cannot be used; data\.max_bad_images = 0\.1 allows fewer"):
        train(replace(recipe, data=replace(recipe.data, max_bad_images=0.1)))


def test_a_validation_image_that_is_gone_costs_itself_alone(data, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    image = min((copy / "val").iterdir())  # the first one, by which a wrong folder is told elsewhere
    metrics = train(troubled(small.recipe(copy, tmp_path / "run"), tmp_path, f"delete {image}", 4))
    said = capsys.readouterr().err
    assert (
        f"evaluation: image {image.name} not found" in said or f"evaluation: image val/{image.name} not found" in said
    )
    assert any("1 of" in note and "counts as an image without detections" in note for note in metrics.notes)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"] == [*metrics.notes]


def test_a_run_that_waits_for_a_loader_process_that_hangs_can_be_stopped(data, tmp_path, monkeypatch):
    def hang(_annotations, _info):
        os.kill(main, signal.SIGTERM)
        time.sleep(3600)

    main = os.getpid()
    monkeypatch.setattr("tailseg.data.loader.read_annotated", hang)  # forked processes inherit it
    recipe = small.recipe(data, tmp_path)
    with pytest.raises(TrainingStopped, match="asked to stop; saved after step 0"):
        train(replace(recipe, data=replace(recipe.data, workers=1)))
    assert not multiprocessing.active_children()


def test_an_annotation_file_that_has_changed_is_refused(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    recipe = small.recipe(copy, tmp_path / "run")
    train(replace(recipe, optim=replace(recipe.optim, epochs=1)), resume=True)
    file = copy / "train.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content, indent=3))  # the same, written otherwise
    train(replace(recipe, optim=replace(recipe.optim, epochs=1)), resume=True)
    content["annotations"][0]["bbox"][2] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"train\.json has changed since .*--run\.init-from .*step_0000005\.pt"):
        train(replace(recipe, optim=replace(recipe.optim, epochs=1)), resume=True)
