"""Published state dicts load with nothing left over and come back as they were; what does not fit is named."""

from dataclasses import replace

import pytest
import torch

from tailseg.interop.mmdet_weights import backbone_from_mmdet, from_mmdet, to_mmdet
from tailseg.losses import EQLv2Config, SoftmaxCEConfig, build_loss
from tailseg.models import GroupedConfig, ModelConfig, ResNetConfig, SwinConfig, build_detector
from tailseg.models.backbones import build_backbone
from tailseg.models.config import cascade_mask_rcnn, hybrid_task_cascade
from tailseg.recipes import get_recipe
from tailseg.training.checkpoint import CheckpointError

from . import published

R50, R101 = (ModelConfig(backbone=ResNetConfig(depth=depth, weights="none")) for depth in (50, 101))
X101 = ModelConfig(backbone=ResNetConfig(depth=101, grouped=GroupedConfig(groups=64, width=4), weights="none"))
SWIN_T = ModelConfig(backbone=SwinConfig(weights="none"))
PUBLISHED = {
    "R50, DropLoss": (R50, 0, published.mask_rcnn_shapes(extra=0)),
    "R50, Gumbel": (R50, 1, published.mask_rcnn_shapes(extra=1)),
    "R50, Seesaw": (R50, 2, published.mask_rcnn_shapes(extra=2)),
    "R101, Gumbel": (R101, 1, published.mask_rcnn_shapes(101)),
    "X101 64x4d, Gumbel": (X101, 1, published.mask_rcnn_shapes(101, groups=64, base_width=4)),
    "Swin-T, DropLoss": (SWIN_T, 0, published.swin_mask_rcnn_shapes(extra=0)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_key_has_its_place(name: str) -> None:
    config, extra, key_shapes = PUBLISHED[name]
    state = published.tensors(key_shapes)
    model = published.meta_detector(config, published.LOSSES[extra])
    converted = from_mmdet(state, model)
    assert converted.left_out == converted.missing == ()
    assert shapes(converted.state) == shapes(model.state_dict())
    back = to_mmdet(converted.state)
    assert back.left_out == ()
    assert shapes(back.state) == shapes(state)


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (tensor.shape, tensor.dtype) for key, tensor in state.items()}


def test_faster_rcnn_is_the_same_without_masks() -> None:
    shapes = published.mask_rcnn_shapes(classes=1230)
    state = published.tensors({key: shape for key, shape in shapes.items() if "mask_head" not in key})
    model = published.meta_detector(ModelConfig(mask=None), published.LOSSES[1], classes=1230)
    converted = from_mmdet(state, model)
    assert converted.state.keys() == model.state_dict().keys()
    assert to_mmdet(converted.state).state.keys() == state.keys()


CASCADES = {False: cascade_mask_rcnn(), True: hybrid_task_cascade()}
STAGE_0 = ("roi_head.mask_head.0.conv_res.conv.weight", "roi_head.mask_head.0.conv_res.conv.bias")


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("htc", [False, True])
def test_cascades(htc: bool, extra: int) -> None:
    """HTC's unused convolution of the first mask head is left out, and named."""
    state = published.tensors(published.cascade_shapes(101, htc=htc, extra=extra))
    config = replace(CASCADES[htc], backbone=ResNetConfig(depth=101, weights="none"))
    model = published.meta_detector(config, published.LOSSES[extra])
    converted = from_mmdet(state, model)
    assert converted.left_out == (STAGE_0 if htc else ())
    assert converted.missing == ()
    assert shapes(converted.state) == shapes(model.state_dict())
    back = to_mmdet(converted.state)
    assert back.left_out == ()
    assert shapes(back.state) == shapes({key: t for key, t in state.items() if key not in STAGE_0})


@pytest.mark.parametrize("htc", [False, True])
def test_cascades_there_and_back_are_equal_to_the_bit(htc: bool) -> None:
    state = published.tensors(published.cascade_shapes(50, htc=htc, extra=2, **published.SMALL), seed=0)
    small = published.SMALL_CONFIG
    box = replace(CASCADES[htc].box, hidden=32)
    config = replace(CASCADES[htc], backbone=small.backbone, fpn=small.fpn, mask=small.mask, box=box)
    model = build_detector(config, build_loss(published.LOSSES[2], published.frequency(7)))
    model.load_state_dict(from_mmdet(state, model).state, strict=True)
    back = to_mmdet(model.state_dict()).state
    assert back.keys() == state.keys() - set(STAGE_0)
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items())


def test_a_network_that_mmdetection_has_no_names_for() -> None:
    with pytest.raises(CheckpointError, match=r"keys without a name there: backbone\.network\.stem\.weight"):
        to_mmdet({"backbone.network.stem.weight": torch.zeros(1), "fpn.lateral.0.bias": torch.zeros(1)})


def test_a_cascade_does_not_pass_for_an_htc() -> None:
    model = published.meta_detector(replace(CASCADES[True], backbone=ResNetConfig(depth=101)), published.LOSSES[1])
    with pytest.raises(CheckpointError, match=r"missing keys: roi_head\.mask_head\.1\.conv_res\.conv\.weight"):
        from_mmdet(published.tensors(published.cascade_shapes(101)), model)


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_there_and_back_is_equal_to_the_bit(extra: int) -> None:
    state, model = published.small_state(extra), published.small_model(extra)
    converted = from_mmdet(state, model)
    model.load_state_dict(converted.state, strict=True)
    back = to_mmdet(model.state_dict()).state
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert back[key].dtype == tensor.dtype, key
        assert torch.equal(back[key], tensor), key


def test_seesaws_counts_are_floats_there_and_whole_here() -> None:
    state = published.small_state(2)
    counts = state["roi_head.bbox_head.loss_cls.cum_samples"]
    ours = from_mmdet(state, published.small_model(2)).state["box_head.loss.cum_samples"]
    assert ours.dtype == torch.int64
    assert ours.tolist() == counts.tolist()


def test_half_precision_becomes_the_models() -> None:
    state = {key: t.half() if t.is_floating_point() else t for key, t in published.small_state().items()}
    converted = from_mmdet(state, published.small_model())
    assert converted.state["box_head.fc1.weight"].dtype == torch.float32


def test_files_without_batch_counts_are_taken() -> None:
    state = {key: tensor for key, tensor in published.small_state().items() if "num_batches_tracked" not in key}
    model = published.small_model()
    model.load_state_dict(from_mmdet(state, model).state, strict=True)


def test_counts_that_the_other_side_lacks_stay_and_are_named() -> None:
    """EQLv2's accumulated gradients have no name in a published file."""
    model = published.small_model(loss=EQLv2Config())
    converted = from_mmdet(published.small_state(1), model)
    assert converted.missing == ("box_head.loss.gradient_sums",)
    assert to_mmdet(converted.state).left_out == ("box_head.loss.gradient_sums",)


def test_published_shapes_are_those_of_the_layout() -> None:
    """Spot checks of what the other tests rely on."""
    x101 = published.mask_rcnn_shapes(101, groups=64, base_width=4)
    assert x101["backbone.layer1.0.conv2.weight"] == (256, 4, 3, 3)
    assert x101["backbone.layer4.2.conv3.weight"] == (2048, 2048, 1, 1)
    assert published.mask_rcnn_shapes(extra=2)["roi_head.bbox_head.fc_cls.weight"] == (1205, 1024)
    assert published.cascade_shapes()["roi_head.bbox_head.2.fc_reg.weight"] == (4, 1024)


SWIN = SwinConfig(embed_dim=12, depths=(2, 2, 2, 2), heads=(3, 6, 12, 24), window=3, weights="none")


def small_swin() -> dict[str, torch.Tensor]:
    state = published.tensors(published.swin_shapes(12, (2, 2, 2, 2), 3), seed=0)
    return {key.removeprefix("backbone."): tensor for key, tensor in state.items()}


def test_swin_there_and_back_is_equal_to_the_bit() -> None:
    state, backbone = small_swin(), build_backbone(SWIN)
    backbone.load_state_dict(backbone_from_mmdet(state, backbone).state, strict=True)
    back = to_mmdet({f"backbone.{key}": tensor for key, tensor in backbone.state_dict().items()}).state
    assert {key.removeprefix("backbone.") for key in back} == state.keys()
    assert all(torch.equal(tensor, state[key.removeprefix("backbone.")]) for key, tensor in back.items())


def test_swins_merged_pixels_change_places() -> None:
    """Channel c of the pixel (ky, kx) is row 4 c + 2 ky + kx there and 2 C kx + C ky + c here."""
    state, backbone = small_swin(), build_backbone(SWIN)
    ours = backbone_from_mmdet(state, backbone).state["features.2.norm.weight"]
    theirs = state["stages.0.downsample.norm.weight"]
    for c, ky, kx in ((0, 0, 1), (5, 1, 0), (11, 1, 1)):
        assert ours[24 * kx + 12 * ky + c] == theirs[4 * c + 2 * ky + kx]


def test_swin_with_another_order_of_biases_is_refused() -> None:
    state = small_swin()
    state["stages.1.blocks.0.attn.w_msa.relative_position_index"].add_(1)
    with pytest.raises(
        CheckpointError, match=r"has the biases of Swin's windows in another order: .*stages\.1\.blocks\.0"
    ):
        backbone_from_mmdet(state, build_backbone(SWIN))


def refusal(state: dict[str, torch.Tensor], extra: int = 1) -> str:
    with pytest.raises(CheckpointError) as error:
        from_mmdet(state, published.small_model(extra), source="x.pth")
    return str(error.value)


def test_missing_keys_are_named_as_the_file_would() -> None:
    state = published.small_state()
    for i in range(4):
        del state[f"neck.fpn_convs.{i}.conv.weight"], state[f"neck.fpn_convs.{i}.conv.bias"]
    message = refusal(state)
    assert message.startswith("x.pth does not fit MaskRCNN on ResNet-50 with 7 classes. missing keys: neck.fpn_convs.0")
    assert "and 3 more" in message


def test_seesaw_without_its_counts_is_refused() -> None:
    state = published.small_state(2)
    del state["roi_head.bbox_head.loss_cls.cum_samples"]
    assert "missing keys: roi_head.bbox_head.loss_cls.cum_samples" in refusal(state, 2)


def test_unexpected_keys_are_named() -> None:
    state = published.small_state()
    state["roi_head.semantic_head.fc.weight"] = torch.zeros(1)
    state["backbone.layer5.0.conv1.weight"] = torch.zeros(1)
    assert "unexpected keys: roi_head.semantic_head.fc.weight, backbone.layer5.0.conv1.weight" in refusal(state)


def test_copies_of_the_ema_hook_are_left_out() -> None:
    """mmcv 1.7.2 writes them for parameters, not for running statistics (findings/mmcv1_ema_hook.sh)."""
    state = published.small_state()
    copies = {f"ema_{key.replace('.', '_')}": tensor + 1 for key, tensor in state.items() if "running" not in key}
    plain, both = (from_mmdet(tensors, published.small_model()) for tensors in (state, copies | state))
    assert all(torch.equal(tensor, both.state[key]) for key, tensor in plain.state.items())
    assert set(both.left_out) == set(copies)
    state["ema_head_weight"] = torch.zeros(1)
    assert "unexpected keys: ema_head_weight" in refusal(state)


def test_wrong_shapes_are_named_with_both() -> None:
    state = published.small_state()
    state["roi_head.bbox_head.shared_fcs.0.weight"] = torch.zeros(32, 5)
    assert "other shapes: roi_head.bbox_head.shared_fcs.0.weight is [32, 5], expected [32, 784]" in refusal(state)
    state = published.small_state()
    state["rpn_head.rpn_cls.bias"] = torch.zeros(3, dtype=torch.int64)
    assert "rpn_head.rpn_cls.bias is torch.int64, expected torch.float32" in refusal(state)


@pytest.mark.parametrize(("file", "recipe"), [(0, 1), (1, 0), (2, 1), (1, 2), (0, 2), (2, 0)])
def test_another_loss_is_said_in_words(file: int, recipe: int) -> None:
    message = refusal(published.small_state(file), recipe)
    assert f"{7 + file} logits for 7 classes" in message
    assert f"the recipe's loss needs {7 + recipe}" in message
    assert "C + 2 logits: Seesaw" in message


def test_other_classes_are_said_in_words() -> None:
    state = published.tensors(published.mask_rcnn_shapes(**(published.SMALL | {"classes": 9})), seed=0)
    assert "x.pth has 9 classes, expected 7" in refusal(state)


def test_another_depth_is_named() -> None:
    state = published.tensors(published.mask_rcnn_shapes(101))
    with pytest.raises(CheckpointError, match=r"unexpected keys: backbone\.layer3\.6\.conv1\.weight, .* more"):
        from_mmdet(state, published.meta_detector(ModelConfig(), SoftmaxCEConfig()))


def test_other_boxes_are_named() -> None:
    config = replace(published.SMALL_CONFIG, box=replace(published.SMALL_CONFIG.box, class_agnostic=True))
    model = published.meta_detector(config, published.LOSSES[1], 7)
    with pytest.raises(CheckpointError, match=r"fc_reg\.weight is \[28, 32\], expected \[4, 32\]"):
        from_mmdet(published.tensors(published.mask_rcnn_shapes(**published.SMALL)), model)


@pytest.mark.parametrize(
    "broken", [torch.tensor(1.0), torch.zeros(0), torch.zeros(1, 2, 3, 4, 5)], ids=["0d", "0", "5d"]
)
@pytest.mark.parametrize(
    "key",
    [
        "roi_head.bbox_head.fc_cls.bias",
        "roi_head.bbox_head.fc_reg.bias",
        "roi_head.mask_head.conv_logits.bias",
        "roi_head.bbox_head.loss_cls.cum_samples",
        "backbone.layer2.0.conv2.weight",
    ],
)
def test_tensors_of_any_other_shape_are_refused_by_name(key: str, broken: torch.Tensor) -> None:
    message = refusal({**published.small_state(2), key: broken}, 2)
    # an empty bias reads as no class or no logit at all: said in words
    assert f"{key} is {list(broken.shape)}" in message or "has 0 classes" in message or "has 0 logits" in message


@pytest.mark.parametrize(
    "key",
    ["stages.0.downsample.norm.bias", "stages.1.downsample.reduction.weight"]
    + [f"stages.0.blocks.1.attn.w_msa.relative_position_{part}" for part in ("bias_table", "index")],
)
@pytest.mark.parametrize(
    "broken", [torch.tensor(1.0), torch.zeros(0), torch.zeros(1, 2, 3, 4, 5)], ids=["0d", "0", "5d"]
)
def test_swins_tensors_of_any_other_shape_are_refused(key: str, broken: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"relative_position|downsample"):
        backbone_from_mmdet({**small_swin(), key: broken}, build_backbone(SWIN))


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_refused(dtype: torch.dtype) -> None:
    state = published.small_state()
    state["backbone.bn1.num_batches_tracked"] = torch.zeros((), dtype=dtype)
    assert f"num_batches_tracked is {dtype}, expected torch.int64" in refusal(state)


@pytest.mark.parametrize("depth", [50, 101])
def test_the_published_sigmoid_has_a_logit_for_background(depth: int) -> None:
    recipe = get_recipe(f"sigmoid_mask_rcnn_r{depth}_random_1x")
    model = published.meta_detector(recipe.model, recipe.loss)
    converted = from_mmdet(published.tensors(published.mask_rcnn_shapes(depth, extra=1)), model)
    assert shapes(converted.state) == shapes(model.state_dict())
