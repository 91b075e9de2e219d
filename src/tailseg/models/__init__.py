"""Detectors and their parts. The settings come without torch; all else is imported when it is asked for."""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand
from tailseg.models.config import (
    BoxHeadConfig,
    CascadeConfig,
    CascadeStageConfig,
    FPNConfig,
    GroupedConfig,
    HTCConfig,
    MaskHeadConfig,
    ModelConfig,
    NormalizedConfig,
    PostprocessConfig,
    ResNetConfig,
    RPNConfig,
    SwinConfig,
    TimmConfig,
    cascade_mask_rcnn,
    hybrid_task_cascade,
)

if TYPE_CHECKING:
    from tailseg.models.build import build_detector
    from tailseg.models.cascade import CascadeMaskRCNN
    from tailseg.models.detector import Detector
    from tailseg.models.faster_rcnn import FasterRCNN
    from tailseg.models.htc import HybridTaskCascade
    from tailseg.models.mask_rcnn import MaskRCNN
    from tailseg.models.weights import load_backbone
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "build": ("build_detector",),
            "cascade": ("CascadeMaskRCNN",),
            "detector": ("Detector",),
            "faster_rcnn": ("FasterRCNN",),
            "htc": ("HybridTaskCascade",),
            "mask_rcnn": ("MaskRCNN",),
            "weights": ("load_backbone",),
        },
        {"NormalisedConfig": "NormalizedConfig", "TestConfig": "PostprocessConfig"},
    )

__all__ = [
    "BoxHeadConfig",
    "CascadeConfig",
    "CascadeMaskRCNN",
    "CascadeStageConfig",
    "Detector",
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
    "SwinConfig",
    "TimmConfig",
    "build_detector",
    "cascade_mask_rcnn",
    "hybrid_task_cascade",
    "load_backbone",
]
