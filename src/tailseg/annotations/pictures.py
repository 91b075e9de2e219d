"""Reads the header of an image file: format, size, EXIF orientation and bits."""

import io
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.types import Orientation

if TYPE_CHECKING:
    from PIL import Image

UPLOAD_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")
"""Formats of files from unknown people. Browsers show them too, and their decoders are well tested."""

FORMATS: Final = (*UPLOAD_FORMATS, "TIFF", "BMP")
"""All formats that are decoded. Pillow has many more, and a damaged file could reach the code of each."""

MAX_PIXELS: Final = 178_956_970
"""Pixels of the largest image that is read: half a gigabyte as RGB, Pillow's limit against decompression bombs."""

_ORIENTATION: Final = 0x0112
_BITS: Final = 0x0102


@dataclass(frozen=True)
class Header:
    """The header of an image file.

    Attributes:
        format: one of `FORMATS`; MPO for a JPEG file with further pictures.
        height, width: of the pixels as stored.
        orientation: the EXIF orientation, 1 .. 8; 1 means as stored.
        bits: bits per value.
    """

    format: str
    height: int
    width: int
    orientation: int
    bits: int

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width of the image as viewers show it."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def open_picture(file: str | Path | io.BytesIO, formats: tuple[str, ...] = FORMATS) -> "Image.Image":
    """Opens an image of one of the formats, without Pillow's warnings about large images or unknown tags."""
    from PIL import Image

    with without_warnings:
        return Image.open(file, formats=formats)


class _Silence:
    """A context without warnings, for several threads.

    `warnings.catch_warnings` is not safe with threads: a thread could restore filters that another one had changed, and
    the process would never warn again. Here the last thread that leaves the context restores the filters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._filters.__exit__(None, None, None)


without_warnings: Final = _Silence()


def read_header(picture: "Image.Image") -> Header:
    """Reads the header of an opened image; the pixels are not decoded."""
    (width, height), orientation = picture.size, _read_orientation(picture)
    if picture.format == "TIFF" and orientation >= 5:  # Pillow turns these images itself
        height, width = width, height
    return Header(str(picture.format), height, width, orientation, _read_bits(picture))


def _read_orientation(picture: "Image.Image") -> int:
    """The EXIF orientation; 1 if it is missing or invalid."""
    from PIL import Image

    try:
        if picture.format == "TIFF":
            value = picture.tag_v2.get(_ORIENTATION, 1)  # ty: ignore[missing-attribute]
        elif "exif" in picture.info:
            exif = Image.Exif()
            exif.load(picture.info["exif"])
            value = exif.get(_ORIENTATION, 1)
        else:
            return 1
    except Exception:  # noqa: BLE001 - malformed EXIF raises many kinds of exceptions
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _read_bits(picture: "Image.Image") -> int:
    """Bits per value. Pillow's modes show 16 bits only for gray images."""
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(_BITS, (1,))  # ty: ignore[missing-attribute]
        return max(bits) if isinstance(bits, tuple) and bits else 8
    sixteen = picture.mode.startswith("I") or any(";16" in str(tile.args) for tile in getattr(picture, "tile", ()))
    return 16 if picture.format == "PNG" and sixteen else 8


def read_size(path: Path, orientation: Orientation = "shown") -> tuple[int, int]:
    """Reads height and width of an image file from its first bytes.

    Args:
        path: the file.
        orientation: size as viewers show the image, or as it is stored.

    Raises:
        ImageError: the file is not an image.
    """
    try:
        with open_picture(path) as picture:
            header = read_header(picture)
    except Exception as error:  # malformed headers raise many kinds of exceptions
        raise ImageError(f"image {path} cannot be read: {error}") from error
    return header.shown_size if orientation == "shown" else (header.height, header.width)
