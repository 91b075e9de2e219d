"""SGD and the learning rate, as published."""

from torch import nn
from torch.optim import SGD

from tailseg.recipes.recipe import OptimConfig

PUBLISHED_BATCH_SIZE = 16
"""Images a step that the published rates are meant for: 4 devices with 4 images each."""


def build_optimizer(model: nn.Module, config: OptimConfig) -> SGD:
    """SGD over every trainable parameter.

    Weight decay applies to all of them, biases and normalisation scales included, as in mmdet's SGD. The rate is set
    before each step from `learning_rate`.

    Raises:
        ValueError: the model has nothing to train.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: lower model.backbone.frozen_stages")
    return SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def learning_rate(config: OptimConfig, *, step: int, epoch: int, batch_size: int) -> float:
    """The rate of one step.

    ``lr * batch_size / 16 * gamma ** (number of config.steps <= epoch)``, and during the first ``warmup_iterations``
    steps that times a ramp from ``warmup_ratio`` to 1, linear in the step (mmdet's linear warm-up).

    Args:
        config: the rate for 16 images a step, and its schedule.
        step: steps done since the start of the run, from 0.
        epoch: epochs done, from 0.
        batch_size: images a step, over all processes.
    """
    rate = config.lr * batch_size / PUBLISHED_BATCH_SIZE
    rate *= config.gamma ** sum(epoch >= decay_epoch for decay_epoch in config.steps)
    if step < config.warmup_iterations:
        rate *= 1 - (1 - step / config.warmup_iterations) * (1 - config.warmup_ratio)
    return float(rate)
