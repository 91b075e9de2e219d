"""Converts state dicts from detectron2's names (Faster, Mask and Cascade R-CNN with FPN) and to them.

Both projects store boxes as (dx, dy, dw, dh), class-specific boxes class by class, anchors by row, column, ratio, and
background last. The conversion changes these tensors, without a change of what the network computes:

- The stem's kernel, because detectron2's images are BGR and divided by PIXEL_STD, and ours are RGB and divided by
  ImageNet's standard deviation. The mean is the same.
- The box regressors, whose units are 1 / BBOX_REG_WEIGHTS there and ``target_stds`` here. They differ by 1 percent in
  the third stage of a cascade.
- The mask head of a cascade, which is one for all stages there: each stage has a copy here.
- Batch norms without statistics, whose mean is 0 and whose variance is 1.

A file does not say how its images were made, nor which convolution of a block has the stride: see `FileSettings`.

Source: detectron2 at commit 02b5c4e (June 2026).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor

from tailseg.interop.rules import BATCH_COUNT, Converted, Rule, read_by_rules, write_by_rules
from tailseg.models.config import ModelConfig, ResNetConfig
from tailseg.models.detector import TwoStageDetector
from tailseg.models.images import IMAGE_MEAN, IMAGE_STD
from tailseg.ops.anchors import base_anchors
from tailseg.training.checkpoint import CheckpointError

STEM: Final = "backbone.bottom_up.stem.conv1"
PREDICTOR: Final = "roi_heads.box_predictor"
MASK_HEAD: Final = "roi_heads.mask_head"
ANCHORS: Final = "proposal_generator.anchor_generator.cell_anchors"
BBOX_REG_WEIGHTS: Final = ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))
"""detectron2's defaults for the stages of a cascade; the first one holds for the other detectors."""
FAIR_STD: Final = (57.375, 57.12, 58.395)
"""PIXEL_STD of its ResNeXt-101-32x8d, in the order BGR."""
EPS: Final = 1e-5
"""Added to the variance of batch norms in both projects."""


def _stage(s: int) -> tuple[Rule, ...]:
    theirs, ours = f"backbone.bottom_up.res{s}.{{i}}", f"backbone.layer{s - 1}.{{i}}"
    return (
        Rule(f"{theirs}.conv{{n}}.weight", f"{ours}.conv{{n}}.weight"),
        Rule(f"{theirs}.conv{{n}}.norm.{{rest}}", f"{ours}.bn{{n}}.{{rest}}"),
        Rule(f"{theirs}.shortcut.weight", f"{ours}.downsample.0.weight"),
        Rule(f"{theirs}.shortcut.norm.{{rest}}", f"{ours}.downsample.1.{{rest}}"),
        Rule(f"backbone.fpn_lateral{s}.{{p}}", f"fpn.lateral.{s - 2}.{{p}}"),
        Rule(f"backbone.fpn_output{s}.{{p}}", f"fpn.output.{s - 2}.{{p}}"),
    )


def _box_head(stage: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"roi_heads.box_head{stage}.fc1.{{p}}", f"{ours}.fc1.{{p}}"),
        Rule(f"roi_heads.box_head{stage}.fc2.{{p}}", f"{ours}.fc2.{{p}}"),
        Rule(f"{PREDICTOR}{stage}.cls_score.{{p}}", f"{ours}.classifier.{{p}}"),
        Rule(f"{PREDICTOR}{stage}.bbox_pred.{{p}}", f"{ours}.regressor.{{p}}"),
        Rule(f"{PREDICTOR}{stage}.fed_loss_cls_weights", None),
    )


def _mask_head(stage: str, ours: str) -> tuple[Rule, ...]:
    return (
        *(Rule(f"{MASK_HEAD}{stage}.mask_fcn{i + 1}.{{p}}", f"{ours}.convs.{i}.{{p}}") for i in range(10)),
        Rule(f"{MASK_HEAD}{stage}.deconv.{{p}}", f"{ours}.upsample.{{p}}"),
        Rule(f"{MASK_HEAD}{stage}.predictor.{{p}}", f"{ours}.predictor.{{p}}"),
    )


RULES: Final = (
    Rule(f"{STEM}.weight", "backbone.conv1.weight"),
    Rule(f"{STEM}.norm.{{rest}}", "backbone.bn1.{rest}"),
    *(rule for s in (2, 3, 4, 5) for rule in _stage(s)),
    Rule("proposal_generator.rpn_head.conv.{p}", "rpn.conv.{p}"),
    Rule("proposal_generator.rpn_head.objectness_logits.{p}", "rpn.objectness.{p}"),
    Rule("proposal_generator.rpn_head.anchor_deltas.{p}", "rpn.box_deltas.{p}"),
    *_box_head("", "box_head"),
    *_mask_head("", "mask_head"),
    *_box_head(".{k}", "box_cascade.heads.{k}"),
    *_mask_head(".{k}", "mask_heads.{k}"),
)
"""Their keys and ours. The mask head of a cascade has a number here only, see `_copy_mask_head`."""

CAFFE2: Final = (
    (r"conv1", STEM),
    (r"res_conv1_bn", f"{STEM}.norm"),
    (r"res(\d)_(\d+)_branch1", r"backbone.bottom_up.res\1.\2.shortcut"),
    (r"res(\d)_(\d+)_branch1_bn", r"backbone.bottom_up.res\1.\2.shortcut.norm"),
    *(
        (rf"res(\d)_(\d+)_branch2{letter}{part}", rf"backbone.bottom_up.res\1.\2.conv{n}{norm}")
        for n, letter in enumerate("abc", 1)
        for part, norm in (("", ""), ("_bn", ".norm"))
    ),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?", r"backbone.fpn_lateral\1"),
    (r"fpn_res(\d)_\d+_sum", r"backbone.fpn_output\1"),
    (r"conv_rpn_fpn2", "proposal_generator.rpn_head.conv"),
    (r"rpn_cls_logits_fpn2", "proposal_generator.rpn_head.objectness_logits"),
    (r"rpn_bbox_pred_fpn2", "proposal_generator.rpn_head.anchor_deltas"),
    (r"fc6", "roi_heads.box_head.fc1"),
    (r"fc7", "roi_heads.box_head.fc2"),
    (r"cls_score", f"{PREDICTOR}.cls_score"),
    (r"bbox_pred", f"{PREDICTOR}.bbox_pred"),
    (r"_\[mask\]_fcn(\d)", rf"{MASK_HEAD}.mask_fcn\1"),
    (r"conv5_mask", f"{MASK_HEAD}.deconv"),
    (r"mask_fcn_logits", f"{MASK_HEAD}.predictor"),
)
"""Names in files of the first Detectron, without the ending ``_w`` or ``_s`` (weight) or ``_b`` (bias)."""


@dataclass(frozen=True)
class FileSettings:
    """Settings of detectron2's config that a file of weights depends on and does not have. None is found by the file.

    The first batch norm has the variance of what the stem computed of ImageNet's images. So it tells whether they were
    divided by a standard deviation. If they were not, the backbone is MSRA's (R-50 and R-101 of the model zoo): BGR,
    and the stride in the 1x1 convolutions. Otherwise it is Facebook's ResNeXt (BGR) or torchvision's ResNet (RGB).

    Attributes:
        input_format: INPUT.FORMAT, the order of the colors.
        pixel_std: MODEL.PIXEL_STD, in the order of ``input_format``.
        stride_in_1x1: MODEL.RESNETS.STRIDE_IN_1X1, as ``ResNetConfig.stride_in_1x1``.
    """

    input_format: Literal["BGR", "RGB"] | None = None
    pixel_std: tuple[float, float, float] | None = None
    stride_in_1x1: bool | None = None

    def describe(self) -> str:
        """Names the settings as detectron2's config does."""
        std = ", ".join(f"{value:g}" for value in self.pixel_std or ())
        return f"INPUT.FORMAT {self.input_format}, PIXEL_STD [{std}], STRIDE_IN_1X1 {self.stride_in_1x1}"


def find_settings(
    state: Mapping[str, Tensor],
    config: object,
    stated: FileSettings = FileSettings(),
    *,
    source: str = "the state dict",
) -> FileSettings:
    """Finds the settings that a file depends on: those that are stated, that the file has, or that its stem tells.

    Args:
        state: tensors by detectron2's names, or by those of the first Detectron.
        config: the settings of the model, `ModelConfig`.
        stated: the settings that are known.
        source: what errors call the file.

    Returns:
        Settings without None.

    Raises:
        CheckpointError: the backbone is no ResNet, or the mean of the images is not ImageNet's.
    """
    backbone = config.backbone if isinstance(config, ModelConfig) else None
    if not isinstance(backbone, ResNetConfig):
        raise CheckpointError(
            f"{source} is of detectron2, of which tailseg reads ResNet and ResNeXt, and the recipe has "
            f"{getattr(backbone, 'description', type(config).__name__)}. Choose a recipe with a ResNet"
        )
    state = _with_detectron2_names(state)
    mean, std = (state[key].flatten().tolist() if key in state else None for key in ("pixel_mean", "pixel_std"))
    undivided = max(std) < 2 if std else _is_undivided(state)
    msra, resnext = undivided and backbone.depth >= 50 and backbone.grouped is None, backbone.grouped is not None
    order: Literal["BGR", "RGB"] = "BGR" if undivided or resnext else "RGB"
    if mean:
        order = "BGR" if mean[0] < mean[-1] else "RGB"
        if max(abs(x - y) for x, y in zip(sorted(mean), sorted(IMAGE_MEAN), strict=True)) > 0.1:
            raise CheckpointError(f"{source} was trained with PIXEL_MEAN {mean}, and tailseg has {list(IMAGE_MEAN)}")
    order = stated.input_format or order
    usual = (1.0, 1.0, 1.0) if undivided else IMAGE_STD if order == "RGB" else FAIR_STD
    return FileSettings(
        order,
        stated.pixel_std or ((std[0], std[1], std[2]) if std else usual),
        msra if stated.stride_in_1x1 is None else stated.stride_in_1x1,
    )


def _is_undivided(state: Mapping[str, Tensor]) -> bool:
    """Whether the images of the stem's training were not divided by a standard deviation.

    The variance of a filter's output is between the squared norm of the filter times the smallest and the largest
    variance of the images: about 1, or about 58^2.
    """
    weight, variance = state.get(f"{STEM}.weight"), state.get(f"{STEM}.norm.running_var")
    if weight is None or variance is None or len(weight) != len(variance):
        return True
    power = weight.flatten(1).square().sum(1)
    return float((variance / power.clamp(min=1e-12)).median()) > sum(IMAGE_STD) / 3


def is_caffe2(state: Mapping[str, Tensor]) -> bool:
    """Returns whether the names are those of the first Detectron (Caffe2), whose pooling and anchors are others."""
    return any(re.match(r"conv_rpn_|fpn_inner_", key) for key in state)


def _with_detectron2_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translates names of the first Detectron, whose background is the first class and not the last."""
    if not is_caffe2(state):
        return dict(state)
    renamed = {}
    for key, tensor in state.items():
        if key.endswith("_momentum"):
            continue
        stem, _, ending = key.rpartition("_")
        part = {"w": "weight", "s": "weight", "b": "bias"}.get(ending)
        matches = (re.sub(f"^{pattern}$", name, stem) for pattern, name in CAFFE2 if re.fullmatch(pattern, stem))
        name = next(matches, None)
        theirs = f"{name}.{part}" if name and part else key
        if ".cls_score." in theirs:
            tensor = torch.cat([tensor[1:], tensor[:1]])
        elif ".bbox_pred." in theirs or f"{MASK_HEAD}.predictor." in theirs:
            tensor = tensor[4 if ".bbox_pred." in theirs else 1 :]
        renamed[theirs] = tensor
    return renamed


def from_detectron2(
    state: Mapping[str, Tensor],
    model: TwoStageDetector,
    settings: FileSettings = FileSettings(),
    *,
    other_loss: bool = False,
    source: str = "the state dict",
) -> Converted:
    """Converts detectron2's state dict to one for ``model.load_state_dict``.

    The row of the background is left out if the loss has no logit for it; detectron2's USE_SIGMOID_CE ignores it too.

    Args:
        state: tensors by detectron2's names, or by those of the first Detectron (Caffe2).
        model: a model with the architecture and the number of classes that the file should have. Its backbone must have
            the stride where the file has it.
        settings: see `find_settings`.
        other_loss: whether the file's loss may be another one. Rows of no class then stay as in ``model`` if the
            losses have different numbers of them.
        source: what errors call the file.

    Returns:
        The state dict in tailseg's names, and which keys were left out or missing.

    Raises:
        CheckpointError: the number of classes or the anchors differ, keys are missing or unexpected, or shapes differ.
            The message names the first keys of each kind.
    """
    found = find_settings(state, model.config, settings, source=source)
    theirs = _with_detectron2_names(state)
    _check_classes(theirs, model.num_classes, source)
    _check_anchors(theirs, model.config, source)
    for key in ("pixel_mean", "pixel_std"):
        theirs.pop(key, None)
    left_out = _fit_classifiers(theirs, model, other_loss=other_loss)
    theirs = _copy_mask_head(_scale_boxes(_add_statistics(theirs), model.config), model)
    stem = theirs.get(f"{STEM}.weight")
    if stem is not None and stem.dim() == 4 and stem.shape[1] == 3:
        theirs[f"{STEM}.weight"] = _to_our_images(stem, found)
    converted = read_by_rules(
        theirs,
        model.state_dict(),
        RULES,
        source=source,
        target=f"{type(model).__name__} on {type(model.backbone).__name__} with {model.num_classes} classes",
        optional=lambda key: key.endswith(BATCH_COUNT) or ".loss." in key,
    )
    return replace(converted, left_out=(*left_out, *converted.left_out))


def to_detectron2(state: Mapping[str, Tensor], num_classes: int, target_stds: Sequence[Sequence[float]]) -> Converted:
    """Converts tailseg's state dict to detectron2's, for the default INPUT.FORMAT, PIXEL_STD and BBOX_REG_WEIGHTS.

    A loss without a logit for background gets a row of zeros, which USE_SIGMOID_CE ignores. Of a cascade's mask heads
    the last one is used.

    Args:
        state: tensors by our names.
        num_classes: C.
        target_stds: ``target_stds`` of each stage of the box head.

    Returns:
        The state dict, and which keys were left out.

    Raises:
        CheckpointError: a key has no name there, or the loss has more logits than C + 1.
    """
    kept = {key: tensor for key, tensor in state.items() if not key.endswith(BATCH_COUNT)}
    last = max((int(match[1]) for key in kept if (match := re.match(r"mask_heads\.(\d+)\.", key))), default=0)
    other_masks = [key for key in kept if re.match(r"mask_heads\.", key) and not key.startswith(f"mask_heads.{last}.")]
    for key in other_masks:
        del kept[key]
    written = write_by_rules(kept, RULES, optional=lambda key: ".loss." in key)
    theirs = {key.replace(f"{MASK_HEAD}.{last}.", f"{MASK_HEAD}."): tensor for key, tensor in written.state.items()}
    for key, tensor in theirs.items():
        if key == f"{STEM}.weight":
            theirs[key] = tensor.flip(1) / tensor.new_tensor(IMAGE_STD[::-1]).view(3, 1, 1)
        elif (stage := _stage_of_boxes(key)) is not None:
            theirs[key] = tensor / _factors(tensor, stage, target_stds)
        elif ".cls_score." in key:
            theirs[key] = _with_background(tensor, num_classes)
    return Converted(theirs, (*written.left_out, *other_masks))


def _to_our_images(stem: Tensor, settings: FileSettings) -> Tensor:
    """The kernel for RGB images that are divided by ImageNet's standard deviation."""
    assert settings.pixel_std is not None
    divided = stem / stem.new_tensor(settings.pixel_std).view(3, 1, 1)
    return (divided.flip(1) if settings.input_format == "BGR" else divided) * stem.new_tensor(IMAGE_STD).view(3, 1, 1)


def _with_background(tensor: Tensor, num_classes: int) -> Tensor:
    if len(tensor) not in (num_classes, num_classes + 1):
        raise CheckpointError(
            f"the loss has {len(tensor)} logits for {num_classes} classes, and detectron2 has one for each class and "
            "one for background: its names do not fit this loss"
        )
    missing = num_classes + 1 - len(tensor)
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])


def _check_classes(state: Mapping[str, Tensor], num_classes: int, source: str) -> None:
    biases = [tensor for key, tensor in state.items() if key.endswith("cls_score.bias") and tensor.dim() == 1]
    if biases and len(biases[0]) - 1 != num_classes:
        raise CheckpointError(
            f"{source} has {len(biases[0]) - 1} classes, expected {num_classes}: give the annotation file that it was "
            "trained on (--classes)"
        )


def _check_anchors(state: dict[str, Tensor], config: ModelConfig, source: str) -> None:
    """Removes the anchors, which files of early versions have, and compares them with ours."""
    theirs = [state.pop(key) for key in sorted(state) if key.startswith(f"{ANCHORS}.")]
    for level, anchors in enumerate(theirs):
        stride, rpn = 4 * 2**level, config.rpn
        ours = base_anchors(stride, scale=rpn.anchor_scale, ratios=rpn.anchor_ratios)
        if anchors.shape != ours.shape or not torch.allclose(anchors, ours, rtol=0, atol=1e-2):
            raise CheckpointError(
                f"{source} has other anchors at stride {stride}: {anchors.tolist()}, and the recipe has "
                f"{ours.tolist()}. Set model.rpn.anchor_scale and model.rpn.anchor_ratios"
            )


def _fit_classifiers(state: dict[str, Tensor], model: TwoStageDetector, *, other_loss: bool) -> list[str]:
    """Fits the classifiers' rows of no class to the loss of the model; names the rows that are left out."""
    classes, left_out = model.num_classes, []
    initial = {name.rpartition(".")[2]: p.detach() for name, p in model.named_parameters() if ".classifier." in name}
    for key in [key for key in state if ".cls_score." in key]:
        rows = initial[key.rpartition(".")[2]]
        fits = len(rows) == classes or (other_loss and len(rows) != classes + 1)
        if not fits or rows.shape[1:] != state[key].shape[1:]:
            continue
        state[key] = torch.cat([state[key][:classes], rows[classes:]])
        left_out.append(f"{key}'s row of the background")
    return left_out


def _add_statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds the mean 0 and the variance 1 (with eps) of batch norms that have weight and bias alone."""
    complete = dict(state)
    for key, weight in state.items():
        if key.endswith(".norm.weight") and key.startswith("backbone.bottom_up."):
            norm = key.removesuffix("weight")
            complete.setdefault(f"{norm}running_mean", torch.zeros_like(weight))
            complete.setdefault(f"{norm}running_var", torch.ones_like(weight) - EPS)
    return complete


def _copy_mask_head(state: Mapping[str, Tensor], model: TwoStageDetector) -> dict[str, Tensor]:
    """Gives each class its row of a class-agnostic mask predictor, and each stage of a cascade its mask head."""
    copied = {}
    stages = sum(key.endswith(".predictor.bias") for key in model.state_dict() if key.startswith("mask_heads."))
    for key, tensor in state.items():
        if key.startswith(f"{MASK_HEAD}.predictor.") and len(tensor) == 1:
            tensor = tensor.repeat(model.num_classes, *[1] * (tensor.dim() - 1))
        if stages and key.startswith(f"{MASK_HEAD}."):
            rest = key.removeprefix(MASK_HEAD)
            copied |= {f"{MASK_HEAD}.{k}{rest}": tensor for k in range(stages)}
        else:
            copied[key] = tensor
    return copied


def _scale_boxes(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    stds = [config.box.target_stds, *(stage.target_stds for stage in getattr(config.cascade, "later_stages", ()))]
    scaled = dict(state)
    for key, tensor in state.items():
        stage = _stage_of_boxes(key)
        if stage is not None and stage < len(stds) and len(tensor) % 4 == 0:
            scaled[key] = tensor * _factors(tensor, stage, stds)
    return scaled


def _stage_of_boxes(key: str) -> int | None:
    match = re.match(rf"{re.escape(PREDICTOR)}(?:\.(\d+))?\.bbox_pred\.", key)
    stage = int(match[1] or 0) if match else None
    return stage if stage is None or stage < len(BBOX_REG_WEIGHTS) else None


def _factors(tensor: Tensor, stage: int, target_stds: Sequence[Sequence[float]]) -> Tensor:
    """Their unit of each row of a regressor divided by ours."""
    units = [1 / (weight * std) for weight, std in zip(BBOX_REG_WEIGHTS[stage], target_stds[stage], strict=True)]
    return tensor.new_tensor(units).repeat(len(tensor) // 4).view(-1, *[1] * (tensor.dim() - 1))
