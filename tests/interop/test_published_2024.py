"""The detectors of GOL's authors after 2022: every key has its place, both ways; damaged files are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tailseg.interop import convert
from tailseg.interop.mmdet_weights import TEMPERATURE, from_mmdet, to_mmdet
from tailseg.losses import DropLossConfig, LossConfig, SoftmaxCEConfig
from tailseg.models import (
    BoxHeadConfig,
    MaskHeadConfig,
    ModelConfig,
    NormalizedConfig,
    ResNetConfig,
    SEConfig,
    cascade_mask_rcnn,
)
from tailseg.models.backbones import build_backbone
from tailseg.models.config import WrappedCauchyConfig
from tailseg.models.weights import find_our_name
from tailseg.training.checkpoint import Checkpoint, CheckpointError, Progress

from . import published

Shapes = dict[str, tuple[int, ...]]


def se(depth: int) -> ResNetConfig:
    return ResNetConfig(depth=depth, activation="aglu", se=SEConfig(gate="apa"), weights="none")


def detector(backbone: ResNetConfig, *, carafe: bool, learned: bool, cosine: bool = False) -> ModelConfig:
    mask = MaskHeadConfig(
        upsample="carafe" if carafe else "deconvolution", normalized=NormalizedConfig(learned=learned)
    )
    return ModelConfig(
        backbone=backbone, mask=mask, box=BoxHeadConfig(normalized=NormalizedConfig() if cosine else None)
    )


def plain(depth: int) -> ResNetConfig:
    return ResNetConfig(depth=depth, weights="none")


V3DET = {"wrapped_cauchy": WrappedCauchyConfig(), "class_agnostic": True}
CASCADE = replace(cascade_mask_rcnn(), backbone=se(50), mask=None)
GOL, SOFTMAX = DropLossConfig(), SoftmaxCEConfig()
DETECTORS: dict[str, tuple[ModelConfig, LossConfig, int]] = {
    "aglu_mask_rcnn_se_r50_lvis_v1": (detector(se(50), carafe=True, learned=True), GOL, 1203),
    "aglu_mask_rcnn_se_r50_lvis_v1_deconv": (detector(se(50), carafe=False, learned=False), GOL, 1203),
    "aglu_mask_rcnn_se_r101_lvis_v1": (detector(se(101), carafe=False, learned=False), GOL, 1203),
    "aglu_mask_rcnn_se_r101_lvis_v1_carafe": (detector(se(101), carafe=True, learned=True), GOL, 1203),
    "fracal_mask_rcnn_r50_lvis_v1": (detector(plain(50), carafe=True, learned=True, cosine=True), SOFTMAX, 1203),
    "fracal_mask_rcnn_r101_lvis_v1": (detector(plain(101), carafe=True, learned=False, cosine=True), SOFTMAX, 1203),
    "aglu_faster_rcnn_se_r50_v3det": (
        ModelConfig(backbone=se(50), mask=None, box=BoxHeadConfig(**V3DET)),
        SOFTMAX,
        13204,
    ),
    "aglu_cascade_rcnn_se_r50_v3det": (replace(CASCADE, box=replace(CASCADE.box, **V3DET)), SOFTMAX, 13204),
}


def read_keys(shared: Path, name: str) -> dict[str, Tensor]:
    keys = json.loads((shared / f"golden/2024/keys/{name}.json").read_text())["keys"]
    return {key: torch.empty(shape, dtype=getattr(torch, kind), device="meta") for key, (shape, kind) in keys.items()}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (tensor.shape, tensor.dtype) for key, tensor in state.items()}


@pytest.mark.parametrize("name", DETECTORS)
def test_every_published_key_has_its_place(shared: Path, name: str) -> None:
    config, loss, classes = DETECTORS[name]
    state = read_keys(shared, name)
    model = published.meta_detector(config, loss, classes)
    converted = from_mmdet(state, model)
    assert converted.left_out == converted.missing == ()
    assert shapes(converted.state) == shapes(model.state_dict())
    back = to_mmdet(converted.state)
    assert back.left_out == ()
    assert shapes(back.state) == shapes(state)


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("kind", ["", "_aglu"])
def test_every_key_of_the_imagenet_files_has_its_place(shared: Path, depth: int, kind: str) -> None:
    """Names and shapes; tests/models/test_se_resnet.py loads such a file."""
    state = read_keys(shared, f"imagenet_se_resnet{depth}{kind}")
    with torch.device("meta"):
        backbone = build_backbone(se(depth) if kind else ResNetConfig(depth=depth, se=SEConfig(), weights="none"))
    ours = {find_our_name(key): tensor for key, tensor in state.items() if not key.startswith("fc.")}
    assert shapes(ours) == shapes(backbone.state_dict())


def small_state(seed: int = 0) -> dict[str, Tensor]:
    """A small GOL detector with CARAFE, in the authors' names, from a model of random weights."""
    torch.manual_seed(seed)
    return {key: t.clone() for key, t in to_mmdet(small_model().state_dict()).state.items()}


SMALL = replace(
    published.SMALL_CONFIG,
    backbone=replace(se(50), base_width=8),
    mask=MaskHeadConfig(channels=16, upsample="carafe", normalized=NormalizedConfig(learned=True)),
)


def small_model(config: ModelConfig = SMALL) -> torch.nn.Module:
    return published.build_detector(config, published.build_loss(GOL, published.frequency(7)))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return small_state()


def test_there_and_back_is_equal_to_the_bit(state: dict[str, Tensor]) -> None:
    assert state["backbone.relu.lambda_param"].shape == (1,)
    model = small_model()
    model.load_state_dict(from_mmdet(state, model).state)
    back = to_mmdet(model.state_dict()).state
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


KEY = f"roi_head.mask_head.conv_logits.{TEMPERATURE}"


def test_the_temperature_of_2023_has_one_dimension(state: dict[str, Tensor]) -> None:
    model = small_model()
    assert from_mmdet({**state, KEY: state[KEY].view(1)}, model).state["mask_head.temperature"].shape == ()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (KEY, torch.zeros(2), rf"other shapes: {KEY} is \[2\], expected \[\]"),
        (KEY, None, f"missing keys: {KEY}"),
        ("backbone.relu.kappa_param", None, r"missing keys: backbone\.relu\.kappa_param"),
        ("backbone.layer2.1.se.uniact.lambda_param", torch.zeros(3), r"uniact\.lambda_param is \[3\], expected \[1\]"),
        ("roi_head.mask_head.upsample.weight", torch.zeros(16, 16, 2, 2), r"unexpected keys: .*upsample\.weight"),
        ("backbone.layer2.0.cbam.weight", torch.zeros(1), r"unexpected keys: backbone\.layer2\.0\.cbam"),
    ],
)
def test_damaged_files_are_refused(state: dict[str, Tensor], key: str, value: Tensor | None, message: str) -> None:
    changed = {**state, key: value} if value is not None else {k: v for k, v in state.items() if k != key}
    with pytest.raises(CheckpointError, match=message):
        from_mmdet(changed, small_model())


def test_the_other_depths_head_is_refused_by_name(state: dict[str, Tensor]) -> None:
    """AGLU's R50 has CARAFE and a learned temperature in its config, its R101 neither: the file decides."""
    other = replace(SMALL, mask=MaskHeadConfig(channels=16, normalized=NormalizedConfig()))
    with pytest.raises(CheckpointError, match=r"missing keys: roi_head\.mask_head\.upsample\.weight"):
        from_mmdet(state, small_model(other))


@pytest.mark.parametrize("backbone", [{"activation": "silu"}, {"activation": "relu", "se": {"gate": "sigmoid"}}])
def test_other_projects_have_no_such_resnet(backbone: dict[str, object]) -> None:
    """Their generic names would take AGLU's keys, and SiLU has none that could be missed."""
    recipe = {"resolved": {"model": {"box": {}, "backbone": backbone}}}
    saved = Checkpoint(recipe, (), published.frequency(7), {}, {}, Progress())
    for layout in ("torchvision", "detectron2"):
        with pytest.raises(CheckpointError, match=f"{layout}'s ResNet has ReLU and no squeeze and excitation"):
            convert._export(saved, layout)
