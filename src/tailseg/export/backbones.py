"""Layers of backbones whose padding depends on the size of the image, in a form that exporters can write.

`torch.export` takes the sides of an image as symbols. It computes for minutes on formulas such as ``ceil(H / 2)`` in
floating point or ``-H % 7``, and takes a condition such as "the padding is above 0" from the image that it traces.
Within `writable_backbones`, these layers compute the same values in another way:

- "Same" padding of timm's convolutions and poolings: the sides of images are multiples of 32, and so the side of each
  map is a multiple of the stride of the layer that reads it. The padding is then a constant.
- Windows of Swin, of tailseg and of timm: padding, shift and cutting are one selection of tokens by their places.

Shapes: B images of H x W tokens with C channels; windows of h x w tokens, N = h * w; n windows an image.
"""

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from tailseg.models.swin import APART, WindowAttention

PADDED_MODULES: Final = ("timm.layers.conv2d_same", "timm.layers.pool2d_same", "timm.layers.std_conv")
"""The modules of timm whose layers call ``pad_same``."""


@contextmanager
def writable_backbones() -> Generator[None]:
    """Within, the layers of this module take the place of the usual ones; values are equal."""
    replacements: list[tuple[Any, str, Any]] = [(WindowAttention, "forward", attend)]
    replacements += [(sys.modules[name], "pad_same", pad_same) for name in PADDED_MODULES if name in sys.modules]
    if "timm.models.swin_transformer" in sys.modules:
        block = sys.modules["timm.models.swin_transformer"].SwinTransformerBlock
        replacements.append((block, "_attn", attend_block))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    try:
        for owner, name, function in replacements:
            setattr(owner, name, function)
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def pad_same(
    x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int] = (1, 1), value: float = 0
) -> Tensor:
    """Pads maps like ``timm.layers.pad_same``: a layer of stride s makes ``ceil(H / s)`` of H.

    Args:
        x: ``[B, C, H, W]``.
        kernel_size: of the layer, two numbers.
        stride: of the layer.
        dilation: of the layer.
        value: of the padding.

    Returns:
        The padded maps.

    Raises:
        ValueError: a side is not a multiple of the stride.
    """
    if any(side % step != 0 for side, step in zip(x.shape[2:], stride, strict=True)):
        raise ValueError(
            f"a layer of stride {tuple(stride)} reads a map of {tuple(x.shape[2:])}, which are no multiples of it. "
            "Such a network cannot be exported for images of any size"
        )
    sides = zip(kernel_size, stride, dilation, strict=True)
    height, width = (max((kernel - 1) * step + 1 - jump, 0) for kernel, jump, step in sides)
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2), value=value)


@dataclass(frozen=True)
class Windows:
    """Where the tokens of a map are in its windows.

    Attributes:
        count: n.
        source: int64 ``[n * N]``, the token at each place of the windows, row by row.
        inside: bool ``[n * N]``: whether the place has a token; others are padding.
        back: int64 ``[H * W]``, the place of each token.
        region: int64 ``[n, N]``: places of two regions are no neighbors in the image, and do not see each other.
    """

    count: int
    source: Tensor
    inside: Tensor
    back: Tensor
    region: Tensor

    def cut(self, x: Tensor) -> Tensor:
        """The windows ``[B, n, N, C]`` of the map ``[B, H, W, C]``; padding is 0."""
        tokens = torch.where(self.inside[:, None], x.flatten(1, 2).index_select(1, self.source), 0.0)
        return tokens.view(x.shape[0], self.count, self.region.shape[1], x.shape[3])

    def join(self, windows: Tensor, like: Tensor) -> Tensor:
        """The map of the windows, with the shape of ``like``, ``[B, H, W, C]``."""
        return windows.flatten(1, 2).index_select(1, self.back).view(like.shape)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """What is added to the logits: `APART` for places of two regions, else 0, ``[n, N, N]``."""
        return APART * (self.region[:, :, None] != self.region[:, None, :]).to(dtype)


def find_windows(x: Tensor, window: Sequence[int], shift: Sequence[int], *, roll_first: bool) -> Windows:
    """Finds the windows of a map.

    Args:
        x: ``[B, H, W, C]``.
        window: h, w.
        shift: places by which the map is moved up and to the left, in a circle.
        roll_first: move the map before the padding, as timm does, or with it.

    Returns:
        The windows.
    """
    rows, columns = (count_windows(side, part) for side, part in zip(x.shape[1:3], window, strict=True))
    sides = zip(x.shape[1:3], window, shift, strict=True)
    (y, y_inside, y_back, y_region), (x_source, x_inside, x_back, x_region) = (
        find_axis(side, part, move, roll_first=roll_first, device=x.device) for side, part, move in sides
    )
    height, width = window

    def cut(values: Tensor) -> Tensor:
        return values.view(rows, height, columns, width).transpose(1, 2).reshape(rows * columns, height * width)

    row, column = y_back[:, None], x_back
    place = (row // height * columns + column // width) * (height * width)
    return Windows(
        rows * columns,
        cut(y[:, None] * x.shape[2] + x_source).flatten(),
        cut(y_inside[:, None] & x_inside).flatten(),
        (place + row % height * width + column % width).flatten(),
        cut(3 * y_region[:, None] + x_region),
    )


def count_windows(side: int, window: int) -> int:
    """Counts the windows that hold a side, the last one padded. This formula is one that exporters can solve."""
    return (side + window - 1) // window


def find_axis(
    side: int, window: int, shift: int, *, roll_first: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Finds the places of one axis.

    Args:
        side: of the map, in tokens.
        window: of a window.
        shift: places by which the map is moved.
        roll_first: see `find_windows`.
        device: of the results.

    Returns:
        For each place of the padded axis the token (0 for padding), whether it is one, and the region, 0, 1 or 2; for
        each token its place.
    """
    padded = count_windows(side, window) * window
    circle = side if roll_first else padded
    place, token = torch.arange(padded, device=device), torch.arange(side, device=device)
    source = take_modulo(place + shift, circle)
    inside = (source < side) & (place < circle)
    back = take_modulo(token + shift * (circle - 1), circle)  # token - shift, but not below 0
    region = (place >= padded - window).long() + (place >= padded - shift).long()
    return torch.where(inside, source, 0), inside, back, region


def take_modulo(values: Tensor, divisor: int) -> Tensor:
    """Computes ``values % divisor``; exporters cannot write this operator for a symbolic divisor."""
    return values - values // divisor * divisor


def attend(attention: WindowAttention, x: Tensor) -> Tensor:
    """Computes `tailseg.models.swin.WindowAttention.forward`."""
    side, shift = attention.window, attention.shift
    windows = find_windows(x, (side, side), (shift, shift), roll_first=False)
    bias = attention.relative_position_bias_table[attention.relative_position_index].permute(2, 0, 1)
    apart = windows.bias(bias.dtype)[:, None] if shift else bias.new_zeros(windows.count, 1, 1, 1)
    return attention.proj(windows.join(attention.attend(windows.cut(x), bias + apart), x))


def attend_block(block: Any, x: Tensor) -> Tensor:  # noqa: ANN401 (timm has no types)
    """Computes ``timm.models.swin_transformer.SwinTransformerBlock._attn``."""
    windows = find_windows(x, block.window_size, block.shift_size, roll_first=True)
    cut = windows.cut(x)
    mask = windows.bias(x.dtype) if any(block.shift_size) else None
    return windows.join(block.attn(cut.flatten(0, 1), mask=mask).view(cut.shape), x)
