"""Reading image files."""

import io
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
"""TIFF's tag that says whether 0 is white. Pillow uses it for images of up to 8 bits only."""

MAX_SCANS: Final = 100
"""The largest number of scans of a JPEG file. Encoders write about ten; each takes a few bytes in a malicious file."""


def read_image(info: ImageInfo) -> UInt8[Tensor, "3 h w"]:
    """Reads an image as RGB, at the annotated size.

    An image with an EXIF orientation is rotated as viewers and annotation tools show it. If the annotated size fits the
    stored pixels only, or if ``info.orientation`` is "stored", the stored pixels are returned.

    Raises:
        ImageError: the file cannot be read or decoded, or its size is not the annotated one.
    """
    return read_with_orientation(info)[0]


def read_annotated(annotations: Annotations, info: ImageInfo) -> tuple[UInt8[Tensor, "3 h w"], int]:
    """Reads an image of a data set as RGB, at the annotated size, and the EXIF orientation of its file (1 without one).

    Args:
        annotations: the data set.
        info: the image, from ``annotations.get_info``.

    Returns:
        The pixels and the orientation, 1 .. 8.

    Raises:
        ImageError: as `read_image`; or the user's data set does not return the image.
    """
    return read_with_orientation(info) if annotations.source is None else (annotations.source.read(info), 1)


def read_with_orientation(info: ImageInfo) -> tuple[UInt8[Tensor, "3 h w"], int]:
    """Reads an image like `read_image`, and returns its EXIF orientation, 1 .. 8, as well.

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
        remedy = f": EXIF (orientation {orientation}) rotates it; --data.orientation shown reads it rotated"
    elif annotated == size[::-1]:
        remedy = (
            ": it may have been annotated after an EXIF rotation; rotate the stored pixels. If its boxes fit the "
            "stored pixels, width and height are exchanged in the annotation file; correct them"
        )
    else:
        remedy = ": use the original image, or correct width and height and the annotations with them"
    raise ImageError(
        f"image {info.file} (id {info.image_id}) is {size[1]} x {size[0]} pixels (width x height), the annotation file "
        f"says {info.width} x {info.height}{remedy}"
    )


def describe_orientations(infos: Collection[ImageInfo]) -> str:
    """Writes a line about images with an EXIF orientation; empty without such images."""
    if not infos:
        return ""
    first = next(iter(infos))
    how = (
        "read as viewers and annotation tools show them, if the annotated size allows it (--data.orientation stored "
        "reads their stored pixels)"
        if first.orientation == "shown"
        else "read as stored, as data.orientation says"
    )
    count = f"{count_noun(len(infos), 'image')} {verb_form(len(infos), 'has', 'have')}"
    return f"{count} an EXIF orientation other than 1 ({first.file}: {first.exif}): {how}"


def apply_orientation(image: UInt8[Tensor, "3 h w"], orientation: int) -> Tensor:
    """Rotates and mirrors stored pixels as EXIF's orientation says.

    The orientations 2 to 4 mirror; 5 to 8 also swap rows and columns. Source: JEITA CP-3451, "Exchangeable image file
    format for digital still cameras", tag 0x0112.
    """
    if orientation >= 5:
        image = image.transpose(1, 2)
    sides = [side for side, mirrored in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if orientation in mirrored]
    return image.flip(sides).contiguous() if sides or orientation >= 5 else image


def load_image(path: str | Path, orientation: Orientation = "shown") -> UInt8[Tensor, "3 h w"]:
    """Reads a JPEG, PNG, WebP, GIF, TIFF or BMP file as RGB.

    The image is rotated as its EXIF data says, unless ``orientation`` is "stored". Gray images get three equal
    channels. Of 16 bits, the upper 8 are used. Transparency is ignored. Of an animation or a file with several pages,
    the first image is used.

    Raises:
        ImageError: the file is missing, truncated or not an image; the range of its numbers is unknown; or it has more
            than ``MAX_PIXELS`` pixels or more than ``MAX_SCANS`` scans.
    """
    image, exif = _read_stored(path)
    return apply_orientation(image, exif) if orientation == "shown" else image


def decode(content: bytes, name: str, orientation: Orientation = "shown") -> UInt8[Tensor, "3 h w"]:
    """Decodes the content of an image file, as `load_image` does.

    Args:
        content: the bytes of the file.
        name: what error messages call the image.
        orientation: whether the image is turned as its EXIF data says ("shown"), or not ("stored").

    Returns:
        The image in RGB.

    Raises:
        ImageError: as `load_image`.
    """
    image, exif = _read_stored(name, content)
    return apply_orientation(image, exif) if orientation == "shown" else image


def _read_stored(path: str | Path, known: bytes | None = None) -> tuple[Tensor, int]:
    """Reads the stored pixels and EXIF's orientation of a file, or of its content if that is known.

    Raises:
        ImageError: as `load_image`.
    """
    try:
        header = _read_header(path, known)
        if header.format in ("PNG", "WEBP", "GIF", "TIFF", "BMP"):
            return _read_with_pillow(path, header, known), header.orientation
        content = read_file(str(path)) if known is None else torch.frombuffer(bytearray(known), dtype=torch.uint8)
        if (scans := _count_scans(content.numpy().tobytes())) > MAX_SCANS:
            raise OSError(f"it has {scans:,} scans, and at most {MAX_SCANS} are allowed")
        return decode_image(content, mode=ImageReadMode.RGB), header.orientation
    except (RuntimeError, OSError) as error:
        reason = str(error) if isinstance(error, OSError) else str(error).rsplit(".cpp:", 1)[-1].partition(", ")[2]
        raise ImageError(
            f"image {path} cannot be read: {reason.strip() or error}. Replace the file (JPEG, PNG, WebP, GIF, TIFF or "
            "BMP), or leave the image out"
        ) from error


def _open(path: str | Path, known: bytes | None) -> Image.Image:
    return open_picture(path if known is None else io.BytesIO(known))


def _read_header(path: str | Path, known: bytes | None) -> Header:
    """Reads the header of a file, and checks the size, since a small file may decode to gigabytes of pixels.

    Raises:
        ImageError: it has too many pixels.
        OSError: it cannot be opened, or is of none of the formats.
    """
    try:
        with _open(path, known) as picture:
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
        f"image {path} is too large: {what}; at most {MAX_PIXELS:,} are allowed. Cut it into tiles, or scale it down "
        "together with its annotations"
    )


def _count_scans(content: bytes) -> int:
    """Counts the scans of a JPEG file up to the end of its image; another image or a video may follow it."""
    scans, at = 0, 2
    while (marker := _MARKER.search(content, at)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return scans


_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""The marker at the start of a segment of a JPEG file, before its length; markers without a length do not match."""


def _read_with_pillow(path: str | Path, header: Header, known: bytes | None) -> Tensor:
    """Reads the first image of a file.

    torchvision is not used: its PNG reader ends the process on most damaged files, it decodes or refuses all images of
    an animation, and it cannot read TIFF and BMP.

    Raises:
        OSError: the file cannot be decoded, or a checksum of a PNG file is wrong.
    """
    try:
        if header.format == "PNG":
            with _open(path, known) as file:
                file.verify()  # decoding does not check the sums, and may return wrong pixels
        with _open(path, known) as picture, without_warnings:  # a truncated file is an error as well
            picture.load()
            picture.info.pop("transparency", None)  # convert would ignore it, with a warning for palettes
            pixels = np.array(to_rgb(picture))
    except Exception as error:  # malformed files raise exceptions of many types
        raise OSError(str(error) or type(error).__name__) from error
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    # Pillow has rotated a TIFF as its orientation says, so rotate it back; 6 is the inverse of 8
    return (
        apply_orientation(image, {6: 8, 8: 6}.get(header.orientation, header.orientation))
        if header.format == "TIFF"
        else image
    )


def to_rgb(picture: Image.Image) -> Image.Image:
    """Converts a decoded image to RGB with 8 bits and without transparency.

    Raises:
        ValueError: the range of its numbers is unknown.
    """
    if picture.mode.startswith("I;16"):  # gray; convert would clip it
        values = (np.array(picture) >> 8).astype(np.uint8)
        is_negative = picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0  # ty: ignore[missing-attribute]
        picture = Image.fromarray(255 - values if is_negative else values)
    if picture.mode in ("I", "F"):
        kind = "32-bit or signed whole numbers" if picture.mode == "I" else "floating point numbers"
        raise ValueError(f"its pixels are {kind} of an unknown range: write 8 or 16 bits without a sign")
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert("RGBA")
    return picture.convert("RGB")
