"""Which files `tailseg predict` reads. Nothing here imports a third party."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tailseg.files import is_drawn

SUFFIXES: Final = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp")
"""Endings of image files in folders and in tar files."""
SHARDS: Final = (".tar", ".tar.gz", ".tgz")
"""Endings of tar files."""
RASTERS: Final = (".tif", ".tiff", ".jp2", ".png")
"""Endings of files that rasterio reads where the user asks for bands or values."""
VIDEOS: Final = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
"""Endings of videos. They are read where the user names them; in a folder they are left out."""
LISTS: Final = (".txt",)
"""Endings of lists of files."""


def has_ending(path: Path, endings: Sequence[str]) -> bool:
    """Whether the name of a file has one of the endings, in any case of letters."""
    return path.name.lower().endswith(tuple(endings))


def find_files(path: Path) -> list[Path]:
    """Finds the files with images that a path names.

    Args:
        path: an image, a tar file, a video, a list of these, or a folder.

    Returns:
        The file itself; the files in a list, in its order; or the images and tar files in a folder and below it, in
        order of their names, without pictures that tailseg drew and without hidden files.

    Raises:
        ValueError: a list cannot be read.
    """
    if path.is_dir():
        return [file for file in sorted(path.rglob("*")) if is_image(file)]
    return read_list(path) if has_ending(path, LISTS) else [path]


def is_image(file: Path) -> bool:
    """Whether a path in a folder is an image that tailseg did not draw, or a tar file."""
    if has_ending(file, SHARDS):
        return file.is_file()
    return file.suffix.lower() in SUFFIXES and file.is_file() and not is_drawn(file)


def read_list(path: Path) -> list[Path]:
    """Reads a list of files: a text with a path in each line.

    A path is taken from the folder of the list. Empty lines and lines that begin with "#" are left out.

    Raises:
        ValueError: the file is not a text in UTF-8, or names another list.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list of images: expected UTF-8 text with a path in each line") from error
    entries = [line.strip() for line in lines]
    files = [path.parent / entry for entry in entries if entry and not entry.startswith("#")]
    if own := next((file for file in files if has_ending(file, LISTS)), None):
        raise ValueError(f"{path} names another list, {own.name}: give both lists to the command")
    return files
