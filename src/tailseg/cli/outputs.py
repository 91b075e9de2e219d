"""Which files a command may overwrite: one rule for every command and every option.

A command never writes over an input. It replaces an existing file only if tailseg wrote a file of the same kind there,
or if the user asks for it (`--overwrite`). Fields that say where to write have the mark `Output`. All other paths, and
strings with the mark `Input`, are inputs. Commands call `check` before the work.
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
        name: the name in messages.
        is_own: whether tailseg wrote the existing file, and it is of this kind.
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
    """Checks before the work that the command may write its targets.

    Args:
        options: the options of the command; its paths are inputs, except those with the mark `Output`.
        targets: the files that the command writes, with their kinds; None stands for a folder.
        instead: what the user can do after a refusal, such as `name another file (--out)`.
        inputs: other files that the command reads.
        overwrite: whether the user allows to replace files of other kinds; None if the command has no such option.

    Raises:
        UsageError: a target is an input, a file instead of a folder, or a file of another kind.
        OSError: a target cannot be written.
    """
    read = _Known([*find_inputs(options), *inputs])
    for path, kind in targets.items():
        if path in read:
            reason = "into a folder that it reads" if kind is None else "over its own input"
            raise UsageError(f"the command would write {reason}, {path}: {instead}")
        if kind is None and path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, but the command needs a folder: {instead}")
        if kind is not None and path.exists():
            _check_file(path, kind, instead, read, overwrite=overwrite)
        _check_writable(path, instead)


def _check_file(path: Path, kind: Kind, instead: str, read: "_Known", *, overwrite: bool | None) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder, but the command writes a file: {instead}")
    if kind.is_own(path):
        return
    if not overwrite or read.holds(path):
        asked = ", or replace it with --overwrite" if overwrite is False and not read.holds(path) else ""
        raise UsageError(f"{path} exists and is not {kind.name} that tailseg wrote: {instead}{asked}")


def _check_writable(path: Path, instead: str) -> None:
    """Raises an error if a file, or the folder for it, is read-only or cannot be created."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if there != path and not there.is_dir():
        raise UsageError(f"{path} cannot be created, because {there} is a file: {instead}")
    for place in (there, *([there.parent] if there == path and not there.is_dir() else ())):
        if not os.access(place, os.W_OK):
            raise OSError(f"{place} cannot be written, but the results go there: {instead}")


class _Known:
    """Files and folders under all their names: links, other paths, and other case."""

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
        """Whether the file is in one of the folders."""
        return any(folder in self for folder in Path(os.path.realpath(path)).parents)


def _name(path: Path) -> str:
    return os.path.realpath(path).casefold()


def _number(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def settings(options: type) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields names and annotated types of all settings of a command's class, and of the parts of a recipe."""
    for name, annotation in get_type_hints(options, include_extras=True).items():
        if get_origin(annotation) is ClassVar:
            continue
        inner = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
        if isinstance(inner, type) and is_dataclass(inner):
            yield from (((name, *rest), kind) for rest, kind in settings(inner))
        else:
            yield (name,), annotation


def get_mark(annotation: object) -> Input | Output | None:
    """Returns the mark of a setting's type, if it has one."""
    return next((mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Input | Output)), None)


def find_inputs(options: object) -> list[Path]:
    """Lists the paths that a command reads, as its options name them."""
    paths: list[Path] = []
    for names, annotation in settings(type(options)):
        value: Any = options
        for name in names:
            value = getattr(value, name)
        for item in value if isinstance(value, tuple) else (value,):
            mark = get_mark(annotation)
            if (isinstance(item, Path) and mark is None) or (isinstance(item, str) and isinstance(mark, Input)):
                paths.append(Path(item))
    return paths
