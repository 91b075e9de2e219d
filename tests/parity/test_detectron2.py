"""Converted weights of detectron2 compute what a small detectron2 in plain functions computes, stage by stage."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tailseg.interop.detectron2 import (
    FileSettings,
    find_settings,
    from_detectron2,
    to_detectron2,
)
from tailseg.losses import SeesawLossConfig, SigmoidCEConfig, SoftmaxCEConfig, build_loss
from tailseg.models import BoxHeadConfig, FPNConfig, MaskHeadConfig, ModelConfig, ResNetConfig, build_detector
from tailseg.models.cascade import CascadeMaskRCNN
from tailseg.models.config import GroupedConfig, cascade_mask_rcnn
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.ops.boxes import decode_boxes
from tailseg.structures import ClassFrequency

from . import detectron2 as theirs

CLASSES = 7
SIZE = (96, 128)
BACKBONE = ResNetConfig(depth=50, base_width=8, weights="none")
CONFIG = ModelConfig(
    backbone=BACKBONE, fpn=FPNConfig(channels=16), box=BoxHeadConfig(hidden=32), mask=MaskHeadConfig(channels=16)
)
CASCADE = replace(
    cascade_mask_rcnn(),
    backbone=BACKBONE,
    fpn=CONFIG.fpn,
    box=replace(cascade_mask_rcnn().box, hidden=32),
    mask=CONFIG.mask,
)
BOXES = torch.tensor(
    [[3.0, 5.0, 60.0, 70.0], [0.5, 0.5, 126.0, 95.0], [20.25, 10.0, 33.0, 90.5], [70.0, 40.0, 90.0, 52]]
)
RGB_STD, BGR_STD = (58.395, 57.12, 57.375), (57.375, 57.12, 58.395)


SOFTMAX = SoftmaxCEConfig()
MSRA = FileSettings("BGR", (1.0, 1.0, 1.0), stride_in_1x1=True)


def build(config=CONFIG, loss=SOFTMAX):
    torch.manual_seed(1)
    counts = torch.arange(1, CLASSES + 1)
    built = build_loss(loss, ClassFrequency.from_counts(counts, counts, 100))
    return build_detector(config, built, load_weights=False).eval()


def load(state, config=CONFIG, loss=SOFTMAX, settings=MSRA):
    backbone = replace(config.backbone, stride_in_1x1=settings.stride_in_1x1)
    model = build(replace(config, backbone=backbone), loss)
    model.load_state_dict(from_detectron2(state, model, settings).state, strict=True)
    return model


def make_image(seed=3):
    """RGB and BGR, 0 .. 255."""
    torch.manual_seed(seed)
    rgb = torch.rand(3, *SIZE) * 255
    return rgb, rgb.flip(0)


def compute_pyramid(model, rgb):
    return model.fpn(model.backbone(model.batcher([rgb]).tensors))


def assert_near(ours: Tensor, expected: Tensor, share: float = 1e-4) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=share * float(expected.abs().max()))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("settings", "grouped"),
    [
        (MSRA, None),
        (FileSettings("BGR", (1.0, 1.0, 1.0), False), None),
        (FileSettings("BGR", BGR_STD, False), GroupedConfig(2, 4)),
        (FileSettings("RGB", RGB_STD, False), None),
    ],
    ids=["MSRA", "MSRA, stride in 3x3", "ResNeXt", "torchvision"],
)
def test_pyramid_and_proposals_equal(settings, grouped):
    groups = grouped.groups if grouped else 1
    state = theirs.make_state(groups=groups)
    rgb, bgr = make_image()
    if settings.input_format == "RGB":  # their code takes images in the order of the kernel: a file for RGB, flipped
        flipped = dict(state)
        flipped[theirs.STEM] = state[theirs.STEM].flip(1)
        std = settings.pixel_std[::-1]
    else:
        flipped, std = state, settings.pixel_std
    expected = theirs.compute_pyramid(flipped, bgr, std=std, stride_in_1x1=settings.stride_in_1x1, groups=groups)
    model = load(state, replace(CONFIG, backbone=replace(BACKBONE, grouped=grouped)), settings=settings)
    pyramid = compute_pyramid(model, rgb)
    assert len(pyramid) == len(expected) == 5
    for ours, level in zip(pyramid, expected, strict=True):
        assert_near(ours, level)
    output = model.rpn(pyramid)
    logits, boxes = theirs.compute_rpn(state, expected)
    assert_near(output.logits[0], logits)
    assert_near(decode_boxes(output.deltas[0], output.anchors), boxes)


def test_a_stride_in_another_place_is_another_network():
    """The shapes are the same, so only this comparison can tell."""
    state = theirs.make_state()
    rgb, bgr = make_image()
    expected = theirs.compute_pyramid(state, bgr, stride_in_1x1=True)
    ours = compute_pyramid(load(state, settings=FileSettings("BGR", (1.0, 1.0, 1.0), False)), rgb)
    assert float((ours[0] - expected[0]).abs().max()) < 0.5 * float(expected[0].abs().max())
    assert float((ours[3] - expected[3]).abs().max()) > 0.01 * float(expected[3].abs().max())


@pytest.mark.parametrize("agnostic", [False, True])
def test_mask_rcnn_equals_from_image_to_masks(agnostic):
    state = theirs.make_state(agnostic=agnostic, agnostic_masks=agnostic)
    rgb, bgr = make_image()
    pyramid = theirs.compute_pyramid(state, bgr)
    model = load(state, replace(CONFIG, box=replace(CONFIG.box, class_agnostic=agnostic)))
    assert isinstance(model, MaskRCNN)
    ours = compute_pyramid(model, rgb)
    hidden = model.box_head(ours, [BOXES])
    logits, deltas = theirs.run_box_head(state, theirs.pool(pyramid, BOXES, 7))
    assert_near(model.box_head.loss.scores(model.box_head.classifier(hidden)), logits.softmax(1)[:, :CLASSES])
    decoded = decode_boxes(model.box_head.regressor(hidden), BOXES, stds=model.box_head.config.target_stds)
    assert_near(decoded, theirs.apply_deltas(deltas, BOXES, (10, 10, 5, 5)))
    labels = torch.tensor([0, 6, 3, 3])
    masks = model.mask_head.probabilities(ours, [BOXES], labels)
    assert_near(masks, theirs.run_mask_head(state, theirs.pool(pyramid, BOXES, 14), labels))


def test_faster_rcnn_with_the_sigmoid_ignores_the_row_of_the_background():
    state = theirs.make_state(masks=False)
    rgb, bgr = make_image()
    model = load(state, replace(CONFIG, mask=None), SigmoidCEConfig())
    hidden = model.box_head(compute_pyramid(model, rgb), [BOXES])
    logits, _ = theirs.run_box_head(state, theirs.pool(theirs.compute_pyramid(state, bgr), BOXES, 7))
    scores = model.box_head.loss.scores(model.box_head.classifier(hidden))
    assert_near(scores, logits.sigmoid()[:, :CLASSES])


def test_cascade_equals_in_every_stage():
    """Also the third stage, whose boxes have another unit, and the mask head, which the stages share there."""
    state = theirs.make_state(stages=3)
    rgb, bgr = make_image()
    pyramid = theirs.compute_pyramid(state, bgr)
    expected, last_boxes = theirs.run_cascade(state, pyramid, BOXES, SIZE)
    model = load(state, CASCADE)
    assert isinstance(model, CascadeMaskRCNN)
    ours, boxes = compute_pyramid(model, rgb), [BOXES]
    for stage, logits in enumerate(expected):
        head = model.box_cascade.get_head(stage)
        hidden = head(ours, boxes)
        assert_near(head.classifier(hidden), logits, 1e-3)
        boxes = head.decode(hidden, boxes, [SIZE])
    assert_near(boxes[0], last_boxes, 1e-3)
    labels = torch.tensor([0, 6, 3, 3])
    masks = model.mask_probabilities(ours, [BOXES], labels)
    assert_near(masks, theirs.run_mask_head(state, theirs.pool(pyramid, BOXES, 14), labels), 1e-3)


def test_names_of_the_first_detectron_give_the_same_weights():
    """Its batch norms have weight and bias alone, and its background is the first class."""
    state = theirs.make_state()
    for key in list(state):
        if key.endswith("running_mean"):
            state[key] = torch.zeros_like(state[key])
        elif key.endswith("running_var"):
            state[key] = torch.ones_like(state[key]) - 1e-5
    old = theirs.to_caffe2(state)
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w", "fpn_inner_res5_2_sum_w"} < old.keys()
    old["fc6_w_momentum"] = torch.zeros(1)
    model = build(replace(CONFIG, backbone=replace(BACKBONE, stride_in_1x1=True)))
    expected = from_detectron2(state, model, MSRA).state
    converted = from_detectron2(old, model).state  # the settings are found
    assert all(torch.equal(converted[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("config", [CONFIG, CASCADE, replace(CONFIG, mask=None)])
def test_there_and_back_is_the_same(config):
    model = build(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    stages = config.cascade.later_stages if config.cascade else ()
    if stages:  # one mask head is written
        for head in model.mask_heads[:2]:
            head.load_state_dict(model.mask_heads[2].state_dict())
    stds = [stage.target_stds for stage in (config.box, *stages)]
    written = to_detectron2(model.state_dict(), CLASSES, stds)
    theirs_names = theirs.make_state(stages=3 if stages else 0, masks=config.mask is not None)
    assert {key: tensor.shape for key, tensor in written.state.items()} == {
        key: tensor.shape for key, tensor in theirs_names.items()
    }
    back = from_detectron2(written.state, model, FileSettings("BGR", (1.0, 1.0, 1.0), False)).state
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-6, atol=1e-6)


def test_a_loss_without_background_is_written_with_a_row_that_the_sigmoid_ignores():
    model = build(loss=SigmoidCEConfig())
    written = to_detectron2(model.state_dict(), CLASSES, [CONFIG.box.target_stds]).state
    rows = written["roi_heads.box_predictor.cls_score.weight"]
    assert len(rows) == CLASSES + 1
    assert torch.equal(rows[:CLASSES], model.box_head.classifier.weight)
    assert not rows[CLASSES].any()
    with pytest.raises(ValueError, match="9 logits for 7 classes"):
        to_detectron2(build(loss=SeesawLossConfig()).state_dict(), CLASSES, [CONFIG.box.target_stds])


@pytest.mark.parametrize("divided", [False, True])
def test_the_stem_tells_whether_images_were_divided(divided):
    """The variance of filters over smooth images with the deviation of photographs, as a training measures it."""
    torch.manual_seed(0)
    noise = torch.nn.functional.interpolate(torch.randn(8, 3, 16, 16), scale_factor=4, mode="bilinear")
    images = noise * 58 * (1 / 58 if divided else 1)
    state = theirs.make_state()
    weight = state[theirs.STEM]
    state[theirs.STEM.replace("weight", "norm.running_var")] = torch.nn.functional.conv2d(images, weight).var((0, 2, 3))
    found = find_settings(state, CONFIG)
    assert found == (FileSettings("RGB", RGB_STD, False) if divided else MSRA)
    resnext = replace(CONFIG, backbone=replace(BACKBONE, grouped=GroupedConfig(32, 8)))
    if divided:
        assert find_settings(state, resnext) == FileSettings("BGR", BGR_STD, False)
    assert find_settings(state, CONFIG, FileSettings("RGB", (2.0, 2.0, 2.0), False)) == FileSettings(
        "RGB", (2.0, 2.0, 2.0), False
    )
