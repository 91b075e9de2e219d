"""Detectors and their parts."""

from tailseg.models.build import build_detector
from tailseg.models.config import (
    BackboneConfig,
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    NormalisedConfig,
    RPNConfig,
    TestConfig,
)
from tailseg.models.detector import Detector
from tailseg.models.faster_rcnn import FasterRCNN
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.models.weights import load_backbone

__all__ = [
    "BackboneConfig",
    "BoxHeadConfig",
    "Detector",
    "FPNConfig",
    "FasterRCNN",
    "MaskHeadConfig",
    "MaskRCNN",
    "ModelConfig",
    "NormalisedConfig",
    "RPNConfig",
    "TestConfig",
    "build_detector",
    "load_backbone",
]
