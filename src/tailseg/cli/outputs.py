"""What a command may write over: one rule for every command and option that writes.

An output is never an input, and a file that is there already is replaced only when tailseg wrote one of the same kind,
or when asked (`--overwrite`). Fields that say where to write carry `Output`; all other paths, and texts with `Input`,
are inputs. `check` is called before the work.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from tailseg.cli.common import UsageError
from tailseg.files import Input, Output


@dataclass(frozen=True)
class Kind:
    """A kind of file that tailseg writes.

    Attributes:
        name: for people.
        is_own: whether the file that is there is one of this kind, written by tailseg.
    """

    name: str
    is_own: Callable[[Path], bool]


def check(
    options: object,
    targets: Mapping[Path, Kind | None],
    *,
    instead: str,
    inputs: Iterable[Path] = (),
    overwrite: bool | None = None,
) -> None:
    """Looks whether the targets may be written, before the work.

    Args:
        options: of the command; its paths are inputs, but for those marked `Output`.
        targets: what would be written: files with their kinds; None stands for a folder.
        instead: what the user can do about a refusal, as `name another file (--out)`.
        inputs: what else is read.
        overwrite: whether the user asked for files of other kinds to be replaced; None where that cannot be asked.

    Raises:
        UsageError: a target is an input, a file where a folder is wanted, or a file of another kind.
        OSError: a target cannot be written.
    """
    read = _Known([*inputs_of(options), *inputs])
    for path, kind in targets.items():
        if path in read:
            how = "into, and this command reads it" if kind is None else "over the file that it is made from"
            raise UsageError(f"{path} would be written {how}: {instead}")
        if kind is None and path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file: expected a folder; {instead}")
        if kind is not None and path.exists():
            _check_file(path, kind, instead, read, overwrite=overwrite)
        _check_writable(path, instead)


def _check_file(path: Path, kind: Kind, instead: str, read: "_Known", *, overwrite: bool | None) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder: expected a file; {instead}")
    if kind.is_own(path):
        return
    if not overwrite or read.holds(path):
        asked = ", or replace it with --overwrite" if overwrite is False and not read.holds(path) else ""
        raise UsageError(f"{path} is there already and is not {kind.name} that tailseg wrote: {instead}{asked}")


def _check_writable(path: Path, instead: str) -> None:
    """Raises if a file, or the folder for it, is read-only or cannot be made."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if there != path and not there.is_dir():
        raise UsageError(f"{path} cannot be made, because {there} is a file: {instead}")
    for place in (there, *([there.parent] if there == path and not there.is_dir() else ())):
        if not os.access(place, os.W_OK):
            raise OSError(f"{place} cannot be written, and the results go there: {instead}")


class _Known:
    """Files and folders under all their names: by link, by another path, and by the case of their letters."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._names: set[str] = set()
        self._numbers: set[tuple[int, int]] = set()
        for path in paths:
            self._names.add(_name(path))
            if path.exists():
                self._numbers.add(_number(path))

    def __contains__(self, path: Path) -> bool:
        return _name(path) in self._names or (path.exists() and _number(path) in self._numbers)

    def holds(self, path: Path) -> bool:
        """Whether the file lies in one of the folders."""
        return any(folder in self for folder in Path(os.path.realpath(path)).parents)


def _name(path: Path) -> str:
    return os.path.realpath(path).casefold()


def _number(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def settings(options: type) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Names and annotated types of all settings of a command's class, those of a recipe's parts too."""
    for name, annotation in get_type_hints(options, include_extras=True).items():
        if get_origin(annotation) is ClassVar:
            continue
        inner = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
        if isinstance(inner, type) and is_dataclass(inner):
            yield from (((name, *rest), found) for rest, found in settings(inner))
        else:
            yield (name,), annotation


def mark_of(annotation: object) -> Input | Output | None:
    """The mark of a setting's type, if it has one."""
    return next((mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Input | Output)), None)


def inputs_of(options: object) -> list[Path]:
    """The paths that a command reads, as its options name them."""
    found: list[Path] = []
    for names, annotation in settings(type(options)):
        value: Any = options
        for name in names:
            value = getattr(value, name)
        for each in value if isinstance(value, tuple) else (value,):
            mark = mark_of(annotation)
            if (isinstance(each, Path) and mark is None) or (isinstance(each, str) and isinstance(mark, Input)):
                found.append(Path(each))
    return found
