"""The cascades against mmdetection's on the same weights and images (docs/parity.md)."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tailseg.models import CascadeMaskRCNN, HybridTaskCascade
from tailseg.models.sampling import RoISample
from tailseg.ops.boxes import encode_boxes
from tailseg.ops.masks import mask_targets

from . import assertions
from .assertions import NUM_CLASSES, assert_close_to_scale, assert_same_boxes
from .golden import Golden, load_golden

STAGES = (0, 1, 2)
LOSSES = {
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_box": "loss_rpn_bbox",
    **{f"loss_cls_{stage}": f"s{stage}.loss_cls" for stage in STAGES},
    **{f"loss_box_{stage}": f"s{stage}.loss_bbox" for stage in STAGES},
    **{f"loss_mask_{stage}": f"s{stage}.loss_mask" for stage in STAGES},
}


@pytest.fixture(scope="module", params=assertions.files("b_cascade_mask_rcnn", "c_htc"))
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(*assertions.place(request))


def cascade_of(golden: Golden) -> CascadeMaskRCNN | HybridTaskCascade:
    assert isinstance(golden.model, CascadeMaskRCNN | HybridTaskCascade)
    return golden.model


def mask_logits(golden: Golden, stage: int, boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
    model = cascade_of(golden)
    if isinstance(model, HybridTaskCascade):
        return model.mask_flow(golden.pyramid(), boxes, labels, stage=stage)
    return model.mask_head(stage)(golden.pyramid(), boxes, labels)


@torch.no_grad()
def test_maps_and_proposals_equal(golden: Golden) -> None:
    golden.model.eval()
    assertions.assert_maps_equal(golden)


@pytest.mark.parametrize("stage", STAGES)
@torch.no_grad()
def test_box_heads_equal(golden: Golden, stage: int) -> None:
    """Logits, deltas, and the boxes that the next stage sees."""
    golden.model.eval()
    head = cascade_of(golden).box_cascade.get_head(stage)
    rois = golden.rois(f"test.roi.{stage}.rois")
    hidden = head(golden.pyramid(), rois)
    assert_close_to_scale(head.classifier(hidden), golden.tensors[f"test.roi.{stage}.cls_score"])
    assert_close_to_scale(head.regressor(hidden), golden.tensors[f"test.roi.{stage}.bbox_pred"])
    if stage < 2:
        for ours, theirs in zip(
            head.decode(hidden, rois, golden.sizes), golden.rois(f"test.roi.{stage + 1}.rois"), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01)  # pixels; deltas differ by 1e-5 of 160 pixels


@pytest.mark.parametrize("stage", STAGES)
@torch.no_grad()
def test_mask_heads_equal(golden: Golden, stage: int) -> None:
    golden.model.eval()
    boxes = [golden.tensors[f"test.det.{i}.boxes"][:3] for i in range(2)]
    labels = torch.cat([golden.tensors[f"test.det.{i}.labels"][:3] for i in range(2)])
    expected = torch.cat([golden.tensors[f"test.det.{i}.mask_logits.{stage}"] for i in range(2)])
    assert_close_to_scale(mask_logits(golden, stage, boxes, labels), expected)


@torch.no_grad()
def test_mask_probabilities_equal(golden: Golden) -> None:
    golden.model.eval()
    counts = [len(golden.tensors[f"test.det.{i}.mask_prob"]) for i in range(2)]
    boxes = [golden.tensors[f"test.det.{i}.boxes"][:count] for i, count in enumerate(counts)]
    labels = torch.cat([golden.tensors[f"test.det.{i}.labels"][:count] for i, count in enumerate(counts)])
    expected = torch.cat([golden.tensors[f"test.det.{i}.mask_prob"] for i in range(2)])
    ours = cascade_of(golden).mask_probabilities(golden.pyramid(), boxes, labels)
    # the logits are equal to 1e-4 of their largest, about 12; a probability moves by at most a quarter of that
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-4)


@torch.no_grad()
def test_detections_equal(golden: Golden) -> None:
    golden.model.eval()
    assertions.assert_detections_equal(golden)


def assert_same_samples(ours: Sequence[RoISample], theirs: Sequence[RoISample]) -> None:
    """RoIs, classes and objects, as sets: a box refined twice is the golden one to 0.05 pixels."""
    for mine, wanted in zip(ours, theirs, strict=True):
        assert_same_boxes(mine.positive_boxes, wanted.positive_boxes)
        nearest = torch.cdist(wanted.positive_boxes, mine.positive_boxes, p=torch.inf).argmin(1)
        assert torch.equal(mine.objects[nearest], wanted.objects)
        assert torch.equal(mine.positive_labels[nearest], wanted.positive_labels)


def test_samples_of_every_stage_equal(golden: Golden) -> None:
    """From our own proposals: matched, sampled, refined, the objects taken out and put in again."""
    golden.model.train()
    model, pyramid = cascade_of(golden), golden.pyramid()
    proposals = model.rpn.proposals(model.rpn(pyramid), golden.sizes)
    for stage in STAGES:
        samples = model.box_cascade.sample(stage, proposals, golden.targets)
        assert_same_samples(samples, golden.box_samples(stage))
        for sample, boxes in zip(samples, golden.rois(f"train.roi.{stage}.rois"), strict=True):
            assert_same_boxes(sample.boxes, boxes)
        _, proposals = model.box_cascade.train_stage(stage, pyramid, samples, golden.sizes)
        if isinstance(model, HybridTaskCascade):
            samples = model.box_cascade.sample(stage, proposals, golden.targets)
        assert_same_samples(samples, golden.mask_samples(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_targets_equal(golden: Golden, stage: int) -> None:
    ours = [
        mask_targets([target.masks[k] for k in sample.objects.tolist()], target.frame, sample.positive_boxes)
        for target, sample in zip(golden.targets, golden.mask_samples(stage), strict=True)
    ]
    assert torch.equal(torch.cat(ours), golden.mask_targets(stage=stage))
    samples = golden.box_samples(stage)
    stds = cascade_of(golden).box_cascade.get_head(stage).config.target_stds
    deltas = [encode_boxes(sample.object_boxes, sample.positive_boxes, stds=stds) for sample in samples]
    positive = golden.tensors[f"train.roi.{stage}.labels"] < NUM_CLASSES
    assert_close_to_scale(torch.cat(deltas), golden.tensors[f"train.roi.{stage}.bbox_targets"][positive])


def test_losses_and_gradients_equal(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the golden run's own samples at every stage, so that no near-tie decides."""
    model = cascade_of(golden).train()
    samples = []
    for stage in STAGES:
        samples.append(golden.box_samples(stage))
        if isinstance(model, HybridTaskCascade):
            samples.append(golden.mask_samples(stage))
    monkeypatch.setattr(model.box_cascade, "sample", lambda *_: samples.pop(0))
    pyramid = golden.pyramid()
    output = model.rpn(pyramid)
    losses = {
        **model.rpn.losses(pyramid, output, golden.targets, golden.sizes),
        **model.roi_losses(pyramid, [], golden.targets, golden.sizes),
    }
    assertions.assert_losses_and_gradients_equal(golden, losses, LOSSES)


def test_whole_training_step_equal(golden: Golden) -> None:
    """From pixels to the sum of losses, with our own proposals and samples."""
    golden.model.train()
    losses = golden.model(golden.images, golden.targets)
    total = torch.stack(list(losses.values())).sum()
    torch.testing.assert_close(total, golden.tensors["train.loss_total"][0], rtol=1e-4, atol=0)
