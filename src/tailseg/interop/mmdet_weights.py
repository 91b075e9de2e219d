"""Converts state dicts from mmdetection's names (the published GOL, Seesaw, EQL and DropLoss models) and to them.

Both projects flatten pooled features by channel, row, column. They store boxes as (dx, dy, dw, dh), class-specific
boxes class by class, anchors by row, column, ratio, and background last. So tensors stay the same. The exceptions are
Seesaw's counts and Swin's patch merging; their rules say what differs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isqrt

import torch
from torch import Tensor, nn

from tailseg.interop.rules import BATCH_COUNT, Converted, Rule, find_our_name, read_by_rules, write_by_rules
from tailseg.models.config import ResNetConfig
from tailseg.models.detector import TwoStageDetector
from tailseg.models.swin import compute_relative_positions
from tailseg.training.checkpoint import CheckpointError


def _counts_from_floats(counts: Tensor) -> Tensor:
    return counts.round().to(torch.int64)


def _counts_to_floats(counts: Tensor) -> Tensor:
    """Converts to float32. Above 16.7 million it is not exact, and neither are mmdetection's own files."""
    return counts.to(torch.float32)


TEMPERATURE = "tempearture"
"""The authors' name of the parameter whose square is a learned temperature."""


def _box_head(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{theirs}.shared_fcs.0.{{p}}", f"{ours}.fc1.{{p}}"),
        Rule(f"{theirs}.shared_fcs.1.{{p}}", f"{ours}.fc2.{{p}}"),
        Rule(f"{theirs}.fc_cls.{{p}}", f"{ours}.classifier.{{p}}"),
        Rule(f"{theirs}.fc_reg.{{p}}", f"{ours}.regressor.{{p}}"),
        # The authors' normalized classifier that learns its temperature, and their wrapped Cauchy classifier
        Rule(f"{theirs}.fc_cls.{TEMPERATURE}", f"{ours}.classifier.temperature"),
        Rule(f"{theirs}.fc_cls.g", f"{ours}.classifier.g"),
        Rule(f"{theirs}.fc_cls.s_", f"{ours}.classifier.scale"),
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
        *(
            Rule(f"{theirs}.upsample.{name}.{{p}}", f"{ours}.upsample.{name}.{{p}}")
            for name in ("channel_compressor", "content_encoder")
        ),
        Rule(f"{theirs}.conv_logits.{{p}}", f"{ours}.predictor.{{p}}"),
        Rule(f"{theirs}.conv_logits.{TEMPERATURE}", f"{ours}.temperature"),
    )


def _merging_to_ours(weights: Tensor) -> Tensor:
    """Swin's patch merging puts the four pixels of a cell side by side, by channel, row, column there; here, as in
    torchvision, by column, row, channel.
    """
    return weights.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)


def _merging_to_theirs(weights: Tensor) -> Tensor:
    return weights.unflatten(-1, (2, 2, -1)).transpose(-3, -1).flatten(-3)


def _swin_stage(i: int) -> tuple[Rule, ...]:
    theirs, ours = f"backbone.stages.{i}", f"backbone.features.{2 * i + 1}"
    merging = f"backbone.features.{2 * i + 2}"
    return (
        Rule(f"{theirs}.blocks.{{j}}.norm{{n}}.{{p}}", f"{ours}.{{j}}.norm{{n}}.{{p}}"),
        Rule(f"{theirs}.blocks.{{j}}.attn.w_msa.{{rest}}", f"{ours}.{{j}}.attn.{{rest}}"),
        Rule(f"{theirs}.blocks.{{j}}.ffn.layers.0.0.{{p}}", f"{ours}.{{j}}.mlp.0.{{p}}"),
        Rule(f"{theirs}.blocks.{{j}}.ffn.layers.1.{{p}}", f"{ours}.{{j}}.mlp.3.{{p}}"),
        Rule(f"{theirs}.downsample.norm.{{p}}", f"{merging}.norm.{{p}}", _merging_to_ours, _merging_to_theirs),
        Rule(
            f"{theirs}.downsample.reduction.{{p}}", f"{merging}.reduction.{{p}}", _merging_to_ours, _merging_to_theirs
        ),
    )


MAX_STAGES = 10
"""Stages of a cascade that the rules count to; published ones have three."""

RULES = (
    # The authors' SE-ResNets: AGLU after the stem and in the blocks, APA in the gates
    *(
        rule
        for theirs, ours in (
            ("backbone.relu", "backbone.act"),
            ("backbone.layer{s}.{i}.unirect{n}", "backbone.layer{s}.{i}.act{n}"),
            ("backbone.layer{s}.{i}.se.uniact", "backbone.layer{s}.{i}.se.gate"),
        )
        for rule in (
            Rule(f"{theirs}.lambda_param", f"{ours}.raw_lambda"),
            Rule(f"{theirs}.kappa_param", f"{ours}.kappa"),
        )
    ),
    Rule("backbone.layer{s}.{i}.se.excitation.0.weight", "backbone.layer{s}.{i}.se.fc1.weight"),
    Rule("backbone.layer{s}.{i}.se.excitation.2.weight", "backbone.layer{s}.{i}.se.fc2.weight"),
    # ResNet and ResNeXt of any depth: both projects took torchvision's names
    Rule("backbone.conv1.weight", "backbone.conv1.weight"),
    Rule("backbone.bn1.{rest}", "backbone.bn1.{rest}"),
    Rule("backbone.layer{s}.{rest}", "backbone.layer{s}.{rest}"),
    # Swin: torchvision's names here, their own there
    Rule("backbone.patch_embed.projection.{p}", "backbone.features.0.0.{p}"),
    Rule("backbone.patch_embed.norm.{p}", "backbone.features.0.2.{p}"),
    *(rule for i in range(4) for rule in _swin_stage(i)),
    Rule("backbone.norm{i}.{p}", "backbone.norms.{i}.{p}"),
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
"""Their keys and ours. If several rules match a key, the first one whose name the model has is used."""

LOGITS = {
    0: "C logits: DropLoss, EQL, sigmoid without background",
    1: "C + 1 logits: Gumbel, softmax, class-relative, the published sigmoid",
    2: "C + 2 logits: Seesaw",
}
"""The losses by the number of logits in addition to the classes."""


def from_mmdet(state: Mapping[str, Tensor], model: TwoStageDetector, *, source: str = "the state dict") -> Converted:
    """Converts mmdetection's state dict to one for ``model.load_state_dict``.

    Counts of batches, and counts of the loss that mmdetection does not store (EQLv2's gradients), stay as in ``model``.
    The second weights of mmcv 1's EMAHook are left out, see `find_ema_names`.

    Args:
        state: tensors by mmdetection's names. ``meta`` tensors are enough to check names and shapes.
        model: a model with the architecture, the loss and the number of classes that the file should have.
        source: what errors call the file.

    Returns:
        The state dict in tailseg's names, and which keys were left out or missing.

    Raises:
        CheckpointError: the number of classes or logits differs, keys are missing or unexpected, or shapes differ. The
            message names the first keys of each kind.
    """
    copies = set(find_ema_names(state).values())
    state = {key: tensor for key, tensor in state.items() if key not in copies}
    _check_predictors(state, model, source)
    read = read_by_rules(
        _as_scalars(_without_positions(state, source)),
        model.state_dict(),
        RULES,
        source=source,
        target=_describe(model),
        optional=lambda key: key.endswith(BATCH_COUNT) or _is_state_of_loss(key),
    )
    return replace(read, left_out=(*read.left_out, *sorted(copies)))


def find_ema_names(names: Iterable[str]) -> dict[str, str]:
    """Finds the weights that a file of mmdetection 2 has twice: the hook EMAHook of mmcv 1 stores a second copy.

    The copy of ``neck.fpn_convs.0.conv.weight`` is ``ema_neck_fpn_convs_0_conv_weight``. Running statistics have none.
    The hook exchanges the two before each evaluation. A file is written before or after that, by the hook's priority:
    with mmcv's own (NORMAL) the copies are the average, with ABOVE_NORMAL the weights under the network's names are.

    Args:
        names: of the file's tensors.

    Returns:
        The copies' names by the network's names, in the order of the file; empty for other files.
    """
    names = dict.fromkeys(names)
    copies = {name: f"ema_{name.replace('.', '_')}" for name in names}
    return {name: copy for name, copy in copies.items() if copy in names}


def to_mmdet(state: Mapping[str, Tensor]) -> Converted:
    """Converts tailseg's state dict to mmdetection's names. Counts of a loss that mmdetection lacks are left out.

    Raises:
        CheckpointError: a key has no name in mmdetection.
    """
    written = write_by_rules(state, RULES, optional=_is_state_of_loss)
    return replace(written, state=_with_positions(written.state))


def backbone_from_mmdet(
    state: Mapping[str, Tensor], backbone: nn.Module, *, source: str = "the state dict"
) -> Converted:
    """Converts the state dict of mmdetection's backbone alone to one for ``backbone.load_state_dict``.

    Args:
        state: tensors by mmdetection's names, without the prefix ``backbone.``.
        backbone: a backbone with the architecture that the file should have.
        source: what errors call the file.

    Returns:
        The state dict in tailseg's names.

    Raises:
        CheckpointError: as `from_mmdet`.
    """
    read = read_by_rules(
        _without_positions({f"backbone.{key}": tensor for key, tensor in state.items()}, source),
        {f"backbone.{key}": tensor for key, tensor in backbone.state_dict().items()},
        RULES,
        source=source,
        target=type(backbone).__name__,
        optional=lambda key: key.endswith(BATCH_COUNT),
    )
    return replace(read, state={key.removeprefix("backbone."): tensor for key, tensor in read.state.items()})


def _is_state_of_loss(key: str) -> bool:
    """Checks for counts of a loss, which mmdetection may not have. Seesaw's have a rule and are required."""
    return ".loss." in key and not key.endswith("cum_samples")


def _describe(model: TwoStageDetector) -> str:
    depth = f"-{model.config.backbone.depth}" if isinstance(model.config.backbone, ResNetConfig) else ""
    return f"{type(model).__name__} on {type(model.backbone).__name__}{depth} with {model.num_classes} classes"


TABLE, INDEX = ".relative_position_bias_table", ".relative_position_index"
"""Swin's learned biases, and the index that selects one for each pair of a window's tokens. The index depends only on
the window's size: tailseg computes it, mmdetection stores it."""


def _without_positions(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Removes Swin's indices from the state dict.

    Raises:
        CheckpointError: an index differs from the one that tailseg computes.
    """
    remaining = dict(state)
    for key, table in state.items():
        is_table = key.endswith(TABLE) and table.dim() == 2  # another shape is refused later, with its name
        index = remaining.pop(key.removesuffix(TABLE) + INDEX, None) if is_table else None
        if index is None:
            continue
        expected = _positions(table)
        # meta tensors have a shape alone
        if index.shape != expected.shape or not (index.is_meta or torch.equal(index.cpu(), expected)):
            raise CheckpointError(
                f"{source} has the biases of Swin's windows in another order: {key.removesuffix(TABLE) + INDEX} is not "
                "the index of mmdetection's Swin, and each bias would be used for another pair of tokens"
            )
    return remaining


def _as_scalars(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Learned temperatures as scalars: the authors' code of 2023 gave them the shape (1)."""
    return {
        key: tensor.reshape(()) if key.endswith(f".{TEMPERATURE}") and tensor.shape == (1,) else tensor
        for key, tensor in state.items()
    }


def _with_positions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tables = {key: table for key, table in state.items() if key.endswith(TABLE)}
    indices = {key.removesuffix(TABLE) + INDEX: _positions(table).to(table.device) for key, table in tables.items()}
    return {**state, **indices}


def _positions(table: Tensor) -> Tensor:
    """Computes the index for a table of ``(2 w - 1)^2`` rows."""
    return compute_relative_positions((isqrt(len(table)) + 1) // 2)


def _check_predictors(state: Mapping[str, Tensor], model: TwoStageDetector, source: str) -> None:
    """Explains the usual mistakes: another number of classes, or the recipe of another loss.

    Raises:
        CheckpointError: the file's predictors have another number of classes, or are from another loss.
    """
    classes = _num_classes(state)
    if classes not in (None, model.num_classes):
        raise CheckpointError(
            f"{source} has {classes} classes, expected {model.num_classes}: give the annotation file that it was "
            "trained on (--classes)"
        )
    expected = {name: len(p) for name, p in model.named_parameters() if name.endswith("classifier.bias")}
    for key, tensor in state.items():
        name = find_our_name(key, RULES, expected)
        if name is not None and tensor.dim() == 1 and len(tensor) != expected[name]:
            kind = LOGITS.get(len(tensor) - model.num_classes, "no known loss")
            known = "; ".join(LOGITS.values())
            raise CheckpointError(
                f"{source} has {len(tensor)} logits for {model.num_classes} classes ({kind}), and the recipe's loss "
                f"needs {expected[name]}. Choose the recipe of the loss that it was trained with ({known})"
            )


def _num_classes(state: Mapping[str, Tensor]) -> int | None:
    """Counts the classes of a class-specific mask or box predictor; None if all predictors are class-agnostic."""
    for key, tensor in state.items():
        if tensor.dim() != 1:
            continue  # another shape is refused later, with its name
        if key.startswith("roi_head.mask_head.") and key.endswith("conv_logits.bias"):
            return len(tensor)
        if key.startswith("roi_head.bbox_head.") and key.endswith("fc_reg.bias") and len(tensor) > 4:
            return len(tensor) // 4
    return None
