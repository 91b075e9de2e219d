"""From the settings of a backbone to the network, with clear errors for a backbone of the user's own.

Shapes: B images of H x W.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tailseg.models.config import BuildsBackbone
from tailseg.models.resnet import STRIDES

CONTRACT = (
    "a backbone is an nn.Module with the attribute out_channels (four numbers of channels) that returns four feature "
    "maps of strides 4, 8, 16, 32"
)
"""What a backbone must be, for error messages."""


def build_backbone(config: BuildsBackbone) -> nn.Module:
    """The backbone with random initialization.

    Raises:
        ValueError: settings that do not go together, timm is needed and not installed, or ``build`` does not return an
            ``nn.Module`` with ``out_channels``.
    """
    backbone: object = config.build()
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"{type(config).__name__}.build() returned {_kind(backbone)}: {CONTRACT}")
    get_out_channels(backbone)
    return backbone


def get_out_channels(backbone: nn.Module) -> tuple[int, ...]:
    """The numbers of channels of the four feature maps.

    Raises:
        ValueError: the backbone does not have them.
    """
    channels: Any = getattr(backbone, "out_channels", None)
    if not isinstance(channels, Sequence) or len(channels) != len(STRIDES):
        raise ValueError(f"the backbone {type(backbone).__name__} has out_channels {channels!r}: {CONTRACT}")
    return tuple(int(count) for count in channels)


def check_maps(maps: object, images: Tensor, backbone: nn.Module) -> None:
    """Checks that a backbone returned four feature maps of strides 4, 8, 16 and 32 with the channels that it states.

    Args:
        maps: what the backbone returned.
        images: ``[B, 3, H, W]``, what it was given.
        backbone: states ``out_channels``.

    Raises:
        ValueError: names the shapes that came and those that are expected.
    """
    batch, _, height, width = images.shape
    expected = [
        [batch, channels, height // stride, width // stride]
        for channels, stride in zip(get_out_channels(backbone), STRIDES, strict=True)
    ]
    shapes: object = _kind(maps)
    if isinstance(maps, Sequence):
        shapes = [list(m.shape) if isinstance(m, Tensor) else _kind(m) for m in maps]
    if shapes != expected:
        raise ValueError(
            f"the backbone {type(backbone).__name__} returned {shapes} for images {list(images.shape)}, expected "
            f"{expected}: {CONTRACT}"
        )


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
