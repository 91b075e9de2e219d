"""Where tailseg keeps what it can make again, the one writer of files that are whole or not there, and the marks of
settings that name files.

Whenever the writer is killed, a file is the old one or the new one: the new one is written under another name, brought
to the disk and renamed.
"""

import errno
import json
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Input:
    """Marks a setting of type ``str`` that names a file or folder which is read, as in ``Annotated[str, Input()]``."""


@dataclass(frozen=True)
class Output:
    """Marks a setting that names a file or folder which is written to.

    Attributes:
        files: what is written there, for people.
    """

    files: str


UNFINISHED = ".unfinished"
"""Ending of a file that is being written."""

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""The system's reasons for which free space is named."""

PICTURE_FORMATS: Final = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
"""By the ending of a picture's name."""

DETECTIONS: Final = "tailseg: detections"
EXAMPLES: Final = "tailseg: examples"
"""What drawn pictures carry as the program that made them, so that they are told from photographs."""

CONVERTED: Final = "tailseg: convert"
"""What weights for other frameworks carry, beside the tensors."""

_SOFTWARE: Final = 0x0131
"""EXIF's tag of the program that made a picture."""


def get_cache_folder() -> Path:
    """``$TAILSEG_HOME``, else ``~/.cache/tailseg``; anything in it may be deleted at any time.

    Raises:
        OSError: the user has no home, as in a container, and the variable is not set.
    """
    try:
        return Path(os.environ.get("TAILSEG_HOME") or "~/.cache/tailseg").expanduser()
    except RuntimeError as error:
        raise OSError(f"{error} Set TAILSEG_HOME to a folder that can be written") from error


@contextmanager
def write_atomically(path: Path) -> Generator[Path]:
    """A name beside ``path`` to write to, which becomes ``path`` once its content is on the disk.

    The folder is made if need be. After an error nothing stays, and the file of before is as it was. Each use has a
    name of its own, so that two processes may write the same file: the last one stays.

    Raises:
        OSError: the disk is full or cannot be written; names the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise make_write_error(path, error) from error
    # not mkstemp, whose files nobody else may read
    written = path.with_name(f".{path.stem}-{os.urandom(8).hex()}{UNFINISHED}")
    try:
        yield written
        with written.open("rb+") as file:
            os.fsync(file.fileno())
        written.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's and safetensors' writers have their own
        raise make_write_error(path, error) from error
    finally:
        with suppress(OSError):  # of a read-only file system, which would take the place of what says more
            written.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system can open folders."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def make_write_error(path: Path, error: Exception) -> OSError:
    """The error of a file that could not be written; with the free space, unless the system gave another reason."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    free = ""
    if getattr(error, "errno", None) in (None, *DISK_FULL):  # torch's and safetensors' errors have no number
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
        with suppress(OSError):
            free = f"; {shutil.disk_usage(folder).free / 2**20:.0f} MB are free there"
    return OSError(f"{path} could not be written ({reason}){free}. What was saved before is whole")


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, whole or not at all; see `write_atomically` for the error."""
    with write_atomically(path) as written:
        written.write_text(text, encoding="utf-8")


def write_picture(path: Path, picture: "Image.Image", made_by: str) -> None:
    """Writes an RGB picture, whole or not at all, in the format that the name's ending says (`PICTURE_FORMATS`).

    Args:
        path: of the file.
        picture: what is written.
        made_by: `DETECTIONS` or `EXAMPLES`; `is_drawn` finds it again.
    """
    with write_atomically(path) as written:
        picture.save(written, PICTURE_FORMATS[path.suffix.lower()], quality=92, exif=make_signature(picture, made_by))


def make_signature(picture: "Image.Image", made_by: str) -> "Image.Exif":
    """EXIF of a picture that says what tailseg made it for: `DETECTIONS` or `EXAMPLES`."""
    exif = picture.getexif()
    exif[_SOFTWARE] = made_by
    return exif


def is_drawn(path: Path, *made_by: str) -> bool:
    """Whether tailseg drew the picture, for one of these purposes (any unless given)."""
    ends = 1024  # bytes; the mark stands at the start, or in WebP at the end
    try:
        with path.open("rb") as file:
            content = file.read(ends)
            file.seek(max(path.stat().st_size - ends, 0))
            content += file.read(ends)
    except OSError:
        return False
    return any(mark.encode() in content for mark in made_by or (DETECTIONS, EXAMPLES))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes, whole or not at all; see `write_atomically` for the error."""
    with write_atomically(path) as written:
        written.write_bytes(content)


class JsonList:
    """A file that holds a JSON list after each item that is added to it: nothing is lost with the process.

    Each item takes the closing bracket's place in one write, behind which stands the next closing bracket. What cannot
    be added leaves the file as it was before. Only SIGKILL within a write can cut the item that is being written: Linux
    may end such a write at a page's end.

    Args:
        path: is replaced by an empty list.
    """

    def __init__(self, path: Path) -> None:
        write_text(path, "[]")
        self.path = path
        self.count = 0
        self._file = path.open("rb+", buffering=0)
        self._end = 1

    def __enter__(self) -> "JsonList":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # each item is in the file; what the disk does with it is not this list's error
            os.fsync(self._file.fileno())
        self._file.close()

    def add(self, items: Iterable[object]) -> None:
        """Adds the items one by one.

        Raises:
            OSError: the disk is full or cannot be written; names the file, which holds the items of before.
        """
        for item in items:
            text = (", " if self.count else "") + json.dumps(item)
            try:
                self._put(text.encode() + b"]")
            except BaseException as error:
                with suppress(OSError):
                    self._put(b"]")
                    self._file.truncate(self._end + 1)
                if isinstance(error, OSError):
                    raise make_write_error(self.path, error) from error
                raise
            self._end += len(text.encode())
            self.count += 1

    def _put(self, content: bytes) -> None:
        self._file.seek(self._end)
        while content:
            content = content[self._file.write(content) :]


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes began to write in a folder; nobody may be writing there."""
    for path in folder.glob(f"*{UNFINISHED}"):
        path.unlink()
