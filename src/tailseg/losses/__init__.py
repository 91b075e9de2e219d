"""Classification losses for long-tailed detection, all behind `ClassificationLoss`.

A recipe holds a config; ``build_loss(config, frequency)`` makes the loss for a data set's classes.
"""

from tailseg.losses.base import ClassificationLoss
from tailseg.losses.gumbel_ce import GumbelCE, GumbelCEConfig
from tailseg.losses.links import Gumbel, Link, Sigmoid
from tailseg.losses.sigmoid_ce import SigmoidCE, SigmoidCEConfig
from tailseg.losses.softmax_ce import SoftmaxCE, SoftmaxCEConfig
from tailseg.structures import ClassFrequency

LossConfig = SigmoidCEConfig | SoftmaxCEConfig | GumbelCEConfig
"""The settings of any loss; its class says which."""


def build_loss(config: LossConfig, frequency: ClassFrequency) -> ClassificationLoss:
    """The loss that ``config`` describes, for the classes of ``frequency``."""
    return config.build(frequency)


__all__ = [
    "ClassificationLoss",
    "Gumbel",
    "GumbelCE",
    "GumbelCEConfig",
    "Link",
    "LossConfig",
    "Sigmoid",
    "SigmoidCE",
    "SigmoidCEConfig",
    "SoftmaxCE",
    "SoftmaxCEConfig",
    "build_loss",
]
