"""Finding image files and reading them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file

from tailseg.structures import ImageInfo

ROOT_VARIABLES: Final = {"TAILSEG_DATA": ("", "coco"), "DETECTRON2_DATASETS": ("coco",)}
"""Environment variables that name folders of data sets, and where in those the images of COCO and LVIS lie."""

MAX_PIXELS: Final = 178_956_970
"""Pixels of the largest image that is read, half a gigabyte as RGB: Pillow's limit against decompression bombs."""

MOST_SCANS: Final = 100
"""Passes over the pixels of a JPEG that are decoded: encoders write about ten, a few bytes suffice for one more."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")

MAX_NAME: Final = 255
"""Bytes of the longest name of a file or folder, on every usual file system."""

MAX_PATH: Final = 4096
"""Bytes of the longest path, on Linux; elsewhere it is shorter."""


class ImageError(ValueError):
    """An image is missing, cannot be decoded or is not the one annotated; the message names the file."""


class ImageFinder:
    """Finds the files of a data set's images under a few root folders.

    Args:
        annotation_file: images lie in its folder, in the ``images`` folder there, or in the folder above
            (``coco/annotations/x.json`` and ``coco/train2017``), or where the environment says.
        folder: look only here; relative to the working directory like every path a user gives.
    """

    def __init__(self, annotation_file: Path, folder: Path | None = None) -> None:
        self.roots = [folder] if folder is not None else _default_roots(annotation_file)

    def find(self, names: Sequence[str]) -> Path:
        """The first file that exists, trying each of the names (best first) under each root.

        Raises:
            ImageError: there is none; says where it looked.
        """
        for root in self.roots:
            for name in names:
                if os.path.isfile(root / name):  # noqa: PTH113 - of a path that is too long, Path's raises
                    return root / name
        raise ImageError(
            f"image {names[0]} not found. Looked for {' and '.join(dict.fromkeys(names))} in "
            f"{', '.join(str(root) for root in self.roots)}. Name the folder of the images (images=..., "
            "--data.train-images, --data.val-images), or set TAILSEG_DATA to it"
        )


def _default_roots(annotation_file: Path) -> list[Path]:
    folder = annotation_file.resolve().parent
    roots = [folder, folder / "images", folder.parent, folder.parent / "images"]
    for variable, subfolders in ROOT_VARIABLES.items():
        if value := os.environ.get(variable):
            roots += [Path(value).expanduser() / sub for sub in subfolders]
    return list(dict.fromkeys(roots))


def candidate_names(file_name: str | None, coco_url: str | None) -> list[str]:
    """Names under which an image may be found below a root, best first.

    LVIS v1 has no ``file_name``: the tail of ``coco_url`` (``train2017/000000391895.jpg``) says which of COCO's folders
    holds the image. LVIS v0.5 has a ``file_name`` of COCO 2014, and the ``coco_url`` of 2017. Beside a ``file_name``, a
    ``coco_url`` that is no name of a file (a path of somebody's machine, say) is passed over.
    """
    tail = "/".join(coco_url.split("/")[-2:]) if coco_url else None
    if file_name and tail and not is_safe_name(tail):
        tail = None
    names = [file_name, tail, tail and PurePosixPath(tail).name, file_name and PurePosixPath(file_name).name]
    return list(dict.fromkeys(name for name in names if name))


def is_safe_name(name: str) -> bool:
    """Whether a file name stays in the folder it is looked for in: neither absolute nor climbing out, without control
    characters (a line feed would part it into two) or half characters, and no longer than a file system takes.
    """
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or name[1:2] == ":" or not is_text(name):
        return False
    if len(name.encode()) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in parts):
        return False
    return all(character >= " " for character in name)


def is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can hold: JSON can escape half a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


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
        with Image.open(path, formats=FORMATS) as header:
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
            with Image.open(path, formats=FORMATS) as file:
                file.verify()  # decoding looks at no sums, and may give other pixels
        with Image.open(path, formats=FORMATS) as picture:
            picture.load()
            picture.info.pop("transparency", None)  # is dropped, but a palette's with a warning
            if picture.mode == "I;16":  # grey, which convert would clip
                picture = Image.fromarray((np.array(picture) >> 8).astype(np.uint8))
            pixels = np.array(picture.convert("RGB"))
    except Exception as error:  # malformed files meet exceptions of many kinds
        raise OSError(str(error) or type(error).__name__) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
