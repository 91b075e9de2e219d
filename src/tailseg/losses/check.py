"""A look at a loss of the user's own before the training, on two regions: mistakes show in seconds, not after hours."""

from copy import deepcopy

import torch
from torch import Tensor

from tailseg.losses.base import ClassificationLoss


def check_own_loss(loss: object, config: object) -> None:
    """Checks what the ``build`` of a config of the user's own returned: one region of class 0, one of background.

    A copy of the loss is tried, so its state stays as it was.

    Args:
        loss: what ``build`` returned.
        config: the config.

    Raises:
        ValueError: the loss is no `ClassificationLoss`, or its bias, its losses or its scores have other types or
            shapes than that class says. The message names them.
    """
    name = f"{type(config).__name__}.build(frequency)"
    if not isinstance(loss, ClassificationLoss):
        raise ValueError(
            f"loss: {name} returned an object of the class {type(loss).__name__}: derive that class from "
            "tailseg.losses.ClassificationLoss (docs/how-to/write-a-loss.md)"
        )
    if missing := [each for each in ("num_classes", "num_logits") if not isinstance(getattr(loss, each, None), int)]:
        raise ValueError(f"loss: {type(loss).__name__} has no attribute {missing[0]}: set it in the constructor")
    copy = deepcopy(loss)
    logits = torch.zeros(2, loss.num_logits, requires_grad=True)
    _require_shape(f"{type(loss).__name__}.init_bias()", copy.init_bias(), (loss.num_logits,), "one bias per logit")
    losses = copy(logits, torch.tensor([0, loss.num_classes]))
    if not isinstance(losses, dict) or not losses:
        raise ValueError(
            f"loss: {type(loss).__name__}.forward returned {_describe(losses)}: return a dictionary of scalar losses "
            'by name, such as {"loss_cls": loss}'
        )
    for key, value in losses.items():
        _require_shape(f"{type(loss).__name__}.forward: {key!r}", value, (), "a scalar")
    if getattr(config, "class_weights", None) is not None:
        _require_class_weights(copy, losses)
    with torch.no_grad():
        scores = copy.eval().scores(logits)
    expected = (2, loss.num_classes)
    _require_shape(f"{type(loss).__name__}.scores", scores, expected, "one score per foreground class, no background")


def _require_class_weights(loss: ClassificationLoss, losses: dict[str, Tensor]) -> None:
    """Checks that the losses of `check_own_loss` depend on the weights of the labels."""
    weights = getattr(loss, "label_weights", None)
    if isinstance(weights, Tensor):
        loss.label_weights = weights * 3
        changed = loss(torch.zeros(2, loss.num_logits), torch.tensor([0, loss.num_classes]))
        loss.label_weights = weights
        if any(not torch.equal(changed[key].detach(), value.detach()) for key, value in losses.items()):
            return
    raise ValueError(
        f"loss.class_weights has no effect on {type(loss).__name__}: multiply the costs of its regions by "
        "self.weigh_regions(logits, labels) unless that is None (docs/how-to/write-a-loss.md), or set no class weights"
    )


def _require_shape(what: str, value: object, shape: tuple[int, ...], meaning: str) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        raise ValueError(f"loss: {what} is {_describe(value)}: expected a tensor of shape {list(shape)}, {meaning}")


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"an object of the class {type(value).__name__}"
