"""The built-in optimizers, and the parameters without weight decay."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 (torch names no public base)
POSITION_TABLE = "relative_position_bias_table"
"""Swin's parameters with a bias for each relative position of two tokens."""

# Neither optimizer is torch's fused one. With float16's scaler, the fused SGD uses uninitialized memory as its momentum
# when the first step overflows (torch 2.15).


def build_sgd(model: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> Optimizer:
    """Builds SGD over all trainable parameters. All have weight decay, biases and normalization scales included.

    Args:
        model: the network to train.
        lr: the learning rate; the training sets another one before each step.
        momentum: in [0, 1).
        weight_decay: 0 or more.

    Returns:
        An optimizer with one parameter group.

    Raises:
        ValueError: the model has no trainable parameter.
    """
    return SGD(trainable_parameters(model), lr=lr, momentum=momentum, weight_decay=weight_decay)


def build_adamw(
    model: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float, spare_timm: bool = True
) -> Optimizer:
    """Builds AdamW over all trainable parameters, without weight decay for those of `parameters_without_decay`.

    Source: mmdetection.

    Args:
        model: the network to train.
        lr: the learning rate; the training sets another one before each step.
        betas: decay rates of the moving averages of the gradient and of its square, in [0, 1).
        weight_decay: 0 or more.
        spare_timm: see `parameters_without_decay`.

    Returns:
        An optimizer with two parameter groups: with and without weight decay.

    Raises:
        ValueError: the model has no trainable parameter.
    """
    parameters = trainable_parameters(model)
    spared = parameters_without_decay(model, spare_timm=spare_timm)
    groups = [
        {"params": [parameter for parameter in parameters if id(parameter) not in spared]},
        {"params": [parameter for parameter in parameters if id(parameter) in spared], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay)


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Lists the parameters that get a gradient.

    Raises:
        ValueError: there is none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: lower model.backbone.frozen_stages")
    return parameters


def parameters_without_decay(model: nn.Module, *, spare_timm: bool = True) -> dict[int, Tensor]:
    """Finds the parameters that have no weight decay in AdamW, by identity.

    These are the scales and shifts of norms and Swin's tables of relative positions, but not the biases of layers. They
    are also those that a module names in a method ``no_weight_decay``, as networks of timm do, for example Hiera for
    its tables of positions. A module within such a module is not asked.

    Args:
        model: a detector, or a part of one.
        spare_timm: False decays the parameters that ``no_weight_decay`` names, as earlier versions did.
    """
    spared: dict[int, Tensor] = {
        id(parameter): parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or name == POSITION_TABLE
    }
    if spare_timm:
        spared |= {id(parameter): parameter for parameter in _get_named_exceptions(model)}
    return spared


def _get_named_exceptions(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that the module's method ``no_weight_decay`` names, or the methods of the modules within it."""
    get_names: Any = getattr(module, "no_weight_decay", None)
    if get_names is None:
        return [parameter for child in module.children() for parameter in _get_named_exceptions(child)]
    names = set(get_names())
    return [parameter for name, parameter in module.named_parameters() if name in names]


def was_saved_with_more_decay(optimizer: Optimizer, saved: Mapping[str, Any]) -> bool:
    """Whether a saved AdamW has equally many parameters, and applied weight decay to more of them."""
    sizes, saved_sizes = (
        [len(group["params"]) for group in state["param_groups"]] for state in (optimizer.state_dict(), saved)
    )
    return len(sizes) == len(saved_sizes) == 2 and sum(sizes) == sum(saved_sizes) and saved_sizes[1] < sizes[1]
