"""torchvision's own Mask R-CNN as a starting point: the same features, rows by name, background from first to last."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from tailseg.annotations.dataset import Category
from tailseg.interop.torchvision_weights import from_torchvision, get_coco_names, list_file_names, to_torchvision
from tailseg.losses import DropLossConfig, GumbelCEConfig, LossConfig, SeesawLossConfig, build_loss
from tailseg.models import ModelConfig, ResNetConfig, build_detector
from tailseg.models.detector import Detector
from tailseg.training.checkpoint import CheckpointError

from . import published

CLASSES = ("zebra", "gargoyle", "Traffic_Light", "person")
THEIRS = [24, None, 10, 1]
"""torchvision's labels of those classes."""
CONFIG = ModelConfig(backbone=ResNetConfig(weights="none"))


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """torchvision's model for COCO at random, with batch-norm statistics as after training."""
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def build(loss: LossConfig, config: ModelConfig = CONFIG) -> Detector:
    torch.manual_seed(1)
    return build_detector(config, build_loss(loss, published.frequency(len(CLASSES)))).eval()


@pytest.fixture(scope="module")
def ours(theirs: nn.Module) -> Detector:
    """Our model for four classes, of which COCO knows three, with the weights of `theirs`."""
    model = build(GumbelCEConfig())
    converted, found = from_torchvision(theirs.state_dict(), model, CLASSES)
    assert found == ["zebra", "Traffic_Light", "person"]
    assert converted.left_out == converted.missing == ()
    model.load_state_dict(converted.state, strict=True)
    return model


def test_pyramid_and_proposals_equal(ours: Detector, theirs: nn.Module) -> None:
    """Backbone, FPN and RPN compute the same: no channel and no anchor out of order."""
    torch.manual_seed(2)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        pyramid, their_pyramid = ours.fpn(ours.backbone(image)), list(theirs.backbone(image).values())
        output = ours.rpn(pyramid)
        logits, deltas = theirs.rpn.head(their_pyramid)
    for level, their_level in zip(pyramid, their_pyramid, strict=True):
        torch.testing.assert_close(level, their_level, rtol=0, atol=1e-4 * float(their_level.abs().max()))
    expected = torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in logits], 1)
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    expected = torch.cat([level.permute(0, 2, 3, 1).reshape(1, -1, 4) for level in deltas], 1)
    torch.testing.assert_close(output.deltas, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_heads_equal_on_known_classes(ours: Detector, theirs: nn.Module) -> None:
    """From the same pooled features: logits with the background last, boxes and masks of each known class."""
    torch.manual_seed(3)
    known = [0, 2, 3]
    labels = torch.tensor([THEIRS[label] for label in known])
    pooled, roi = torch.randn(2, 256, 7, 7), torch.randn(3, 256, 14, 14)
    with torch.no_grad():
        scores, boxes = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
        masks = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(roi))[torch.arange(3), labels]
        head, mask_head = ours.box_head, ours.mask_head
        hidden = head.fc2(head.fc1(pooled.flatten(1)).relu()).relu()
        for conv in mask_head.convs:
            roi = conv(roi).relu()
        ours_masks = mask_head.predict(roi, torch.tensor(known))
    logits = head.classifier(hidden)
    torch.testing.assert_close(logits[:, [*known, 4]], scores[:, [*labels.tolist(), 0]], rtol=0, atol=1e-5)
    regressed = head.regressor(hidden).view(2, 4, 4)[:, known]
    torch.testing.assert_close(regressed, boxes.view(2, 91, 4)[:, labels], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours_masks, masks, rtol=0, atol=1e-4)


def test_other_classes_keep_their_first_values(ours: Detector) -> None:
    fresh = build(GumbelCEConfig()).state_dict()
    made = ours.state_dict()
    for name, rows in (
        ("box_head.classifier", [1]),
        ("box_head.regressor", [4, 5, 6, 7]),
        ("mask_head.predictor", [1]),
    ):
        for part in ("weight", "bias"):
            assert torch.equal(made[f"{name}.{part}"][rows], fresh[f"{name}.{part}"][rows])


@pytest.mark.parametrize("loss", [DropLossConfig(), SeesawLossConfig()])
def test_losses_without_a_background_logit(theirs: nn.Module, loss: LossConfig) -> None:
    model = build(loss)
    fresh = model.box_head.classifier.weight.detach().clone()
    state = from_torchvision(theirs.state_dict(), model, CLASSES)[0].state
    rows = state["box_head.classifier.weight"]
    assert torch.equal(rows[[0, 2, 3]], theirs.roi_heads.box_predictor.cls_score.weight[[24, 10, 1]])
    assert torch.equal(rows[4:], fresh[4:])
    model.load_state_dict(state, strict=True)


def test_class_agnostic_boxes_start_new(theirs: nn.Module) -> None:
    model = build(GumbelCEConfig(), replace(CONFIG, box=replace(CONFIG.box, class_agnostic=True)))
    state = from_torchvision(theirs.state_dict(), model, CLASSES)[0].state
    assert torch.equal(state["box_head.regressor.weight"], model.box_head.regressor.weight)


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the published file of 2019 calls them."""
    renamed = {}
    for key, tensor in state.items():
        for block in ("inner_blocks", "layer_blocks"):
            if block in key:
                key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for i in range(4):
            key = key.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
        renamed[key] = tensor
    return renamed


def test_the_published_coco_file(theirs: nn.Module) -> None:
    """Old names, frozen batch norms, and their eps of 0: the same map, to rounding, with our eps."""
    variances = [1e-7, 1e-3, 1.0]
    state = {k: v for k, v in old_names(theirs.state_dict()).items() if "num_batches_tracked" not in k}
    state["backbone.body.bn1.running_var"] = torch.tensor(variances).repeat(22)[:64]
    model = build(GumbelCEConfig())
    model.load_state_dict(from_torchvision(state, model, CLASSES)[0].state, strict=True)
    frozen = FrozenBatchNorm2d(64, eps=0.0)
    frozen.load_state_dict({k.split(".")[-1]: v for k, v in state.items() if k.startswith("backbone.body.bn1.")})
    x = torch.randn(1, 64, 4, 4)
    with torch.no_grad():
        expected = frozen(x)
        torch.testing.assert_close(model.backbone.bn1(x), expected, rtol=1e-5, atol=1e-4)


def test_what_does_not_fit_is_named(theirs: nn.Module) -> None:
    state = dict(theirs.state_dict())
    model = build(GumbelCEConfig())
    with pytest.raises(CheckpointError, match=r"missing keys: rpn\.head\.cls_logits\.bias"):
        from_torchvision({k: v for k, v in state.items() if k != "rpn.head.cls_logits.bias"}, model, CLASSES)
    with pytest.raises(CheckpointError, match=r"unexpected keys: roi_heads\.keypoint_head\.0\.weight"):
        from_torchvision(state | {"roi_heads.keypoint_head.0.weight": torch.zeros(1)}, model, CLASSES)
    with pytest.raises(CheckpointError, match=r"fc6\.weight is \[3, 3\], expected \[1024, 12544\]"):
        from_torchvision(state | {"roi_heads.box_head.fc6.weight": torch.zeros(3, 3)}, model, CLASSES)
    with pytest.raises(CheckpointError, match=r"has 5 classes \(background included\), expected 91"):
        from_torchvision(state | {"roi_heads.box_predictor.cls_score.bias": torch.zeros(5)}, model, CLASSES)


def test_coco_has_91_labels_with_background_first() -> None:
    names = get_coco_names()
    assert len(names) == 91
    assert names[0] == "__background__"
    assert (names[1], names[90], names.count("N/A")) == ("person", "toothbrush", 10)


@pytest.fixture(scope="module")
def written() -> tuple[Detector, nn.Module]:
    """Our model with four classes, and torchvision's with the same weights."""
    model = build(GumbelCEConfig())
    for parameter in (model.box_head.classifier.bias, model.box_head.regressor.bias, model.mask_head.predictor.bias):
        nn.init.normal_(parameter)
    other = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5).eval()
    converted = to_torchvision(model.state_dict(), 4, CONFIG.box.target_stds)
    assert converted.left_out == ()
    other.load_state_dict(converted.state, strict=True)
    return model, other


def test_what_is_written_computes_the_same_in_torchvision(written: tuple[Detector, nn.Module]) -> None:
    ours, theirs = written
    torch.manual_seed(4)
    image, pooled, roi = torch.randn(1, 3, 64, 64), torch.randn(2, 256, 7, 7), torch.randn(3, 256, 14, 14)
    with torch.no_grad():
        for level, their_level in zip(ours.fpn(ours.backbone(image)), theirs.backbone(image).values(), strict=True):
            torch.testing.assert_close(level, their_level, rtol=0, atol=1e-4 * float(their_level.abs().max()))
        scores, boxes = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
        masks = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(roi))
        hidden = ours.box_head.embed(pooled.flatten(1))
        labels = torch.tensor([0, 3, 1])
        our_masks = ours.mask_head.predict(ours.mask_head.features(roi), labels)
    torch.testing.assert_close(scores, ours.box_head.classifier(hidden)[:, [4, 0, 1, 2, 3]], rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes[:, 4:], ours.box_head.regressor(hidden), rtol=0, atol=1e-4)
    torch.testing.assert_close(masks[torch.arange(3), labels + 1], our_masks, rtol=0, atol=1e-4)


def test_what_is_written_is_read_with_the_classes_of_the_run(written: tuple[Detector, nn.Module]) -> None:
    """Labels are ids in torchvision's scripts; a file with as many labels as classes counts from 1."""
    ours, theirs = written
    names = ("__background__", *CLASSES)
    state = from_torchvision(theirs.state_dict(), build(GumbelCEConfig()), CLASSES, file_names=names)[0].state
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())
    assert list_file_names(5, [Category(i + 10, name, "r") for i, name in enumerate(CLASSES)]) == names
    by_id = [Category(2, "b", "r"), Category(5, "e", "r")]
    assert list_file_names(6, by_id) == ("N/A", "N/A", "b", "N/A", "N/A", "e")
    assert list_file_names(5, by_id) is None


def test_what_torchvision_does_not_have_is_refused() -> None:
    state = build(DropLossConfig()).state_dict()
    with pytest.raises(CheckpointError, match="4 logits for 4 classes, and torchvision has one for each"):
        to_torchvision(state, 4, CONFIG.box.target_stds)
    agnostic = build(GumbelCEConfig(), replace(CONFIG, box=replace(CONFIG.box, class_agnostic=True)))
    with pytest.raises(CheckpointError, match="a box for each class"):
        to_torchvision(agnostic.state_dict(), 4, CONFIG.box.target_stds)
    with pytest.raises(CheckpointError, match="have a ResNet, and the model has another backbone"):
        to_torchvision({"backbone.features.0.weight": torch.zeros(1)}, 4, CONFIG.box.target_stds)
