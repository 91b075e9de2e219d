"""Finds images of the same scene by the names of their files: frames of a video, or copies of a picture.

A split should keep them in one set. Neighboring frames are nearly equal, so a network that was trained on one of them
recognizes the other.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

MIN_VIDEOS: Final = 3
"""Least number of different beginnings of names for videos. Fewer beginnings are probably those of data sets
(``COCO_train2014_...``, ``COCO_val2014_...``). If the names have a word such as "video", two are enough."""

MAX_VIDEO_SHARE: Final = 0.5
"""Largest share of the images in one video: a beginning of more images belongs to the data set."""

_ROBOFLOW: Final = re.compile(r"(?P<name>.+)_(?:jpe?g|png|webp|bmp)\.rf\.[0-9a-zA-Z]{8,}$", re.IGNORECASE)
"""``NAME_jpg.rf.HASH``: Roboflow's name of an augmented copy of a picture."""

_FRAME: Final = re.compile(r"(?P<video>.*[^\W_].*?)[\W_]+(?:frame|frm|fr|f|image|img|im|t)?[\W_]*\d+$", re.IGNORECASE)
"""A beginning with a letter or a digit, a separator, an optional word for frame, and the number of the frame."""

_VIDEO_WORD: Final = re.compile(r"(?<![^\W\d_])(?:vid|video|clip|seq|sequence|scene|frame)(?![^\W\d_])", re.IGNORECASE)
"""Words in the names of videos and frames."""


def find_scenes(names: Sequence[str], classes: Iterable[str] = (), *, most: float = MAX_VIDEO_SHARE) -> list[str]:
    """Finds the scene of each image file.

    A scene is a video, or a picture with its augmented copies. Frames of a video have names with the same beginning, a
    separator and a number (``clip7_0012.jpg``, ``clip7/0013.jpg``, ``vid3_frame_000045.png``). There must be at least
    `MIN_VIDEOS` beginnings with several images each, and none with more than the share ``most`` of all images. Numbers
    without a beginning (``000000000139.jpg``, ``a1.jpg``) are not frames.

    Args:
        names: names of the files, with their folders.
        classes: names of the classes: ``dog_1.jpg`` and ``dog/2.jpg`` are pictures of dogs, not frames.
        most: largest share of the images in one video.

    Returns:
        The name of each image's scene; the name of the image itself if it belongs to no scene.
    """
    pictures = [get_picture_name(name) for name in names]
    class_names = {name.casefold() for name in classes}
    videos = [_get_video(picture, class_names) for picture in pictures]
    images: defaultdict[str, set[str]] = defaultdict(set)
    for video, picture in zip(videos, pictures, strict=True):
        images[video].add(picture)
    counts = Counter({video: len(frames) for video, frames in images.items() if video and len(frames) > 1})
    has_words = len(counts) > 1 and all(_VIDEO_WORD.search(picture) for video in counts for picture in images[video])
    if not has_words and (len(counts) < MIN_VIDEOS or max(counts.values()) > most * len(set(pictures))):
        return pictures
    return [video if video in counts else picture for video, picture in zip(videos, pictures, strict=True)]


def get_picture_name(name: str) -> str:
    """The name of the picture in a file: the original name of a copy by Roboflow, in any folder, or the file's name."""
    match = _ROBOFLOW.match(_remove_extension(name))
    return match["name"].rpartition("/")[2] if match else name.replace("\\", "/")


def _remove_extension(name: str) -> str:
    """Removes the extension of a file name."""
    return re.sub(r"\.\w{1,5}$", "", name)


def _get_video(picture: str, classes: set[str]) -> str:
    """The video of a frame, by its name; empty if the picture is not a frame."""
    match = _FRAME.match(_remove_extension(picture))
    if not match or classes & {part.casefold() for part in re.split(r"[/_\-. ]", match["video"])}:
        return ""
    return match["video"]
