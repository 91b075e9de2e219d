"""Losses in torchvision's detectors: the own loss is torchvision's to 1e-6, and every other loss trains and scores."""

import copy
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.raw_data import RawDataset
from torch import Tensor, nn
from torchvision.models.detection import (
    FCOS,
    FasterRCNN,
    KeypointRCNN,
    MaskRCNN,
    RetinaNet,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign

from tailseg.interop import read_classes
from tailseg.interop.torchvision import use_loss
from tailseg.losses import (
    LOSSES,
    BinaryLoss,
    DropLoss,
    EQLv2,
    EqualizedFocalLoss,
    FocalLoss,
    GumbelCE,
    SoftmaxCE,
    build_loss,
)
from tailseg.structures import ClassFrequency

pytestmark = pytest.mark.usefixtures("one_thread")

C = 5
FREQUENCY = ClassFrequency.from_counts(torch.tensor([900, 90, 40, 9, 2]), torch.tensor([2000, 99, 80, 9, 3]), 1000)
SIZE = 64


class Backbone(nn.Module):
    """Two feature maps of stride 8 and 16."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, stride=8, padding=1)
        self.second = nn.Conv2d(32, 32, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        fine = self.first(images).relu()
        return OrderedDict([("0", fine), ("1", self.second(fine).relu())])


def anchors(*ratios: float) -> AnchorGenerator:
    return AnchorGenerator(((16,), (32,)), (ratios,) * 2)


def rcnn_parts(num_classes: int) -> dict[str, object]:
    return {
        "rpn_anchor_generator": anchors(0.5, 1.0, 2.0),
        "box_roi_pool": MultiScaleRoIAlign(["0", "1"], 7, 2),
        "box_head": FastRCNNConvFCHead((32, 7, 7), [], [16]),
        "box_predictor": FastRCNNPredictor(16, num_classes),
        "rpn_post_nms_top_n_train": 50,
        "rpn_post_nms_top_n_test": 20,
        "box_score_thresh": 0.0,
    }


def build(kind: str, num_classes: int = C + 1) -> nn.Module:
    """A tiny detector with random weights."""
    torch.manual_seed(0)
    sizes = {"min_size": SIZE, "max_size": 2 * SIZE}
    if kind == "retinanet":
        return RetinaNet(Backbone(), num_classes, anchor_generator=anchors(0.5, 1.0), score_thresh=0.0, **sizes)
    if kind == "fcos":
        return FCOS(Backbone(), num_classes, anchor_generator=anchors(1.0), score_thresh=0.0, **sizes)
    parts = rcnn_parts(num_classes)
    if kind == "faster":
        return FasterRCNN(Backbone(), **parts, **sizes)
    pool, head = MultiScaleRoIAlign(["0", "1"], 14, 2), nn.Sequential(nn.Conv2d(32, 8, 3, padding=1), nn.ReLU())
    if kind == "mask":
        predictor = MaskRCNNPredictor(8, 8, num_classes)
        return MaskRCNN(Backbone(), mask_roi_pool=pool, mask_head=head, mask_predictor=predictor, **parts, **sizes)
    predictor = KeypointRCNNPredictor(8, 2)
    return KeypointRCNN(
        Backbone(), keypoint_roi_pool=pool, keypoint_head=head, keypoint_predictor=predictor, **parts, **sizes
    )


def make_batch(first_label: int = 1) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images with objects of several sizes, and one without objects."""
    torch.manual_seed(1)
    images = [torch.rand(3, SIZE, SIZE) for _ in range(3)]
    boxes = [
        torch.tensor([[4.0, 4.0, 24.0, 20.0], [30.0, 10.0, 60.0, 44.0], [8.0, 36.0, 20.0, 50.0]]),
        torch.tensor([[10.0, 12.0, 44.0, 48.0]]),
        torch.zeros(0, 4),
    ]
    labels = [torch.tensor([0, 3, 4]), torch.tensor([0]), torch.zeros(0, dtype=torch.int64)]
    targets = []
    for own_boxes, own_labels in zip(boxes, labels, strict=True):
        bitmaps = torch.zeros(len(own_boxes), SIZE, SIZE, dtype=torch.uint8)
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, own_boxes.int().tolist(), strict=True):
            bitmap[y1:y2, x1:x2] = 1
        centers = (own_boxes[:, :2] + own_boxes[:, 2:]) / 2
        keypoints = torch.cat([centers, torch.ones(len(centers), 1)], dim=1)[:, None].repeat(1, 2, 1)
        targets.append(
            {"boxes": own_boxes, "labels": own_labels + first_label, "masks": bitmaps, "keypoints": keypoints}
        )
    return images, targets


def compute_losses(model: nn.Module, first_label: int = 1) -> dict[str, Tensor]:
    """The losses of the batch in the model's type, and their gradients in the parameters."""
    images, targets = make_batch(first_label)
    dtype = next(model.parameters()).dtype
    images = [image.to(dtype) for image in images]
    targets = [target | {"boxes": target["boxes"].to(dtype)} for target in targets]
    torch.manual_seed(2)  # regions are sampled
    losses = model.train()(images, targets)
    model.zero_grad()
    torch.stack([*losses.values()]).sum().backward()
    return losses


RCNNS = ["faster", "mask", "keypoint"]
DENSE = ["retinanet", "fcos"]


def scale_up(model: nn.Module) -> None:
    """Makes the logits differ from region to region: fresh classifiers have nearly the same everywhere."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "cls_score" in name or "cls_logits" in name:
                parameter.add_(torch.randn(parameter.shape) * 0.5)


@pytest.mark.parametrize("kind", [*RCNNS, *DENSE])
def test_own_loss_is_torchvisions(kind: str) -> None:
    """Softmax and focal loss: the losses, the gradient of every parameter and the detections are torchvision's.

    In float64: in float32, sums over regions in another order differ by more than 1e-6.
    """
    first_label = 0 if kind in DENSE else 1  # of RetinaNet and FCOS with C columns: no column without a class
    theirs = build(kind, C + first_label).double()
    scale_up(theirs)
    ours = copy.deepcopy(theirs)
    use_loss(ours, FocalLoss(C) if kind in DENSE else SoftmaxCE(C), reset_bias=False)

    expected, computed = compute_losses(theirs, first_label), compute_losses(ours, first_label)
    assert [*computed] == [*expected]
    for name, value in expected.items():
        torch.testing.assert_close(computed[name], value, rtol=1e-6, atol=1e-6)
    own = dict(ours.named_parameters())
    assert own.keys() == dict(theirs.named_parameters()).keys()
    for name, parameter in theirs.named_parameters():
        gradient = own[name].grad
        if "cls_score" in name:  # background is their first row and our last one
            gradient = gradient.roll(1, 0)
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=1e-6)

    images = [image.double() for image in make_batch()[0]]
    with torch.no_grad():
        detected, wanted = (model.eval()(images) for model in (ours, theirs))
    assert sum(len(one["labels"]) for one in wanted) > 20
    for one, other in zip(detected, wanted, strict=True):
        assert [*one] == [*other]
        for name, value in other.items():
            torch.testing.assert_close(one[name], value, rtol=1e-6, atol=1e-6)


def test_retinanet_ignores_anchors_between_the_thresholds() -> None:
    """The batch has such anchors, so that the comparison with torchvision covers them."""
    model = build("retinanet")
    seen = []
    compute = model.head.classification_head.compute_loss
    model.head.classification_head.compute_loss = lambda targets, outputs, matched: (
        seen.extend(matched),
        compute(targets, outputs, matched),
    )[1]
    compute_losses(model)
    assert {-2, -1, 0} <= set(torch.cat(seen).tolist())


@pytest.mark.parametrize("kind", DENSE)
def test_labels_from_0(kind: str) -> None:
    """A model with C columns has the labels 0 .. C-1: the loss of a model with C + 1 columns and labels from 1."""
    from_1, from_0 = build(kind, C + 1), build(kind, C)
    from_0.load_state_dict(
        {
            name: value[first_columns(value)] if "cls_logits" in name else value
            for name, value in from_1.state_dict().items()
        }
    )
    for model in (from_1, from_0):
        use_loss(model, GumbelCE(C, background=False), reset_bias=False)
    one, other = compute_losses(from_1, 1), compute_losses(from_0, 0)
    torch.testing.assert_close(one["classification"], other["classification"], rtol=1e-6, atol=0)
    with torch.no_grad():
        first, second = (model.eval()(make_batch()[0][:1])[0] for model in (from_1, from_0))
    assert set(first["labels"].tolist()) <= set(range(1, C + 1))
    torch.testing.assert_close(first["labels"] - 1, second["labels"], rtol=0, atol=0)
    torch.testing.assert_close(first["scores"], second["scores"])


def first_columns(value: Tensor) -> Tensor:
    """The rows of a dense classifier's layer without those of its first column."""
    rows = torch.arange(len(value)).view(-1, C + 1)[:, 1:]
    return rows.flatten()


@pytest.mark.parametrize("kind", ["faster", *DENSE])
def test_scores_are_those_of_the_link(kind: str) -> None:
    """The best detection's score is the Gumbel probability of its logit, not the sigmoid; no label is background."""
    model, loss = build(kind), GumbelCE(C, background=kind == "faster")
    use_loss(model, loss, reset_bias=True)
    scale_up(model)
    logits = []
    layer = model.roi_heads.box_predictor if kind == "faster" else model.head.classification_head
    layer.register_forward_hook(lambda _, __, output: logits.append(output[0] if kind == "faster" else output))
    centerness = []
    if kind == "fcos":
        model.head.regression_head.register_forward_hook(lambda _, __, output: centerness.append(output[1].sigmoid()))
    with torch.no_grad():
        (detections,) = model.eval()(make_batch()[0][:1])
    scores = torch.exp(-torch.exp(-(logits[0][:, :C] if kind == "faster" else logits[0][..., 1:])))
    if centerness:
        scores = (scores * centerness[0]).sqrt()
    torch.testing.assert_close(detections["scores"][0], scores.max(), rtol=1e-5, atol=0)
    assert int(detections["labels"].min()) >= 1
    assert int(detections["labels"].max()) <= C


def test_a_class_is_found_with_the_box_of_its_own_label() -> None:
    """Class j of the loss, label j + 1 of torchvision, has the deltas 4 (j + 1) .. 4 (j + 1) + 3."""
    model, loss = build("faster", 4), GumbelCE(3)
    use_loss(model, loss, reset_bias=True)
    deltas = torch.zeros(1, 4, 4)
    deltas[0, :, 0] = torch.tensor([9.0, 1.0, 2.0, 3.0])  # to the right by tenths of the width; 9 is background's
    logits = torch.tensor([[0.0, 1.0, 2.0, 5.0]])  # three classes and background
    proposals = [torch.tensor([[10.0, 10.0, 20.0, 20.0]])]
    boxes, scores, labels = model.roi_heads.postprocess_detections(logits, deltas.flatten(1), proposals, [(99, 99)])
    assert labels[0].tolist() == [3, 2, 1]
    torch.testing.assert_close(boxes[0][:, 0], torch.tensor([13.0, 12.0, 11.0]))
    torch.testing.assert_close(scores[0], loss.scores(logits)[0].flip(0))


@pytest.mark.parametrize("kind", ["mask", *DENSE])
def test_images_without_objects_are_all_background(kind: str) -> None:
    model = build(kind)
    use_loss(model, GumbelCE(C, background=kind == "mask"), reset_bias=True)
    (image, *_), (*_, nothing) = make_batch()
    losses = model.train()([image] * 2, [nothing] * 2)
    assert losses["loss_classifier" if kind == "mask" else "classification"] > 0
    assert losses["loss_box_reg" if kind == "mask" else "bbox_regression"] == 0
    torch.stack([*losses.values()]).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["mask", *DENSE])
def test_gumbel_trains(kind: str, dtype: torch.dtype) -> None:
    """The loss falls, is finite and is computed in float32."""
    model = build(kind)
    use_loss(model, GumbelCE(FREQUENCY, background=kind == "mask"), reset_bias=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    images, targets = make_batch()
    history = []
    for _ in range(12):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = model.train()(images, targets)
        term = losses["loss_classifier" if kind == "mask" else "classification"]
        assert term.dtype == torch.float32
        history.append(term.item())
        optimizer.zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        optimizer.step()
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_in_an_rcnn(name: str) -> None:
    """One step and detections with every loss; no graph is kept after it."""
    loss = build_loss(LOSSES[name], FREQUENCY)
    model = build("faster")
    use_loss(model, loss, reset_bias=True)
    losses = compute_losses(model)
    assert [*losses] == ["loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"]
    assert all(bool(value.isfinite()) for value in losses.values())
    classifier = model.roi_heads.box_predictor
    assert float(classifier.cls_score.weight.grad.abs().max()) > 0
    assert classifier.logits is None
    with torch.no_grad():
        (detections,) = model.eval()(make_batch()[0][:1])
    assert float(detections["scores"].max()) <= 1


BINARY: dict[str, Callable[[], BinaryLoss]] = {
    "gumbel": lambda: GumbelCE(FREQUENCY, background=False),
    "gol": lambda: DropLoss(FREQUENCY, tail="rc"),
    "eqlv2": lambda: EQLv2(FREQUENCY, background=False),
    "efl": lambda: EqualizedFocalLoss(FREQUENCY),
    "focal over gumbel": lambda: FocalLoss(FREQUENCY, link="gumbel"),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", DENSE)
def test_losses_in_dense_heads(kind: str, name: str) -> None:
    """The first step starts at the loss's prior; a state is kept with the model's state dict."""
    model, loss = build(kind), BINARY[name]()
    use_loss(model, loss, reset_bias=True)
    bias = model.head.classification_head.cls_logits.bias.detach().view(-1, C + 1)
    torch.testing.assert_close(bias[:, 1:], loss.init_bias().expand(len(bias), C))
    losses = compute_losses(model)
    assert all(bool(value.isfinite()) for value in losses.values())
    if name in ("efl", "eqlv2"):
        assert float(loss.gradient_sums.min()) >= 0
        assert float(loss.gradient_sums.sum()) > 0
        again = build(kind)
        use_loss(again, BINARY[name](), reset_bias=True)
        again.load_state_dict(model.state_dict())
        assert torch.equal(again.head.classification_head.loss.gradient_sums, loss.gradient_sums)


def test_rows_are_kept_for_a_loss_without_background() -> None:
    """The row of background is left out if the loss has no logit for it."""
    model = build("faster")
    old = model.roi_heads.box_predictor.cls_score.weight.detach().clone()
    use_loss(model, FocalLoss(C), reset_bias=False)
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, old[1:])


@pytest.mark.parametrize(
    ("kind", "loss", "message"),
    [
        ("faster", SoftmaxCE(C + 1), "build the model with num_classes=7"),
        ("retinanet", FocalLoss(C + 2), "num_classes=8 for labels from 1, or 7 for labels from 0"),
    ],
)
def test_other_numbers_of_classes_are_refused(kind: str, loss: BinaryLoss, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        use_loss(build(kind), loss, reset_bias=True)


@pytest.mark.parametrize("loss", [SoftmaxCE(C), GumbelCE(C)])
def test_a_dense_head_refuses_background(loss: nn.Module) -> None:
    with pytest.raises(TypeError, match="6 logits for 5 classes: set background=False"):
        use_loss(build("retinanet"), loss, reset_bias=True)


def test_unknown_models_and_heads_are_refused() -> None:
    """A head with methods of its own keeps them: the model is not changed."""
    with pytest.raises(TypeError, match="got Linear"):
        use_loss(nn.Linear(1, 1), FocalLoss(C), reset_bias=True)

    class OwnHeads(RoIHeads):
        pass

    model = build("faster")
    model.roi_heads.__class__ = OwnHeads
    with pytest.raises(TypeError, match="torchvision's RoIHeads, got OwnHeads"):
        use_loss(model, FocalLoss(C), reset_bias=True)
    assert type(model.roi_heads.box_predictor) is FastRCNNPredictor
    model = build("faster")
    model.roi_heads.box_predictor = nn.Identity()
    with pytest.raises(TypeError, match="linear layer cls_score"):
        use_loss(model, FocalLoss(C), reset_bias=True)


def test_a_second_loss_is_refused() -> None:
    model = build("fcos")
    use_loss(model, FocalLoss(C), reset_bias=True)
    with pytest.raises(ValueError, match="has a loss of tailseg already"):
        use_loss(model, FocalLoss(C), reset_bias=True)


@pytest.mark.parametrize("kind", ["faster", *DENSE])
def test_labels_out_of_range_are_refused(kind: str) -> None:
    """torchvision takes an object with the label 0 for background, or for a class that does not exist."""
    model = build(kind)
    use_loss(model, FocalLoss(C), reset_bias=True)
    with pytest.raises(ValueError, match=r"labels of this model are 1 \.\. 5, got 0 \.\. 4 .* add 1 to labels from 0"):
        compute_losses(model, first_label=0)


def test_the_block_for_mask_rcnn(many: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user writes: the classes of the annotation file, a model, and one call; the rest is torchvision's."""
    (tmp_path / "train.json").write_text(json.dumps(many))
    monkeypatch.chdir(tmp_path)
    images, targets = make_batch()
    targets = [target | {"labels": target["labels"].clamp(max=2)} for target in targets]

    categories, frequency = read_classes("train.json")
    loss = DropLoss(frequency, tail="rc")
    model = maskrcnn_resnet50_fpn(
        num_classes=len(categories) + 1, weights_backbone=None, box_score_thresh=1e-4, min_size=SIZE, max_size=SIZE
    )
    use_loss(model, loss, reset_bias=True)
    model.train()
    losses = model(images[:1], targets[:1])  # labels 1 .. C
    sum(losses.values()).backward()

    assert loss.num_classes == len(categories)
    assert model.roi_heads.box_predictor.cls_score.weight.grad is not None


def test_the_block_for_retinanet(many: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.json").write_text(json.dumps(many))
    monkeypatch.chdir(tmp_path)
    images, targets = make_batch()
    targets = [target | {"labels": target["labels"].clamp(max=2)} for target in targets]

    categories, frequency = read_classes("train.json")
    loss = FocalLoss(frequency, link="gumbel")
    model = retinanet_resnet50_fpn_v2(
        num_classes=len(categories) + 1, weights_backbone=None, score_thresh=1e-3, min_size=SIZE, max_size=SIZE
    )
    use_loss(model, loss, reset_bias=True)
    model.train()
    losses = model(images, targets)  # labels 1 .. C
    sum(losses.values()).backward()

    assert model.head.classification_head.cls_logits.weight.grad is not None


def test_a_copy_is_independent() -> None:
    """copy.deepcopy, as for a moving average of the weights, copies the loss too."""
    model = build("retinanet")
    use_loss(model, EqualizedFocalLoss(C), reset_bias=True)
    twin = copy.deepcopy(model)
    compute_losses(twin)
    assert float(model.head.classification_head.loss.gradient_sums.sum()) == 0
    assert float(twin.head.classification_head.loss.gradient_sums.sum()) > 0
