"""Classification losses for long-tailed detection, all of them `ClassificationLoss`.

A recipe holds a config; ``config.build(frequency)`` builds the loss for the classes of a data set. The configs come
without torch; a loss is imported at its first use. docs/how-to/write-a-loss.md shows how to write a loss of your own.
"""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand
from tailseg.losses.settings import (
    LOSSES,
    AnyLoss,
    BAGSLossConfig,
    BaseLossConfig,
    BuildsLoss,
    ClassRelativeLossConfig,
    DropLossConfig,
    ECMLossConfig,
    EQLConfig,
    EQLv2Config,
    EqualizedFocalLossConfig,
    EquilibriumLossConfig,
    FederatedLossConfig,
    FocalLossConfig,
    GumbelCEConfig,
    LDAMLossConfig,
    LogitAdjustedSoftmaxConfig,
    LossConfig,
    PCBLossConfig,
    ROGLossConfig,
    SeesawLossConfig,
    SigmoidCEConfig,
    SoftmaxCEConfig,
    VarifocalLossConfig,
)

if TYPE_CHECKING:
    from tailseg.losses.bags import BAGSLoss
    from tailseg.losses.base import ClassificationLoss, ConfiguredLoss, at_least_float32, takes_settings
    from tailseg.losses.binary import ClassFactors, Dropped, EntryCost, binary_cost
    from tailseg.losses.binary_loss import BinaryLoss, Entries
    from tailseg.losses.class_relative import ClassRelativeLoss
    from tailseg.losses.drop_loss import DropLoss
    from tailseg.losses.ecm import ECMLoss
    from tailseg.losses.elementwise import gather_label_logits, weighted_bce
    from tailseg.losses.eql import EQL
    from tailseg.losses.eql_v2 import EQLv2
    from tailseg.losses.equalized_focal import EqualizedFocalLoss
    from tailseg.losses.equilibrium import EquilibriumLoss
    from tailseg.losses.federated import FederatedLoss
    from tailseg.losses.focal import FocalLoss
    from tailseg.losses.functional import bce_with_logits, focal_with_logits, gumbel_bce_with_logits
    from tailseg.losses.gumbel_ce import GumbelCE
    from tailseg.losses.ldam import LDAMLoss
    from tailseg.losses.links import APA, LINKS, ClosedFormLink, Gumbel, Link, NormalCDF, Sigmoid, softplus
    from tailseg.losses.logit_adjusted import LogitAdjustedSoftmax
    from tailseg.losses.pcb import PCBLoss
    from tailseg.losses.processes import broadcast_from_first, gather_rows, sum_over_processes
    from tailseg.losses.rog import ROGLoss
    from tailseg.losses.seesaw import SeesawLoss
    from tailseg.losses.sigmoid_ce import SigmoidCE
    from tailseg.losses.softmax_ce import SoftmaxCE
    from tailseg.losses.tail import TailLoss, tail_classes
    from tailseg.losses.unverified import hide_unverified, stack_unverified
    from tailseg.losses.varifocal import VarifocalLoss
    from tailseg.structures import ClassFrequency
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "bags": ("BAGSLoss",),
            "base": (
                "ClassFrequency",
                "ClassificationLoss",
                "ConfiguredLoss",
                "at_least_float32",
                "takes_settings",
            ),
            "binary": (
                "ClassFactors",
                "Dropped",
                "EntryCost",
                "binary_cost",
            ),
            "binary_loss": (
                "BinaryLoss",
                "Entries",
            ),
            "class_relative": ("ClassRelativeLoss",),
            "drop_loss": ("DropLoss",),
            "ecm": ("ECMLoss",),
            "eql": ("EQL",),
            "eql_v2": ("EQLv2",),
            "equalized_focal": ("EqualizedFocalLoss",),
            "equilibrium": ("EquilibriumLoss",),
            "federated": ("FederatedLoss",),
            "focal": ("FocalLoss",),
            "functional": (
                "bce_with_logits",
                "focal_with_logits",
                "gumbel_bce_with_logits",
            ),
            "gumbel_ce": ("GumbelCE",),
            "ldam": ("LDAMLoss",),
            "links": (
                "APA",
                "LINKS",
                "ClosedFormLink",
                "Gumbel",
                "Link",
                "NormalCDF",
                "Sigmoid",
                "softplus",
            ),
            "logit_adjusted": ("LogitAdjustedSoftmax",),
            "pcb": ("PCBLoss",),
            "processes": (
                "broadcast_from_first",
                "gather_rows",
                "sum_over_processes",
            ),
            "rog": ("ROGLoss",),
            "seesaw": ("SeesawLoss",),
            "sigmoid_ce": ("SigmoidCE",),
            "softmax_ce": ("SoftmaxCE",),
            "tail": (
                "TailLoss",
                "tail_classes",
            ),
            "elementwise": (
                "gather_label_logits",
                "weighted_bce",
            ),
            "varifocal": ("VarifocalLoss",),
            "unverified": (
                "hide_unverified",
                "stack_unverified",
            ),
        },
    )


def build_loss(config: BuildsLoss, frequency: "ClassFrequency") -> "ClassificationLoss":
    """Builds the loss of ``config`` for the classes of ``frequency``: ``config.build(frequency)``.

    Raises:
        ValueError: a loss of your own does not return what `ClassificationLoss` says.
    """
    loss = config.build(frequency)
    if not type(config).__module__.startswith("tailseg."):
        from tailseg.losses.check import check_own_loss

        check_own_loss(loss, config)
    return loss


__all__ = [
    "APA",
    "EQL",
    "LINKS",
    "LOSSES",
    "AnyLoss",
    "BAGSLoss",
    "BAGSLossConfig",
    "BaseLossConfig",
    "BinaryLoss",
    "BuildsLoss",
    "ClassFactors",
    "ClassFrequency",
    "ClassRelativeLoss",
    "ClassRelativeLossConfig",
    "ClassificationLoss",
    "ClosedFormLink",
    "ConfiguredLoss",
    "DropLoss",
    "DropLossConfig",
    "Dropped",
    "ECMLoss",
    "ECMLossConfig",
    "EQLConfig",
    "EQLv2",
    "EQLv2Config",
    "Entries",
    "EntryCost",
    "EqualizedFocalLoss",
    "EqualizedFocalLossConfig",
    "EquilibriumLoss",
    "EquilibriumLossConfig",
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
    "PCBLoss",
    "PCBLossConfig",
    "ROGLoss",
    "ROGLossConfig",
    "SeesawLoss",
    "SeesawLossConfig",
    "Sigmoid",
    "SigmoidCE",
    "SigmoidCEConfig",
    "SoftmaxCE",
    "SoftmaxCEConfig",
    "TailLoss",
    "VarifocalLoss",
    "VarifocalLossConfig",
    "at_least_float32",
    "bce_with_logits",
    "binary_cost",
    "broadcast_from_first",
    "build_loss",
    "focal_with_logits",
    "gather_label_logits",
    "gather_rows",
    "gumbel_bce_with_logits",
    "hide_unverified",
    "softplus",
    "stack_unverified",
    "sum_over_processes",
    "tail_classes",
    "takes_settings",
    "weighted_bce",
]
