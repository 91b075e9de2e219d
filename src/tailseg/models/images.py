"""From images of any size to one normalized, padded batch.

Shapes: B images, each ``[3, h, w]`` with its own h and w; ``H``, ``W`` of the batch are multiples of 32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tailseg.models.config import IMAGENET_NORMALIZATION, BuildsBackbone, Channels
from tailseg.structures import ImageMaps

IMAGE_MEAN = (123.675, 116.28, 103.53)
"""RGB mean of ImageNet, in 0 .. 255, as published."""
IMAGE_STD = (58.395, 57.12, 57.375)
"""RGB standard deviation of ImageNet, in 0 .. 255, as published."""
SIZE_DIVISOR = 32
"""The coarsest stride of the backbone; the sides of a batch are multiples of it."""


def get_normalization(backbone: BuildsBackbone) -> tuple[Channels, Channels]:
    """RGB mean and standard deviation, in 0 .. 255, of the images that the backbone expects.

    Raises:
        ValueError: ``backbone.normalization`` is not a mean in 0 .. 1 and a standard deviation in 0 .. 1 above 0.
    """
    mean, std = getattr(backbone, "normalization", IMAGENET_NORMALIZATION)
    if not (len(mean) == len(std) == 3 and all(0 <= x <= 1 for x in mean) and all(0 < x <= 1 for x in std)):
        raise ValueError(
            f"the normalization of {type(backbone).__name__} is three means in [0, 1] and three standard deviations in "
            f"(0, 1], for pixels in 0 .. 1, got {mean} and {std}"
        )
    (r, g, b), (r_std, g_std, b_std) = mean, std
    return (255 * r, 255 * g, 255 * b), (255 * r_std, 255 * g_std, 255 * b_std)


class ImageBatch(NamedTuple):
    """Normalized images padded with zeros on the right and below, and the sizes that they had."""

    tensors: Tensor
    """``[B, 3, H, W]``."""
    sizes: tuple[tuple[int, int], ...]
    """``(h, w)`` of each image before padding."""


def get_padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """The smallest multiples of 32 that hold ``(height, width)``."""
    height, width = size
    return -(-height // SIZE_DIVISOR) * SIZE_DIVISOR, -(-width // SIZE_DIVISOR) * SIZE_DIVISOR


class ImageBatcher(nn.Module):
    """Normalizes RGB images in 0 .. 255 with a mean and a deviation and pads them with zeros to one size."""

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: Channels = IMAGE_MEAN, std: Channels = IMAGE_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("inverse_std", 1 / torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Sequence[Tensor]) -> ImageBatch:
        """Batches images ``[3, h, w]``, uint8 or float in 0 .. 255.

        Raises:
            ValueError: there is no image, or one of them is not ``[3, h, w]`` with h and w at least 1.
        """
        if len(images) == 0:
            raise ValueError("a batch needs at least one image, got none")
        for i, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
                raise ValueError(f"image {i}: expected an RGB image [3, height, width], got {list(image.shape)}")
        sizes = tuple((int(image.shape[1]), int(image.shape[2])) for image in images)
        height, width = get_padded_size((max(h for h, _ in sizes), max(w for _, w in sizes)))
        # channels last: convolutions, norms and pooling all run faster on it, on CPU and GPU alike
        batch = self.mean.new_zeros(len(images), height, width, 3).permute(0, 3, 1, 2)
        for row, image, (h, w) in zip(batch, images, sizes, strict=True):
            row[:, :h, :w].copy_(image).sub_(self.mean).mul_(self.inverse_std)
        return ImageBatch(batch, sizes)


def stack_maps(images: Sequence[ImageMaps]) -> tuple[list[Tensor], tuple[tuple[int, int], ...]]:
    """Batches kept maps: C2, C3, C4, C5 as the backbone returns them, float32, and the sizes of the images.

    Cells that only a larger image of the batch adds are zero.
    """
    sizes = tuple(image.size for image in images)
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    shapes = ImageMaps.compute_shapes(largest, images[0].channels)
    batch = [images[0].values.new_zeros(len(images), *shape, dtype=torch.float32) for shape in shapes]
    for row, image in enumerate(images):
        for level, values in zip(batch, image.split(), strict=True):
            level[row, : values.shape[0], : values.shape[1]].copy_(values)
    return [level.permute(0, 3, 1, 2) for level in batch], sizes
