"""Sampling and the two heads: class-specific outputs equal to computing every class and selecting one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tailseg.losses import SigmoidCE, SoftmaxCE
from tailseg.models import BoxHeadConfig, MaskHeadConfig, box_head
from tailseg.models import PostprocessConfig as DetectionConfig
from tailseg.models.box_head import BoxHead
from tailseg.models.config import NormalizedConfig
from tailseg.models.mask_head import MaskHead, _in_chunks, get_chunk_size
from tailseg.models.predictors import NormalizedLinear, class_linear, class_map, normalized_class_map
from tailseg.models.sampling import RoISample, sample_rois
from tailseg.ops.boxes import encode_boxes
from tailseg.structures import Target

MakeTarget = Callable[..., Target]
STRIDES = (4, 8, 16, 32)


def pyramid(batch: int, channels: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(batch, channels, 64 // s, 64 // s, generator=generator) for s in STRIDES]


def gradients(y: torch.Tensor, leaves: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(y.square().sum(), leaves)


def random_leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_class_linear_selects_the_classes_rows() -> None:
    x, weight, bias = leaves = random_leaves((9, 5), (7, 4, 5), (7, 4))
    labels = torch.arange(9) % 5
    every = F.linear(x, weight.flatten(0, 1), bias.flatten()).view(9, 7, 4)
    wanted, ours = every[torch.arange(9), labels], class_linear(x, weight, bias, labels)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradients(ours, leaves), gradients(wanted, leaves))


def test_class_map_selects_the_classes_channel() -> None:
    x, weight, bias = leaves = random_leaves((6, 9, 5), (7, 5), (7,))
    labels = torch.arange(6) % 5
    wanted, ours = (x @ weight.T + bias)[torch.arange(6), :, labels], class_map(x, weight, bias, labels)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradients(ours, leaves), gradients(wanted, leaves))


def test_normalized_class_map_selects_the_classes_channel() -> None:
    x, weight, bias = leaves = random_leaves((6, 9, 5), (7, 5), (7,))
    labels, config = torch.arange(6) % 5, NormalizedConfig(temperature=3, power=1.5)
    layer = NormalizedLinear(5, 7, config).double()
    every = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x.reshape(-1, 5),))
    wanted = every.view(6, 9, 7)[torch.arange(6), :, labels]
    ours = normalized_class_map(x, weight, bias, labels, config)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradients(ours, leaves), gradients(wanted, leaves))


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("gathered_at_most", [1000, 0], ids=["rows of the regressor", "the whole regressor"])
def test_boxes_of_chosen_classes_are_those_of_all(
    gathered_at_most: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box_head, "GATHERED_AT_MOST", gathered_at_most)
    monkeypatch.setattr(box_head, "TEST_CHUNK", 4)
    monkeypatch.setattr(box_head, "REGIONS_AT_A_TIME", 3)
    torch.manual_seed(0)
    head = BoxHead(4, BoxHeadConfig(hidden=16, shared_share=share), SigmoidCE(5)).double()
    hidden, corners = torch.randn(8, 16).double(), torch.rand(8, 2).double() * 30
    boxes = torch.cat([corners, corners + 20], dim=1)
    rois, labels = torch.tensor([7, 0, 3, 3, 2, 7, 5, 1, 4, 6]), torch.tensor([4, 0, 1, 2, 1, 4, 3, 0, 2, 1])
    boxes_of = head.decode_class_boxes(hidden, boxes, (40, 45))
    assert not isinstance(boxes_of, torch.Tensor)
    with torch.no_grad():
        torch.testing.assert_close(boxes_of(rois, labels), head.decode(hidden, [boxes], [(40, 45)])[0][rois, labels])


def test_no_row_keeps_the_gradient() -> None:
    weight, bias, none = torch.randn(7, 4, 5, requires_grad=True), torch.randn(7, 4), torch.zeros(0).long()
    (gradient,) = torch.autograd.grad(class_linear(torch.zeros(0, 5), weight, bias, none).sum(), weight)
    assert torch.equal(gradient, torch.zeros_like(weight))
    weight, bias = torch.randn(7, 5, requires_grad=True), torch.randn(7)
    (gradient,) = torch.autograd.grad(class_map(torch.zeros(0, 9, 5), weight, bias, none).sum(), weight)
    assert torch.equal(gradient, torch.zeros_like(weight))


@pytest.mark.parametrize("rois", [5, 70])
def test_mask_logits_equal_deconvolution_and_full_predictor(rois: int) -> None:
    """float32 sums in another order: 1e-5. 70 RoIs are taken in three parts."""
    torch.manual_seed(0)
    head = MaskHead(4, 7, MaskHeadConfig(channels=8, num_convs=2))
    torch.nn.init.normal_(head.upsample.bias)
    torch.nn.init.normal_(head.predictor.bias)
    x, labels = torch.randn(rois, 8, 14, 14, requires_grad=True), torch.tensor([0, 6, 3, 3, 1]).repeat(rois // 5)
    wanted = head.predictor(head.upsample(x).relu())[torch.arange(rois), labels]
    parameters = [x, *head.upsample.parameters(), *head.predictor.parameters()]
    ours = head.predict(x, labels)
    assert ours.shape == (rois, 28, 28)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours.square().mean(), parameters),
        torch.autograd.grad(wanted.square().mean(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_mask_probabilities_in_chunks_equal_all_at_once() -> None:
    torch.manual_seed(0)
    head = MaskHead(4, 7, MaskHeadConfig(channels=8, num_convs=1))
    maps = pyramid(2, 4)
    corners = torch.rand(120, 2) * 30
    boxes = torch.cat([corners, corners + 5 + torch.rand(120, 2) * 25], 1)
    labels = torch.randint(0, 7, (120,))
    second = [level[1:] for level in maps]
    assert get_chunk_size(boxes) < 120
    parts = _in_chunks(head.probabilities, second, boxes, labels)
    with torch.no_grad():
        whole = head(second, [boxes], labels).sigmoid()
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def hand_made_samples() -> list[RoISample]:
    objects = torch.tensor([[10.0, 10, 40, 40], [20, 5, 50, 45]])
    boxes = torch.tensor([[12.0, 10, 40, 42], [20, 8, 50, 45], [0, 0, 10, 10]])
    empty = torch.zeros(0, 4)
    return [
        RoISample(boxes, torch.tensor([1, 4, 6]), torch.tensor([0, 1]), objects, torch.zeros(2).bool()),
        RoISample(boxes[2:], torch.tensor([6]), torch.zeros(0).long(), empty, torch.zeros(0).bool()),
    ]


@pytest.mark.parametrize("agnostic", [False, True])
def test_box_losses_by_definition(agnostic: bool) -> None:
    torch.manual_seed(0)
    head = BoxHead(4, BoxHeadConfig(hidden=16, class_agnostic=agnostic), SoftmaxCE(6))
    torch.nn.init.normal_(head.classifier.weight)
    samples = hand_made_samples()
    losses = head.losses(pyramid(2, 4), samples)
    hidden = head(pyramid(2, 4), [s.boxes for s in samples])
    labels = torch.tensor([1, 4, 6, 6])
    torch.testing.assert_close(losses["loss_cls"], F.cross_entropy(head.classifier(hidden), labels))
    deltas = head.regressor(hidden)[:2].view(2, -1, 4)
    deltas = deltas[:, 0] if agnostic else deltas[torch.arange(2), labels[:2]]
    wanted = encode_boxes(samples[0].object_boxes, samples[0].positive_boxes, stds=(0.1, 0.1, 0.2, 0.2))
    # all four sampled RoIs divide, not the two positive ones
    torch.testing.assert_close(losses["loss_box"], (deltas - wanted).abs().sum() / 4)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_shared_regressor_has_its_share_of_every_class(share: float) -> None:
    """The boxes, the loss and all gradients are those of one regressor alpha W_0 + (1 - alpha) W_j (CAB)."""
    torch.manual_seed(0)
    config = BoxHeadConfig(hidden=16, shared_share=share, first_weights="xavier")
    head = BoxHead(4, config, SoftmaxCE(6)).double()
    assert head.shared_regressor is not None
    assert head.shared_regressor.weight.std().item() == pytest.approx(0.001, rel=0.3)
    for layer in (head.regressor, head.shared_regressor):
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    mixed = {
        name: share * getattr(head.shared_regressor, name).repeat(6, *[1] * (dims - 1))
        + (1 - share) * getattr(head.regressor, name)
        for name, dims in (("weight", 2), ("bias", 1))
    }
    plain = BoxHead(4, BoxHeadConfig(hidden=16), SoftmaxCE(6)).double()
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if "shared" not in k})
    samples, hidden = hand_made_samples(), torch.randn(4, 16).double()
    leaves = [*head.regressor.parameters(), *head.shared_regressor.parameters()]
    loss = head.hidden_losses(hidden, samples)["loss_box"]
    plain.regressor = torch.nn.Module()
    plain.regressor.weight, plain.regressor.bias = mixed["weight"], mixed["bias"]
    wanted = plain.hidden_losses(hidden, samples)["loss_box"]
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradients(loss, leaves), gradients(wanted, leaves))
    flat = torch.nn.functional.linear(hidden, mixed["weight"], mixed["bias"]).view(4, 6, 4)
    torch.testing.assert_close(head.predict_deltas(hidden), flat)


def test_one_box_for_all_classes_has_no_shared_regressor() -> None:
    with pytest.raises(ValueError, match=r"model.box.shared_share is 0.5, and model.box.class_agnostic has one box"):
        BoxHeadConfig(class_agnostic=True, shared_share=0.5)
    assert BoxHead(4, BoxHeadConfig(), SoftmaxCE(6)).shared_regressor is None


def test_mask_loss_is_the_mean_over_positives(make_target: MakeTarget) -> None:
    torch.manual_seed(0)
    head = MaskHead(4, 6, MaskHeadConfig(channels=8, num_convs=1))
    boxes = torch.tensor([[10.0, 10, 38, 38], [0, 0, 10, 10]])
    sample = RoISample(boxes, torch.tensor([2, 6]), torch.tensor([0]), boxes[:1], torch.tensor([False]))
    target = make_target((10.0, 10, 24, 38))
    losses = head.losses(pyramid(1, 4), [sample], [target])
    wanted = torch.zeros(1, 28, 28)
    wanted[:, :, :14] = 1
    logits = head(pyramid(1, 4), [boxes[:1]], torch.tensor([2]))
    torch.testing.assert_close(losses["loss_mask"], F.binary_cross_entropy_with_logits(logits, wanted))


def test_an_object_whose_mask_has_no_pixel_is_left_out_of_the_mask_loss(make_target: MakeTarget) -> None:
    torch.manual_seed(0)
    head = MaskHead(4, 6, MaskHeadConfig(channels=8, num_convs=1))
    boxes = torch.tensor([[10.0, 10, 38, 38], [0, 0, 10, 10]])
    sample = RoISample(boxes, torch.tensor([2, 4]), torch.tensor([0, 1]), boxes, torch.tensor([False, False]))
    target = make_target((10.0, 10, 38, 38), (0.0, 0, 10, 10))
    alone = RoISample(boxes[:1], torch.tensor([2]), torch.tensor([0]), boxes[:1], torch.tensor([False]))
    empty = replace(target, masks=(target.masks[0], ()))
    wanted = head.losses(pyramid(1, 4), [alone], [target])["loss_mask"]
    torch.testing.assert_close(head.losses(pyramid(1, 4), [sample], [empty])["loss_mask"], wanted)
    assert head.losses(pyramid(1, 4), [sample], [target])["loss_mask"] != wanted
    none = head.losses(pyramid(1, 4), [sample], [replace(target, masks=((), ()))])["loss_mask"]
    assert none == 0, "and a step without any mask goes on"
    none.backward()


def test_objects_come_first_and_are_their_own_regions(make_target: MakeTarget) -> None:
    target = make_target((0.0, 0, 20, 20), (30.0, 30, 60, 60))
    proposals = torch.tensor([[31.0, 30, 60, 60], [0, 40, 10, 50], [100, 100, 110, 110]])
    (sample,) = sample_rois([proposals], [target], 6, BoxHeadConfig())
    assert sample.boxes.tolist() == [*target.boxes.tolist(), *proposals.tolist()]
    assert sample.labels.tolist() == [0, 1, 1, 6, 6]
    assert sample.objects.tolist() == [0, 1, 1]
    assert sample.added.tolist() == [True, True, False]
    assert torch.equal(sample.object_boxes, target.boxes[[0, 1, 1]])


def test_an_objects_own_box_does_not_take_the_low_quality_match(make_target: MakeTarget) -> None:
    """Matched before the objects are added, as published.

    The proposal overlaps the objects by 0.6, 0.55 and 0.5 and is the best that each of them has: low-quality matching
    gives it to the last one, whose best would be its own box if that stood among the proposals.
    """
    target = make_target((0.0, 0, 10, 6), (0.0, 0, 10, 5.5), (0.0, 0, 10, 20))
    proposals = torch.tensor([[0.0, 0, 10, 10]])
    config = BoxHeadConfig()
    (sample,) = sample_rois([proposals], [target], 6, config)
    assert sample.objects.tolist() == [0, 1, 2, 2]


def test_counts_are_those_of_the_config(make_target: MakeTarget) -> None:
    torch.manual_seed(0)
    target = make_target(*[(10.0 * k, 0.0, 10.0 * k + 9, 9.0) for k in range(20)])
    background = torch.rand(200, 2) * 40 + 50
    proposals = torch.cat([background, background + 10], 1)
    (sample,) = sample_rois([proposals], [target], 30, BoxHeadConfig(rois_per_image=40, positive_fraction=0.25))
    assert len(sample.boxes) == 40
    assert sample.num_positive == 10
    assert (sample.labels[10:] == 30).all()


def test_no_background_roi_inside_a_crowd(make_target: MakeTarget) -> None:
    target = make_target((0.0, 0, 20, 20), ignore=[(30.0, 30, 60, 60)])
    proposals = torch.tensor([[31.0, 31, 50, 50], [100, 100, 110, 110]])
    (sample,) = sample_rois([proposals], [target], 6, BoxHeadConfig())
    assert sample.boxes.tolist() == [[0, 0, 20, 20], [100, 100, 110, 110]]


def test_no_proposal_and_no_object(make_target: MakeTarget) -> None:
    (sample,) = sample_rois([torch.zeros(0, 4)], [make_target()], 6, BoxHeadConfig())
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)
    assert sample.num_positive == 0


def test_best_detections_by_class_and_score() -> None:
    """Two regions, a regressor of zeros: boxes are the regions, scores the loss's; NMS works within classes."""
    head = BoxHead(4, BoxHeadConfig(hidden=16), SigmoidCE(2))
    for layer in (head.regressor, head.classifier):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        head.classifier.bias.copy_(torch.tensor([0.0, 2.0]))
    regions = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 19]])
    (found,) = head.detect(pyramid(1, 4), [regions], [(64, 64)], [(128, 32)], DetectionConfig())
    assert found.labels.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 0.0]).sigmoid())
    assert found.boxes.tolist() == [[0, 0, 10, 40], [0, 0, 10, 40]]
