"""Classification losses for long-tailed detection, all behind `ClassificationLoss`.

A recipe holds a config; ``build_loss(config, frequency)`` makes the loss for a data set's classes.
"""

from tailseg.losses.bags import BAGSLoss, BAGSLossConfig
from tailseg.losses.base import ClassificationLoss
from tailseg.losses.class_relative import ClassRelativeLoss, ClassRelativeLossConfig
from tailseg.losses.drop_loss import DropLoss, DropLossConfig
from tailseg.losses.ecm import ECMLoss, ECMLossConfig
from tailseg.losses.eql import EQL, EQLConfig
from tailseg.losses.eql_v2 import EQLv2, EQLv2Config
from tailseg.losses.federated import FederatedLoss, FederatedLossConfig
from tailseg.losses.focal import FocalLoss, FocalLossConfig
from tailseg.losses.gumbel_ce import GumbelCE, GumbelCEConfig
from tailseg.losses.ldam import LDAMLoss, LDAMLossConfig
from tailseg.losses.links import Gumbel, Link, NormalCDF, Sigmoid
from tailseg.losses.logit_adjusted import LogitAdjustedSoftmax, LogitAdjustedSoftmaxConfig
from tailseg.losses.seesaw import SeesawLoss, SeesawLossConfig
from tailseg.losses.sigmoid_ce import SigmoidCE, SigmoidCEConfig
from tailseg.losses.softmax_ce import SoftmaxCE, SoftmaxCEConfig
from tailseg.structures import ClassFrequency

LossConfig = (
    SigmoidCEConfig
    | SoftmaxCEConfig
    | GumbelCEConfig
    | DropLossConfig
    | EQLConfig
    | ClassRelativeLossConfig
    | BAGSLossConfig
    | ECMLossConfig
    | EQLv2Config
    | FederatedLossConfig
    | FocalLossConfig
    | LDAMLossConfig
    | LogitAdjustedSoftmaxConfig
    | SeesawLossConfig
)
"""The settings of any loss; its class says which."""


def build_loss(config: LossConfig, frequency: ClassFrequency) -> ClassificationLoss:
    """The loss that ``config`` describes, for the classes of ``frequency``."""
    return config.build(frequency)


__all__ = [
    "EQL",
    "BAGSLoss",
    "BAGSLossConfig",
    "ClassRelativeLoss",
    "ClassRelativeLossConfig",
    "ClassificationLoss",
    "DropLoss",
    "DropLossConfig",
    "ECMLoss",
    "ECMLossConfig",
    "EQLConfig",
    "EQLv2",
    "EQLv2Config",
    "FederatedLoss",
    "FederatedLossConfig",
    "FocalLoss",
    "FocalLossConfig",
    "Gumbel",
    "GumbelCE",
    "GumbelCEConfig",
    "LDAMLoss",
    "LDAMLossConfig",
    "Link",
    "LogitAdjustedSoftmax",
    "LogitAdjustedSoftmaxConfig",
    "LossConfig",
    "NormalCDF",
    "SeesawLoss",
    "SeesawLossConfig",
    "Sigmoid",
    "SigmoidCE",
    "SigmoidCEConfig",
    "SoftmaxCE",
    "SoftmaxCEConfig",
    "build_loss",
]
