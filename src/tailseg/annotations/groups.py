"""Which images belong together: frames of one video, and copies of one picture. No pixels are read."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64

from tailseg.annotations.videos import find_scenes, get_picture_name

FIRST_BYTES: Final = 1 << 14
"""Bytes of two files of one size that are compared before all of them are."""


def group_by_name(
    names: Sequence[str], classes: Iterable[str] = (), *, videos: bool = True
) -> Int64[np.ndarray, " images"]:
    """The group of each image by its name, ``0 ..`` in the order in which they occur.

    In one group are images of one name, the variants that Roboflow writes of one picture, and the frames of one video
    (`tailseg.annotations.videos`).

    Args:
        names: file names, with or without folders.
        classes: names of the classes: ``dog_1.jpg`` is a picture of a dog, not a frame.
        videos: whether frames of a video are put together.
    """
    return _number_keys(find_scenes(names, classes, most=1.0) if videos else map(get_picture_name, names))


def group_by_content(files: Sequence[Path | None]) -> Int64[np.ndarray, " images"]:
    """The group of each image by the content of its file; one that is None or cannot be read is alone.

    Files are compared by SHA-256 where their sizes and their first bytes agree.
    """
    keys: list[Hashable] = [_read_key(_read_size, file, place) for place, file in enumerate(files)]
    for asked in (_hash_first_bytes, _hash_content):
        groups = _number_keys(keys)
        several = np.bincount(groups)[groups] > 1
        for place in np.flatnonzero(several).tolist():
            keys[place] = (keys[place], _read_key(asked, files[place], place))
    return _number_keys(keys)


def merge_groups(
    one: Int64[np.ndarray, " images"], other: Int64[np.ndarray, " images"]
) -> Int64[np.ndarray, " images"]:
    """The groups of images that are together in one of two groupings, or by way of others."""
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


def _read_key(what: Callable[[Path], Hashable], file: Path | None, place: int) -> Hashable:
    """What is asked of a file; of one that cannot be read, something that no other has."""
    try:
        return ("alone", place) if file is None else what(file)
    except OSError:
        return ("alone", place)


def _number_keys(keys: Iterable[Hashable]) -> Int64[np.ndarray, " images"]:
    """A number for each key, in the order in which they occur."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
