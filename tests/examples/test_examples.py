"""The examples run, each as its docstring says."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from tailseg.annotations.read import read_dataset
from tailseg.data.tiny_tail import generate
from tailseg.interop.torchvision import use_loss
from tailseg.losses import build_loss
from tailseg.structures import ClassFrequency

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name):
    """An example as a module, which does not run it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


torchvision_example = load("torchvision_mask_rcnn")
classifier_example = load("classifier")
LOSSES = torchvision_example.LOSSES
every_loss = pytest.mark.parametrize("name", LOSSES)


def run(script, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", EXAMPLES / script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# As scripts.


def test_torchvision_prints_losses_and_detections():
    printed = run("torchvision_mask_rcnn.py", "--loss", "seesaw", "--steps", "1")
    assert "step 1: loss_classifier" in printed
    assert "detections, the best of them:" in printed


def test_the_classifier_saves_the_losses_state_and_finds_rare_classes():
    printed = run("classifier.py")
    assert "state of the loss: {'cum_samples': [11]}" in printed
    assert float(printed.split("rare classes: ")[1].split()[0]) > 60  # 80 when written; chance is 10


def test_calibration_helps_the_rare_classes():
    printed = run("calibrate_scores.py", "--steps", "300")
    rare = [float(line.rsplit(" ", 1)[1]) for line in printed.splitlines() if "of the 5 rare" in line]
    assert len(rare) == 4
    assert rare[1] > rare[0]  # softmax
    assert rare[3] > rare[2]  # Gumbel


# A loss of one's own.


def test_a_loss_of_ones_own_is_its_formula_and_trains(data):
    _, _, frequency = data
    config = load("own_loss").config(epsilon=2.0, weight=0.5)
    loss = config.build(frequency)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, loss.num_logits, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, loss.num_classes + 1, (9,), generator=generator)
    p = logits.softmax(1)[torch.arange(9), labels]
    value = loss(logits, labels)["loss_cls"]
    torch.testing.assert_close(value, 0.5 * (-p.log() + 2 * (1 - p)).mean())
    value.backward()
    assert logits.grad.isfinite().all()
    assert bool(loss.scores(logits).sum(1).max() <= 1) == loss.scores_are_exclusive
    with pytest.raises(ValueError, match="loss.weight is above 0"):
        dataclasses.replace(config, weight=0.0)


# Every loss.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The smallest draw's images and targets in torchvision's form, and its class frequencies."""
    annotations = read_dataset(generate(tmp_path_factory.mktemp("examples") / "data", preset="test") / "train.json")
    images, targets = torchvision_example.load(annotations)
    return images, targets, ClassFrequency.from_class_counts(annotations.frequency)


class Pyramid(nn.Module):
    """Two levels of 8 channels: a backbone that costs nothing."""

    out_channels = 8

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 8, stride=8)
        self.second = nn.Conv2d(8, 8, 2, stride=2)

    def forward(self, x):
        first = self.first(x).relu()
        return {"0": first, "1": self.second(first)}


def tiny_mask_rcnn(num_classes):
    """torchvision's own Mask R-CNN, as small as it gets."""
    return MaskRCNN(
        Pyramid(),
        rpn_anchor_generator=AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2),
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 3, 2),
        box_head=TwoMLPHead(8 * 9, 16),
        box_predictor=FastRCNNPredictor(16, num_classes + 1),
        mask_head=MaskRCNNHeads(8, (8,), 1),
        mask_predictor=MaskRCNNPredictor(8, 8, num_classes + 1),
        min_size=64,
        max_size=128,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=50,
        box_batch_size_per_image=32,
        box_score_thresh=0.0,  # class-relative activations start at p = 2e-9 where no class is frequent
    )


@every_loss
def test_every_loss_trains_and_detects_in_torchvision(name, data):
    images, targets, frequency = data
    torch.manual_seed(0)
    loss = build_loss(LOSSES[name], frequency)
    model = tiny_mask_rcnn(frequency.num_classes)
    use_loss(model, loss, reset_bias=True)
    model.train()
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    losses = model(images[:2], targets[:2])
    assert losses.keys() == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert model.roi_heads.box_predictor.cls_score.weight.grad.any()
    loss.step_taken()
    assert all((loss.state_dict()[key] != before[key]).any() for key in before)
    assert {f"roi_heads.loss.{key}" for key in before} <= model.state_dict().keys()
    model.eval()
    with torch.no_grad():
        found = model(images[:2])
    for image, each in zip(images[:2], found, strict=True):
        assert 0 < len(each["labels"]) <= 100
        assert each["labels"].min() >= 1
        assert each["labels"].max() <= frequency.num_classes
        assert ((each["scores"] > 0) & (each["scores"] <= 1)).all()
        assert each["masks"].shape == (len(each["labels"]), 1, *image.shape[1:])


@every_loss
def test_every_loss_trains_a_classifier(name, capsys):
    classifier_example.main(name, steps=6)
    assert "accuracy of the 5 rare classes" in capsys.readouterr().out


def test_counting_torchvisions_targets_agrees_with_the_data_set(data):
    _, targets, frequency = data
    counted = torchvision_example.count(targets, frequency.num_classes)
    assert torch.equal(counted.image_counts, frequency.image_counts)
    assert torch.equal(counted.instance_counts, frequency.instance_counts)
    assert counted.num_images == frequency.num_images
