"""Groups of images that belong together: frames of one video, and copies of one picture. No pixels are read."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64

from tailseg.annotations.videos import find_scenes, get_picture_name

FIRST_BYTES: Final = 1 << 14
"""Bytes of two files of the same size that are compared first."""


def group_by_name(
    names: Sequence[str], classes: Iterable[str] = (), *, videos: bool = True
) -> Int64[np.ndarray, " images"]:
    """Groups images by their names.

    A group has the images with one name, the variants of one picture by Roboflow, or the frames of one video
    (`tailseg.annotations.videos`).

    Args:
        names: file names, with or without folders.
        classes: names of the classes: ``dog_1.jpg`` is a picture of a dog, not a frame.
        videos: whether frames of a video are in one group.

    Returns:
        The group of each image, numbered ``0 ..`` in the order in which the groups occur.
    """
    return _number_keys(find_scenes(names, classes, most=1.0) if videos else map(get_picture_name, names))


def group_by_content(files: Sequence[Path | None]) -> Int64[np.ndarray, " images"]:
    """Groups images by the content of their files. An image without a readable file has its own group.

    Files with the same size and the same first bytes are compared by SHA-256.
    """
    keys: list[Hashable] = [_read_key(_read_size, file, index) for index, file in enumerate(files)]
    for read in (_hash_first_bytes, _hash_content):
        groups = _number_keys(keys)
        shared = np.bincount(groups)[groups] > 1
        for index in np.flatnonzero(shared).tolist():
            keys[index] = (keys[index], _read_key(read, files[index], index))
    return _number_keys(keys)


def merge_groups(
    one: Int64[np.ndarray, " images"], other: Int64[np.ndarray, " images"]
) -> Int64[np.ndarray, " images"]:
    """Merges two groupings: images in one group of either grouping are in one group, also by way of other images."""
    lowest = np.arange(len(one))
    while True:
        before = lowest
        for groups in (one, other):
            first = np.full(groups.max(initial=-1) + 1, len(one))
            np.minimum.at(first, groups, lowest)
            lowest = first[groups]
        if (lowest == before).all():
            return _number_keys(lowest.tolist())


def _read_size(file: Path) -> Hashable:
    return file.stat().st_size


def _hash_first_bytes(file: Path) -> Hashable:
    with file.open("rb") as opened:
        return hashlib.sha256(opened.read(FIRST_BYTES)).digest()


def _hash_content(file: Path) -> Hashable:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _read_key(read: Callable[[Path], Hashable], file: Path | None, index: int) -> Hashable:
    """Reads a property of a file; a unique key if the file cannot be read."""
    try:
        return ("alone", index) if file is None else read(file)
    except OSError:
        return ("alone", index)


def _number_keys(keys: Iterable[Hashable]) -> Int64[np.ndarray, " images"]:
    """Numbers the keys in the order in which they occur."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
