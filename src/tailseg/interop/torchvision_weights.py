"""Converts torchvision's Mask and Faster R-CNN (``maskrcnn_resnet50_fpn``) to initial weights, and to its names.

Background is torchvision's first class and our last logit; torchvision's box and mask predictors have rows for the
background, ours do not. Rows of the predictors are matched by class name. The model does not detect the same as
torchvision's and has to be trained: torchvision pools without the half-pixel shift and rounds its anchors.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from tailseg.annotations.dataset import Category
from tailseg.interop.detectron2 import BBOX_REG_WEIGHTS
from tailseg.interop.rules import BATCH_COUNT, Converted, Rule, find_our_name, read_by_rules, write_by_rules
from tailseg.models.detector import TwoStageDetector
from tailseg.training.checkpoint import CheckpointError
from tailseg.training.first_weights import simplify_name

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
    # names in files from before torchvision 0.13, such as its published COCO weights
    Rule("backbone.fpn.inner_blocks.{i}.{p}", "fpn.lateral.{i}.{p}"),
    Rule("backbone.fpn.layer_blocks.{i}.{p}", "fpn.output.{i}.{p}"),
    Rule("rpn.head.conv.{p}", "rpn.conv.{p}"),
    *(Rule(f"roi_heads.mask_head.mask_fcn{i + 1}.{{p}}", f"mask_head.convs.{i}.{{p}}") for i in range(4)),
)
"""Their keys and ours. The first rule that matches a key is used."""


def get_coco_names() -> tuple[str, ...]:
    """Returns the class names of torchvision's COCO weights by label: 0 is background, unused ones are ``N/A``."""
    return tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])


def from_torchvision(
    state: Mapping[str, Tensor],
    model: TwoStageDetector,
    class_names: Sequence[str],
    *,
    file_names: Sequence[str] | None = None,
    source: str = "the state dict",
) -> tuple[Converted, list[str]]:
    """Converts torchvision's state dict to initial weights of a model.

    Backbone, FPN, RPN and the heads' shared layers are copied. In the predictors, the rows of classes with the same
    name are copied, and the background's row if the loss has one logit for it. All other rows stay as in ``model``.

    Args:
        state: state dict of a torchvision detector with FPN and these heads.
        model: a model with its initial weights; it has a mask head if the state dict has one.
        class_names: the model's class names, by label.
        file_names: the state dict's class names by torchvision's labels, background first; None for the 91 of COCO.
        source: what errors call the state dict.

    Returns:
        The state dict for ``model``, and the names of the classes whose rows were copied.

    Raises:
        CheckpointError: the state dict has another number of classes than ``file_names``; or a key is missing,
            unexpected or of another shape. The message names them.
    """
    file_names = get_coco_names() if file_names is None else file_names
    classes = len(state.get(f"{CLASSIFIER}.bias", ()))
    if classes and classes != len(file_names):
        raise CheckpointError(
            f"{source} has {classes} classes (background included), expected {len(file_names)}. Convert it with the "
            "annotation file that it was trained on: tailseg convert --classes"
        )
    rows = _rows(file_names, class_names)
    expected = model.state_dict()
    resized = dict(state)
    for key in (f"{name}.{p}" for name in (CLASSIFIER, REGRESSOR, MASK_PREDICTOR) for p in ("weight", "bias")):
        ours = find_our_name(key, RULES, expected)
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


def list_file_names(num_labels: int, categories: Sequence[Category]) -> tuple[str, ...] | None:
    """Lists the class names of a file by its labels, for a file with other classes than COCO's.

    torchvision's reference scripts use category ids as labels. Many other scripts count the classes from 1.

    Args:
        num_labels: the number of the file's labels, background included.
        categories: the classes that the file was trained on, by label.

    Returns:
        The names, background first; None if the number of classes does not fit.
    """
    if num_labels == max(category.id for category in categories) + 1:
        names = {category.id: category.name for category in categories}
        return tuple(names.get(label, "N/A") for label in range(num_labels))
    if num_labels == len(categories) + 1:
        return ("__background__", *(category.name for category in categories))
    return None


def to_torchvision(state: Mapping[str, Tensor], num_classes: int, target_stds: Sequence[float]) -> Converted:
    """Converts tailseg's state dict to torchvision's names, with background as the first class.

    The box and mask predictors get rows of zeros for background, which torchvision has and does not use.

    Args:
        state: tensors by our names, of a Mask or Faster R-CNN on a ResNet.
        num_classes: C.
        target_stds: ``target_stds`` of the box head.

    Returns:
        The state dict, and which keys were left out.

    Raises:
        CheckpointError: torchvision has no such network, or the loss has not C + 1 logits.
    """
    if "backbone.layer1.0.conv1.weight" not in state:
        raise CheckpointError(
            "torchvision's detectors with these heads have a ResNet, and the model has another backbone"
        )
    written = write_by_rules(state, RULES, optional=lambda key: ".loss." in key)
    theirs = written.state
    for key, tensor in theirs.items():
        if key.startswith(CLASSIFIER):
            if len(tensor) != num_classes + 1:
                raise CheckpointError(
                    f"the loss has {len(tensor)} logits for {num_classes} classes, and torchvision has one for each "
                    "class and one for background: its names do not fit this loss"
                )
            theirs[key] = torch.cat([tensor[-1:], tensor[:-1]])
        elif key.startswith(REGRESSOR):
            if len(tensor) != 4 * num_classes:
                raise CheckpointError("torchvision has a box for each class, and the model has one for all classes")
            units = [std * weight for std, weight in zip(target_stds, BBOX_REG_WEIGHTS[0], strict=True)]
            rows = tensor * tensor.new_tensor(units).repeat(num_classes).view(-1, *[1] * (tensor.dim() - 1))
            theirs[key] = torch.cat([torch.zeros_like(rows[:4]), rows])
        elif key.startswith(MASK_PREDICTOR):
            theirs[key] = torch.cat([torch.zeros_like(tensor[:1]), tensor])
    return written


def _rows(file_names: Sequence[str], class_names: Sequence[str]) -> list[tuple[int, int]]:
    """Lists our label and theirs for each class with the same name."""
    theirs = {simplify_name(name): label for label, name in enumerate(file_names) if label > 0 and name != "N/A"}
    return [(label, theirs[name]) for label, name in enumerate(map(simplify_name, class_names)) if name in theirs]


def _resize(
    key: str, theirs: Tensor, ours: Tensor, rows: Sequence[tuple[int, int]], num_theirs: int, num_ours: int
) -> Tensor:
    """Copies the rows of known classes into our predictor's initial weights."""
    resized = ours.clone()
    boxes = key.startswith(REGRESSOR)
    width = 4 if boxes else 1
    if len(theirs) != num_theirs * width or ours.shape[1:] != theirs.shape[1:]:
        return theirs  # the shape is wrong: reported with all others
    if len(ours) not in (num_ours * width, *(() if boxes else (num_ours + 1, num_ours + 2))):
        return resized  # a class-agnostic regressor, or a loss that orders its logits in another way
    for label, theirs_label in rows:
        resized[label * width : (label + 1) * width] = theirs[theirs_label * width : (theirs_label + 1) * width]
    if key.startswith(CLASSIFIER) and len(ours) == num_ours + 1:
        resized[-1] = theirs[0]  # background: first there, last here
    return resized


def _with_our_eps(state: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
    """Adapts the state dict to batch norms that add 1e-5 to the variance.

    The published COCO weights were trained with 0 added (torchvision sets ``eps = 0`` when it loads them). Their scale
    is multiplied by sqrt((v + 1e-5) / v), which gives the same map. These weights are recognized by their 91 classes
    and by the absence of batch counts, which a frozen batch norm does not store.
    """
    adapted = dict(state)
    if classes != len(get_coco_names()) or any(key.endswith(BATCH_COUNT) for key in state):
        return adapted
    for key, variance in state.items():
        scale = key.removesuffix("running_var") + "weight"
        if key.endswith("running_var") and scale in state and state[scale].shape == variance.shape:
            exact = variance.double()
            adapted[scale] = (state[scale].double() * ((exact + 1e-5) / exact).sqrt()).to(torch.float32)
    return adapted
