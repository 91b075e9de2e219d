"""Reading image files."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.pictures import MAX_PIXELS, Header, open_picture, read_header, without_warnings
from tailseg.annotations.types import ImageInfo, Orientation
from tailseg.words import count_noun, verb_form

_PHOTOMETRIC: Final = 0x0106
"""TIFF's tag that says whether 0 is white; Pillow looks at it up to 8 bits."""

MOST_SCANS: Final = 100
"""Passes over the pixels of a JPEG that are decoded: encoders write about ten, a few bytes suffice for one more."""


def read_image(info: ImageInfo) -> UInt8[Tensor, "3 h w"]:
    """The image as RGB, at the annotated size.

    A picture whose EXIF says that it is to be turned is read as viewers and annotation tools show it, unless the
    annotated size fits its stored pixels alone, or ``info.orientation`` asks for these.

    Raises:
        ImageError: the file cannot be read or decoded, or its size is not the annotated one.
    """
    return read_with_orientation(info)[0]


def read_annotated(annotations: Annotations, info: ImageInfo) -> tuple[UInt8[Tensor, "3 h w"], int]:
    """An image of a data set as RGB, at the annotated size, and the EXIF orientation of its file (1 without one).

    Args:
        annotations: the data set.
        info: of the image, as ``annotations.info`` gives it.

    Returns:
        The pixels and the orientation, 1 .. 8.

    Raises:
        ImageError: as `read_image`; or the user's data set cannot give the image.
    """
    return read_with_orientation(info) if annotations.source is None else (annotations.source.read(info), 1)


def read_with_orientation(info: ImageInfo) -> tuple[UInt8[Tensor, "3 h w"], int]:
    """As `read_image`; and EXIF's orientation, 1 .. 8.

    Raises:
        ImageError: as `read_image`.
    """
    stored, orientation = _read_stored(info.file)
    annotated, size = (info.height, info.width), (stored.shape[-2], stored.shape[-1])
    shown = size[::-1] if orientation >= 5 else size
    if annotated == shown and info.orientation == "shown":
        return apply_orientation(stored, orientation), orientation
    if annotated == size:
        return stored, orientation
    if annotated == shown:
        remedy = f": EXIF (orientation {orientation}) turns it; --data.orientation shown reads it so"
    elif annotated == size[::-1]:
        remedy = (
            ": it may have been annotated after an EXIF rotation; rotate the stored pixels. If its boxes fit these "
            "pixels, the annotation file has width and height exchanged; exchange them"
        )
    else:
        remedy = ": use the original image, or correct width and height and the annotations with them"
    raise ImageError(
        f"image {info.file} (id {info.image_id}) is {size[1]} x {size[0]} pixels (width x height), the annotation file "
        f"says {info.width} x {info.height}{remedy}"
    )


def describe_orientations(infos: Collection[ImageInfo]) -> str:
    """A line about images whose EXIF says that they are to be turned; empty for none."""
    if not infos:
        return ""
    first = next(iter(infos))
    how = (
        "read as viewers and annotation tools show them, where the annotated size allows it (--data.orientation stored "
        "reads their stored pixels)"
        if first.orientation == "shown"
        else "read as stored, for data.orientation says so"
    )
    count = f"{count_noun(len(infos), 'image')} {verb_form(len(infos), 'has', 'have')}"
    return f"{count} an EXIF orientation other than 1 ({first.file}: {first.exif}): {how}"


def apply_orientation(image: UInt8[Tensor, "3 h w"], orientation: int) -> Tensor:
    """Stored pixels as EXIF's orientation wants them to be looked at.

    JEITA CP-3451, "Exchangeable image file format for digital still cameras", tag 0x0112: 2 to 4 mirror, 5 to 8 swap
    rows and columns as well.
    """
    if orientation >= 5:
        image = image.transpose(1, 2)
    sides = [side for side, mirrored in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if orientation in mirrored]
    return image.flip(sides).contiguous() if sides or orientation >= 5 else image


def load_image(path: str | Path, orientation: Orientation = "shown") -> UInt8[Tensor, "3 h w"]:
    """A JPEG, PNG, WebP, GIF, TIFF or BMP file as RGB, turned as its EXIF says unless it is wanted as stored.

    Gray images get three equal channels, of 16 bits the upper 8 are kept, transparency is dropped, and of an animation
    or of several pages the first picture is taken.

    Raises:
        ImageError: the file is missing, truncated, not an image, of numbers whose range it does not say, has more than
            ``MAX_PIXELS`` pixels, or more than ``MOST_SCANS`` scans.
    """
    image, exif = _read_stored(path)
    return apply_orientation(image, exif) if orientation == "shown" else image


def _read_stored(path: str | Path) -> tuple[Tensor, int]:
    """The pixels as stored, and EXIF's orientation.

    Raises:
        ImageError: as `load_image`.
    """
    try:
        header = _read_header(path)
        if header.format in ("PNG", "WEBP", "GIF", "TIFF", "BMP"):
            return _read_with_pillow(path, header), header.orientation
        content = read_file(str(path))
        if (scans := _count_scans(content.numpy().tobytes())) > MOST_SCANS:
            raise OSError(f"it has {scans:,} scans; {MOST_SCANS} are read")
        return decode_image(content, mode=ImageReadMode.RGB), header.orientation
    except (RuntimeError, OSError) as error:
        reason = str(error) if isinstance(error, OSError) else str(error).rsplit(".cpp:", 1)[-1].partition(", ")[2]
        raise ImageError(
            f"image {path} cannot be read: {reason.strip() or error}. Replace the file (JPEG, PNG, WebP, GIF, TIFF or "
            "BMP), or leave the image out"
        ) from error


def _read_header(path: str | Path) -> Header:
    """What the file's first bytes say: a few kilobytes can stand for gigabytes of pixels.

    Raises:
        ImageError: it has too many pixels.
        OSError: it cannot be opened, or is of none of the formats.
    """
    try:
        with open_picture(path) as picture:
            header = read_header(picture)
    except Image.DecompressionBombError as error:
        raise _make_size_error(path, str(error)) from None
    except OSError:
        raise
    except Exception as error:  # of a malformed header: of many kinds
        raise OSError(str(error)) from error
    if header.height * header.width > MAX_PIXELS:
        raise _make_size_error(path, f"{header.width} x {header.height} pixels")
    return header


def _make_size_error(path: str | Path, what: str) -> ImageError:
    return ImageError(
        f"image {path} is too large: {what}; {MAX_PIXELS:,} are read. Cut it into tiles, or scale it down, and the "
        "annotations with it"
    )


def _count_scans(content: bytes) -> int:
    """How often a JPEG file goes over its pixels, up to the end of its image: another or a film may be behind it."""
    scans, at = 0, 2
    while (marker := _MARKER.search(content, at)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return scans


_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""What a segment of a JPEG file begins with, its length behind it; not those that stand alone among the pixels."""


def _read_with_pillow(path: str | Path, header: Header) -> Tensor:
    """The first picture of a file: torchvision's reader of PNG ends the process over most damaged files, and of an
    animation it decodes every picture, or refuses it; it knows no TIFF and no BMP.

    Raises:
        OSError: it cannot be decoded, or the check sums of a PNG are wrong.
    """
    try:
        if header.format == "PNG":
            with open_picture(path) as file:
                file.verify()  # decoding looks at no sums, and may give other pixels
        with open_picture(path) as picture, without_warnings:  # a file that is cut short is an error as well
            picture.load()
            picture.info.pop("transparency", None)  # is dropped, but a palette's with a warning
            pixels = np.array(to_rgb(picture))
    except Exception as error:  # malformed files meet exceptions of many kinds
        raise OSError(str(error) or type(error).__name__) from error
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    # Pillow has turned a TIFF as its orientation says: turned back, 6 being the inverse of 8
    return (
        apply_orientation(image, {6: 8, 8: 6}.get(header.orientation, header.orientation))
        if header.format == "TIFF"
        else image
    )


def to_rgb(picture: Image.Image) -> Image.Image:
    """Converts a decoded picture to RGB with 8 bits and without transparency.

    Raises:
        ValueError: its numbers have no known range.
    """
    if picture.mode.startswith("I;16"):  # gray, which convert would clip
        values = (np.array(picture) >> 8).astype(np.uint8)
        is_negative = picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0  # ty: ignore[missing-attribute]
        picture = Image.fromarray(255 - values if is_negative else values)
    if picture.mode in ("I", "F"):
        kind = "32-bit or signed whole numbers" if picture.mode == "I" else "floating point numbers"
        raise ValueError(f"its pixels are {kind}, whose range nothing says: write 8 or 16 bits without a sign")
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert("RGBA")
    return picture.convert("RGB")
