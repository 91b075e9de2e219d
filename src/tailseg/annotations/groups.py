"""Which images belong together: frames of one video, and copies of one picture. No pixels are read."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64

FIRST_BYTES: Final = 1 << 14
"""Bytes of two files of one size that are compared before all of them are."""

_VARIANT: Final = re.compile(r"(?P<picture>.+?)(_(jpe?g|png|bmp|webp))?\.rf\.[0-9a-zA-Z]{8,}", re.IGNORECASE)
"""Roboflow's names of the variants of one picture: ``NAME_jpg.rf.HASH.jpg``."""
_FRAME: Final = re.compile(r"(?P<video>.*[_\-. ].*?)\d+")
"""A stem with a separator in it, and a running number at its end."""


def image_groups(names: Sequence[str], *, videos: bool = True) -> Int64[np.ndarray, " images"]:
    """The group of each image by its name, ``0 ..`` in the order in which they occur.

    In one group are images of one name, the variants that Roboflow writes of one picture, and the frames of one video:
    names in one folder that differ in the number at their end. Numbers count as those of frames only where the names
    have several stems with a separator, such as ``vid_000002_frame0000013``, and two of these have several numbers; so
    COCO's names and plain numbered ones are images by themselves.

    Args:
        names: file names, with or without folders.
        videos: whether frames of a video are put together.
    """
    pictures = [_picture(name) for name in names]
    stems = [_stem(picture) for picture in pictures] if videos else []
    frames: dict[str, set[str]] = defaultdict(set)
    for stem, picture in zip(stems, pictures, strict=False):
        if stem:
            frames[stem].add(picture)
    of_videos = {stem for stem, found in frames.items() if len(found) > 1}
    if len(of_videos) < 2:
        return _numbered(pictures)
    return _numbered(
        (True, stem) if stem in of_videos else (False, picture) for stem, picture in zip(stems, pictures, strict=True)
    )


def content_groups(files: Sequence[Path | None]) -> Int64[np.ndarray, " images"]:
    """The group of each image by the content of its file; one that is None or cannot be read is alone.

    Files are compared by SHA-256 where their sizes and their first bytes agree.
    """
    keys: list[Hashable] = [_asked(_size, file, place) for place, file in enumerate(files)]
    for asked in (_first_bytes, _content):
        groups = _numbered(keys)
        several = np.bincount(groups)[groups] > 1
        for place in np.flatnonzero(several).tolist():
            keys[place] = (keys[place], _asked(asked, files[place], place))
    return _numbered(keys)


def merged(one: Int64[np.ndarray, " images"], other: Int64[np.ndarray, " images"]) -> Int64[np.ndarray, " images"]:
    """The groups of images that are together in one of two groupings, or by way of others."""
    lowest = np.arange(len(one))
    while True:
        before = lowest
        for groups in (one, other):
            first = np.full(groups.max(initial=-1) + 1, len(one))
            np.minimum.at(first, groups, lowest)
            lowest = first[groups]
        if (lowest == before).all():
            return _numbered(lowest.tolist())


def _picture(name: str) -> str:
    """The picture that a file is of: its name, or that which a tool has made variants of, in whatever folder."""
    name = name.replace("\\", "/")
    stem = name.rpartition("/")[2].rpartition(".")[0]
    variant = _VARIANT.fullmatch(stem)
    return f"{variant['picture']}.rf" if variant else name


def _stem(picture: str) -> str | None:
    """The name of the video that a picture may be a frame of, with its folder."""
    folder, slash, base = picture.rpartition("/")
    frame = _FRAME.fullmatch(base.rpartition(".")[0])
    return f"{folder}{slash}{frame['video']}" if frame else None


def _size(file: Path) -> Hashable:
    return file.stat().st_size


def _first_bytes(file: Path) -> Hashable:
    with file.open("rb") as opened:
        return hashlib.sha256(opened.read(FIRST_BYTES)).digest()


def _content(file: Path) -> Hashable:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _asked(what: Callable[[Path], Hashable], file: Path | None, place: int) -> Hashable:
    """What is asked of a file; of one that cannot be read, something that no other has."""
    try:
        return ("alone", place) if file is None else what(file)
    except OSError:
        return ("alone", place)


def _numbered(keys: Iterable[Hashable]) -> Int64[np.ndarray, " images"]:
    """A number for each key, in the order in which they occur."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
