"""The detectors against mmdetection's on the same weights and images (shared/golden, see its FORMAT.md)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tailseg.losses import GumbelCE, SoftmaxCE
from tailseg.models import (
    BackboneConfig,
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    MaskRCNN,
    ModelConfig,
    NormalisedConfig,
    RPNConfig,
)
from tailseg.models import TestConfig as DetectionConfig
from tailseg.models.images import IMAGE_MEAN, IMAGE_STD
from tailseg.models.sampling import RoISample, sample_rois
from tailseg.ops.boxes import encode_boxes
from tailseg.ops.masks import decode_mask, mask_targets
from tailseg.structures import Frame, Target

NUM_CLASSES = 7
EVERYTHING = 100_000  # samplers that take all there is leave nothing to chance
RENAMED = {
    "neck.lateral_convs.": "fpn.lateral.",
    "neck.fpn_convs.": "fpn.output.",
    "rpn_head.rpn_conv.": "rpn.conv.",
    "rpn_head.rpn_cls.": "rpn.objectness.",
    "rpn_head.rpn_reg.": "rpn.box_deltas.",
    "roi_head.bbox_head.shared_fcs.0.": "box_head.fc1.",
    "roi_head.bbox_head.shared_fcs.1.": "box_head.fc2.",
    "roi_head.bbox_head.fc_cls.": "box_head.classifier.",
    "roi_head.bbox_head.fc_reg.": "box_head.regressor.",
    "roi_head.mask_head.conv_logits.": "mask_head.predictor.",
    "roi_head.mask_head.": "mask_head.",
}
CONFIG = ModelConfig(
    backbone=BackboneConfig(depth=50, base_width=8, weights="none", frozen_stages=0),
    fpn=FPNConfig(channels=16),
    rpn=RPNConfig(anchors_per_image=EVERYTHING, train_pre_nms=1000, train_post_nms=200, test_post_nms=200),
    box=BoxHeadConfig(hidden=32, rois_per_image=EVERYTHING, positive_fraction=0.5),
    mask=MaskHeadConfig(channels=16),
    test=DetectionConfig(max_detections=50),
)


def our_name(name: str) -> str:
    if name.startswith("backbone."):
        return name
    name = name.replace(".conv.weight", ".weight").replace(".conv.bias", ".bias")
    theirs = next(prefix for prefix in RENAMED if name.startswith(prefix))
    return RENAMED[theirs] + name.removeprefix(theirs)


class Golden(NamedTuple):
    tensors: dict[str, Tensor]
    facts: dict
    model: MaskRCNN
    images: list[Tensor]
    targets: list[Target]

    def pyramid(self) -> list[Tensor]:
        return self.model.fpn(self.model.backbone(self.tensors["input.image"].float()))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple((int(h), int(w)) for h, w in self.tensors["input.img_shape"])

    def rois(self, key: str) -> list[Tensor]:
        rois = self.tensors[key]
        return [rois[rois[:, 0] == i, 1:] for i in range(2)]


@pytest.fixture(scope="module", params=["a_mask_rcnn", "a2_mask_rcnn_normed_mask", "a3_mask_rcnn_gumbel"])
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    tensors = load_file(shared / "golden" / f"{request.param}.safetensors")
    facts = json.loads((shared / "golden" / f"{request.param}.json").read_text())
    loss = GumbelCE(NUM_CLASSES, parity=True) if "gumbel" in request.param else SoftmaxCE(NUM_CLASSES)
    config = CONFIG
    if "normed_mask" in request.param:
        config = replace(CONFIG, mask=replace(CONFIG.mask, normalised=NormalisedConfig()))
    model = MaskRCNN(config, loss)
    state = {our_name(k.removeprefix("state.")): v for k, v in tensors.items() if k.startswith("state.")}
    model.load_state_dict(state, strict=True)
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    padded = tensors["input.image"].float() * std + mean
    sizes = tensors["input.img_shape"].tolist()
    images = [image[:, :h, :w] for image, (h, w) in zip(padded, sizes, strict=True)]
    targets = []
    for i, objects in enumerate(facts["polygons"]):
        masks = tuple(tuple(torch.tensor(part).view(-1, 2).double().numpy() for part in parts) for parts in objects)
        boxes, labels = tensors[f"gt.{i}.boxes"], tensors[f"gt.{i}.labels"]
        targets.append(Target(boxes, labels, masks, Frame(), torch.zeros(0, 4)))
    return Golden(tensors, facts, model, images, targets)


def assert_same_boxes(ours: Tensor, theirs: Tensor, *, most_lost: int = 0) -> None:
    """As sets: scores lie as close as 4e-7, so neighbours may swap places."""
    assert len(ours) == len(theirs)
    distance = torch.cdist(ours, theirs, p=torch.inf)
    assert int((distance.amin(0) > 0.05).sum()) <= most_lost
    assert int((distance.amin(1) > 0.05).sum()) <= most_lost


def assert_close_to_scale(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-4 of the largest value: fifty layers of float32 in another order of operations leave 3e-5."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


@torch.no_grad()
def test_maps_equal(golden: Golden) -> None:
    golden.model.eval()
    pyramid = golden.pyramid()
    output = golden.model.rpn(pyramid)
    for level, feature in enumerate(pyramid):
        assert_close_to_scale(feature, golden.tensors[f"test.fpn.{level}"])
    cls = [golden.tensors[f"test.rpn_cls.{level}"].permute(0, 2, 3, 1).flatten(1) for level in range(5)]
    reg = [golden.tensors[f"test.rpn_reg.{level}"].permute(0, 2, 3, 1).reshape(2, -1, 4) for level in range(5)]
    assert_close_to_scale(output.logits, torch.cat(cls, 1))
    assert_close_to_scale(output.deltas, torch.cat(reg, 1))


@torch.no_grad()
def test_proposals_equal(golden: Golden) -> None:
    golden.model.eval()
    proposals = golden.model.rpn.proposals(golden.model.rpn(golden.pyramid()), golden.sizes)
    for i, boxes in enumerate(proposals):
        assert_same_boxes(boxes, golden.tensors[f"test.proposals.{i}.boxes"])


@torch.no_grad()
def test_box_head_equal(golden: Golden) -> None:
    golden.model.eval()
    head = golden.model.box_head
    hidden = head(golden.pyramid(), golden.rois("test.roi.0.rois"))
    assert_close_to_scale(head.classifier(hidden), golden.tensors["test.roi.0.cls_score"])
    assert_close_to_scale(head.regressor(hidden), golden.tensors["test.roi.0.bbox_pred"])


@torch.no_grad()
def test_detections_equal(golden: Golden) -> None:
    """End to end, from pixels to run lengths."""
    golden.model.eval()
    for i, found in enumerate(golden.model(golden.images)):
        boxes, scores = golden.tensors[f"test.det.{i}.boxes"], golden.tensors[f"test.det.{i}.scores"]
        labels = golden.tensors[f"test.det.{i}.labels"]
        torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-4)
        distance = torch.cdist(found.boxes, boxes, p=torch.inf) + 1e6 * (found.labels[:, None] != labels)
        assert distance.amin(0).max() < 0.05
        assert found.masks is not None
        for theirs, ours in enumerate(distance.argmin(0).tolist()):
            mine, wanted = decode_mask(found.masks[ours]), decode_mask(golden.facts["rle"][i][theirs])
            # a pixel whose probability is 0.5 up to rounding may fall on either side
            assert int((mine != wanted).sum()) <= 2 + 0.002 * int(wanted.sum())


@torch.no_grad()
def test_mask_logits_equal(golden: Golden) -> None:
    golden.model.eval()
    boxes = [golden.tensors[f"test.det.{i}.boxes"][:25] for i in range(2)]
    labels = [golden.tensors[f"test.det.{i}.labels"][:25] for i in range(2)]
    logits = golden.model.mask_head(golden.pyramid(), boxes, torch.cat(labels))
    expected = torch.cat([golden.tensors[f"test.det.{i}.mask_logits.0"] for i in range(2)])
    assert_close_to_scale(logits, expected)
    probabilities = golden.model.mask_head.probabilities(golden.pyramid(), boxes, torch.cat(labels))
    torch.testing.assert_close(probabilities, logits.sigmoid(), rtol=0, atol=1e-5)


def test_samples_equal(golden: Golden) -> None:
    """The same RoIs with the same classes, regression and mask targets."""
    golden.model.train()
    pyramid = golden.pyramid()
    proposals = golden.model.rpn.proposals(golden.model.rpn(pyramid), golden.sizes)
    samples = sample_rois(proposals, golden.targets, NUM_CLASSES, CONFIG.box)
    rois, labels = golden.rois("train.roi.0.rois"), golden.tensors["train.roi.0.labels"]
    for boxes, sample in zip(rois, samples, strict=True):
        assert_same_boxes(sample.boxes, boxes)
    ours = torch.cat([sample.labels for sample in samples])
    assert torch.equal(ours.bincount(minlength=8), labels.bincount(minlength=8))
    counts = golden.tensors["train.mask.0.num_per_img"].tolist()
    assert [sample.num_positive for sample in samples] == counts
    wanted = golden.tensors["train.mask.0.boxes"].split(counts)
    objects = golden.tensors["train.mask.0.gt_index"].split(counts)
    for sample, boxes, index in zip(samples, wanted, objects, strict=True):
        nearest = torch.cdist(boxes, sample.positive_boxes, p=torch.inf).argmin(1)
        torch.testing.assert_close(sample.positive_boxes[nearest], boxes, rtol=0, atol=0.01)
        assert torch.equal(sample.objects[nearest], index)


def test_mask_targets_equal(golden: Golden) -> None:
    counts = golden.tensors["train.mask.0.num_per_img"].tolist()
    boxes = golden.tensors["train.mask.0.boxes"].split(counts)
    objects = golden.tensors["train.mask.0.gt_index"].split(counts)
    packed = golden.tensors["train.mask.0.targets_packed"]
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8)
    expected = ((packed[:, :, None] >> shifts) & 1).view(-1, 28, 28).float()
    ours = [
        mask_targets([target.masks[k] for k in index.tolist()], target.frame, part)
        for target, part, index in zip(golden.targets, boxes, objects, strict=True)
    ]
    assert torch.equal(torch.cat(ours), expected)


def golden_samples(golden: Golden) -> list[RoISample]:
    """The golden run's own RoIs as our samples, so that no near-tie decides."""
    samples = []
    labels = golden.tensors["train.roi.0.labels"]
    rois = golden.tensors["train.roi.0.rois"]
    counts = golden.tensors["train.mask.0.num_per_img"].tolist()
    objects = golden.tensors["train.mask.0.gt_index"].split(counts)
    for i, (target, index) in enumerate(zip(golden.targets, objects, strict=True)):
        mine = rois[:, 0] == i
        samples.append(RoISample(rois[mine, 1:], labels[mine], index, target.boxes[index], index < 0))
    return samples


def test_losses_and_gradients_equal(golden: Golden) -> None:
    """Losses to 1e-3 and every parameter's gradient norm to 1e-2: the golden file's own stability allows no less."""
    golden.model.train()
    golden.model.zero_grad()
    pyramid, samples = golden.pyramid(), golden_samples(golden)
    losses = {
        **golden.model.rpn.losses(golden.model.rpn(pyramid), golden.targets, golden.sizes),
        **golden.model.box_head.losses(pyramid, samples),
        **golden.model.mask_head.losses(pyramid, samples, golden.targets),
    }
    theirs = {
        "loss_rpn_cls": "loss_rpn_cls",
        "loss_rpn_box": "loss_rpn_bbox",
        "loss_cls": "loss_cls",
        "loss_box": "loss_bbox",
        "loss_mask": "loss_mask",
    }
    assert losses.keys() == theirs.keys()
    for name, value in losses.items():
        expected = golden.tensors[f"train.loss.{theirs[name]}"].sum()
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    torch.stack(list(losses.values())).sum().backward()
    parameters = dict(golden.model.named_parameters())
    for row, name in enumerate(golden.facts["grad_names"]):
        gradient = parameters.pop(our_name(name)).grad
        assert gradient is not None
        norm = golden.tensors["train.grad.norm"][row]
        torch.testing.assert_close(gradient.norm(), norm, rtol=1e-2, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")
        values = gradient.flatten()[golden.tensors["train.grad.index"][row]]
        torch.testing.assert_close(
            values, golden.tensors["train.grad.value"][row], rtol=1e-2, atol=1e-2 * float(norm) + 1e-7
        )
    assert parameters == {}


def test_whole_training_step_equal(golden: Golden) -> None:
    """From pixels to the sum of losses, with our own proposals and samples."""
    golden.model.train()
    losses = golden.model(golden.images, golden.targets)
    total = torch.stack(list(losses.values())).sum()
    torch.testing.assert_close(total, golden.tensors["train.loss_total"][0], rtol=2e-3, atol=0)


def test_box_targets_equal(golden: Golden) -> None:
    labels = golden.tensors["train.roi.0.labels"]
    for sample, targets in zip(
        golden_samples(golden),
        golden.tensors["train.roi.0.bbox_targets"].split(
            [int((golden.tensors["train.roi.0.rois"][:, 0] == i).sum()) for i in range(2)]
        ),
        strict=True,
    ):
        ours = encode_boxes(sample.object_boxes, sample.positive_boxes, stds=CONFIG.box.target_stds)
        assert_close_to_scale(ours, targets[: sample.num_positive])
    assert int((labels < NUM_CLASSES).sum()) == sum(sample.num_positive for sample in golden_samples(golden))
