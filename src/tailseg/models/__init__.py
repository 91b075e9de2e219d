"""Detectors and their parts. Settings are imported without torch; everything else on first use."""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand
from tailseg.models.config import (
    BACKBONES,
    AnyBackbone,
    BackboneConfig,
    BoxHeadConfig,
    CascadeConfig,
    CascadeStageConfig,
    DetectorConfig,
    FPNConfig,
    GroupedConfig,
    HTCConfig,
    MaskHeadConfig,
    ModelConfig,
    NormalizedConfig,
    PostprocessConfig,
    ResNetConfig,
    RPNConfig,
    SEConfig,
    SwinConfig,
    TimmConfig,
    WrappedCauchyConfig,
    backbone_named,
    cascade_mask_rcnn,
    hybrid_task_cascade,
)

if TYPE_CHECKING:
    from tailseg.models.activations import AGLU
    from tailseg.models.build import build_detector
    from tailseg.models.carafe import CARAFE
    from tailseg.models.cascade import CascadeMaskRCNN
    from tailseg.models.detector import Detector, TwoStageDetector
    from tailseg.models.faster_rcnn import FasterRCNN
    from tailseg.models.htc import HybridTaskCascade
    from tailseg.models.mask_rcnn import MaskRCNN
    from tailseg.models.weights import load_backbone
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "activations": ("AGLU",),
            "build": ("build_detector",),
            "carafe": ("CARAFE",),
            "cascade": ("CascadeMaskRCNN",),
            "detector": ("Detector", "TwoStageDetector"),
            "faster_rcnn": ("FasterRCNN",),
            "htc": ("HybridTaskCascade",),
            "mask_rcnn": ("MaskRCNN",),
            "weights": ("load_backbone",),
        },
        {"NormalisedConfig": "NormalizedConfig", "TestConfig": "PostprocessConfig"},
    )

__all__ = [
    "AGLU",
    "BACKBONES",
    "CARAFE",
    "AnyBackbone",
    "BackboneConfig",
    "BoxHeadConfig",
    "CascadeConfig",
    "CascadeMaskRCNN",
    "CascadeStageConfig",
    "Detector",
    "DetectorConfig",
    "FPNConfig",
    "FasterRCNN",
    "GroupedConfig",
    "HTCConfig",
    "HybridTaskCascade",
    "MaskHeadConfig",
    "MaskRCNN",
    "ModelConfig",
    "NormalizedConfig",
    "PostprocessConfig",
    "RPNConfig",
    "ResNetConfig",
    "SEConfig",
    "SwinConfig",
    "TimmConfig",
    "TwoStageDetector",
    "WrappedCauchyConfig",
    "backbone_named",
    "build_detector",
    "cascade_mask_rcnn",
    "hybrid_task_cascade",
    "load_backbone",
]
