"""Every recipe trains, goes on after an interruption, and finds things in images.

Each keeps its detector, depth, loss, optimizer and augmentation; narrower, on small images and with 2 images a step, so
that all of them take a minute.
"""

import json
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tailseg.data.tiny_tail import generate
from tailseg.data.transforms import CropConfig
from tailseg.detection.testing import detect_all, measure
from tailseg.models import GroupedConfig, ResNetConfig, SwinConfig
from tailseg.models.config import BackboneConfig, ModelConfig, TimmConfig
from tailseg.recipes import RECIPES, Recipe, get_recipe
from tailseg.training.loop import train_step
from tailseg.training.run import start

pytestmark = pytest.mark.usefixtures("one_thread")
VAL_IMAGES = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """tiny_tail's test preset with two images to test on."""
    folder = tmp_path_factory.mktemp("tiny_tail")
    generate(folder, preset="test")
    val = json.loads((folder / "val.json").read_text())
    val["images"] = val["images"][:VAL_IMAGES]
    ids = {image["id"] for image in val["images"]}
    val["annotations"] = [annotation for annotation in val["annotations"] if annotation["image_id"] in ids]
    (folder / "val.json").write_text(json.dumps(val))
    return folder


def narrow(backbone: BackboneConfig) -> BackboneConfig:
    match backbone:
        case ResNetConfig():
            grouped = GroupedConfig(groups=4, width=16) if backbone.grouped else None
            return replace(backbone, base_width=8, grouped=grouped, weights="none")
        case SwinConfig():
            return replace(backbone, embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=3, weights="none")
        case TimmConfig():
            return replace(backbone, name="test_efficientnet", weights="none")
        case _:
            return backbone


def small(recipe: Recipe, data: Path, out: Path) -> Recipe:
    model = recipe.model
    test = replace(model.postprocess, max_detections=10)
    object.__setattr__(test, "score_threshold", -1.0)  # no setting; an untrained network scores 0
    crop = CropConfig(short_sides=(48, 56), least=32, most=48) if recipe.data.crop else None
    return replace(
        recipe,
        data=replace(
            recipe.data,
            train=str(data / "train.json"),
            val=str(data / "val.json"),
            short_sides=(56, 64),
            test_short_side=64,
            max_long_side=96,
            crop=crop,
            batch_size=2,
            workers=0,
        ),
        model=ModelConfig(
            backbone=narrow(model.backbone),
            fpn=replace(model.fpn, channels=16),
            rpn=replace(model.rpn, train_pre_nms=40, train_post_nms=40, test_pre_nms=20, test_post_nms=20),
            box=replace(model.box, hidden=16, rois_per_image=16),
            mask=model.mask and replace(model.mask, channels=8),
            cascade=model.cascade,
            postprocess=test,
        ),
        run=replace(recipe.run, out=str(out), device="cpu"),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_an_interruption_between_them_and_two_images(name, data, tmp_path, monkeypatch):
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path / "home"))
    recipe = small(get_recipe(name), data, tmp_path)
    run = start(recipe, resume=False)
    run.sampler.set_epoch(0)
    first, second = islice(run.loader, 2)

    train_step(run, first)
    run.progress.step = run.progress.step_in_epoch = 1
    run.save()
    losses, _ = train_step(run, second)
    resumed = start(recipe, resume=True)
    assert resumed.progress == run.progress
    assert train_step(resumed, second)[0] == losses  # to the bit
    trained = {name: parameter for name, parameter in resumed.model.named_parameters() if parameter.requires_grad}
    assert not [name for name, parameter in trained.items() if parameter.grad is None]  # or distribution would hang

    batches = detect_all(resumed.model, resumed.val_data, recipe.data, device=resumed.device)
    results = [record for batch in batches for record in batch]
    metrics = measure(resumed.model, resumed.val_data, results)
    known_ids = {image["id"] for image in json.loads((data / "val.json").read_text())["images"]}
    assert {record["image_id"] for record in results} == known_ids
    assert all(math.isfinite(record["score"]) and 0 <= record["score"] <= 1 for record in results)
    assert ("segm" in metrics) == (recipe.model.mask is not None)
    assert all(("segmentation" in record) == ("segm" in metrics) for record in results)
