"""The detectors against mmdetection's on the same weights and images (docs/parity.md)."""

import pytest
import torch

from tailseg.models.sampling import sample_rois
from tailseg.ops.boxes import encode_boxes
from tailseg.ops.masks import mask_targets

from . import assertions
from .assertions import NUM_CLASSES, assert_close_to_scale, assert_same_boxes
from .golden import Golden, load_golden


@pytest.fixture(
    scope="module", params=assertions.files("a_mask_rcnn", "a2_mask_rcnn_normed_mask", "a3_mask_rcnn_gumbel")
)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(*assertions.place(request))


@torch.no_grad()
def test_maps_and_proposals_equal(golden: Golden) -> None:
    golden.model.eval()
    assertions.assert_maps_equal(golden)


@torch.no_grad()
def test_box_head_equal(golden: Golden) -> None:
    golden.model.eval()
    head = golden.model.box_head
    hidden = head(golden.pyramid(), golden.rois("test.roi.0.rois"))
    assert_close_to_scale(head.classifier(hidden), golden.tensors["test.roi.0.cls_score"])
    assert_close_to_scale(head.regressor(hidden), golden.tensors["test.roi.0.bbox_pred"])


@torch.no_grad()
def test_detections_equal(golden: Golden) -> None:
    golden.model.eval()
    assertions.assert_detections_equal(golden)


@torch.no_grad()
def test_mask_logits_equal(golden: Golden) -> None:
    golden.model.eval()
    counts = [len(golden.tensors[f"test.det.{i}.mask_logits.0"]) for i in range(2)]
    boxes = [golden.tensors[f"test.det.{i}.boxes"][:count] for i, count in enumerate(counts)]
    labels = [golden.tensors[f"test.det.{i}.labels"][:count] for i, count in enumerate(counts)]
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
    samples = sample_rois(proposals, golden.targets, NUM_CLASSES, golden.model.config.box)
    rois, labels = golden.rois("train.roi.0.rois"), golden.tensors["train.roi.0.labels"]
    for boxes, sample in zip(rois, samples, strict=True):
        assert_same_boxes(sample.boxes, boxes)
    ours = torch.cat([sample.labels for sample in samples])
    assert torch.equal(ours.bincount(minlength=8), labels.bincount(minlength=8))
    wanted, objects = golden.positives("boxes"), golden.positives("gt_index")
    assert [sample.num_positive for sample in samples] == [len(boxes) for boxes in wanted]
    for sample, boxes, index in zip(samples, wanted, objects, strict=True):
        nearest = torch.cdist(boxes, sample.positive_boxes, p=torch.inf).argmin(1)
        torch.testing.assert_close(sample.positive_boxes[nearest], boxes, rtol=0, atol=0.01)
        assert torch.equal(sample.objects[nearest], index)


def test_mask_targets_equal(golden: Golden) -> None:
    ours = [
        mask_targets([target.masks[k] for k in index.tolist()], target.frame, part)
        for target, part, index in zip(
            golden.targets, golden.positives("boxes"), golden.positives("gt_index"), strict=True
        )
    ]
    assert torch.equal(torch.cat(ours), golden.mask_targets())


def test_losses_and_gradients_equal(golden: Golden) -> None:
    golden.model.train()
    pyramid, samples = golden.pyramid(), golden.box_samples()
    losses = {
        **golden.model.rpn.losses(pyramid, golden.model.rpn(pyramid), golden.targets, golden.sizes),
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
    assertions.assert_losses_and_gradients_equal(golden, losses, theirs)


def test_whole_training_step_equal(golden: Golden) -> None:
    """From pixels to the sum of losses, with our own proposals and samples."""
    golden.model.train()
    losses = golden.model(golden.images, golden.targets)
    total = torch.stack(list(losses.values())).sum()
    torch.testing.assert_close(total, golden.tensors["train.loss_total"][0], rtol=1e-4, atol=0)


def test_box_targets_equal(golden: Golden) -> None:
    labels = golden.tensors["train.roi.0.labels"]
    for sample, targets in zip(
        golden.box_samples(),
        golden.tensors["train.roi.0.bbox_targets"].split(
            [int((golden.tensors["train.roi.0.rois"][:, 0] == i).sum()) for i in range(2)]
        ),
        strict=True,
    ):
        ours = encode_boxes(sample.object_boxes, sample.positive_boxes, stds=golden.model.config.box.target_stds)
        assert_close_to_scale(ours, targets[: sample.num_positive])
    assert int((labels < NUM_CLASSES).sum()) == sum(sample.num_positive for sample in golden.box_samples())
