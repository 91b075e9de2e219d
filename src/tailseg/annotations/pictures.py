"""What the first bytes of an image file say: its format, size, EXIF orientation and bits."""

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

UPLOADED: Final = ("JPEG", "PNG", "WEBP", "GIF")
"""Formats that are decoded of files from anybody: what browsers show, whose decoders they all harden."""

FORMATS: Final = (*UPLOADED, "TIFF", "BMP")
"""Formats that are decoded at all; Pillow knows many more, and each is code that a damaged file can reach."""

MAX_PIXELS: Final = 178_956_970
"""Pixels of the largest image that is read, half a gigabyte as RGB: Pillow's limit against decompression bombs."""

_ORIENTATION: Final = 0x0112
_BITS: Final = 0x0102


@dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Attributes:
        format: one of `FORMATS`; MPO for a JPEG file with further pictures.
        height, width: of the pixels as stored.
        orientation: how EXIF wants them turned to be looked at, 1 .. 8; 1 is as stored.
        bits: of a value.
    """

    format: str
    height: int
    width: int
    orientation: int
    bits: int

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width of the picture as viewers show it."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def open_picture(file: str | Path | io.BytesIO, formats: tuple[str, ...] = FORMATS) -> "Image.Image":
    """Opens an image of one of the formats, in silence: of a large one, or of strange tags, Pillow would warn."""
    from PIL import Image

    with without_warnings:
        return Image.open(file, formats=formats)


class _Silence:
    """A context within which no warning is shown, in no thread.

    `warnings.catch_warnings` alone is not safe in threads: one thread would restore the filters that another one had
    changed, and the process would stay silent. Here the last thread that leaves restores them.
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


def header_of(picture: "Image.Image") -> Header:
    """The header of an opened image, whose pixels were not decoded yet."""
    (width, height), orientation = picture.size, _orientation(picture)
    if picture.format == "TIFF" and orientation >= 5:  # Pillow turns these by itself
        height, width = width, height
    return Header(str(picture.format), height, width, orientation, _bits(picture))


def _orientation(picture: "Image.Image") -> int:
    """EXIF's orientation; 1 where there is none, or none that EXIF knows."""
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
    except Exception:  # noqa: BLE001 - malformed EXIF meets exceptions of many kinds, and says nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _bits(picture: "Image.Image") -> int:
    """Bits of a value: Pillow's modes tell 16 of a gray one alone."""
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(_BITS, (1,))  # ty: ignore[missing-attribute]
        return max(bits) if isinstance(bits, tuple) and bits else 8
    sixteen = picture.mode.startswith("I") or any(";16" in str(tile.args) for tile in getattr(picture, "tile", ()))
    return 16 if picture.format == "PNG" and sixteen else 8


def read_size(path: Path, orientation: Orientation = "shown") -> tuple[int, int]:
    """Height and width of an image file, from its first bytes.

    Args:
        path: the file.
        orientation: as viewers show it, or as it is stored.

    Raises:
        ImageError: it is no image.
    """
    try:
        with open_picture(path) as picture:
            header = header_of(picture)
    except Exception as error:  # malformed headers meet exceptions of many kinds
        raise ImageError(f"image {path} cannot be read: {error}") from error
    return header.shown if orientation == "shown" else (header.height, header.width)
