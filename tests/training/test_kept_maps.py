"""A training on kept maps is the training that computes them, but for float16; and each run finds its own maps."""

import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tailseg.data.kept_maps import MapWriter
from tailseg.models.config import ResNetConfig, TimmConfig
from tailseg.ranges import SettingError
from tailseg.recipes.recipe import AdamWConfig
from tailseg.recipes.recipe import Recipe as RecipeType
from tailseg.training import kept_maps
from tailseg.training.kept_maps import compute_key
from tailseg.training.loop import train, train_step
from tailseg.training.run import start

from . import small

pytestmark = pytest.mark.usefixtures("one_thread")
FROZEN = ResNetConfig(depth=18, base_width=8, weights="none", frozen_stages=4)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def recipe(data, out, *, keep=True, backbone=FROZEN, **changes) -> RecipeType:
    made = small.recipe(data, out)
    changed = replace(made.data, keep_maps=keep, **{"short_sides": (64,), "max_long_side": 64, **changes})
    return replace(made, data=changed, model=replace(made.model, backbone=backbone))


def losses_of(run, steps):
    run.sampler.set_epoch(0)
    run.model.train()
    batches = iter(run.loader)
    return [train_step(run, next(batches))[0] for _ in range(steps)]


def timm_network(frozen_stages=4):
    pytest.importorskip("timm")
    return TimmConfig(name="test_efficientnet", weights="none", frozen_stages=frozen_stages)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("network", ["resnet", "timm"])
def test_the_maps_are_those_that_the_backbone_computes_from_the_same_batches(data, tmp_path, network, workers):
    if (network, workers) == ("timm", 1):
        pytest.skip("one network is enough for the loader processes")
    backbone = FROZEN if network == "resnet" else timm_network()
    kept = start(recipe(data, tmp_path / "kept", backbone=backbone, workers=workers), resume=False)
    computed = start(recipe(data, tmp_path / "computed", keep=False, backbone=backbone), resume=False)
    for run in (kept, computed):
        run.sampler.set_epoch(0)
    flips = 0
    for ours, theirs in zip(kept.loader, computed.loader, strict=True):
        assert ours.infos == theirs.infos
        for one, other in zip(ours.targets, theirs.targets, strict=True):
            assert one.frame == other.frame
            assert torch.equal(one.boxes, other.boxes)
            assert one.seed == other.seed
            flips += one.frame.scale_x < 0
        maps, sizes = kept.model.compute_features(ours.images)
        expected, expected_sizes = computed.model.compute_features(theirs.images)
        assert sizes == expected_sizes
        for level, wanted in zip(maps, expected, strict=True):
            assert not torch.equal(wanted[0], wanted[1])  # the test can tell images apart
            torch.testing.assert_close(level, wanted, rtol=1e-3, atol=1e-3)
    assert 0 < flips < kept.sampler.steps_per_epoch * kept.recipe.data.batch_size


def test_the_losses_of_the_first_steps_agree(data, tmp_path):
    ours = losses_of(start(recipe(data, tmp_path / "kept"), resume=False), 1)
    theirs = losses_of(start(recipe(data, tmp_path / "computed", keep=False), resume=False), 1)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=0.02)


def test_images_of_several_sizes_each_have_their_maps(data, tmp_path):
    run = start(recipe(data, tmp_path / "run", short_sides=(64, 96), max_long_side=256), resume=False)
    run.sampler.set_epoch(0)
    sides = {min(image.size) for batch in run.loader for image in batch.images}
    assert sides == {64, 96}


def test_a_second_run_finds_the_maps_and_other_weights_do_not(data, tmp_path, monkeypatch, home):
    first = start(recipe(data, tmp_path / "first"), resume=False)
    assert any("kept maps: 0 MB in" in note for note in first.notes)
    monkeypatch.setattr(kept_maps, "_compute_maps", lambda *_: pytest.fail("the maps were computed again"))
    second = start(recipe(data, tmp_path / "second"), resume=False)
    assert losses_of(first, 2) == losses_of(second, 2)
    assert len(list((home / "maps").iterdir())) == 1
    images = first.sampler.images
    key = compute_key(first.model, first.train_data, images, first.recipe)
    for changed in (
        recipe(data, "", short_sides=(96,)),
        recipe(data, "", flip=0.0),
        replace(first.recipe, run=replace(first.recipe.run, precision="bfloat16")),
    ):
        assert compute_key(first.model, first.train_data, images, changed) != key
    assert compute_key(first.model, first.train_data, images[1:], first.recipe) != key
    with torch.no_grad():
        next(first.model.backbone.parameters()).flatten()[0] += 1e-3
    assert compute_key(first.model, first.train_data, images, first.recipe) != key


def test_a_changed_image_file_is_computed_again(data, tmp_path):
    run = start(recipe(data, tmp_path / "run"), resume=False)
    key = compute_key(run.model, run.train_data, run.sampler.images, run.recipe)
    file = next((data / "train").iterdir())
    file.touch()
    assert compute_key(run.model, run.train_data, run.sampler.images, run.recipe) != key


def test_a_run_is_resumed_to_the_bit_even_if_the_maps_were_deleted(data, tmp_path, home):
    def made(name):
        made = recipe(data, tmp_path / name)
        return replace(made, optim=replace(made.optim, epochs=2, milestones=()), run=replace(made.run, eval_every=0))

    whole = train(made("whole"))
    one = replace(made("parts"), optim=replace(made("parts").optim, epochs=1))
    train(one)
    for folder in (home / "maps").iterdir():
        for file in folder.iterdir():
            file.unlink()
    resumed = train(made("parts"), resume=True)
    assert resumed.scores == whole.scores
    weights = [start(made(name), resume=True).model.state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_image_that_cannot_be_read_is_replaced_as_always(data, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    file = sorted((copied / "train").iterdir())[3]
    file.write_bytes(file.read_bytes()[:100])
    run = start(recipe(copied, tmp_path / "run", max_bad_images=0.5), resume=False)
    run.sampler.set_epoch(0)
    replaced = [reason for batch in run.loader for reason in batch.replaced]
    assert replaced
    assert all(str(file) in reason for reason in replaced)


@pytest.mark.parametrize("stages", [0, 3])
def test_a_backbone_that_is_trained_is_refused(data, tmp_path, stages, home):
    backbone = replace(FROZEN, frozen_stages=stages)
    with pytest.raises(ValueError, match=r"is not trained, but .* set --model\.backbone\.frozen-stages 4"):
        start(recipe(data, tmp_path / "run", backbone=backbone), resume=False)
    assert not (home / "maps").exists()


def test_augmentations_of_pixels_are_refused(data):
    from tailseg.data.settings import CropConfig

    with pytest.raises(SettingError, match=r"data\.keep_maps is on and data\.crop is set"):
        recipe(data, "", crop=CropConfig())


def test_maps_that_would_fill_the_disk_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_maps.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(ValueError, match=r"need 0\.0 GB, and .* has 0\.0 GB free: set TAILSEG_HOME"):
        start(recipe(data, tmp_path / "run"), resume=False)


def test_the_heads_learn_and_the_backbone_stays(data, tmp_path):
    made = replace(recipe(data, tmp_path / "run"), optim=AdamWConfig(lr=0.01, epochs=1, milestones=()))
    run = start(made, resume=False)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    losses_of(run, 2)
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("backbone.") for name in changed)
    assert {name.split(".")[0] for name in changed} >= {"fpn", "rpn", "box_head", "mask_head"}


def test_a_signal_while_the_maps_are_computed_ends_the_run_at_once(data, tmp_path, home, monkeypatch):
    def ask(*_arguments, **_settings):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("goes on")

    with monkeypatch.context() as patch:
        patch.setattr(MapWriter, "add", ask)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(data, tmp_path / "run"))
    assert not [path for path in (home / "maps").rglob("*") if path.is_file()]
    start(recipe(data, tmp_path / "run"), resume=True)
