"""Finding the image files that an annotation file names."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from tailseg.annotations.ragged import Ragged

ROOT_VARIABLES: Final = {"TAILSEG_DATA": ("", "coco"), "DETECTRON2_DATASETS": ("coco",)}
"""Environment variables that name folders of data sets, and where in those the images of COCO and LVIS lie."""

MAX_NAME: Final = 255
"""Bytes of the longest name of a file or folder, on every usual file system."""

MAX_PATH: Final = 4096
"""Bytes of the longest path, on Linux; elsewhere it is shorter."""

_PLAIN: Final = re.compile(r"\w+(?:[-./]\w+)*", re.ASCII)
"""Names that nearly all files have; told from others in a tenth of the time that it takes to look at their parts."""

MAX_FOLDERS: Final = 200
"""Folders that are looked through for an image that is in none of the roots."""


class ImageError(ValueError):
    """An image is missing, cannot be decoded or is not the one annotated; the message names the file."""


class SharedNameError(ImageError):
    """An image's file is not where its name says, and a file of its bare name could be another image's."""


class ImageFinder:
    """Finds the files of a data set's images under a few root folders.

    Args:
        annotation_file: images lie in its folder, in the ``images`` folder there, or in the folder above
            (``coco/annotations/x.json`` and ``coco/train2017``), or where the environment says.
        folder: look only here; relative to the working directory like every path a user gives.
        names: those of all images, as in `tailseg.annotations.dataset.Annotations`: a bare name that several of other
            folders have finds none of them.

    What is in none of these is looked for one folder lower than the named folder, the file's own and ``images``, as
    CVAT lays out its images (``images/default/a.jpg``), and beside a folder ``annotations``, as COCO does. Folders
    beside others are those of other data sets.
    """

    def __init__(self, annotation_file: Path, folder: Path | None = None, names: Ragged | None = None) -> None:
        self.roots = [folder] if folder is not None else _list_default_roots(annotation_file)
        own = annotation_file.resolve().parent
        beside = [own.parent] * (own.name == "annotations")
        self._names = names
        self._with_lower = [folder] if folder is not None else [own, own / "images", own.parent / "images", *beside]

    @cached_property
    def lower(self) -> list[Path]:
        """The folders in these; none where there are too many to look through for every image."""
        folders: list[Path] = []
        for root in self._with_lower:
            with suppress(OSError):
                folders += [Path(entry) for entry in sorted(os.scandir(root), key=str) if entry.is_dir()]
        return list(dict.fromkeys(folders)) if len(folders) <= MAX_FOLDERS else []

    def find(self, names: Sequence[str]) -> Path:
        """The first file that exists, trying each name (best first) under each root, then one folder lower.

        A name of which the folders were cut off is the last resort: another folder may hold an image of that name.

        Raises:
            ImageError: there is none; says where it looked.
            SharedNameError: only a bare name is found, which images of other folders have as well.
        """
        cut = {PurePosixPath(name).name for name in names if "/" in name} - {*names[:1]}
        whole, bare = [name for name in names if name not in cut], [name for name in names if name in cut]
        if found := self._find_in_roots(whole) or self._find_in_subfolders(whole):
            return found
        if found := self._find_in_roots(bare) or self._find_in_subfolders(bare):
            if others := self._shared_names.get(found.name):
                raise SharedNameError(
                    f"image {names[0]} not found. {found} has its last part, which other images have as well: "
                    f"{', '.join(others[:3])}{' ..' * (len(others) > 3)}. Lay the files into the folders that "
                    "file_name names, or write file_name as they lie"
                )
            return found
        called = names[0] if names else "(without a name)"
        raise ImageError(
            f"image {called} not found. Looked for {' and '.join(dict.fromkeys(names))} in "
            f"{', '.join(str(root) for root in self.roots)}. Name the folder of the images (images=..., "
            "--data.train-images, --data.val-images; for a run, --val-images), or set TAILSEG_DATA to it"
        )

    @cached_property
    def _shared_names(self) -> dict[str, list[str]]:
        """The names of the images whose last part several have; looked at when a bare name is found, hardly ever."""
        found: dict[str, list[str]] = {}
        for name in dict.fromkeys(get_first_names(self._names)) if self._names is not None else ():
            found.setdefault(name.rpartition("/")[2], []).append(name)
        return {last: names for last, names in found.items() if len(names) > 1}

    def _find_in_roots(self, names: Sequence[str]) -> Path | None:
        """The first file that exists in the roots."""
        files = (root / name for name in names for root in self.roots)
        return next(filter(os.path.isfile, files), None)  # of a path that is too long, Path's raises

    def _find_in_subfolders(self, names: Sequence[str]) -> Path | None:
        """The file that exists one folder lower.

        Raises:
            ImageError: there are several.
        """
        for name in names:
            found = [folder / name for folder in self.lower if os.path.isfile(folder / name)]  # noqa: PTH113
            if len(found) > 1:
                raise ImageError(
                    f"image {name} lies in more than one folder: {', '.join(str(path) for path in found[:3])}. Write "
                    "file_name with the folder, or name the folder of the images (images=..., --data.train-images, "
                    "--data.val-images; for a run, --val-images)"
                )
            if found:
                return found[0]
        return None


def get_first_names(names: Ragged) -> list[str]:
    """The first name of each image's file, with ``/`` between folders."""
    return [get_first_name(names, row) for row in range(len(names))]


def get_first_name(names: Ragged, row: int) -> str:
    """The first name of an image's file, as it is written but for the separators."""
    return names.text(row).partition("\n")[0].replace("\\", "/")


def _list_default_roots(annotation_file: Path) -> list[Path]:
    folder = annotation_file.resolve().parent
    roots = [folder, folder / "images", folder.parent, folder.parent / "images"]
    for variable, subfolders in ROOT_VARIABLES.items():
        if value := os.environ.get(variable):
            roots += [Path(value).expanduser() / sub for sub in subfolders]
    return list(dict.fromkeys(roots))


def list_candidate_names(file_name: str | None, coco_url: str | None) -> list[str]:
    """Names under which an image may be found below a root, best first.

    LVIS v1 has no ``file_name``: the tail of ``coco_url`` (``train2017/000000391895.jpg``) says which of COCO's folders
    holds the image. LVIS v0.5 has a ``file_name`` of COCO 2014, and the ``coco_url`` of 2017. Beside a ``file_name``, a
    ``coco_url`` that is no name of a file (a path of somebody's machine, say) is passed over.
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
    """Whether a file name stays in the folder it is looked for in: neither absolute nor climbing out, without control
    characters (a line feed would part it into two) or half characters, and no longer than a file system takes.
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
    """Whether a value is a string that UTF-8 can hold: JSON can escape half a surrogate pair."""
    return isinstance(value, str) and (
        value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    )
