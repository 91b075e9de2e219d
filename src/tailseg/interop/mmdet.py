"""Checkpoints in mmdetection's layout: the published GOL, Seesaw, EQL and DropLoss models, and ours for use there.

Both projects flatten pooled features by channel, row, column, keep boxes as (dx, dy, dw, dh), class-specific boxes
class by class, anchors by row, column, ratio, and background last. So tensors pass as they are; what differs is named
beside its rule.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tailseg.interop.rules import BATCH_COUNT, Converted, Rule, ours_of, read_by_rules, write_by_rules
from tailseg.models.detector import Detector
from tailseg.training.checkpoint import CheckpointError


def _counts_from_floats(counts: Tensor) -> Tensor:
    return counts.round().to(torch.int64)


def _counts_to_floats(counts: Tensor) -> Tensor:
    """In float32, which holds whole numbers to 16.7 million exactly: beyond, their file was as coarse."""
    return counts.to(torch.float32)


def _box_head(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{theirs}.shared_fcs.0.{{p}}", f"{ours}.fc1.{{p}}"),
        Rule(f"{theirs}.shared_fcs.1.{{p}}", f"{ours}.fc2.{{p}}"),
        Rule(f"{theirs}.fc_cls.{{p}}", f"{ours}.classifier.{{p}}"),
        Rule(f"{theirs}.fc_reg.{{p}}", f"{ours}.regressor.{{p}}"),
        # Seesaw's regions of each class, background last: floats there, whole numbers here
        Rule(
            f"{theirs}.loss_cls.cum_samples",
            f"{ours}.loss.cum_samples",
            read=_counts_from_floats,
            write=_counts_to_floats,
        ),
    )


def _mask_head(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{theirs}.convs.{{i}}.conv.{{p}}", f"{ours}.convs.{{i}}.{{p}}"),
        Rule(f"{theirs}.upsample.{{p}}", f"{ours}.upsample.{{p}}"),
        Rule(f"{theirs}.conv_logits.{{p}}", f"{ours}.predictor.{{p}}"),
    )


MAX_STAGES = 10
"""Stages of a cascade that the rules count to; published ones have three."""

RULES = (
    # ResNet and ResNeXt of any depth: both projects took torchvision's names
    Rule("backbone.{rest}", "backbone.{rest}"),
    Rule("neck.lateral_convs.{i}.conv.{p}", "fpn.lateral.{i}.{p}"),
    Rule("neck.fpn_convs.{i}.conv.{p}", "fpn.output.{i}.{p}"),
    Rule("rpn_head.rpn_conv.{p}", "rpn.conv.{p}"),
    Rule("rpn_head.rpn_cls.{p}", "rpn.objectness.{p}"),
    Rule("rpn_head.rpn_reg.{p}", "rpn.box_deltas.{p}"),
    *_box_head("roi_head.bbox_head", "box_head"),
    *_mask_head("roi_head.mask_head", "mask_head"),
    # Cascade Mask R-CNN and HTC: a box and a mask head a stage
    *_box_head("roi_head.bbox_head.{k}", "box_cascade.heads.{k}"),
    *_mask_head("roi_head.mask_head.{k}", "mask_heads.{k}"),
    *_mask_head("roi_head.mask_head.{k}", "mask_flow.heads.{k}"),
    # HTC: what head k makes of head k - 1's features; head 0 has none before it, and published files give it one
    # that was never trained
    Rule("roi_head.mask_head.0.conv_res.conv.{p}", None),
    *(
        Rule(f"roi_head.mask_head.{k}.conv_res.conv.{{p}}", f"mask_flow.convs.{k - 1}.{{p}}")
        for k in range(1, MAX_STAGES)
    ),
)
"""Their keys and ours; of several rules that know a key, the first whose name the model has decides."""

LOGITS = {
    0: "C logits: DropLoss, EQL, sigmoid",
    1: "C + 1 logits: Gumbel, softmax, class-relative",
    2: "C + 2 logits: Seesaw",
}
"""Which loss trained a classifier, by how many logits it has beyond the classes."""


def from_mmdet(state: Mapping[str, Tensor], model: Detector, *, source: str = "the state dict") -> Converted:
    """Their state dict as one that ``model.load_state_dict`` takes.

    Counts of batches, and counts of a loss that theirs lacks (EQLv2's gradients), stay as ``model`` has them.

    Args:
        state: tensors by mmdetection's names; ``meta`` tensors will do, to check names and shapes.
        model: of the architecture, the loss and the number of classes that the file should have.
        source: how errors call the file.

    Raises:
        CheckpointError: another number of classes or of logits, missing or unexpected keys, other shapes; the message
            names the first of each kind.
    """
    _check_predictors(state, model, source)
    return read_by_rules(
        state,
        model.state_dict(),
        RULES,
        source=source,
        target=_describe(model),
        optional=lambda key: key.endswith(BATCH_COUNT) or _is_state_of_loss(key),
    )


def to_mmdet(state: Mapping[str, Tensor]) -> Converted:
    """Our state dict in mmdetection's names; counts of a loss that theirs lacks are left out.

    Raises:
        CheckpointError: a key that has no name there.
    """
    return write_by_rules(state, RULES, optional=_is_state_of_loss)


def our_name(key: str, model: Detector) -> str:
    """The model's name of one of their parameters.

    Raises:
        KeyError: the model has none.
    """
    name = ours_of(key, RULES, model.state_dict())
    if name is None:
        raise KeyError(key)
    return name


def _is_state_of_loss(key: str) -> bool:
    """A loss's own counts, which theirs may not have; Seesaw's have a rule, and must be there."""
    return ".loss." in key and not key.endswith("cum_samples")


def _describe(model: Detector) -> str:
    backbone = model.config.backbone
    return (
        f"{type(model).__name__} on {type(model.backbone).__name__}-{backbone.depth} with {model.num_classes} classes"
    )


def _check_predictors(state: Mapping[str, Tensor], model: Detector, source: str) -> None:
    """Says in words what is the usual mistake: other classes, or the recipe of another loss.

    Raises:
        CheckpointError: the file's predictors are of other classes or of another loss.
    """
    classes = _num_classes(state)
    if classes not in (None, model.num_classes):
        raise CheckpointError(
            f"{source} knows {classes} classes, expected {model.num_classes}: give the annotation file that it was "
            "trained on (--classes)"
        )
    wanted = {name: len(p) for name, p in model.named_parameters() if name.endswith("classifier.bias")}
    for key, tensor in state.items():
        name = ours_of(key, RULES, wanted)
        if name is not None and len(tensor) != wanted[name]:
            kind = LOGITS.get(len(tensor) - model.num_classes, "no known loss")
            known = "; ".join(LOGITS.values())
            raise CheckpointError(
                f"{source} has {len(tensor)} logits for {model.num_classes} classes ({kind}), and the recipe's loss "
                f"wants {wanted[name]}. Choose the recipe of the loss that it was trained with ({known})"
            )


def _num_classes(state: Mapping[str, Tensor]) -> int | None:
    """Classes of a class-specific mask or box predictor; None where everything is class-agnostic."""
    for key, tensor in state.items():
        if key.startswith("roi_head.mask_head.") and key.endswith("conv_logits.bias"):
            return len(tensor)
        if key.startswith("roi_head.bbox_head.") and key.endswith("fc_reg.bias") and len(tensor) > 4:
            return len(tensor) // 4
    return None
