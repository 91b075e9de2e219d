"""torchvision's Mask and Faster R-CNN (``maskrcnn_resnet50_fpn``), its COCO weights above all, as a starting point.

Its classes have the background first, ours last; its box and mask predictors have rows for the background, ours none.
Heads are made for other classes by name. A starting point and no more: torchvision pools without the half-pixel shift
and rounds its anchors, so that a model goes on learning here instead of detecting the same.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from tailseg.interop.rules import BATCH_COUNT, Converted, Rule, ours_of, read_by_rules
from tailseg.models.detector import TwoStageDetector
from tailseg.training.checkpoint import CheckpointError
from tailseg.training.first_weights import plain_name

CLASSIFIER = "roi_heads.box_predictor.cls_score"
REGRESSOR = "roi_heads.box_predictor.bbox_pred"
MASK_PREDICTOR = "roi_heads.mask_predictor.mask_fcn_logits"

RULES = (
    Rule("backbone.body.{rest}", "backbone.{rest}"),
    Rule("backbone.fpn.inner_blocks.{i}.0.{p}", "fpn.lateral.{i}.{p}"),
    Rule("backbone.fpn.layer_blocks.{i}.0.{p}", "fpn.output.{i}.{p}"),
    Rule("rpn.head.conv.0.0.{p}", "rpn.conv.{p}"),
    Rule("rpn.head.cls_logits.{p}", "rpn.objectness.{p}"),
    Rule("rpn.head.bbox_pred.{p}", "rpn.box_deltas.{p}"),
    Rule("roi_heads.box_head.fc6.{p}", "box_head.fc1.{p}"),
    Rule("roi_heads.box_head.fc7.{p}", "box_head.fc2.{p}"),
    Rule(f"{CLASSIFIER}.{{p}}", "box_head.classifier.{p}"),
    Rule(f"{REGRESSOR}.{{p}}", "box_head.regressor.{p}"),
    Rule("roi_heads.mask_head.{i}.0.{p}", "mask_head.convs.{i}.{p}"),
    Rule("roi_heads.mask_predictor.conv5_mask.{p}", "mask_head.upsample.{p}"),
    Rule(f"{MASK_PREDICTOR}.{{p}}", "mask_head.predictor.{p}"),
    # the names of files from before torchvision 0.13, its published COCO weights among them
    Rule("backbone.fpn.inner_blocks.{i}.{p}", "fpn.lateral.{i}.{p}"),
    Rule("backbone.fpn.layer_blocks.{i}.{p}", "fpn.output.{i}.{p}"),
    Rule("rpn.head.conv.{p}", "rpn.conv.{p}"),
    *(Rule(f"roi_heads.mask_head.mask_fcn{i + 1}.{{p}}", f"mask_head.convs.{i}.{{p}}") for i in range(4)),
)
"""Their keys and ours; the first rule that knows a key decides."""


def coco_names() -> tuple[str, ...]:
    """The classes of torchvision's COCO weights by its labels 0 .. 90: 0 is background, unused numbers are ``N/A``."""
    return tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])


def from_torchvision(
    state: Mapping[str, Tensor],
    model: TwoStageDetector,
    class_names: Sequence[str],
    *,
    file_names: Sequence[str] | None = None,
    source: str = "the state dict",
) -> tuple[Converted, list[str]]:
    """A state dict for ``model`` with what it can take from torchvision's, and the classes whose rows were found.

    Backbone, FPN, RPN and the heads' shared layers are copied. Of the predictors, rows of classes that both know by
    name are copied, and the background's row where the loss has one logit for it; all others stay as ``model`` has
    them.

    Args:
        state: of a torchvision detector with FPN and these heads.
        model: with its initial weights, with or without a mask head as the state dict.
        class_names: of ``model``, by label.
        file_names: of the state dict, by torchvision's labels, background first; None for the 91 of COCO.
        source: how errors call the state dict.

    Raises:
        CheckpointError: the state dict has another number of classes than ``file_names``, or lacks a key, has one too
            many, or one of another shape; the message names them.
    """
    file_names = coco_names() if file_names is None else file_names
    classes = len(state.get(f"{CLASSIFIER}.bias", ()))
    if classes and classes != len(file_names):
        raise CheckpointError(
            f"{source} has {classes} classes (background included), expected COCO's {len(file_names)}: only "
            "torchvision's COCO models state which class is which"
        )
    rows = _rows(file_names, class_names)
    expected = model.state_dict()
    resized = dict(state)
    for key in (f"{name}.{p}" for name in (CLASSIFIER, REGRESSOR, MASK_PREDICTOR) for p in ("weight", "bias")):
        ours = ours_of(key, RULES, expected)
        if key in state and ours is not None:
            resized[key] = _resize(key, state[key], expected[ours], rows, len(file_names), len(class_names))
    converted = read_by_rules(
        _with_our_eps(resized, classes),
        expected,
        RULES,
        source=source,
        target=f"{type(model).__name__} on {type(model.backbone).__name__}",
        optional=lambda key: key.endswith(BATCH_COUNT) or ".loss." in key,
    )
    return converted, [class_names[ours] for ours, _ in rows]


def _rows(file_names: Sequence[str], class_names: Sequence[str]) -> list[tuple[int, int]]:
    """Our label and theirs of each class that both know by name."""
    theirs = {plain_name(name): label for label, name in enumerate(file_names) if label > 0 and name != "N/A"}
    return [(label, theirs[name]) for label, name in enumerate(map(plain_name, class_names)) if name in theirs]


def _resize(
    key: str, theirs: Tensor, ours: Tensor, rows: Sequence[tuple[int, int]], num_theirs: int, num_ours: int
) -> Tensor:
    """Our predictor's initial rows with those of known classes copied in."""
    made = ours.clone()
    boxes = key.startswith(REGRESSOR)
    width = 4 if boxes else 1
    if len(theirs) != num_theirs * width or ours.shape[1:] != theirs.shape[1:]:
        return theirs  # the shape is wrong: said with all others
    if len(ours) not in (num_ours * width, *(() if boxes else (num_ours + 1, num_ours + 2))):
        return made  # a class-agnostic regressor, or a loss that orders its logits in another way
    for label, theirs_label in rows:
        made[label * width : (label + 1) * width] = theirs[theirs_label * width : (theirs_label + 1) * width]
    if key.startswith(CLASSIFIER) and len(ours) == num_ours + 1:
        made[-1] = theirs[0]  # background: first there, last here
    return made


def _with_our_eps(state: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
    """The state dict for batch norms that add 1e-5 to the variance.

    The published COCO weights were trained with 0 added (torchvision sets ``eps = 0`` when it loads them): their scale
    is multiplied by sqrt((v + 1e-5) / v), which makes it the same map. They are known by their 91 classes and by the
    absence of batch counts, which a frozen batch norm does not keep.
    """
    made = dict(state)
    if classes != len(coco_names()) or any(key.endswith(BATCH_COUNT) for key in state):
        return made
    for key, variance in state.items():
        scale = key.removesuffix("running_var") + "weight"
        if key.endswith("running_var") and scale in state and state[scale].shape == variance.shape:
            exact = variance.double()
            made[scale] = (state[scale].double() * ((exact + 1e-5) / exact).sqrt()).to(torch.float32)
    return made
