"""An optimizer and a schedule of your own: NAdam with a cosine schedule."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

from torch import nn, optim

from tailseg.ranges import Range
from tailseg.recipes import Recipe, ScheduleConfig, get_recipe


@dataclass(frozen=True, kw_only=True)
class NAdamConfig(ScheduleConfig):
    """NAdam; the rate falls from ``lr`` to 0 along half a cosine, epoch by epoch, after the warm-up."""

    lr: Annotated[float, Range(ge=0)] = 2e-4
    weight_decay: Annotated[float, Range(ge=0)] = 0.05

    def build(self, model: nn.Module) -> optim.Optimizer:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return optim.NAdam(parameters, lr=self.lr, weight_decay=self.weight_decay, decoupled_weight_decay=True)

    def learning_rate(self, *, step: int, epoch: int, batch_size: int) -> float:
        rate = self.lr * batch_size / 16 * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return rate * min(1.0, (step + 1) / (self.warmup_iterations + 1))


def recipe() -> Recipe:
    """`tailseg train own_optimizer:recipe`; `--optim.weight-decay 0.1` changes a setting of yours."""
    base = get_recipe("tiny_gumbel")
    return replace(base, name="own_optimizer:recipe", optim=NAdamConfig(epochs=4, warmup_iterations=100, clip_norm=10))
