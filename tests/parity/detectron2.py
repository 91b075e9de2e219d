"""A small detectron2 in plain functions: its names and its arithmetic, written from its public source, without tailseg.

Shapes: one image ``[3, H, W]`` in BGR, 0 .. 255, H and W multiples of 32; R boxes; C classes.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

MEAN = (103.53, 116.28, 123.675)
"""PIXEL_MEAN, BGR."""
STEM_WIDTH, WIDTH, HIDDEN = 8, 16, 32
BLOCKS = (3, 4, 6, 3)
STEM = "backbone.bottom_up.stem.conv1.weight"
WEIGHTS = ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))
State = dict[str, Tensor]


def make_state(
    *,
    classes: int = 7,
    stages: int = 0,
    masks: bool = True,
    agnostic: bool = False,
    agnostic_masks: bool = False,
    groups: int = 1,
    seed: int = 0,
) -> State:
    """Random weights with detectron2's names. Values of the layers stay near 1.

    Args:
        classes: C.
        stages: of a cascade; 0 for one box head.
        masks: whether there is a mask head.
        agnostic: class-agnostic boxes.
        agnostic_masks: class-agnostic masks.
        groups: of the 3x3 convolutions, with 4 channels each (ResNeXt); 1 for ResNet.
        seed: of the values.

    Returns:
        Tensors by name.
    """
    state: State = {}
    generator = torch.Generator().manual_seed(seed)

    def layer(name: str, *shape: int, bias: bool = True, outputs: int | None = None) -> None:
        scale = math.sqrt(2 / math.prod(shape[1:]))
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * scale
        if bias:
            state[f"{name}.bias"] = torch.randn(outputs or shape[0], generator=generator) * 0.1

    def norm(name: str, channels: int) -> None:
        for part, low in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2), ("running_var", 0.5)):
            span = 0.4 if low < 0 else 1.0
            state[f"{name}.{part}"] = low + span * torch.rand(channels, generator=generator)

    body = "backbone.bottom_up"
    layer(f"{body}.stem.conv1", STEM_WIDTH, 3, 7, 7, bias=False)
    state[f"{body}.stem.conv1.weight"] /= 50  # images of 0 .. 255
    norm(f"{body}.stem.conv1.norm", STEM_WIDTH)
    channels = STEM_WIDTH
    for stage, blocks in enumerate(BLOCKS):
        out = 4 * STEM_WIDTH * 2**stage
        inner = out // 4 if groups == 1 else groups * 4 * 2**stage
        for i in range(blocks):
            name = f"{body}.res{stage + 2}.{i}"
            for n, (a, b, k) in enumerate(((channels, inner, 1), (inner, inner, 3), (inner, out, 1)), 1):
                layer(f"{name}.conv{n}", b, a // (groups if n == 2 else 1), k, k, bias=False)
                norm(f"{name}.conv{n}.norm", b)
            if i == 0:
                layer(f"{name}.shortcut", out, channels, 1, 1, bias=False)
                norm(f"{name}.shortcut.norm", out)
            channels = out
        layer(f"backbone.fpn_lateral{stage + 2}", WIDTH, out, 1, 1)
        state[f"backbone.fpn_lateral{stage + 2}.weight"] /= 5000  # the maps of untrained blocks are large
        layer(f"backbone.fpn_output{stage + 2}", WIDTH, WIDTH, 3, 3)
    rpn = "proposal_generator.rpn_head"
    layer(f"{rpn}.conv", WIDTH, WIDTH, 3, 3)
    layer(f"{rpn}.objectness_logits", 3, WIDTH, 1, 1)
    layer(f"{rpn}.anchor_deltas", 12, WIDTH, 1, 1)
    for k in range(stages or 1):
        part = f".{k}" if stages else ""
        layer(f"roi_heads.box_head{part}.fc1", HIDDEN, WIDTH * 49)
        layer(f"roi_heads.box_head{part}.fc2", HIDDEN, HIDDEN)
        layer(f"roi_heads.box_predictor{part}.cls_score", classes + 1, HIDDEN)
        layer(f"roi_heads.box_predictor{part}.bbox_pred", 4 if agnostic or stages else 4 * classes, HIDDEN)
    if masks:
        for i in range(4):
            layer(f"roi_heads.mask_head.mask_fcn{i + 1}", WIDTH, WIDTH, 3, 3)
        layer("roi_heads.mask_head.deconv", WIDTH, WIDTH, 2, 2, outputs=WIDTH)
        layer("roi_heads.mask_head.predictor", 1 if agnostic_masks else classes, WIDTH, 1, 1)
    return state


def to_pickle(state: State, author: str = "Detectron2 Model Zoo") -> dict[str, object]:
    """The content of a ``model_final.pkl``."""
    return {"model": {key: np.asarray(tensor) for key, tensor in state.items()}, "__author__": author}


def conv_norm(state: State, name: str, x: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
    parts = [state[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *parts, training=False, eps=1e-5)


def conv(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def compute_pyramid(
    state: State, bgr: Tensor, *, std: tuple[float, ...] = (1, 1, 1), stride_in_1x1: bool = True, groups: int = 1
) -> list[Tensor]:
    """P2 .. P6 of one image."""
    x = ((bgr - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))[None]
    x = F.max_pool2d(F.relu(conv_norm(state, STEM.removesuffix(".weight"), x, stride=2)), 3, 2, 1)
    maps = []
    for stage, blocks in enumerate(BLOCKS):
        for i in range(blocks):
            name = f"backbone.bottom_up.res{stage + 2}.{i}"
            stride = 2 if stage and i == 0 else 1
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            out = F.relu(conv_norm(state, f"{name}.conv1", x, stride=first))
            out = F.relu(conv_norm(state, f"{name}.conv2", out, stride=second, groups=groups))
            out = conv_norm(state, f"{name}.conv3", out)
            x = F.relu(out + (conv_norm(state, f"{name}.shortcut", x, stride=stride) if i == 0 else x))
        maps.append(x)
    pyramid, upper = [], None
    for level in (5, 4, 3, 2):
        lateral = conv(state, f"backbone.fpn_lateral{level}", maps[level - 2])
        upper = lateral if upper is None else lateral + F.interpolate(upper, scale_factor=2.0, mode="nearest")
        pyramid.insert(0, conv(state, f"backbone.fpn_output{level}", upper))
    return [*pyramid, F.max_pool2d(pyramid[-1], 1, 2)]


def compute_rpn(state: State, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Objectness ``[T]`` of all anchors and their boxes ``[T, 4]``, level by level, then row, column, ratio."""
    logits, boxes = [], []
    for level, feature in enumerate(pyramid):
        head = "proposal_generator.rpn_head"
        hidden = F.relu(conv(state, f"{head}.conv", feature))
        logits.append(conv(state, f"{head}.objectness_logits", hidden)[0].permute(1, 2, 0).flatten())
        deltas = conv(state, f"{head}.anchor_deltas", hidden)[0]
        deltas = deltas.view(3, 4, *deltas.shape[1:]).permute(2, 3, 0, 1).reshape(-1, 4)
        boxes.append(apply_deltas(deltas, make_anchors(feature, 4 * 2**level), (1, 1, 1, 1)))
    return torch.cat(logits), torch.cat(boxes)


def make_anchors(feature: Tensor, stride: int) -> Tensor:
    cells = []
    for ratio in (0.5, 1.0, 2.0):
        w = math.sqrt((8 * stride) ** 2 / ratio)
        cells.append([-w / 2, -ratio * w / 2, w / 2, ratio * w / 2])
    anchors = [
        [x * stride + cell[0], y * stride + cell[1], x * stride + cell[2], y * stride + cell[3]]
        for y in range(feature.shape[2])
        for x in range(feature.shape[3])
        for cell in cells
    ]
    return torch.tensor(anchors)


def apply_deltas(deltas: Tensor, boxes: Tensor, weights: tuple[float, ...]) -> Tensor:
    """``[R, 4 k]`` deltas of ``[R, 4]`` boxes."""
    side = boxes[:, 2:] - boxes[:, :2]
    center = boxes[:, :2] + 0.5 * side
    wx, wy, ww, wh = weights
    dx, dy, dw, dh = (deltas[:, i::4] / weight for i, weight in enumerate((wx, wy, ww, wh)))
    x, y = dx * side[:, :1] + center[:, :1], dy * side[:, 1:] + center[:, 1:]
    limit = math.log(1000 / 16)
    w, h = dw.clamp(max=limit).exp() * side[:, :1], dh.clamp(max=limit).exp() * side[:, 1:]
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).flatten(1)


def pool(pyramid: list[Tensor], boxes: Tensor, size: int) -> Tensor:
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = torch.floor(4 + torch.log2(side / 224 + 1e-8)).clamp(2, 5)
    pooled = torch.zeros(len(boxes), WIDTH, size, size)
    for level in range(2, 6):
        rows = levels == level
        pooled[rows] = roi_align(pyramid[level - 2], [boxes[rows]], size, 1 / 2**level, sampling_ratio=0, aligned=True)
    return pooled


def run_box_head(state: State, pooled: Tensor, stage: str = "") -> tuple[Tensor, Tensor]:
    """Logits ``[R, C + 1]`` and deltas."""
    x = pooled.flatten(1)
    for name in ("fc1", "fc2"):
        head = f"roi_heads.box_head{stage}.{name}"
        x = F.relu(F.linear(x, state[f"{head}.weight"], state[f"{head}.bias"]))
    predictor = f"roi_heads.box_predictor{stage}"
    score, box = (
        F.linear(x, state[f"{predictor}.{name}.weight"], state[f"{predictor}.{name}.bias"])
        for name in ("cls_score", "bbox_pred")
    )
    return score, box


def run_cascade(
    state: State, pyramid: list[Tensor], boxes: Tensor, size: tuple[int, int]
) -> tuple[list[Tensor], Tensor]:
    """The logits of each stage, and the boxes of the last one, clipped to the image."""
    logits = []
    for k in range(3):
        score, deltas = run_box_head(state, pool(pyramid, boxes, 7), f".{k}")
        boxes = apply_deltas(deltas, boxes, WEIGHTS[k])
        boxes = torch.stack([boxes[:, i].clamp(0, size[1 - i % 2]) for i in range(4)], 1)
        logits.append(score)
    return logits, boxes


def run_mask_head(state: State, pooled: Tensor, labels: Tensor) -> Tensor:
    """Mask probabilities ``[R, 28, 28]`` of the labels."""
    x = pooled
    for i in range(4):
        x = F.relu(conv(state, f"roi_heads.mask_head.mask_fcn{i + 1}", x))
    deconv = "roi_heads.mask_head.deconv"
    x = F.relu(F.conv_transpose2d(x, state[f"{deconv}.weight"], state[f"{deconv}.bias"], stride=2))
    masks = conv(state, "roi_heads.mask_head.predictor", x)
    agnostic = masks.shape[1] == 1
    return masks[torch.arange(len(masks)), torch.zeros_like(labels) if agnostic else labels].sigmoid()


def to_caffe2(state: State) -> State:
    """The same weights with the names of the first Detectron: background first, and a row of its own for boxes."""
    renamed: State = {}
    norms = {"weight": "s", "bias": "b"}
    letters = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    heads = {
        "proposal_generator.rpn_head.conv": "conv_rpn_fpn2",
        "proposal_generator.rpn_head.objectness_logits": "rpn_cls_logits_fpn2",
        "proposal_generator.rpn_head.anchor_deltas": "rpn_bbox_pred_fpn2",
        "roi_heads.box_head.fc1": "fc6",
        "roi_heads.box_head.fc2": "fc7",
        "roi_heads.box_predictor.cls_score": "cls_score",
        "roi_heads.box_predictor.bbox_pred": "bbox_pred",
        "roi_heads.mask_head.deconv": "conv5_mask",
        "roi_heads.mask_head.predictor": "mask_fcn_logits",
    }
    for key, tensor in state.items():
        stem, _, part = key.rpartition(".")
        words = stem.split(".")
        if part.startswith("running"):
            continue
        ending = "w" if part == "weight" else "b"
        if stem in heads:
            name = heads[stem]
            if name == "cls_score":
                tensor = torch.cat([tensor[-1:], tensor[:-1]])
            elif name in ("bbox_pred", "mask_fcn_logits"):
                rows = 4 if name == "bbox_pred" else 1
                tensor = torch.cat([torch.full_like(tensor[:rows], 9.0), tensor])
        elif "mask_fcn" in stem:
            name = f"_[mask]_fcn{stem[-1]}"
        elif "fpn" in words[1]:
            level, last = int(stem[-1]), {2: 2, 3: 3, 4: 5, 5: 2}[int(stem[-1])]
            inner = "fpn_inner_" if "lateral" in stem else "fpn_"
            name = f"{inner}res{level}_{last}_sum{'_lateral' if inner == 'fpn_inner_' and level < 5 else ''}"
        elif "stem" in words:
            name = "res_conv1_bn" if words[-1] == "norm" else "conv1"
        else:
            name = f"{words[2]}_{words[3]}_{letters[words[4]]}{'_bn' if words[-1] == 'norm' else ''}"
        renamed[f"{name}_{norms[part] if words[-1] == 'norm' else ending}"] = tensor
    return renamed
