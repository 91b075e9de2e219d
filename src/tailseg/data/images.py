"""Reading image files."""

import re
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file

from tailseg.annotations.image_files import MAX_PIXELS, ImageError, open_picture
from tailseg.annotations.types import ImageInfo

MOST_SCANS: Final = 100
"""Passes over the pixels of a JPEG that are decoded: encoders write about ten, a few bytes suffice for one more."""


def read_image(info: ImageInfo) -> UInt8[Tensor, "3 h w"]:
    """The image as RGB, its pixels as stored: annotations refer to those, so an EXIF orientation is not applied.

    Raises:
        ImageError: the file cannot be read or decoded, or its size is not the annotated one.
    """
    image = load_image(info.file)
    height, width = image.shape[-2:]
    if (height, width) == (info.height, info.width):
        return image
    swapped = (width, height) == (info.height, info.width)
    raise ImageError(
        f"image {info.file} (id {info.image_id}) is {width} x {height} pixels (width x height), the annotation file "
        f"says {info.width} x {info.height}"
        + (
            ": it may have been annotated after an EXIF rotation; rotate the stored pixels"
            if swapped
            else ": use the original image, or correct width and height and the annotations with them"
        )
    )


def load_image(path: str | Path) -> UInt8[Tensor, "3 h w"]:
    """A JPEG, PNG, WebP or GIF file as RGB; grey images get three equal channels, transparency is dropped, and of an
    animation the first picture is taken.

    Raises:
        ImageError: the file is missing, truncated, not an image, has more than ``MAX_PIXELS`` pixels, or more than
            ``MOST_SCANS`` scans.
    """
    try:
        kind = _format_within_limits(path)
        if kind in ("PNG", "WEBP", "GIF"):
            return _by_pillow(path, kind)
        content = read_file(str(path))
        if (scans := _scans(content.numpy().tobytes())) > MOST_SCANS:
            raise OSError(f"it has {scans:,} scans; {MOST_SCANS} are read")
        return decode_image(content, mode=ImageReadMode.RGB)
    except (RuntimeError, OSError) as error:
        reason = str(error) if isinstance(error, OSError) else str(error).rsplit(".cpp:", 1)[-1].partition(", ")[2]
        raise ImageError(
            f"image {path} cannot be read: {reason.strip() or error}. Replace the file (JPEG, PNG, WebP or GIF), or "
            "leave the image out"
        ) from error


def _format_within_limits(path: str | Path) -> str | None:
    """What the file's first bytes say it is: a few kilobytes can stand for gigabytes of pixels.

    Raises:
        ImageError: it has too many pixels.
        OSError: it cannot be opened, or is of none of the formats.
    """
    kind = None
    try:
        with open_picture(path) as header:
            (width, height), kind = header.size, header.format
        too_large = f"{width} x {height} pixels" if width * height > MAX_PIXELS else ""
    except Image.DecompressionBombError as error:
        too_large = str(error)
    except (ValueError, RuntimeError) as error:  # of a malformed header
        raise OSError(str(error)) from error
    if too_large:
        raise ImageError(
            f"image {path} is too large: {too_large}; {MAX_PIXELS:,} are read. Cut it into tiles, or scale it down, "
            "and the annotations with it"
        )
    return kind


def _scans(content: bytes) -> int:
    """How often a JPEG file goes over its pixels, up to the end of its image: another or a film may be behind it."""
    scans, at = 0, 2
    while (marker := _MARKER.search(content, at)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return scans


_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""What a segment of a JPEG file begins with, its length behind it; not those that stand alone amid the pixels."""


def _by_pillow(path: str | Path, kind: str) -> Tensor:
    """The first picture of a PNG, WebP or GIF file: torchvision's reader of PNG ends the process over most damaged
    files, and of an animation it decodes every picture, or refuses it.

    Raises:
        OSError: it cannot be decoded, or the check sums of a PNG are wrong.
    """
    try:
        if kind == "PNG":
            with open_picture(path) as file:
                file.verify()  # decoding looks at no sums, and may give other pixels
        with open_picture(path) as picture:
            picture.load()
            picture.info.pop("transparency", None)  # is dropped, but a palette's with a warning
            if picture.mode == "I;16":  # grey, which convert would clip
                picture = Image.fromarray((np.array(picture) >> 8).astype(np.uint8))
            pixels = np.array(picture.convert("RGB"))
    except Exception as error:  # malformed files meet exceptions of many kinds
        raise OSError(str(error) or type(error).__name__) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
