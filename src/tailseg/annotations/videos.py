"""Which images show the same scene, told from the names of their files: frames of a video, copies of a picture.

A split must not part them: a frame is nearly its neighbor, and a network that has learned the one knows the other.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

MIN_VIDEOS: Final = 3
"""Beginnings of names that several images each share, from which on these are taken for videos; with fewer they are
rather those of whole data sets (``COCO_train2014_...``, ``COCO_val2014_...``). Where names speak of videos, two do."""

MAX_VIDEO_SHARE: Final = 0.5
"""Share of the images above which a common beginning is that of the data set, not of a video."""

_ROBOFLOW: Final = re.compile(r"(?P<name>.+)_(?:jpe?g|png|webp|bmp)\.rf\.[0-9a-zA-Z]{8,}$", re.IGNORECASE)
"""``NAME_jpg.rf.HASH``: Roboflow's name for each of the augmentations of one picture."""

_FRAME: Final = re.compile(r"(?P<video>.*[^\W_].*?)[\W_]+(?:frame|frm|fr|f|image|img|im|t)?[\W_]*\d+$", re.IGNORECASE)
"""A beginning with a letter or a digit, a separator, and the number of the frame, after a word for frame if any."""

_VIDEO_WORD: Final = re.compile(r"(?<![^\W\d_])(?:vid|video|clip|seq|sequence|scene|frame)(?![^\W\d_])", re.IGNORECASE)
"""Names with these words are those of videos and frames."""


def find_scenes(names: Sequence[str], classes: Iterable[str] = (), *, most: float = MAX_VIDEO_SHARE) -> list[str]:
    """For each image file the scene that it shows; of an image that stands alone this is its own name.

    A scene is a video, or a picture and its augmentations. The names of videos are those that begin alike up to a
    separator and a number (``clip7_0012.jpg``, ``clip7/0013.jpg``, ``vid3_frame_000045.png``), where at least
    `MIN_VIDEOS` beginnings have several images each, and none has more than a share ``most`` of all. Numbers without a
    beginning (``000000000139.jpg``, ``a1.jpg``) are none.

    Args:
        names: of the files, with their folders.
        classes: names of the classes: ``dog_1.jpg`` and ``dog/2.jpg`` are pictures of dogs, not frames.
        most: see above.
    """
    pictures = [get_picture_name(name) for name in names]
    known = {name.casefold() for name in classes}
    videos = [_get_video(picture, known) for picture in pictures]
    images: defaultdict[str, set[str]] = defaultdict(set)
    for video, picture in zip(videos, pictures, strict=True):
        images[video].add(picture)
    counts = Counter({video: len(found) for video, found in images.items() if video and len(found) > 1})
    sure = len(counts) > 1 and all(_VIDEO_WORD.search(picture) for video in counts for picture in images[video])
    if not sure and (len(counts) < MIN_VIDEOS or max(counts.values()) > most * len(set(pictures))):
        return pictures
    return [video if video in counts else picture for video, picture in zip(videos, pictures, strict=True)]


def get_picture_name(name: str) -> str:
    """The picture that a file is of: its name, or that of which Roboflow has made variants, in whatever folder."""
    found = _ROBOFLOW.match(_remove_extension(name))
    return found["name"].rpartition("/")[2] if found else name.replace("\\", "/")


def _remove_extension(name: str) -> str:
    """Without the ending."""
    return re.sub(r"\.\w{1,5}$", "", name)


def _get_video(picture: str, classes: set[str]) -> str:
    """The video that a picture is a frame of by its name; empty if it is none."""
    found = _FRAME.match(_remove_extension(picture))
    if not found or classes & {part.casefold() for part in re.split(r"[/_\-. ]", found["video"])}:
        return ""
    return found["video"]
