"""The feature maps of a frozen backbone, kept on disk: a training reads them and computes neither pixels nor backbone.

A folder of kept maps has two files:

    maps.bin    float16: the maps of all images, one after the other, see `tailseg.structures.ImageMaps`
    index.json  where the maps of each image are; written last, so that a folder without it is not complete
"""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch
from torch import Tensor

from tailseg.annotations.image_files import ImageError
from tailseg.files import write_atomically, write_text
from tailseg.structures import ImageMaps

VERSION: Final = 1
"""Of the two files. The folder of another version is not read."""
MAX_FLOAT16: Final = 65_504
"""The largest number that the file can hold."""


@dataclass
class Index:
    """What ``index.json`` holds. An image is known by its position in the data set.

    Attributes:
        channels: of the four maps.
        starts: ``"image height width mirrored"`` to the position of the first number of these maps in ``maps.bin``.
        exif: the images with an EXIF orientation other than 1.
        errors: the images that cannot be used, and why.
        length: numbers in ``maps.bin``.
        version: `VERSION`.
    """

    channels: Sequence[int]
    starts: dict[str, int] = field(default_factory=dict)
    exif: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    length: int = 0
    version: int = VERSION


class KeptMaps:
    """A folder of kept maps, to read.

    Args:
        folder: see the module.

    Raises:
        OSError: the folder is not there, or not complete.
        ValueError: the two files do not belong together, or another version of tailseg wrote them.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "maps.bin"
        content = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.num_bytes = self.file.stat().st_size
        if content.get("version") != VERSION or self.num_bytes != 2 * content["length"]:
            raise ValueError(f"{folder} does not hold kept maps of this version: delete it, it is then written again")
        self.index = Index(**content)

    @cached_property
    def _values(self) -> np.ndarray:
        # Opened when it is first read: each loader process maps the file itself, and all share its pages.
        return np.memmap(self.file, dtype=np.float16, mode="r")

    def get_exif(self, image: int) -> int:
        """Returns the EXIF orientation of the image's file.

        Raises:
            ImageError: the image could not be used when the maps were computed.
        """
        if str(image) in self.index.errors:
            raise ImageError(self.index.errors[str(image)])
        return self.index.exif.get(str(image), 1)

    def read(self, image: int, size: tuple[int, int], *, mirrored: bool) -> ImageMaps:
        """Reads the maps of one image.

        Args:
            image: its position in the data set.
            size: ``(height, width)`` of the resized image.
            mirrored: those of the image flipped from left to right.

        Returns:
            The maps.
        """
        start = self.index.starts[make_key(image, size, mirrored=mirrored)]
        end = start + ImageMaps.count_values(size, tuple(self.index.channels))
        return ImageMaps(torch.from_numpy(self._values[start:end].copy()), size, tuple(self.index.channels))


class MapWriter:
    """Adds maps to the file that `write_kept_maps` opened."""

    def __init__(self, file: BinaryIO, channels: tuple[int, ...]) -> None:
        self.index = Index(channels)
        self._file = file

    def add(self, image: int, maps: ImageMaps, *, mirrored: bool) -> None:
        """Adds the maps of one image.

        Args:
            image: its position in the data set.
            maps: on the CPU.
            mirrored: whether they are those of the image flipped from left to right.

        Raises:
            ValueError: a number is too large for float16.
        """
        values: Tensor = maps.values
        if not values.isfinite().all():
            raise ValueError(
                f"data.keep_maps: the backbone's maps have numbers that are not finite or above {MAX_FLOAT16:,}, which "
                "float16 cannot hold: train without --data.keep-maps"
            )
        self.index.starts[make_key(image, maps.size, mirrored=mirrored)] = self.index.length
        self._file.write(values.numpy().tobytes())
        self.index.length += len(values)


@contextmanager
def write_kept_maps(folder: Path, channels: tuple[int, ...]) -> Generator[MapWriter]:
    """Writes a folder of kept maps; after an error the folder is not complete.

    Args:
        folder: see the module.
        channels: of the four maps.
    """
    with write_atomically(folder / "maps.bin") as written, written.open("wb") as file:
        writer = MapWriter(file, channels)
        yield writer
    write_text(folder / "index.json", json.dumps(asdict(writer.index)))


def make_key(image: int, size: tuple[int, int], *, mirrored: bool) -> str:
    """Makes the name of an image's maps in the index.

    Args:
        image: its position in the data set.
        size: ``(height, width)`` of the resized image.
        mirrored: of the image flipped from left to right.

    Returns:
        The four numbers, separated by spaces.
    """
    return f"{image} {size[0]} {size[1]} {int(mirrored)}"
