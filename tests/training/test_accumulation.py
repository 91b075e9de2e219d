"""A step's images taken in parts: the same gradient, the same rate, and exact resumption."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from tailseg.data.tiny_tail import generate
from tailseg.losses import GumbelCEConfig
from tailseg.models.config import BoxHeadConfig, FPNConfig, MaskHeadConfig, ModelConfig, ResNetConfig, RPNConfig
from tailseg.recipes import get_recipe
from tailseg.recipes.recipe import DataConfig, Recipe, RunConfig, SGDConfig
from tailseg.training.loop import train_step
from tailseg.training.run import Run, describe, start

pytestmark = pytest.mark.usefixtures("one_thread")
OBJECTS = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two landscapes with five objects each: as many anchors, proposals and objects."""
    folder = tmp_path_factory.mktemp("tiny_tail")
    generate(folder, preset="test")
    content = json.loads((folder / "train.json").read_text())
    owners = [annotation["image_id"] for annotation in content["annotations"]]
    content["images"] = [
        image
        for image in content["images"]
        if image["width"] > image["height"] and owners.count(image["id"]) == OBJECTS
    ]
    ids = {image["id"] for image in content["images"]}
    assert len(ids) == 2
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (folder / "two.json").write_text(json.dumps(content))
    return folder


def make_recipe(data: Path, out: Path, *, file: str, batch_size: int, parts: int) -> Recipe:
    return Recipe(
        name="test",
        data=DataConfig(
            train=str(data / file),
            val=str(data / "val.json"),
            train_images=str(data / "train"),
            short_sides=(64,),
            test_short_side=64,
            max_long_side=128,
            batch_size=batch_size,
            workers=0,
        ),
        model=ModelConfig(
            backbone=ResNetConfig(depth=18, base_width=8, weights="none", frozen_stages=0),
            fpn=FPNConfig(channels=16),
            rpn=RPNConfig(anchors_per_image=32, train_pre_nms=200, train_post_nms=30),
            box=BoxHeadConfig(hidden=32, rois_per_image=16),
            mask=MaskHeadConfig(channels=8, num_convs=1),
        ),
        loss=GumbelCEConfig(),
        optim=SGDConfig(accumulation_steps=parts),
        run=RunConfig(out=str(out), device="cpu"),
    )


def nothing_drawn(recipe: Recipe) -> Recipe:
    """Every anchor and every proposal is trained, positive or negative: nothing is left to chance."""
    model = recipe.model
    every = 10**6
    rpn = replace(model.rpn, anchors_per_image=every, positive_fraction=1.0, negative_iou=model.rpn.positive_iou)
    # Above this IoU are only the objects themselves: as many positives in every image, as the mask loss is their mean.
    box = replace(model.box, rois_per_image=every, positive_fraction=1.0, positive_iou=0.99)
    return replace(recipe, model=replace(model, rpn=rpn, box=box))


def gradients(run: Run) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in run.model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }


def test_the_gradient_and_the_losses_are_those_of_the_whole_batch(data, tmp_path):
    whole = nothing_drawn(make_recipe(data, tmp_path / "whole", file="two.json", batch_size=2, parts=1))
    run = start(whole, resume=False)
    run.sampler.set_epoch(0)
    batch = next(iter(run.loader))
    assert [len(target) for target in batch.targets] == [OBJECTS, OBJECTS]
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    losses, _ = train_step(run, batch)
    expected = gradients(run)

    in_parts = start(replace(whole, optim=replace(whole.optim, accumulation_steps=2)), resume=False)
    in_parts.model.load_state_dict(weights)
    losses_in_parts, _ = train_step(in_parts, batch)
    assert losses_in_parts == pytest.approx(losses, rel=1e-5)  # float32 sums in another order
    found = gradients(in_parts)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item(), msg=name)

    other = start(replace(whole, run=replace(whole.run, out=str(tmp_path / "part"))), resume=False)
    other.model.load_state_dict(weights)
    train_step(other, batch.split(2)[1])
    alone = gradients(other)["rpn.conv.weight"]  # the images differ: one part alone would not have passed
    assert (alone - expected["rpn.conv.weight"]).norm() > 0.05 * alone.norm()


def test_a_run_in_parts_goes_on_to_the_bit(data, tmp_path):
    recipe = make_recipe(data, tmp_path, file="train.json", batch_size=4, parts=2)
    run = start(recipe, resume=False)
    run.sampler.set_epoch(0)
    first, second = islice(run.loader, 2)
    train_step(run, first)
    run.progress.step = run.progress.step_in_epoch = 1
    run.save()
    losses, _ = train_step(run, second)
    resumed = start(recipe, resume=True)
    assert train_step(resumed, second)[0] == losses
    weights = run.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in resumed.model.state_dict().items())


def test_the_log_says_the_rate_and_its_rule(data, tmp_path):
    recipe = make_recipe(data, tmp_path, file="train.json", batch_size=4, parts=2)
    assert "4 images a step in 2 parts, lr 0.005 (0.02 for 16 images)" in describe(start(recipe, resume=False))
    assert recipe.optim.learning_rate(step=500, epoch=0, batch_size=4) == pytest.approx(0.005)  # warm-up is over


def test_a_published_recipe_reaches_its_batch_on_one_device():
    """Four parts of the published four images a device: the batch and the rate stay."""
    recipe = get_recipe("gol_mask_rcnn_r50_rfs_2x")
    in_parts = replace(recipe, optim=replace(recipe.optim, accumulation_steps=4))
    assert in_parts.data.batch_size == 16
    assert in_parts.optim.learning_rate(step=500, epoch=0, batch_size=in_parts.data.batch_size) == 0.02


@pytest.mark.parametrize(
    ("parts", "message"),
    [(3, "16 images of a step cannot be split into 3 equal parts"), (0, "accumulation_steps is 1 or more")],
)
def test_parts_that_cannot_be(parts, message):
    recipe = get_recipe("gol_mask_rcnn_r50_rfs_2x")
    with pytest.raises(ValueError, match=message):
        replace(recipe, optim=replace(recipe.optim, accumulation_steps=parts))
