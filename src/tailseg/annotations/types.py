"""Small types that many modules use. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Final, Literal, TypedDict

import numpy as np
from jaxtyping import Float64, Int64

Group = Literal["r", "c", "f"]
"""Frequency group: rare, common or frequent. LVIS's bounds are 10 and 100 training images, see `frequency_group`."""

GroupBounds = tuple[int, int]
"""The most training images of a rare class and of a common class; a class with more images is frequent."""

LVIS_BOUNDS: Final[GroupBounds] = (10, 100)
"""LVIS's bounds: rare (1 to 10 training images), common (11 to 100), frequent (more than 100)."""

Orientation = Literal["shown", "stored"]
"""How images with an EXIF orientation are read: as viewers show them, or as their pixels are stored."""


class RunLengths(TypedDict):
    """A mask as COCO run lengths: ``size`` is ``[height, width]``, ``counts`` the compressed string."""

    size: list[int]
    counts: bytes | str


Polygons = tuple[np.ndarray, ...]
"""A mask as the union of polygons, each a float64 array ``[K, 2]`` of x, y in pixels of the annotated file."""

Segmentation = Polygons | RunLengths


@dataclass(frozen=True)
class ImageInfo:
    """The id, file and size of an image.

    Attributes:
        image_id: id in the annotation file.
        file: path of the image file.
        height, width: size in pixels to which the annotations refer.
        orientation: how an image with an EXIF orientation is read; see `tailseg.data.images.read_image`.
        exif: the EXIF orientation, 2 .. 8, after the file was read; 1 if there is none.
    """

    image_id: int
    file: str
    height: int
    width: int
    orientation: Orientation = "shown"
    exif: int = 1


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """How often each class occurs in a data set. The losses take it as a `tailseg.structures.ClassFrequency`.

    Attributes:
        image_counts: number of images with the class.
        instance_counts: number of objects of the class.
        num_images: number of images with at least one annotation (99,388 for LVIS v1's training set).
        groups: LVIS frequency group of each class.
    """

    image_counts: Int64[np.ndarray, " C"]
    instance_counts: Int64[np.ndarray, " C"]
    num_images: int
    groups: tuple[Group, ...]

    @property
    def image_fraction(self) -> Float64[np.ndarray, " C"]:
        """f_j = image_count_j / num_images."""
        return self.image_counts / max(self.num_images, 1)


def frequency_group(image_count: int, bounds: GroupBounds = LVIS_BOUNDS) -> Group:
    """The frequency group of a class with ``image_count`` training images. A class without images is rare."""
    rare, common = bounds
    if image_count <= rare:
        return "r"
    return "c" if image_count <= common else "f"
