"""The optimizer and the learning rate, as published."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from tailseg.losses import LDAMLossConfig
from tailseg.models.timm_backbone import TimmBackbone
from tailseg.recipes.recipe import AdamWConfig, OptimConfig, Recipe, SGDConfig

PUBLISHED_BATCH_SIZE = 16
"""Images a step that the published rates are meant for: 4 devices with 4 images each."""
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 (torch names no public base)
POSITION_TABLE = "relative_position_bias_table"
"""Swin's parameters that say how much one place attends to another at each distance."""


def build_optimizer(model: nn.Module, config: OptimConfig, *, spare_timms: bool = True) -> Optimizer:
    """The optimizer over every trainable parameter; its rate is set before each step from `learning_rate`.

    SGD decays all of them, biases and normalization scales included, as in mmdetection. AdamW spares the scales and
    shifts of norms and Swin's tables of relative positions, but not the biases of layers, as in mmdetection's Swin; of
    a network of timm also what timm says is to be spared (``no_weight_decay``), such as Hiera's tables of positions.
    Neither is torch's ``fused`` one: with float16's scaler, SGD's takes memory that nobody has written for its momentum
    when the first step overflows (torch 2.15).

    Args:
        model: to be trained.
        config: which optimizer, and its settings.
        spare_timms: False decays what timm says is to be spared, as versions before did.

    Raises:
        ValueError: the model has nothing to train.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: lower model.backbone.frozen_stages")
    match config:
        case SGDConfig():
            return SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        case AdamWConfig():
            spared = undecayed(model, timms=spare_timms)
            groups = [
                {"params": [parameter for parameter in parameters if id(parameter) not in spared]},
                {"params": [parameter for parameter in parameters if id(parameter) in spared], "weight_decay": 0.0},
            ]
            return AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def undecayed(model: nn.Module, *, timms: bool = True) -> dict[int, Tensor]:
    """The parameters, by identity, that AdamW's weight decay spares: those of norms and tables of positions.

    Args:
        model: a detector, or a part of one.
        timms: also those of a network of timm that timm spares.
    """
    found: dict[int, Tensor] = {
        id(parameter): parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or name == POSITION_TABLE
    }
    for backbone in [module for module in model.modules() if timms and isinstance(module, TimmBackbone)]:
        found |= {id(p): p for p in map(backbone.get_parameter, backbone.no_weight_decay())}
    return found


def spares_less(optimizer: Optimizer, saved: Mapping[str, Any]) -> bool:
    """Whether the state is that of an optimizer over as many parameters, fewer of which it spared."""
    ours, theirs = (
        [len(group["params"]) for group in state["param_groups"]] for state in (optimizer.state_dict(), saved)
    )
    return len(ours) == len(theirs) == 2 and sum(ours) == sum(theirs) and theirs[1] < ours[1]


def learning_rate(config: OptimConfig, *, step: int, epoch: int, batch_size: int) -> float:
    """The rate of one step.

    ``lr * batch_size / 16 * gamma ** (number of config.milestones <= epoch)``, and during the first
    ``warmup_iterations`` steps that times a ramp from ``warmup_ratio`` to 1, linear in the step (mmdet's linear
    warm-up).

    Args:
        config: the rate for 16 images a step, and its schedule.
        step: steps done since the start of the run, from 0.
        epoch: epochs done, from 0.
        batch_size: images a step, over all processes and all parts that ``config.accumulation_steps`` makes of them.
    """
    rate = config.lr * batch_size / PUBLISHED_BATCH_SIZE
    rate *= config.gamma ** sum(epoch >= decay_epoch for decay_epoch in config.milestones)
    if step < config.warmup_iterations:
        rate *= 1 - (1 - step / config.warmup_iterations) * (1 - config.warmup_ratio)
    return float(rate)


def averaging_decay(decay: float, updates: int) -> float:
    """The decay of one update of the moving average of the weights: ``min(decay, (1 + n) / (10 + n))``.

    Without the warm-up the average of a short run would be its first weights: with 0.9998 they make 97.6 % of it after
    120 steps. As TensorFlow's ExponentialMovingAverage does with ``num_updates``.

    Args:
        decay: the one that is reached in the end.
        updates: n, those made before this one.
    """
    return min(decay, (1 + updates) / (10 + updates))


def schedule_notes(recipe: Recipe, steps_per_epoch: int) -> list[str]:
    """What of the schedule lies beyond the last step of a run, a sentence each.

    Args:
        recipe: of the run.
        steps_per_epoch: of the optimizer.
    """
    optim, steps = recipe.optim, recipe.optim.epochs * steps_per_epoch
    run = f"the run has {optim.epochs} epochs of {steps_per_epoch} steps"
    notes = []
    if late := [str(epoch) for epoch in optim.milestones if epoch >= optim.epochs]:
        notes.append(f"optim.milestones: {run}, and ends before the rate is lowered after epoch {' and '.join(late)}")
    if optim.warmup_iterations >= steps:
        reached = learning_rate(optim, step=steps - 1, epoch=0, batch_size=PUBLISHED_BATCH_SIZE) / (optim.lr or 1)
        notes.append(
            f"optim.warmup_iterations is {optim.warmup_iterations}: {run}, and ends in the warm-up, at {reached:.0%} "
            "of the rate"
        )
    if isinstance(recipe.loss, LDAMLossConfig) and (recipe.loss.reweight_after or 0) >= steps:
        notes.append(f"loss.reweight_after is {recipe.loss.reweight_after}: {run}, and never weighs the classes")
    return notes
