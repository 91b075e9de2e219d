"""State dicts as mmdetection publishes them, written down by key and shape from its layout, not from our rules."""

import torch
from torch import Tensor

from tailseg.losses import (
    DropLossConfig,
    GumbelCEConfig,
    LossConfig,
    SeesawLossConfig,
    build_loss,
)
from tailseg.models import BoxHeadConfig, FPNConfig, MaskHeadConfig, ModelConfig, ResNetConfig, build_detector
from tailseg.models.detector import Detector
from tailseg.structures import ClassFrequency

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
Shapes = dict[str, tuple[int, ...]]
LOSSES: dict[int, LossConfig] = {0: DropLossConfig(), 1: GumbelCEConfig(), 2: SeesawLossConfig()}
"""By the number of logits beyond the classes."""


def resnet_shapes(depth: int, *, stem: int = 64, groups: int = 1, base_width: int = 64) -> Shapes:
    """``backbone.*`` of ResNet, and of ResNeXt with groups."""
    shapes: Shapes = {"conv1.weight": (stem, 3, 7, 7), **norm("bn1", stem)}
    channels = stem
    for stage, blocks in enumerate(BLOCKS[depth]):
        planes = stem * 2**stage
        width = planes * base_width // 64 * groups
        for i in range(blocks):
            name = f"layer{stage + 1}.{i}"
            shapes |= {f"{name}.conv1.weight": (width, channels, 1, 1), **norm(f"{name}.bn1", width)}
            shapes |= {f"{name}.conv2.weight": (width, width // groups, 3, 3), **norm(f"{name}.bn2", width)}
            shapes |= {f"{name}.conv3.weight": (planes * 4, width, 1, 1), **norm(f"{name}.bn3", planes * 4)}
            if i == 0:
                shapes |= {f"{name}.downsample.0.weight": (planes * 4, channels, 1, 1)}
                shapes |= norm(f"{name}.downsample.1", planes * 4)
            channels = planes * 4
    return {f"backbone.{name}": shape for name, shape in shapes.items()}


def swin_shapes(embed_dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2), window: int = 7) -> Shapes:
    """``backbone.*`` of Swin; the heads of a stage have 32 channels each."""
    shapes = layer("patch_embed.projection", embed_dim, 3, 4, 4) | layer("patch_embed.norm", embed_dim)
    for i, blocks in enumerate(depths):
        channels = embed_dim * 2**i
        heads = 3 * 2**i
        for j in range(blocks):
            name = f"stages.{i}.blocks.{j}"
            attention = f"{name}.attn.w_msa"
            shapes |= layer(f"{name}.norm1", channels) | layer(f"{name}.norm2", channels)
            shapes |= layer(f"{attention}.qkv", 3 * channels, channels) | layer(f"{attention}.proj", channels, channels)
            shapes[f"{attention}.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
            shapes[f"{attention}.relative_position_index"] = (window**2, window**2)
            shapes |= layer(f"{name}.ffn.layers.0.0", 4 * channels, channels)
            shapes |= layer(f"{name}.ffn.layers.1", channels, 4 * channels)
        if i < len(depths) - 1:
            shapes |= layer(f"stages.{i}.downsample.norm", 4 * channels)
            shapes[f"stages.{i}.downsample.reduction.weight"] = (2 * channels, 4 * channels)
        shapes |= layer(f"norm{i}", channels)
    return {f"backbone.{name}": shape for name, shape in shapes.items()}


def norm(name: str, channels: int) -> Shapes:
    four = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**four, f"{name}.num_batches_tracked": ()}


def layer(name: str, *weight: int, outputs: int | None = None) -> Shapes:
    """Weight and bias; ``outputs`` where the bias is not as long as the weight (a deconvolution)."""
    return {f"{name}.weight": weight, f"{name}.bias": (outputs or weight[0],)}


def neck_shapes(channels: tuple[int, ...], width: int) -> Shapes:
    shapes: Shapes = {}
    for i, c in enumerate(channels):
        shapes |= layer(f"neck.lateral_convs.{i}.conv", width, c, 1, 1)
        shapes |= layer(f"neck.fpn_convs.{i}.conv", width, width, 3, 3)
    shapes |= layer("rpn_head.rpn_conv", width, width, 3, 3)
    return shapes | layer("rpn_head.rpn_cls", 3, width, 1, 1) | layer("rpn_head.rpn_reg", 12, width, 1, 1)


def box_head_shapes(name: str, *, width: int, hidden: int, logits: int, boxes: int) -> Shapes:
    shapes = layer(f"{name}.shared_fcs.0", hidden, width * 49) | layer(f"{name}.shared_fcs.1", hidden, hidden)
    return shapes | layer(f"{name}.fc_cls", logits, hidden) | layer(f"{name}.fc_reg", boxes, hidden)


def mask_head_shapes(name: str, *, width: int, classes: int) -> Shapes:
    shapes: Shapes = {}
    for i in range(4):
        shapes |= layer(f"{name}.convs.{i}.conv", width, width, 3, 3)
    return shapes | layer(f"{name}.upsample", width, width, 2, 2) | layer(f"{name}.conv_logits", classes, width, 1, 1)


def mask_rcnn_shapes(
    depth: int = 50,
    *,
    classes: int = 1203,
    extra: int = 1,
    stem: int = 64,
    width: int = 256,
    hidden: int = 1024,
    groups: int = 1,
    base_width: int = 64,
) -> Shapes:
    """A whole Mask R-CNN with ``classes + extra`` logits; Seesaw's (2) keeps its counts."""
    shapes = resnet_shapes(depth, stem=stem, groups=groups, base_width=base_width)
    shapes |= neck_shapes((stem * 4, stem * 8, stem * 16, stem * 32), width)
    return shapes | head_shapes(classes=classes, extra=extra, width=width, hidden=hidden)


def swin_mask_rcnn_shapes(*, classes: int = 1203, extra: int = 0) -> Shapes:
    """Mask R-CNN on Swin-T."""
    shapes = swin_shapes() | neck_shapes((96, 192, 384, 768), 256)
    return shapes | head_shapes(classes=classes, extra=extra, width=256, hidden=1024)


def head_shapes(*, classes: int, extra: int, width: int, hidden: int) -> Shapes:
    """The heads of Mask R-CNN."""
    shapes: Shapes = {}
    head = "roi_head.bbox_head"
    shapes |= box_head_shapes(head, width=width, hidden=hidden, logits=classes + extra, boxes=4 * classes)
    if extra == 2:
        shapes[f"{head}.loss_cls.cum_samples"] = (classes + 1,)
    return shapes | mask_head_shapes("roi_head.mask_head", width=width, classes=classes)


def cascade_shapes(
    depth: int = 101,
    *,
    htc: bool = False,
    classes: int = 1203,
    extra: int = 1,
    stem: int = 64,
    width: int = 256,
    hidden: int = 1024,
) -> Shapes:
    """Cascade Mask R-CNN with class-agnostic boxes, or HTC, whose first head has a convolution that nothing uses."""
    shapes = resnet_shapes(depth, stem=stem) | neck_shapes((stem * 4, stem * 8, stem * 16, stem * 32), width)
    for k in range(3):
        head = f"roi_head.bbox_head.{k}"
        shapes |= box_head_shapes(head, width=width, hidden=hidden, logits=classes + extra, boxes=4)
        shapes |= mask_head_shapes(f"roi_head.mask_head.{k}", width=width, classes=classes)
        if extra == 2:
            shapes[f"{head}.loss_cls.cum_samples"] = (classes + 1,)
        if htc:
            shapes |= layer(f"roi_head.mask_head.{k}.conv_res.conv", width, width, 1, 1)
    return shapes


def tensors(shapes: Shapes, *, seed: int | None = None) -> dict[str, Tensor]:
    """Without values (``meta``), or random with a seed; counts are whole, variances above 0."""
    if seed is None:
        state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    else:
        generator = torch.Generator().manual_seed(seed)
        state = {key: torch.rand(shape, generator=generator) + 0.5 for key, shape in shapes.items()}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros_like(tensor, dtype=torch.int64)
        elif key.endswith("relative_position_index"):
            index = their_position_index(round(len(tensor) ** 0.5))
            state[key] = torch.empty_like(index, device="meta") if seed is None else index
        elif key.endswith("cum_samples"):
            state[key] = (tensor * 1e6).round()
    return state


def their_position_index(window: int) -> Tensor:
    """The sum of two sequences and a mirror image, as mmdetection makes it."""
    rows = torch.arange(0, (2 * window - 1) * window, 2 * window - 1)
    sequence = (rows[:, None] + torch.arange(window)).view(1, -1)
    return (sequence + sequence.T).flip(1).contiguous()


def frequency(classes: int) -> ClassFrequency:
    counts = torch.arange(1, classes + 1)
    return ClassFrequency.from_counts(counts, counts, 20_000)


def meta_detector(config: ModelConfig, loss: LossConfig, classes: int = 1203) -> Detector:
    """A detector without values: names and shapes at no cost."""
    built = build_loss(loss, frequency(classes))
    with torch.device("meta"):
        return build_detector(config, built, load_weights=False)


SMALL_CONFIG = ModelConfig(
    backbone=ResNetConfig(depth=50, base_width=8, weights="none"),
    fpn=FPNConfig(channels=16),
    box=BoxHeadConfig(hidden=32),
    mask=MaskHeadConfig(channels=16),
)
SMALL = {"classes": 7, "stem": 8, "width": 16, "hidden": 32}


def small_state(extra: int = 1, *, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a small Mask R-CNN of 7 classes in mmdetection's names, ``extra`` logits beyond them."""
    return tensors(mask_rcnn_shapes(extra=extra, **SMALL), seed=seed)


def small_model(extra: int = 1, *, loss: LossConfig | None = None) -> Detector:
    """The detector of `small_state`."""
    torch.manual_seed(1)
    return build_detector(SMALL_CONFIG, build_loss(loss or LOSSES[extra], frequency(7)))
