"""Galleries of pictures with a budget: each picture is stored once in its gallery, and all fit into a file."""

import os
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.report.thumbnails import Crop, compute_thumbnail_size, encode_thumbnail

Picture = tuple[int, int, str]
"""Width, height, and a WebP file in base64; an empty text stands for an empty frame."""
Key = int | str

MAX_CACHED: Final = 200_000_000
"""Bytes of decoded images that are kept: several pictures show parts of one image."""
OUTLINE_SHARE: Final = 0.5
"""Outlines shrink to half when they are packed."""


class Galleries:
    """Pictures and items of several galleries.

    Args:
        keys: the names of the galleries.
        room: characters that all galleries may take.

    Attributes:
        of: for each key ``{"pictures": [[width, height, WebP in base64], ...], "items": [[number of the picture, ...],
            ...]}``.
        room: characters that are left.
        shown: pictures in the file.
        left_out: items without room.
        order: the key of each item, in the order in which they were added.
    """

    def __init__(self, keys: Iterable[Key], *, room: int) -> None:
        self.of: dict[Key, dict[str, list[Any]]] = {key: {"pictures": [], "items": []} for key in keys}
        self.room = room
        self.shown = 0
        self.left_out = 0
        self.order: list[Key] = []
        self._numbers: dict[tuple[Key, Hashable], int] = {}

    def add(self, key: Key, place: Hashable, make_picture: Callable[[], Picture], item: list[Any]) -> bool:
        """Adds an item with its picture, if there is room.

        Args:
            key: the gallery.
            place: what the picture shows; a second item with the same place shares the picture.
            make_picture: makes the picture.
            item: what the page shows next to the picture.

        Returns:
            Whether there was room.
        """
        if self.room < 0:
            self.left_out += 1
            return False
        gallery = self.of[key]
        number = self._numbers.get((key, place))
        if number is None:
            picture = make_picture()
            self.room -= len(picture[2]) + 20
            self._numbers[key, place] = number = len(gallery["pictures"])
            gallery["pictures"].append(picture)
            self.shown += 1
        gallery["items"].append([number, *item])
        self.order.append(key)
        self.room -= round(len(str(item)) * OUTLINE_SHARE)
        return True

    def drop(self, count: int) -> None:
        """Removes the last items, and the pictures that no other item of their gallery shows."""
        for _ in range(min(count, len(self.order))):
            gallery = self.of[self.order.pop()]
            gallery["items"].pop()
            shown = max((item[0] for item in gallery["items"]), default=-1) + 1
            self.shown -= len(gallery["pictures"]) - shown
            self.left_out += 1
            del gallery["pictures"][shown:]


def fit(galleries: Galleries, build: Callable[[], str], *, limit: int) -> str:
    """Builds a page, and drops items until it is no larger than it may be.

    How long an outline becomes is known when it is packed.

    Args:
        galleries: the galleries of the page.
        build: builds the page with what the galleries hold.
        limit: the largest size in bytes.

    Returns:
        The text of the page.
    """
    while True:
        text = build()
        size = len(text.encode())
        if size <= limit or not galleries.order:
            return text
        galleries.drop(-(-len(galleries.order) * (size - limit) // size) + 1)


def remove_folders(problem: str, option: str) -> str:
    """Cuts folders of this machine from a message about missing images: no reader of a page needs them.

    Args:
        problem: why an image cannot be shown.
        option: the option that names the folder of the images.

    Returns:
        The message.
    """
    for end in (" not found", " is in more than one folder"):
        start, mark, _ = problem.partition(end)
        if mark:
            return f"{start}{end}. Name their folder with {option}"
    return problem


class Photographs:
    """The image files of a data set, cut into thumbnails. An image that cannot be read becomes an empty frame.

    Args:
        annotations: the data set.

    Attributes:
        problem: why an image could not be shown; the first reason.
        missing: how many thumbnails are empty frames.
    """

    def __init__(self, annotations: Annotations) -> None:
        self.problem = ""
        self.missing = 0
        self._annotations = annotations
        self._cache: dict[int, np.ndarray | None] = {}  # the last used image is the last

    def can_read(self, index: int) -> bool:
        """Whether image ``index`` can be read."""
        return self._read(index) is not None

    def cut(self, index: int, crop: Crop, longest: int) -> Picture:
        """A thumbnail of a part of an image.

        Args:
            index: position of the image in the annotation file.
            crop: x1, y1, x2, y2 in pixels of the image.
            longest: the longest side of the thumbnail in pixels.

        Returns:
            The thumbnail.
        """
        width, height = compute_thumbnail_size(crop, longest)
        pixels = self._read(index)
        if pixels is None:
            self.missing += 1
            return width, height, ""
        return width, height, encode_thumbnail(pixels, crop, longest)

    def _read(self, index: int) -> np.ndarray | None:
        self._cache[index] = self._cache.pop(index) if index in self._cache else self._decode(index)
        while (
            len(self._cache) > 1
            and sum(0 if each is None else each.nbytes for each in self._cache.values()) > MAX_CACHED
        ):
            del self._cache[next(iter(self._cache))]
        return self._cache[index]

    def _decode(self, index: int) -> np.ndarray | None:
        folder = ""
        try:
            info = self._annotations.get_info(index)
            folder = info.file[: info.file.rfind(os.sep) + 1]
            from tailseg.data.images import read_annotated  # torch: only where there are image files

            return read_annotated(self._annotations, info)[0].permute(1, 2, 0).numpy()
        except ImageError as error:  # no reader of the page needs a folder of this machine
            self.problem = self.problem or str(error).replace(folder, "")
        return None
