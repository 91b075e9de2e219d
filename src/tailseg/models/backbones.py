"""The backbones: networks that make four maps, of stride 4, 8, 16 and 32, of a batch of images."""

from tailseg.models.config import BackboneConfig, ResNetConfig, SwinConfig, TimmConfig
from tailseg.models.resnet import ResNet
from tailseg.models.swin import Swin
from tailseg.models.timm_backbone import TimmBackbone

Backbone = ResNet | Swin | TimmBackbone
"""Has ``out_channels``, and maps ``[B, 3, H, W]`` to C2, C3, C4, C5."""


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone that the config describes, at random.

    Raises:
        ValueError: settings that do not go together, or timm is needed and not there.
    """
    match config:
        case ResNetConfig():
            return ResNet(config)
        case SwinConfig():
            return Swin(config)
        case TimmConfig():
            return TimmBackbone(config)
