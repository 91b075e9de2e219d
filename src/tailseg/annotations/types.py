"""The small types that everybody names; nothing here imports torch."""

from dataclasses import dataclass
from typing import Final, Literal, TypedDict

import numpy as np
from jaxtyping import Float64, Int64

Group = Literal["r", "c", "f"]
"""Frequency group: rare, common or frequent. LVIS's bounds are 10 and 100 training images, see `frequency_group`."""

GroupBounds = tuple[int, int]
"""The most training images of a rare class and of a common class; a class with more images is frequent."""

LVIS_BOUNDS: Final[GroupBounds] = (10, 100)
"""LVIS's bounds: rare (1-10 training images), common (11-100), frequent (more than 100)."""

Orientation = Literal["shown", "stored"]
"""Pictures whose EXIF says that they are to be turned: as viewers show them, or as their pixels are stored."""


class RunLengths(TypedDict):
    """A mask as COCO run lengths: ``size`` is ``[height, width]``, ``counts`` the compressed string."""

    size: list[int]
    counts: bytes | str


Polygons = tuple[np.ndarray, ...]
"""A mask as the union of polygons, each a float64 array ``[K, 2]`` of x, y in pixels of the annotated file."""

Segmentation = Polygons | RunLengths


@dataclass(frozen=True)
class ImageInfo:
    """Where an image came from.

    Attributes:
        image_id: its id in the annotation file.
        file: its file.
        height, width: those that the annotations refer to.
        orientation: how a picture is read that EXIF wants turned; see `tailseg.data.images.read_image`.
        exif: EXIF's orientation, 2 .. 8, once the file was read and has one; else 1.
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
        image_counts: images in which the class occurs.
        instance_counts: objects of the class.
        num_images: images that carry at least one annotation (99,388 for LVIS v1's training set).
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
    """The group of a class seen in ``image_count`` training images (a class never seen counts as rare)."""
    rare, common = bounds
    if image_count <= rare:
        return "r"
    return "c" if image_count <= common else "f"
