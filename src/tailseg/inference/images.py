"""Images in the forms that applications have: files, PIL images, NumPy arrays and tensors."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.pictures import read_header, without_warnings
from tailseg.annotations.types import Orientation
from tailseg.data.images import apply_orientation, load_image, to_rgb

ImageInput = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a PIL image, an array ``[height, width, 3]`` or a tensor ``[3, height, width]``, see `to_rgb_tensor`."""

CHANNELS: Final = (1, 3, 4)
"""Channels of gray, RGB and RGBA."""
BRIGHT: Final = 16.0
"""A float image with fractions whose largest value lies between 1 and this may be a dark one in 0 .. 255, or a bright
one in 0 .. 1 that reaches above 1."""


def to_rgb_tensor(
    image: ImageInput, *, orientation: Orientation = "shown", name: str = "the image"
) -> UInt8[Tensor, "3 h w"]:
    """Converts an image to an RGB tensor of 8 bits in main memory. The same picture gives the same tensor in any form.

    - A path: the file is read, see `tailseg.data.images.load_image`.
    - A PIL image of any mode with 8 bits, or gray with 16 bits.
    - A NumPy array ``[height, width, 3]`` in the order red, green, blue; ``[height, width, 4]`` with transparency;
      ``[height, width]`` or ``[height, width, 1]`` gray. OpenCV's images are in the order blue, green, red. This
      cannot be detected: convert them with ``image[:, :, ::-1]``.
    - A tensor ``[3, height, width]``, ``[4, height, width]``, ``[1, height, width]`` or ``[height, width]``.

    Transparency is ignored. Arrays and tensors hold uint8, uint16 (the upper 8 bits are used), or floating point
    numbers. The range of these is found from their values: up to 1 is 0 .. 1, whole numbers and values from 16 are
    0 .. 255; other values are refused. A picture in 0 .. 255 that has fractions and no value above 1 looks black, and
    is taken for one in 0 .. 1: use uint8 if your images may be so dark.

    Args:
        image: the image.
        orientation: whether a path or a PIL image is turned as its EXIF data says ("shown"), or not ("stored").
        name: what error messages call the image.

    Returns:
        The image, uint8 ``[3, height, width]``.

    Raises:
        ImageError: a file cannot be read, or a PIL image cannot be decoded.
        TypeError: the image, or its numbers, are of another type.
        ValueError: its shape or its range of values is not one of these, or fits two of these.
    """
    if isinstance(image, str | Path):
        return load_image(image, orientation)
    if isinstance(image, Image.Image):
        return _convert_picture(image, orientation, name)
    if isinstance(image, np.ndarray | Tensor):
        return _convert_values(_put_channels_first(image, name), name)
    raise TypeError(
        f"{name} is of type {type(image).__name__}: expected a path, a PIL image, a NumPy array [height, width, 3] or "
        "a tensor [3, height, width]"
    )


def _convert_picture(picture: Image.Image, orientation: Orientation, name: str) -> Tensor:
    if 0 in picture.size:
        raise ValueError(f"{name} has no pixels: it is {picture.width} x {picture.height} (width x height)")
    exif = read_header(picture).orientation
    is_tiff = picture.format == "TIFF"
    try:
        with without_warnings:
            picture.load()
            if "transparency" in picture.info:  # convert would warn of it
                picture = picture.copy()
                del picture.info["transparency"]
            pixels = np.array(to_rgb(picture))
    except Exception as error:  # malformed files raise exceptions of many types
        raise ImageError(f"{name} cannot be converted: {error or type(error).__name__}") from error
    stored = torch.from_numpy(pixels).permute(2, 0, 1)
    if is_tiff:  # Pillow has turned it already; 6 is the inverse of 8
        return stored if orientation == "shown" else apply_orientation(stored, {6: 8, 8: 6}.get(exif, exif))
    return apply_orientation(stored, exif) if orientation == "shown" else stored


def _put_channels_first(image: np.ndarray | Tensor, name: str) -> Tensor:
    """Returns a tensor ``[channels, height, width]`` with 1, 3 or 4 channels, in main memory."""
    shape = list(image.shape)
    is_array = isinstance(image, np.ndarray)
    expected = "[height, width, 3]" if is_array else "[3, height, width]"
    if len(shape) == 4:
        raise ValueError(f"{name} has the shape {shape} of several images: use a list, as in predictor(list(images))")
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"{name} has the shape {shape}: expected {expected}")
    if len(shape) == 3:
        first, last = shape[0] in CHANNELS, shape[2] in CHANNELS
        if first and last and is_array:  # a tensor may be a file of 1, 3 or 4 columns that tailseg read itself
            raise ValueError(
                f"{name} has the shape {shape}, whose channels may come first or last: use a PIL image "
                "(PIL.Image.fromarray)"
            )
        if not (last if is_array else first):
            hint = ""
            if first or last:
                hint = f"; use image.{'transpose(1, 2, 0)' if is_array else 'permute(2, 0, 1)'}"
            kind = "an array" if is_array else "a tensor"
            raise ValueError(f"{name} is {kind} of the shape {shape}: expected {expected} (or 1 or 4 channels){hint}")
    if not is_array:
        pixels = image.detach().cpu()
        return pixels.unsqueeze(0) if len(shape) == 2 else pixels
    dtype = image.dtype.newbyteorder("=")
    if np.issubdtype(dtype, np.longdouble):  # torch has no such type
        dtype = np.dtype(np.float64)
    if not (np.issubdtype(dtype, np.floating) or dtype in (np.uint8, np.uint16)):
        raise TypeError(_describe_type(name, dtype))
    pixels = torch.from_numpy(np.require(image, dtype, ["C", "W"]))
    return pixels.unsqueeze(0) if len(shape) == 2 else pixels.permute(2, 0, 1)


def _convert_values(pixels: Tensor, name: str) -> Tensor:
    """Converts ``[1, h, w]``, ``[3, h, w]`` or ``[4, h, w]`` of any number type to uint8 RGB."""
    pixels = pixels[:3]
    if pixels.dtype == torch.uint16:
        wide = pixels.to(torch.int32)
        if 0 < int(wide.max()) <= 255:
            raise ValueError(
                f"{name} is of type uint16 and has no value above {int(wide.max())}: 16 bits go to 65535, so it would "
                "become black. Convert values in 0 .. 255 with image.astype(numpy.uint8) or image.to(torch.uint8)"
            )
        pixels = (wide >> 8).to(torch.uint8)
    elif pixels.is_floating_point():
        pixels = (pixels.float() * _get_scale(pixels, name)).round().to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        raise TypeError(_describe_type(name, pixels.dtype))
    return pixels.expand(3, -1, -1)


def _describe_type(name: str, dtype: object) -> str:
    return (
        f"{name} has numbers of type {str(dtype).removeprefix('torch.')}: expected uint8, uint16 or floating point "
        "numbers. Convert values in 0 .. 255 with "
        + ("image.to(torch.uint8)" if isinstance(dtype, torch.dtype) else "image.astype(numpy.uint8)")
    )


def _get_scale(pixels: Tensor, name: str) -> float:
    """Returns the factor that brings a float image into 0 .. 255."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 255):  # NaN too
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}: expected 0 .. 1 or 0 .. 255, without NaN and without "
            "normalization by a mean and a deviation. Use the original image, or clip it"
        )
    if high == 0:
        return 1.0
    is_whole = bool((pixels == pixels.round()).all())
    if high <= 1 and not is_whole:
        return 255.0
    if high > 1 and (is_whole or high >= BRIGHT):
        return 1.0
    values = "only the values 0 and 1" if high <= 1 else f"fractions, and {high:g} as its largest value"
    raise ValueError(
        f"{name} has floating point numbers with {values}: its range may be 0 .. 1 or 0 .. 255. Convert it to uint8, "
        "with values in 0 .. 255"
    )
