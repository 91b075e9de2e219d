"""Finds the image files that an annotation file names."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from tailseg.annotations.ragged import Ragged

ROOT_VARIABLES: Final = {"TAILSEG_DATA": ("", "coco"), "DETECTRON2_DATASETS": ("coco",)}
"""Environment variables that name folders of data sets, and the subfolders with the images of COCO and LVIS."""

MAX_NAME: Final = 255
"""Longest name of a file or folder in bytes, on all usual file systems."""

MAX_PATH: Final = 4096
"""Longest path in bytes on Linux; other systems have shorter ones."""

_PLAIN: Final = re.compile(r"\w+(?:[-./]\w+)*", re.ASCII)
"""Plain names, as nearly all files have them. This check takes a tenth of the time of the full check."""

MAX_FOLDERS: Final = 200
"""Most subfolders in which an image is searched that is in none of the roots."""


class ImageError(ValueError):
    """An image is missing, cannot be decoded or is not the annotated one. The message names the file."""


class SharedNameError(ImageError):
    """An image file is not where its name says, and a file with only its last part could belong to another image."""


class ImageFinder:
    """Finds the image files of a data set under a few root folders.

    The roots are the folder of the annotation file, its subfolder ``images``, the folder above
    (``coco/annotations/x.json`` and ``coco/train2017``) with ``images``, and the folders of `ROOT_VARIABLES`.

    An image that is in none of them is searched one folder lower: in the subfolders of the given folder, of the
    annotation file's folder and of ``images``, as CVAT writes them (``images/default/a.jpg``), and next to a folder
    ``annotations``, as in COCO. The folders next to other folders belong to other data sets.

    Args:
        annotation_file: the annotation file.
        folder: search only here; relative to the working directory.
        names: the names of all images, as in `tailseg.annotations.Annotations`. If several images have the same last
            part of a name, that part alone finds none of them.
    """

    def __init__(self, annotation_file: Path, folder: Path | None = None, names: Ragged | None = None) -> None:
        self.roots = [folder] if folder is not None else _list_default_roots(annotation_file)
        own = annotation_file.resolve().parent
        above = [own.parent] * (own.name == "annotations")
        self._names = names
        self._parents = [folder] if folder is not None else [own, own / "images", own.parent / "images", *above]

    @cached_property
    def subfolders(self) -> list[Path]:
        """The subfolders to search; none if there are too many to search for every image."""
        folders: list[Path] = []
        for root in self._parents:
            with suppress(OSError):
                folders += [Path(entry) for entry in sorted(os.scandir(root), key=str) if entry.is_dir()]
        return list(dict.fromkeys(folders)) if len(folders) <= MAX_FOLDERS else []

    def find(self, names: Sequence[str]) -> Path:
        """Finds the first file that exists.

        Each name (best first) is tried under each root, then one folder lower. Names without their folders come last:
        another folder may have an image with the same name.

        Raises:
            ImageError: there is no such file; the message names the folders.
            SharedNameError: only the last part of the name is found, and other images have the same last part.
        """
        last_parts = {PurePosixPath(name).name for name in names if "/" in name} - {*names[:1]}
        full = [name for name in names if name not in last_parts]
        bare = [name for name in names if name in last_parts]
        if file := self._find_in_roots(full) or self._find_in_subfolders(full):
            return file
        if file := self._find_in_roots(bare) or self._find_in_subfolders(bare):
            if others := self._shared_names.get(file.name):
                raise SharedNameError(
                    f"image {names[0]} not found. {file} has the same last part, but so do other images: "
                    f"{', '.join(others[:3])}{' ..' * (len(others) > 3)}. Put the files into the folders that "
                    "file_name names, or write file_name with the right folders"
                )
            return file
        name = next(iter(names), "") or "(without a name)"
        raise ImageError(
            f"image {name} not found. Searched for {' and '.join(dict.fromkeys(names))} in "
            f"{', '.join(str(root) for root in self.roots)}. Name the folder of the images (images=..., "
            "--data.train-images, --data.val-images; for a run, --val-images), or set TAILSEG_DATA to it"
        )

    @cached_property
    def _shared_names(self) -> dict[str, list[str]]:
        """The names of images that share their last part, by that part. Computed only if a last part alone is found."""
        images: dict[str, list[str]] = {}
        for name in dict.fromkeys(get_first_names(self._names)) if self._names is not None else ():
            images.setdefault(name.rpartition("/")[2], []).append(name)
        return {last: names for last, names in images.items() if len(names) > 1}

    def _find_in_roots(self, names: Sequence[str]) -> Path | None:
        """The first file that exists in the roots."""
        files = (root / name for name in names for root in self.roots)
        return next(filter(os.path.isfile, files), None)  # Path.is_file raises for a path that is too long

    def _find_in_subfolders(self, names: Sequence[str]) -> Path | None:
        """Finds the file that exists in a subfolder.

        Raises:
            ImageError: several subfolders have it.
        """
        for name in names:
            files = [folder / name for folder in self.subfolders if os.path.isfile(folder / name)]  # noqa: PTH113
            if len(files) > 1:
                raise ImageError(
                    f"image {name} is in more than one folder: {', '.join(str(path) for path in files[:3])}. Write "
                    "file_name with the folder, or name the folder of the images (images=..., --data.train-images, "
                    "--data.val-images; for a run, --val-images)"
                )
            if files:
                return files[0]
        return None


def get_first_names(names: Ragged) -> list[str]:
    """The first name of each image file, with ``/`` between folders."""
    return [get_first_name(names, row) for row in range(len(names))]


def get_first_name(names: Ragged, row: int) -> str:
    """The first name of an image file as written, but with ``/`` between folders."""
    return names.text(row).partition("\n")[0].replace("\\", "/")


def _list_default_roots(annotation_file: Path) -> list[Path]:
    folder = annotation_file.resolve().parent
    roots = [folder, folder / "images", folder.parent, folder.parent / "images"]
    for variable, subfolders in ROOT_VARIABLES.items():
        if value := os.environ.get(variable):
            roots += [Path(value).expanduser() / sub for sub in subfolders]
    return list(dict.fromkeys(roots))


def list_candidate_names(file_name: str | None, coco_url: str | None) -> list[str]:
    """Names that an image may have under a root, best first.

    LVIS v1 has no ``file_name``. The tail of ``coco_url`` (``train2017/000000391895.jpg``) gives COCO's folder and the
    name. LVIS v0.5 has a ``file_name`` of COCO 2014 and the ``coco_url`` of COCO 2017. If there is a ``file_name``, a
    ``coco_url`` that is not a valid file name (such as a path on another machine) is ignored.
    """
    tail = "/".join(coco_url.split("/")[-2:]) if coco_url else None
    if file_name and tail and not is_safe_name(tail):
        tail = None
    folders = [name.replace("\\", "/") if name else None for name in (file_name, tail)]
    names = [file_name, *folders, *(name and _get_last_part(name) for name in reversed(folders))]
    return list(dict.fromkeys(name for name in names if name))


def _is_plain(name: str) -> bool:
    return len(name) <= MAX_NAME and _PLAIN.fullmatch(name) is not None


def _get_last_part(name: str) -> str:
    return name[name.rfind("/") + 1 :] if _is_plain(name) else PurePosixPath(name).name


def is_safe_name(name: str) -> bool:
    """Whether a file name is valid and stays in its folder.

    It is not absolute and has no ``..``, no control characters (a line feed separates names), no unpaired surrogates,
    and is not longer than a file system allows.
    """
    if _is_plain(name):
        return True
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or name[1:2] == ":" or not is_text(name):
        return False
    if len(name.encode()) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in parts):
        return False
    return all(character >= " " for character in name)


def is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can encode: JSON can contain an unpaired surrogate."""
    return isinstance(value, str) and (
        value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    )
