"""The examples run, each as its docstring says; and torchvision's heads with a loss of ours are still torchvision's."""

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
from tailseg.losses import GumbelCE, SoftmaxCE, build_loss
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
    assert "step 1: loss_roi_cls" in printed
    assert "loss_roi_objectness" in printed
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
    model.roi_heads = torchvision_example.LossRoIHeads(model.roi_heads, loss)
    model.train()
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    losses = model(images[:2], targets[:2])
    terms = {"loss_roi_cls"} | ({"loss_roi_objectness"} if name == "seesaw" else set())
    assert losses.keys() == terms | {"loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
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


# torchvision's heads stay what they are.


def test_with_softmax_the_heads_are_torchvisions(data):
    """Our softmax loss is torchvision's cross entropy with background's logit last instead of first."""
    images, targets, frequency = data
    num_classes = frequency.num_classes
    torch.manual_seed(0)
    theirs = tiny_mask_rcnn(num_classes)
    ours = tiny_mask_rcnn(num_classes)
    ours.load_state_dict(theirs.state_dict())
    ours.roi_heads = torchvision_example.LossRoIHeads(ours.roi_heads, SoftmaxCE(num_classes))
    with torch.no_grad():
        predictor, given = ours.roi_heads.box_predictor, theirs.roi_heads.box_predictor
        predictor.cls_score.weight.copy_(given.cls_score.weight.roll(-1, 0))
        predictor.cls_score.bias.copy_(given.cls_score.bias.roll(-1, 0))
        predictor.bbox_pred.load_state_dict(given.bbox_pred.state_dict())
    losses, gradients = [], []
    for model in (theirs, ours):
        torch.manual_seed(1)  # the heads sample their regions at random
        losses.append(model.train()(images[:3], targets[:3]))
        sum(losses[-1].values()).backward()
        gradients.append(model.roi_heads.box_predictor.bbox_pred.weight.grad)
    expected = {name.replace("classifier", "roi_cls"): value for name, value in losses[0].items()}
    torch.testing.assert_close(losses[1], expected)
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[1].view(num_classes + 1, -1)[1:].any()
    with torch.no_grad():
        found, wanted = ours.eval()(images[:3]), theirs.eval()(images[:3])
    torch.testing.assert_close(found, wanted)
    assert all(len(each["labels"]) > 0 for each in found)


def test_images_without_objects_are_all_background():
    torch.manual_seed(0)
    model = tiny_mask_rcnn(3)
    model.roi_heads = torchvision_example.LossRoIHeads(model.roi_heads, GumbelCE(3))
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 64, 64)}
    losses = model.train()([torch.rand(3, 64, 64)] * 2, [nothing] * 2)
    assert losses["loss_roi_cls"] > 0
    assert losses["loss_box_reg"] == losses["loss_mask"] == 0
    sum(losses.values()).backward()


def test_a_class_is_found_with_the_box_of_its_own_label():
    """Class j of the loss, label j + 1 of torchvision, has the deltas 4 (j + 1) .. 4 (j + 1) + 3."""
    model = tiny_mask_rcnn(3)
    heads = torchvision_example.LossRoIHeads(model.roi_heads, GumbelCE(3))
    deltas = torch.zeros(1, 4, 4)
    deltas[0, :, 0] = torch.tensor([9.0, 1.0, 2.0, 3.0])  # to the right by tenths of the width; 9 is background's
    logits = torch.tensor([[0.0, 1.0, 2.0, 5.0]])  # three classes and background
    proposals = [torch.tensor([[10.0, 10.0, 20.0, 20.0]])]
    boxes, scores, labels = heads.postprocess_detections(logits, deltas.flatten(1), proposals, [(100, 100)])
    assert labels[0].tolist() == [3, 2, 1]
    torch.testing.assert_close(boxes[0][:, 0], torch.tensor([13.0, 12.0, 11.0]))
    torch.testing.assert_close(scores[0], GumbelCE(3).scores(logits)[0].flip(0))


def test_labels_are_translated():
    heads = torchvision_example.LossRoIHeads(tiny_mask_rcnn(3).roi_heads, GumbelCE(3))
    assert heads.to_tailseg(torch.tensor([0, 1, 2, 3])).tolist() == [3, 0, 1, 2]


def test_counting_torchvisions_targets_agrees_with_the_data_set(data):
    _, targets, frequency = data
    counted = torchvision_example.count(targets, frequency.num_classes)
    assert torch.equal(counted.image_counts, frequency.image_counts)
    assert torch.equal(counted.instance_counts, frequency.instance_counts)
    assert counted.num_images == frequency.num_images
