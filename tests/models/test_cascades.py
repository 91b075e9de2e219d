"""Cascade Mask R-CNN and Hybrid Task Cascade: stage by stage, and the edges where there is nothing."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tailseg.losses import GumbelCE, SeesawLoss, SoftmaxCE
from tailseg.models import (
    BoxHeadConfig,
    CascadeConfig,
    CascadeMaskRCNN,
    CascadeStageConfig,
    Detector,
    FasterRCNN,
    HTCConfig,
    HybridTaskCascade,
    MaskHeadConfig,
    MaskRCNN,
    ModelConfig,
    RPNConfig,
    build_detector,
    cascade_mask_rcnn,
    hybrid_task_cascade,
)
from tailseg.models.box_cascade import BoxCascade, stage_losses
from tailseg.models.htc import MaskFlow
from tailseg.models.sampling import RoISample
from tailseg.structures import Target

Build = Callable[..., Detector]
MakeImage = Callable[..., Tensor]
MakeTarget = Callable[..., Target]
BOXES = ((5.0, 5.0, 45.0, 40.0), (30.0, 20.0, 60.0, 62.0), (2.0, 40.0, 20.0, 60.0))
HEAD_LOSSES = {f"loss_{kind}_{stage}" for kind in ("cls", "box", "mask") for stage in range(3)}


@pytest.fixture(params=["cascade", "htc"])
def config(request: pytest.FixtureRequest, small_config: ModelConfig) -> ModelConfig:
    cascade = CascadeConfig() if request.param == "cascade" else HTCConfig()
    return replace(small_config, box=replace(small_config.box, class_agnostic=True), cascade=cascade)


def backward(losses: dict[str, Tensor]) -> None:
    torch.stack(list(losses.values())).sum().backward()


def assert_whole_gradient(model: nn.Module) -> None:
    """DDP waits for every trained parameter: none may be left without a (finite) gradient."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def no_proposals(model: Detector) -> None:
    """Every anchor's box collapses far outside the image."""
    nn.init.zeros_(model.rpn.box_deltas.weight)
    with torch.no_grad():
        model.rpn.box_deltas.bias.copy_(torch.tensor([-1000.0, -1000.0, 0, 0]).repeat(3))


def test_the_config_chooses_the_detector(small_config: ModelConfig, config: ModelConfig, build: Build) -> None:
    expected = CascadeMaskRCNN if isinstance(config.cascade, CascadeConfig) else HybridTaskCascade
    assert type(build(config)) is expected
    assert type(build(small_config)) is MaskRCNN
    assert type(build(replace(small_config, mask=None))) is FasterRCNN


def test_every_stage_has_its_losses_and_every_parameter_its_gradient(
    config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    model = build(config)
    losses = model([make_image(64, 64), make_image(50, 70, 1)], [make_target(*BOXES), make_target(BOXES[0])])
    assert losses.keys() == HEAD_LOSSES | {"loss_rpn_cls", "loss_rpn_box"}
    assert all(value.ndim == 0 and value.isfinite() and value >= 0 for value in losses.values())
    backward(losses)
    assert_whole_gradient(model)
    for name, parameter in model.named_parameters():
        if "mask" in name and name.endswith("weight"):
            assert parameter.grad is not None
            assert parameter.grad.any(), name


def test_images_without_objects(
    config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    model = build(config)
    losses = model([make_image(64, 64)] * 2, [make_target(), make_target()])
    for stage in range(3):
        assert losses[f"loss_box_{stage}"] == losses[f"loss_mask_{stage}"] == 0
        assert losses[f"loss_cls_{stage}"] > 0
    backward(losses)
    assert_whole_gradient(model)


def test_no_proposals_and_no_objects(
    config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    model = build(config)
    no_proposals(model)
    losses = model([make_image(64, 64)], [make_target()])
    assert all(losses[name] == 0 for name in HEAD_LOSSES)
    backward(losses)
    assert_whole_gradient(model)
    (found,) = model.eval()([make_image(64, 64)])
    assert len(found) == 0
    assert found.masks == ()


def test_objects_are_trained_at_every_stage_without_proposals(
    config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    """The objects' own boxes are added to each stage's samples."""
    model = build(config)
    no_proposals(model)
    losses = model([make_image(64, 64)], [make_target(*BOXES)])
    assert all(losses[f"loss_cls_{stage}"] > 0 and losses[f"loss_mask_{stage}"] > 0 for stage in range(3))


@pytest.mark.parametrize("box", [(3.0, 3.0, 3.0, 3.0), (0.0, 0.0, 64.0, 64.0), (63.5, 63.5, 64.0, 64.0)])
def test_degenerate_and_extreme_objects(
    config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget, box: tuple[float, ...]
) -> None:
    model = build(config)
    losses = model([make_image(64, 64)], [make_target(box)])
    assert all(value.isfinite() for value in losses.values())
    backward(losses)
    assert_whole_gradient(model)


def test_detections_are_in_pixels_of_the_original_file(
    config: ModelConfig, build: Build, make_image: MakeImage
) -> None:
    model = build(config).eval()
    (found,) = model([make_image(50, 70)], original_sizes=[(25, 140)])
    assert 0 < len(found) <= config.postprocess.max_detections
    assert found.scores.diff().le(0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([140, 25, 140, 25])).all()
    assert found.masks is not None
    assert {tuple(mask["size"]) for mask in found.masks} == {(25, 140)}
    assert not found.scores.requires_grad


def test_same_seed_same_step(config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget) -> None:
    """Resuming to the bit needs it."""
    steps = []
    for _ in range(2):
        model = build(config)
        torch.manual_seed(1)
        backward(model([make_image(64, 64)], [make_target(*BOXES)]))
        steps.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_bfloat16_autocast_keeps_losses_in_float32(
    config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    """The first stage's losses to 5 %, for bfloat16 has 8 bits; later ones see boxes refined in other digits.

    Sixteen channels at least, see the same test of Mask R-CNN.
    """
    model = build(replace(config, backbone=replace(config.backbone, base_width=16)))
    arguments = [make_image(64, 64)], [make_target(*BOXES)]
    torch.manual_seed(1)
    wide = model(*arguments)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model(*arguments)
    for name, value in narrow.items():
        assert value.dtype == torch.float32, name
        if name.endswith("_0"):
            torch.testing.assert_close(value, wide[name], rtol=0.05, atol=0.05)
    backward(narrow)
    assert_whole_gradient(model)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = model.eval()([make_image(64, 64)])
    assert found.scores.dtype == found.boxes.dtype == torch.float32


@pytest.mark.slow
def test_overfits_one_image(config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget) -> None:
    """80 steps on one image find its three objects."""
    config = replace(config, backbone=replace(config.backbone, frozen_stages=0, fixed_norm=False))
    model, target = build(config), make_target(*BOXES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)  # any seed learns; SGD's first steps are luck
    image = torch.zeros(3, 64, 64)
    for k, (x1, y1, x2, y2) in enumerate(BOXES):
        image[k, int(y1) : int(y2), int(x1) : int(x2)] = 255
    for _ in range(80):
        optimizer.zero_grad()
        backward(model([image, image], [target, target]))
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    (found,) = model.eval()([image])
    assert sorted(found.labels[:3].tolist()) == [0, 1, 2]
    assert found.scores[:3].min() > 0.5


def test_a_state_of_its_own_for_every_stage(
    config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    """Seesaw counts what it sees: each stage its own samples, and the loss given stays as it was."""
    loss = SeesawLoss(6)
    model = build(config, loss)
    model([make_image(64, 64)], [make_target(*BOXES)])
    counts = [model.box_cascade.get_head(stage).loss.cum_samples for stage in range(3)]
    before = SeesawLoss(6).cum_samples
    assert all(not torch.equal(count, before) for count in counts)
    assert len({count.data_ptr() for count in counts}) == 3
    assert torch.equal(loss.cum_samples, before)


def small_box_cascade(**changes: object) -> BoxCascade:
    torch.manual_seed(0)
    settings = replace(BoxHeadConfig(hidden=16, class_agnostic=True, finest_scale=8.0), **changes)
    cascade = BoxCascade(4, settings, CascadeConfig().later_stages, SoftmaxCE(6))
    for stage in range(3):
        nn.init.normal_(cascade.get_head(stage).classifier.weight)
    return cascade


def pyramid(batch: int, channels: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(batch, channels, 64 // s, 64 // s, generator=generator) for s in (4, 8, 16, 32)]


def test_stages_differ_as_published() -> None:
    cascade = small_box_cascade(allow_low_quality_matches=False)
    configs = [cascade.get_head(stage).config for stage in range(3)]
    assert [c.positive_iou for c in configs] == [0.5, 0.6, 0.7]
    assert [c.target_stds[0] for c in configs] == [0.1, 0.05, 0.033]
    assert cascade.loss_weights == (1.0, 0.5, 0.25)
    assert not any(c.allow_low_quality_matches for c in configs)
    losses = {"loss_cls": torch.tensor(3.0)}
    assert stage_losses(losses, 1, 0.5) == {"loss_cls_1": torch.tensor(1.5)}


def test_refined_boxes_are_those_of_the_proposals_alone() -> None:
    """Two objects' own boxes of three positives go; the third positive and the background are refined and clipped."""
    cascade = small_box_cascade()
    head = cascade.get_head(0)
    boxes = torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60], [31, 30, 60, 60], [40, 0, 64, 20]])
    sample = RoISample(
        boxes, torch.tensor([0, 1, 1, 6]), torch.tensor([0, 1, 1]), boxes[[0, 1, 1]], torch.tensor([True, True, False])
    )
    losses, (refined,) = cascade.train_stage(0, pyramid(1, 4), [sample], [(62, 63)])
    (wanted,) = head.decode(head(pyramid(1, 4), [boxes]), [boxes], [(62, 63)])
    assert torch.equal(refined, wanted[2:])
    assert not refined.requires_grad
    assert (refined <= torch.tensor([63, 62, 63, 62])).all()
    assert losses.keys() == {"loss_cls", "loss_box"}


def test_scores_are_the_activation_of_the_mean_logits() -> None:
    """By hand: three heads in a row, logits averaged, softmax once; boxes of the last."""
    cascade, maps = small_box_cascade().eval(), pyramid(1, 4)
    config = ModelConfig().test
    boxes = torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60]])
    (found,) = cascade.detect(maps, [boxes], [(64, 64)], [(64, 64)], replace(config, nms_iou=1.0))
    logits = []
    with torch.no_grad():
        for stage in range(3):
            head = cascade.get_head(stage)
            hidden = head(maps, [boxes])
            logits.append(head.classifier(hidden))
            (boxes,) = head.decode(hidden, [boxes], [(64, 64)])
        scores = F.softmax(sum(logits) / 3, dim=1)[:, :6]
    expected = scores[scores > config.score_threshold].sort(descending=True).values
    torch.testing.assert_close(found.scores, expected, rtol=1e-5, atol=1e-6)
    assert {tuple(box) for box in found.boxes.tolist()} <= {tuple(box) for box in boxes.tolist()}


def test_cascade_masks_are_the_mean_of_the_stages(config: ModelConfig, build: Build) -> None:
    model = build(config)
    maps, labels = pyramid(1, 16), torch.tensor([0, 3])
    boxes = [torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60]])]
    if isinstance(model, HybridTaskCascade):
        stages = [model.mask_flow(maps, boxes, labels, stage=stage).sigmoid() for stage in range(3)]
        last = build(replace(config, cascade=HTCConfig(test_masks="last")))
        torch.testing.assert_close(last.mask_probabilities(maps, boxes, labels), stages[2])
    else:
        stages = [model.mask_head(stage)(maps, boxes, labels).sigmoid() for stage in range(3)]
    torch.testing.assert_close(model.mask_probabilities(maps, boxes, labels), sum(stages) / 3)
    assert not torch.equal(stages[0], stages[1])


def test_mask_features_flow_from_head_to_head() -> None:
    """Written out: x + relu(conv(f)) into each later head; gradient of the last reaches the first."""
    torch.manual_seed(0)
    flow = MaskFlow(4, 6, MaskHeadConfig(channels=8, num_convs=1), num_stages=3)
    pooled = torch.randn(2, 4, 14, 14)
    f0 = flow.get_head(0).convs[0](pooled).relu()
    f1 = flow.get_head(1).convs[0](pooled + flow.convs[0](f0).relu()).relu()
    f2 = flow.get_head(2).convs[0](pooled + flow.convs[1](f1).relu()).relu()
    features = flow.features(pooled, stage=2)
    for ours, wanted in zip(features, (f0, f1, f2), strict=True):
        torch.testing.assert_close(ours, wanted)
    assert len(flow.features(pooled, stage=0)) == 1
    features[2].square().sum().backward()
    assert flow.get_head(0).convs[0].weight.grad.any()
    assert [name for name, _ in flow.named_parameters() if name.startswith("convs.")] == [
        "convs.0.weight",
        "convs.0.bias",
        "convs.1.weight",
        "convs.1.bias",
    ]


def test_published_settings() -> None:
    cascade, htc = cascade_mask_rcnn(), hybrid_task_cascade()
    assert cascade.rpn == replace(RPNConfig(), train_post_nms=2000, border=0.0, smooth_l1_beta=1 / 9)
    assert cascade.box == BoxHeadConfig(allow_low_quality_matches=False, class_agnostic=True, smooth_l1_beta=1.0)
    assert htc == replace(
        cascade, box=replace(cascade.box, allow_low_quality_matches=True), cascade=HTCConfig(test_masks="mean")
    )


def test_as_many_stages_as_wanted(
    config: ModelConfig, build: Build, make_image: MakeImage, make_target: MakeTarget
) -> None:
    config = replace(config, cascade=replace(config.cascade, later_stages=config.cascade.later_stages[:1]))
    model = build(config)
    losses = model([make_image(64, 64)], [make_target(*BOXES)])
    assert sorted(name for name in losses if "mask" in name) == ["loss_mask_0", "loss_mask_1"]
    backward(losses)
    assert_whole_gradient(model)
    assert len(model.eval()([make_image(64, 64)])) == 1


@pytest.mark.parametrize("config_class", [CascadeConfig, HTCConfig])
def test_a_cascade_has_a_later_stage(config_class: type) -> None:
    with pytest.raises(ValueError, match="at least one stage after the first"):
        config_class(later_stages=())


@pytest.mark.parametrize(("iou", "std", "weight"), [(0.0, 0.1, 1.0), (1.0, 0.1, 1.0), (0.5, 0.0, 1.0), (0.5, 0.1, 0.0)])
def test_impossible_stages_are_refused(iou: float, std: float, weight: float) -> None:
    with pytest.raises(
        ValueError, match=r"model\.cascade\.later_stages\.N\.(positive_iou|target_stds|loss_weight) is "
    ):
        CascadeStageConfig(positive_iou=iou, target_stds=(std, 0.1, 0.1, 0.1), loss_weight=weight)


def test_settings_that_do_not_go_together_are_refused(config: ModelConfig, small_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="box.class_agnostic=True, got False"):
        build_detector(replace(config, box=small_config.box), GumbelCE(6))
    if isinstance(config.cascade, HTCConfig):
        with pytest.raises(ValueError, match="mask=None"):
            build_detector(replace(config, mask=None), GumbelCE(6))
    with pytest.raises(ValueError, match=r"start from cascade_mask_rcnn\(\)"):
        CascadeMaskRCNN(small_config, GumbelCE(6))
    with pytest.raises(ValueError, match=r"start from hybrid_task_cascade\(\)"):
        HybridTaskCascade(small_config, GumbelCE(6))
    with pytest.raises(ValueError, match=r"cascade=.*use build_detector"):
        MaskRCNN(config, GumbelCE(6))


@pytest.mark.parametrize("config_class", [RPNConfig, BoxHeadConfig])
def test_a_negative_beta_is_refused(config_class: type) -> None:
    with pytest.raises(ValueError, match=r"smooth_l1_beta is 0 or more, got -1\.0"):
        config_class(smooth_l1_beta=-1.0)


def test_weights_that_are_nan_give_losses_that_are_nan_and_no_detections(
    build: Build, config: ModelConfig, make_image: MakeImage, make_target: MakeTarget
) -> None:
    """Training then names the step and the images: boxes of NaN, which belong to no level, must not end it before."""
    model = build(config)
    nn.init.constant_(model.box_cascade.heads[0].fc1.bias, torch.nan)
    losses = model([make_image(64, 64)], [make_target(*BOXES)])
    assert losses["loss_cls_0"].isnan()
    assert [len(found) for found in model.eval()([make_image(64, 64)])] == [0]
