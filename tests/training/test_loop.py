"""Training as a user sees it: a run's files, going on exactly, and stopping for a stated reason.

All runs here train a very small Mask R-CNN on tiny_tail's 16 images of the test preset, 4 steps an epoch.
"""

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tailseg.annotations.image_files import ImageError
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import load_recipe
from tailseg.training import checkpoint, run_files
from tailseg.training.checkpoint import CheckpointError
from tailseg.training.interrupt import StopRequest, TrainingStopped
from tailseg.training.loop import NonFiniteLossError, train, train_step
from tailseg.training.run import start

from . import small
from .small import STEPS_PER_EPOCH

pytestmark = pytest.mark.usefixtures("one_thread")


def read_log(run: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Path:
    """The run that all others are compared with."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(small.recipe(data, folder))
    return folder


def troublesome(data: Path, folder: Path, trouble: str, call: int) -> tuple[Recipe, Path]:
    file = folder / "trouble"
    file.write_text(trouble)
    return replace(small.recipe(data, folder / "run"), loss=small.TroublesomeConfig(file=str(file), call=call)), file


def weights(run: Path) -> dict[str, torch.Tensor]:
    path = run_files.get_latest(run)
    assert path is not None
    return checkpoint.load(path).model


def assert_same_run(run: Path, other: Path) -> None:
    """Every logged figure (losses, gradient norms, rates, APs) and the final weights are the same to the bit."""
    assert read_log(run, "train") == read_log(other, "train")
    assert read_log(run, "val") == read_log(other, "val")
    assert (run / "results.json").read_bytes() == (other / "results.json").read_bytes()
    ours, theirs = weights(run), weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_leaves_its_files(uninterrupted, data):
    lines = read_log(uninterrupted, "train")
    assert [line["step"] for line in lines] == list(range(1, 3 * STEPS_PER_EPOCH + 1))
    assert {"loss", "loss_cls", "loss_box", "loss_mask", "loss_rpn_cls", "loss_rpn_box", "lr"} <= lines[0].keys()
    assert [line["epoch"] for line in read_log(uninterrupted, "val")] == [2, 3]  # every 2 epochs, and the last
    assert {"segm/AP", "bbox/AP", "segm/APr"} <= read_log(uninterrupted, "val")[0].keys()
    assert load_recipe(uninterrupted / "recipe.json") == small.recipe(data, uninterrupted)
    names = sorted(path.name for path in (uninterrupted / "checkpoints").iterdir())
    assert names == ["best.pt", "step_0000010.pt", "step_0000015.pt"]  # the newest two
    assert "scores" in json.loads((uninterrupted / "metrics.json").read_text())
    known_ids = {image["id"] for image in json.loads((data / "val.json").read_text())["images"]}
    assert {record["image_id"] for record in json.loads((uninterrupted / "results.json").read_text())} <= known_ids
    board = EventAccumulator(str(uninterrupted / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/loss_cls")] == list(range(1, 3 * STEPS_PER_EPOCH + 1))
    assert [event.step for event in board.Scalars("val/segm/AP")] == [
        2 * STEPS_PER_EPOCH,
        3 * STEPS_PER_EPOCH,
    ]


def test_the_loss_falls(uninterrupted):
    losses = [line["loss"] for line in read_log(uninterrupted, "train")]
    assert sum(losses[-4:]) < sum(losses[:4])


def test_a_checkpoint_knows_the_classes(uninterrupted, data):
    saved = checkpoint.load(run_files.get_latest(uninterrupted))
    content = json.loads((data / "train.json").read_text())
    assert [(c.id, c.name) for c in saved.categories] == [(c["id"], c["name"]) for c in content["categories"]]
    assert saved.frequency.image_counts.tolist() == [c["image_count"] for c in content["categories"]]


def test_the_seed_decides_everything(uninterrupted, data, tmp_path):
    recipe = small.recipe(data, tmp_path / "same")
    train(recipe)
    assert_same_run(tmp_path / "same", uninterrupted)
    other = replace(recipe, run=replace(recipe.run, seed=1, out=str(tmp_path / "other")))
    train(replace(other, optim=replace(other.optim, epochs=1)))
    assert read_log(tmp_path / "other", "train")[0]["loss"] != read_log(uninterrupted, "train")[0]["loss"]


# Call 0 is the first step. 1: inside the first epoch; 3: its last step; 7: just before an evaluation; 9: after one.
@pytest.mark.parametrize("call", [1, 3, 7, 9])
@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_bit(uninterrupted, data, tmp_path, call, number):
    recipe, trouble = troublesome(data, tmp_path, str(int(number)), call)
    with pytest.raises(
        TrainingStopped, match=rf"saved after step {call + 1} in .*step_{call + 1:07d}\.pt.*tailseg resume"
    ):
        train(recipe)
    trouble.unlink()
    train(recipe, resume=True)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_run_stopped_twice_by_ctrl_c_with_workers_goes_on_to_the_bit(uninterrupted, data, tmp_path):
    recipe, trouble = troublesome(data, tmp_path, str(int(signal.SIGINT)), 1)
    recipe = replace(recipe, data=replace(recipe.data, workers=1))
    for step in (2, 4):
        with pytest.raises(TrainingStopped, match=f"saved after step {step}"):
            train(recipe, resume=True)  # also the first time: a run without a checkpoint starts from the beginning
    trouble.unlink()
    train(recipe, resume=True)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_killed_run_goes_on_from_its_last_checkpoint(uninterrupted, data, tmp_path):
    """The log has lines from after the checkpoint, and the last one is cut short: every step stands there once."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    for name in ("checkpoints/step_0000015.pt", "results.json", "metrics.json"):
        (run / name).unlink()
    log = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(log[:-20])
    train(small.recipe(data, run), resume=True)
    assert_same_run(run, uninterrupted)


def test_evaluation_and_log_settings_do_not_change_what_is_learned(uninterrupted, data, tmp_path):
    recipe = small.recipe(data, tmp_path)
    train(replace(recipe, run=replace(recipe.run, eval_every=0, log_every=6, keep_checkpoints=1)))
    assert all(torch.equal(value, weights(tmp_path)[name]) for name, value in weights(uninterrupted).items())
    lines, all_lines = read_log(tmp_path, "train"), read_log(uninterrupted, "train")
    assert [line["step"] for line in lines] == [6, 12]
    mean = sum(line["loss_cls"] for line in all_lines[:6]) / 6
    assert lines[0]["loss_cls"] == pytest.approx(mean, rel=1e-12)  # a line holds the means since the last one
    assert len(read_log(tmp_path, "val")) == 1


def test_a_finished_run_is_only_evaluated_again(uninterrupted, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "results.json").unlink()
    metrics = train(small.recipe(data, run), resume=True)
    assert metrics.to_json() == (uninterrupted / "metrics.json").read_text()
    assert_same_run(run, uninterrupted)


def test_an_extended_run_is_the_run_that_was_long_from_the_start(uninterrupted, data, tmp_path, capsys):
    recipe = small.recipe(data, tmp_path)
    short = replace(recipe, optim=replace(recipe.optim, epochs=2, milestones=(2, 7)))
    train(short)
    other = replace(recipe, optim=replace(recipe.optim, milestones=(1, 2)))
    with pytest.raises(CheckpointError, match=r"milestones: \[1, 2\], saved \[2, 7\]\. Milestones that .* passed"):
        train(other, resume=True)
    capsys.readouterr()
    train(recipe, resume=True)
    note = "extended from 2 epochs to 3. The learning rate was 0.005 in the last step, and will be 0.0005 in epoch 3"
    assert note in capsys.readouterr().err
    assert_same_run(tmp_path, uninterrupted)
    with pytest.raises(CheckpointError, match="The number of epochs can be raised, not lowered"):
        train(short, resume=True)


def test_a_cosine_goes_on_to_the_bit_and_can_be_extended(data, tmp_path, capsys):
    recipe, trouble = troublesome(data, tmp_path, str(int(signal.SIGTERM)), 3)
    optim = replace(recipe.optim, schedule="cosine", epochs=2, warmup_epochs=0.4, milestones=())
    recipe = replace(recipe, optim=optim)
    with pytest.raises(TrainingStopped):
        train(recipe)
    trouble.unlink()
    train(recipe, resume=True)
    whole = replace(recipe, run=replace(recipe.run, out=str(tmp_path / "whole")))
    train(whole)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    shares = [line["lr"] / 0.005 for line in read_log(tmp_path / "whole", "train")]
    cosine = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]  # 10 steps, 2 of them warm-up
    assert shares == pytest.approx([0.001, 0.5005, *cosine])
    capsys.readouterr()
    train(replace(whole, optim=replace(optim, epochs=3)), resume=True)
    note = "extended from 2 epochs to 3. The learning rate was 0.00019 in the last step, and will be 0.00161 in epoch 3"
    assert note in capsys.readouterr().err


def test_a_failed_run_says_how_to_continue(uninterrupted, data, tmp_path, monkeypatch):
    run = tmp_path / "my run"
    shutil.copytree(uninterrupted, run)
    (run / "checkpoints/step_0000015.pt").unlink()
    monkeypatch.setattr("tailseg.training.loop.train_step", lambda *_: {}["absent"])
    with pytest.raises(KeyError) as caught:
        train(small.recipe(data, run), resume=True)
    assert caught.value.__notes__[0].endswith(f"Repair the cause, then continue with `tailseg resume '{run}'`")
    with pytest.raises(KeyError) as caught:
        train(small.recipe(data, run), resume=True, resume_command="python train.py")
    assert caught.value.__notes__[0].endswith("continue with `python train.py`")


def test_a_run_is_not_overwritten(uninterrupted, data):
    with pytest.raises(ValueError, match=r"has a run already.*tailseg resume.*--run\.out"):
        train(small.recipe(data, uninterrupted))


def test_another_recipe_does_not_go_on(uninterrupted, data):
    recipe = small.recipe(data, uninterrupted)
    with pytest.raises(CheckpointError, match=r"another recipe.*optim\.lr: 0\.3, saved 0\.02"):
        train(replace(recipe, optim=replace(recipe.optim, lr=0.3)), resume=True)


def test_a_loss_that_is_not_finite_stops_before_the_optimizer(data, tmp_path):
    recipe, _ = troublesome(data, tmp_path, "nan", 0)
    run = start(recipe, resume=False)
    run.sampler.set_epoch(0)
    batch = next(iter(run.loader))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    ids = [info.image_id for info in batch.infos]
    with pytest.raises(NonFiniteLossError) as caught:
        train_step(run, batch)
    assert isinstance(caught.value, FloatingPointError)
    assert "step 0: loss_cls is nan on the images with ids " + str(ids) in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert not run.optimizer.state  # no momentum was written


def test_a_loss_that_is_not_finite_names_the_step_in_a_run(data, tmp_path):
    recipe, _ = troublesome(data, tmp_path, "nan", 5)
    with pytest.raises(
        NonFiniteLossError, match=r"step 5: loss_cls is nan on the images with ids \[\d+, \d+, \d+, \d+\]"
    ):
        train(recipe)
    assert run_files.get_latest(tmp_path / "run") == run_files.step_path(tmp_path / "run", 5)  # the epoch before


def test_a_target_that_cannot_be_used_names_the_step_and_the_images(data, tmp_path, monkeypatch):
    monkeypatch.setattr("tailseg.ops.masks.MAX_OUTLINE", 10)
    with pytest.raises(
        ValueError, match=r"^step 0: polygons' .* at most 10 .* \(on the images with ids \[(\d+, ){3}\d+\]"
    ):
        train(small.recipe(data, tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_names_its_file_and_the_run_goes_on_once_it_is_repaired(uninterrupted, data, tmp_path, workers):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    recipe = small.recipe(copy, tmp_path / "run")
    recipe = replace(recipe, data=replace(recipe.data, workers=workers))
    image = sorted((copy / "train").iterdir())[7]
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=rf"{image.name}.*saved after step \d in .*tailseg resume"):
        train(recipe)
    image.write_bytes(content)
    train(recipe, resume=True)
    assert read_log(tmp_path / "run", "train") == read_log(uninterrupted, "train")


def test_faster_rcnn_is_evaluated_on_boxes_alone(data, tmp_path):
    recipe = small.recipe(data, tmp_path)
    metrics = train(replace(recipe, model=replace(recipe.model, mask=None), optim=replace(recipe.optim, epochs=1)))
    assert "bbox" in metrics
    assert "segm" not in metrics
    assert run_files.get_best(tmp_path) is not None


def test_bfloat16_trains(data, tmp_path):
    recipe = small.recipe(data, tmp_path)
    run = replace(recipe.run, precision="bfloat16")
    train(replace(recipe, optim=replace(recipe.optim, epochs=1), run=run))
    assert len(read_log(tmp_path, "train")) == STEPS_PER_EPOCH


def test_objects_without_masks_are_refused_for_a_mask_head(data, tmp_path):
    content = json.loads((data / "train.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    recipe = small.recipe(data, tmp_path / "run")
    with pytest.raises(ValueError, match=r"(?s)boxes\.json cannot .* no mask \(86 of 86\): .*model\.mask=None"):
        train(replace(recipe, data=replace(recipe.data, train=str(path))))


def test_a_device_that_is_not_here(data, tmp_path):
    recipe = small.recipe(data, tmp_path)
    with pytest.raises(ValueError, match="'gpu' is not a device"):
        train(replace(recipe, run=replace(recipe.run, device="gpu")))


def test_the_second_ctrl_c_stops_at_once_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(TrainingStopped):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
