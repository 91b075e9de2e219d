"""Detectors as a whole: what goes in, what comes out, and the edges where there is nothing."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from tailseg.losses import GumbelCE, SigmoidCE, SoftmaxCE
from tailseg.losses.base import ClassificationLoss
from tailseg.models import Detector, FasterRCNN, MaskRCNN, ModelConfig
from tailseg.models.images import ImageBatcher
from tailseg.ops.masks import decode_mask, mask_box
from tailseg.structures import Detections, Target

Build = Callable[..., Detector]
MakeImage = Callable[..., Tensor]
MakeTarget = Callable[..., Target]
BOXES = ((5.0, 5.0, 45.0, 40.0), (30.0, 20.0, 60.0, 62.0), (2.0, 40.0, 20.0, 60.0))


def backward(losses: dict[str, Tensor]) -> None:
    torch.stack(list(losses.values())).sum().backward()


def assert_whole_gradient(model: nn.Module) -> None:
    """DDP waits for every trained parameter: none may be left without a (finite) gradient."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("loss", [SigmoidCE(6), SoftmaxCE(6), GumbelCE(6)], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("masks", [True, False])
def test_training_gives_scalar_losses(
    small_config: ModelConfig,
    build: Build,
    make_image: MakeImage,
    make_target: MakeTarget,
    loss: ClassificationLoss,
    masks: bool,
) -> None:
    model = build(small_config if masks else replace(small_config, mask=None), loss)
    losses = model([make_image(64, 64), make_image(50, 70, 1)], [make_target(*BOXES), make_target(BOXES[0])])
    expected = {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box"} | ({"loss_mask"} if masks else set())
    assert losses.keys() == expected
    assert all(value.ndim == 0 and value.isfinite() and value >= 0 for value in losses.values())
    backward(losses)
    assert_whole_gradient(model)


@pytest.mark.parametrize("masks", [True, False])
def test_images_without_objects(
    small_config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget, masks: bool
) -> None:
    model = build(small_config if masks else replace(small_config, mask=None))
    losses = model([make_image(64, 64)] * 2, [make_target(), make_target()])
    assert losses["loss_rpn_box"] == losses["loss_box"] == 0
    assert losses.get("loss_mask", 0) == 0
    assert losses["loss_rpn_cls"] > 0
    assert losses["loss_cls"] > 0
    backward(losses)
    assert_whole_gradient(model)


def test_one_empty_image_beside_one_with_objects(
    small_config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    model = build(small_config)
    losses = model([make_image(64, 64), make_image(64, 64, 1)], [make_target(), make_target(*BOXES)])
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_mask"] > 0
    backward(losses)
    assert_whole_gradient(model)


def no_proposals(model: Detector) -> None:
    """Every anchor's box collapses far outside the image."""
    nn.init.zeros_(model.rpn.box_deltas.weight)
    with torch.no_grad():
        model.rpn.box_deltas.bias.copy_(torch.tensor([-1000.0, -1000.0, 0, 0]).repeat(3))


def test_no_proposals_and_no_objects(
    small_config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    model = build(small_config)
    no_proposals(model)
    losses = model([make_image(64, 64)], [make_target()])
    assert losses["loss_cls"] == 0
    backward(losses)
    assert_whole_gradient(model)
    (found,) = model.eval()([make_image(64, 64)])
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks == ()


def test_objects_are_trained_without_proposals(
    small_config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    """The objects' own boxes serve as RoIs: the heads learn from the first step."""
    model = build(small_config)
    no_proposals(model)
    losses = model([make_image(64, 64)], [make_target(*BOXES)])
    assert losses["loss_cls"] > 0
    assert losses["loss_mask"] > 0


@pytest.mark.parametrize("box", [(3.0, 3.0, 3.0, 3.0), (0.0, 0.0, 64.0, 64.0), (63.5, 63.5, 64.0, 64.0)])
def test_degenerate_and_extreme_objects(
    small_config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget, box: tuple[float, ...]
) -> None:
    model = build(small_config)
    losses = model([make_image(64, 64)], [make_target(box)])
    assert all(value.isfinite() for value in losses.values())
    backward(losses)
    assert_whole_gradient(model)


def check_detections(found: Detections, config: ModelConfig, height: int, width: int) -> None:
    assert (found.height, found.width) == (height, width)
    assert len(found) <= config.postprocess.max_detections
    assert found.scores.diff().le(0).all()
    assert (found.scores > config.postprocess.score_threshold).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([width, height, width, height])).all()
    assert found.labels.min() >= 0
    assert found.labels.max() < 6


def test_detections_are_in_pixels_of_the_original_file(
    small_config: ModelConfig, build: Build, make_image: MakeImage
) -> None:
    model = build(small_config).eval()
    images = [make_image(64, 64), make_image(50, 70, 1)]
    found = model(images, original_sizes=[(128, 96), (25, 35)])
    for image, (height, width) in zip(found, [(128, 96), (25, 35)], strict=True):
        check_detections(image, small_config, height, width)
        assert image.masks is not None
        assert len(image.masks) == len(image) > 0
        for mask, box in zip(image.masks, image.boxes, strict=True):
            assert mask["size"] == [height, width]
            inner = mask_box(mask)
            if decode_mask(mask).any():
                # a mask's pixels reach at most one beyond the box that it is pasted into
                assert all(a >= float(b) - 2 for a, b in zip(inner[:2], box[:2], strict=True))
                assert all(a <= float(b) + 2 for a, b in zip(inner[2:], box[2:], strict=True))


def test_sizes_default_to_those_of_the_images(small_config: ModelConfig, build: Build, make_image: MakeImage) -> None:
    model = build(replace(small_config, mask=None)).eval()
    images = [make_image(64, 64), make_image(50, 70, 1)]
    for a, b in zip(model(images), model(images, original_sizes=[(64, 64), (50, 70)]), strict=True):
        assert torch.equal(a.boxes, b.boxes)
        assert a.masks is None
        check_detections(a, small_config, b.height, b.width)


def test_an_image_is_detected_alike_alone_and_in_company(
    small_config: ModelConfig, build: Build, make_image: MakeImage
) -> None:
    """With equal sizes nothing changes but the order of sums, and with it that of detections that nearly tie."""
    model = build(small_config).eval()
    alone = model([make_image(64, 64)])[0]
    company = model([make_image(64, 64), make_image(64, 64, 1)])[0]
    torch.testing.assert_close(company.scores, alone.scores, rtol=1e-4, atol=1e-6)
    apart = (alone.boxes.unsqueeze(1) - company.boxes).abs().amax(-1)
    apart[alone.labels.unsqueeze(1) != company.labels] = torch.inf
    distance, partner = apart.min(1)
    assert distance.max() < 1e-2
    assert len(partner.unique()) == len(partner)
    torch.testing.assert_close(company.scores[partner], alone.scores, rtol=1e-4, atol=1e-6)


def test_float_images_equal_uint8(small_config: ModelConfig, build: Build, make_image: MakeImage) -> None:
    model = build(small_config).eval()
    image = make_image(64, 64)
    assert torch.equal(model([image])[0].boxes, model([image.float()])[0].boxes)


def test_detecting_keeps_no_graph(small_config: ModelConfig, build: Build, make_image: MakeImage) -> None:
    (found,) = build(small_config).eval()([make_image(64, 64)])
    assert not found.boxes.requires_grad
    assert not found.scores.requires_grad


def test_class_agnostic_boxes(
    small_config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    config = replace(small_config, box=replace(small_config.box, class_agnostic=True))
    model = build(config)
    assert isinstance(model, MaskRCNN)
    assert model.box_head.regressor.out_features == 4
    backward(model([make_image(64, 64)], [make_target(*BOXES)]))
    assert_whole_gradient(model)
    (found,) = model.eval()([make_image(64, 64)])
    check_detections(found, config, 64, 64)


def test_bfloat16_autocast_keeps_losses_in_float32(
    small_config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    """bfloat16 has 8 bits: 5 % of the float32 losses on the same RoIs (a network at its start proposes alike).

    Sixteen channels at least: below, oneDNN's gradient of a strided 1x1 convolution in channels-last bfloat16 writes
    outside its memory on processors with AVX-512 (oneDNN issue 6035).
    """
    model = build(replace(small_config, backbone=replace(small_config.backbone, base_width=16)))
    arguments = [make_image(64, 64)], [make_target(*BOXES)]
    torch.manual_seed(1)
    wide = model(*arguments)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model(*arguments)
    for name, value in narrow.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, wide[name], rtol=0.05, atol=0.05)
    backward(narrow)
    assert_whole_gradient(model)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = model.eval()([make_image(64, 64)])
    assert found.scores.dtype == found.boxes.dtype == torch.float32


def test_same_seed_same_step(
    small_config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    """Resuming to the bit needs it."""
    steps = []
    for _ in range(2):
        model = build(small_config)
        torch.manual_seed(1)
        backward(model([make_image(64, 64)], [make_target(*BOXES)]))
        steps.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_overfits_one_image(
    small_config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    """The smallest proof that gradients point the right way: 120 steps on one image find its three objects."""
    config = replace(small_config, backbone=replace(small_config.backbone, frozen_stages=0, fixed_norm=False))
    model, target = build(config), make_target(*BOXES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)  # any seed learns; SGD's first steps are luck
    image = torch.zeros(3, 64, 64)
    for k, (x1, y1, x2, y2) in enumerate(BOXES):
        image[k, int(y1) : int(y2), int(x1) : int(x2)] = 255
    totals = []
    for _ in range(120):
        losses = model([image, image], [target, target])
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.4 * totals[0]
    (found,) = model.eval()([image])
    assert sorted(found.labels[:3].tolist()) == [0, 1, 2]
    assert found.scores[:3].min() > 0.6
    assert box_iou(target.boxes, found.boxes[:3]).amax(1).min() > 0.5


def test_weights_of_a_detector_are_its_whole_state(
    small_config: ModelConfig, build: Build, make_image: MakeImage
) -> None:
    model = build(small_config).eval()
    torch.manual_seed(5)
    other = MaskRCNN(small_config, GumbelCE(6)).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model([make_image(64, 64)])[0].scores, other([make_image(64, 64)])[0].scores)


def test_classifier_starts_at_the_losses_bias_and_one_weight(small_config: ModelConfig, build: Build) -> None:
    loss = GumbelCE(6)
    head = build(small_config, loss).box_head
    assert torch.equal(head.classifier.bias.detach(), loss.init_bias())
    assert (head.classifier.weight == 0.001).all()


def test_the_wrong_class_for_a_config_is_refused(small_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="use MaskRCNN"):
        FasterRCNN(small_config, GumbelCE(6))
    with pytest.raises(ValueError, match="use FasterRCNN"):
        MaskRCNN(replace(small_config, mask=None), GumbelCE(6))


@pytest.mark.parametrize(
    ("training", "arguments", "message"),
    [
        (True, ([], []), "at least one image"),
        (False, ([torch.zeros(64, 64)],), r"image 0: expected an RGB image \[3, height, width\], got \[64, 64\]"),
        (False, ([torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)],), "image 1"),
        (False, ([torch.zeros(3, 0, 8)],), "image 0"),
        (True, ([torch.zeros(3, 8, 8)],), r"needs targets; call model\.eval\(\)"),
        (True, ([torch.zeros(3, 8, 8)], []), "one entry of targets for each of 1 images, got 0"),
        (False, ([torch.zeros(3, 8, 8)], None, []), "one entry of original_sizes for each of 1 images, got 0"),
        (True, ([torch.zeros(3, 8, 8)], [], [(8, 8)]), "original_sizes only serve detection"),
    ],
)
def test_malformed_input_is_named(
    small_config: ModelConfig, build: Build, training: bool, arguments: tuple, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(small_config).train(training)(*arguments)


def test_batcher_normalizes_then_pads_with_zeros_to_32() -> None:
    batch = ImageBatcher()([torch.full((3, 33, 20), 124, dtype=torch.uint8), torch.zeros(3, 10, 40)])
    assert batch.tensors.shape == (2, 3, 64, 64)
    assert batch.sizes == ((33, 20), (10, 40))
    torch.testing.assert_close(batch.tensors[0, 0, :33, :20], torch.full((33, 20), (124 - 123.675) / 58.395))
    assert (batch.tensors[0, :, 33:] == 0).all()
    assert (batch.tensors[0, :, :, 20:] == 0).all()
    assert (batch.tensors[1, :, 10:] == 0).all()
