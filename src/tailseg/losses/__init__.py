"""Classification losses for long-tailed detection, all behind `ClassificationLoss`.

A recipe holds a config; ``build_loss(config, frequency)`` makes the loss for a data set's classes. The configs come
without torch; a loss is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand
from tailseg.losses.settings import (
    BAGSLossConfig,
    ClassRelativeLossConfig,
    DropLossConfig,
    ECMLossConfig,
    EQLConfig,
    EQLv2Config,
    FederatedLossConfig,
    FocalLossConfig,
    GumbelCEConfig,
    LDAMLossConfig,
    LogitAdjustedSoftmaxConfig,
    LossConfig,
    SeesawLossConfig,
    SigmoidCEConfig,
    SoftmaxCEConfig,
)

if TYPE_CHECKING:
    from tailseg.losses.bags import BAGSLoss
    from tailseg.losses.base import ClassificationLoss
    from tailseg.losses.class_relative import ClassRelativeLoss
    from tailseg.losses.drop_loss import DropLoss
    from tailseg.losses.ecm import ECMLoss
    from tailseg.losses.eql import EQL
    from tailseg.losses.eql_v2 import EQLv2
    from tailseg.losses.federated import FederatedLoss
    from tailseg.losses.focal import FocalLoss
    from tailseg.losses.gumbel_ce import GumbelCE
    from tailseg.losses.ldam import LDAMLoss
    from tailseg.losses.links import Gumbel, Link, NormalCDF, Sigmoid
    from tailseg.losses.logit_adjusted import LogitAdjustedSoftmax
    from tailseg.losses.seesaw import SeesawLoss
    from tailseg.losses.sigmoid_ce import SigmoidCE
    from tailseg.losses.softmax_ce import SoftmaxCE
    from tailseg.structures import ClassFrequency
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "bags": ("BAGSLoss",),
            "base": ("ClassificationLoss",),
            "class_relative": ("ClassRelativeLoss",),
            "drop_loss": ("DropLoss",),
            "ecm": ("ECMLoss",),
            "eql": ("EQL",),
            "eql_v2": ("EQLv2",),
            "federated": ("FederatedLoss",),
            "focal": ("FocalLoss",),
            "gumbel_ce": ("GumbelCE",),
            "ldam": ("LDAMLoss",),
            "links": ("Gumbel", "Link", "NormalCDF", "Sigmoid"),
            "logit_adjusted": ("LogitAdjustedSoftmax",),
            "seesaw": ("SeesawLoss",),
            "sigmoid_ce": ("SigmoidCE",),
            "softmax_ce": ("SoftmaxCE",),
        },
    )


def build_loss(config: LossConfig, frequency: "ClassFrequency") -> "ClassificationLoss":
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
