"""The cache folder, files that are written completely or not at all, and marks of settings that name files.

A new file is written under another name, synchronized to the disk and then renamed. If the process is killed at any
time, the file is the old one or the new one.
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
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Input:
    """Marks a setting of type ``str`` that names a file or folder to read, as in ``Annotated[str, Input()]``."""


@dataclass(frozen=True)
class Output:
    """Marks a setting that names a file or folder to write.

    Attributes:
        files: what is written there, for messages.
    """

    files: str


UNFINISHED = ".unfinished"
"""Extension of a file while it is written."""

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk: the message then states the free space."""

PICTURE_FORMATS: Final = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
"""Formats of pictures by the extension of the name."""

DETECTIONS: Final = "tailseg: detections"
EXAMPLES: Final = "tailseg: examples"
"""The EXIF software entry of drawn pictures: it tells them from photographs."""

CONVERTED: Final = "tailseg: convert"
"""The mark in files of weights for other frameworks."""

_SOFTWARE: Final = 0x0131
"""EXIF's tag of the software that made a picture."""


def get_cache_folder() -> Path:
    """``$TAILSEG_HOME``, or ``~/.cache/tailseg``. Everything in it may be deleted at any time.

    Raises:
        OSError: the variable is not set and the user has no home folder, as in a container.
    """
    try:
        return Path(os.environ.get("TAILSEG_HOME") or "~/.cache/tailseg").expanduser()
    except RuntimeError as error:
        raise OSError(f"{error} Set TAILSEG_HOME to a writable folder") from error


def split_spec(path: Path) -> tuple[Path, str | None]:
    """Splits ``PATH:SPLIT`` into the path and the split; the split is None if the path exists or has none."""
    text, colon, split = str(path).rpartition(":")
    if path.exists() or not colon or not text or not split or "/" in split or not Path(text).exists():
        return path, None
    return Path(text), split


@contextmanager
def write_atomically(path: Path) -> Generator[Path]:
    """Gives a temporary path next to ``path`` to write to, and renames it to ``path`` at the end.

    The content is on the disk before the file is renamed. The folder is created if necessary. After an error, the
    temporary file is removed and the old file is unchanged. Each call has its own temporary name: two processes may
    write the same file, and the last one stays.

    Raises:
        OSError: the disk is full or cannot be written; the message names the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise make_write_error(path, error) from error
    # mkstemp makes files that other users cannot read
    written = path.with_name(f".{path.stem}-{os.urandom(8).hex()}{UNFINISHED}")
    try:
        yield written
        with written.open("rb+") as file:
            os.fsync(file.fileno())
        written.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own errors
        raise make_write_error(path, error) from error
    finally:
        with suppress(OSError):  # on a read-only file system; this error would hide the first one
            written.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Writes the names in a folder to the disk, if the system can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_write_error(path: Path, error: Exception) -> OSError:
    """Makes the error for a file that could not be written; with the free space, if the disk may be full."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    free = ""
    if getattr(error, "errno", None) in (None, *DISK_FULL):  # torch's and safetensors' errors have no number
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
        with suppress(OSError):
            free = f"; {shutil.disk_usage(folder).free / 2**20:.0f} MB are free there"
    return OSError(f"{path} could not be written ({reason}){free}. Files that were saved before are complete")


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, completely or not at all; see `write_atomically` for the error."""
    with write_atomically(path) as written:
        written.write_text(text, encoding="utf-8")


def write_picture(path: Path, picture: "Image.Image", made_by: str) -> None:
    """Writes an RGB picture, completely or not at all.

    Args:
        path: the file; its extension gives the format (`PICTURE_FORMATS`).
        picture: the picture.
        made_by: `DETECTIONS` or `EXAMPLES`; `is_drawn` recognizes it.
    """
    with write_atomically(path) as written:
        picture.save(written, PICTURE_FORMATS[path.suffix.lower()], quality=92, exif=make_signature(picture, made_by))


def make_signature(picture: "Image.Image", made_by: str) -> "Image.Exif":
    """Makes the EXIF entry of a drawn picture: `DETECTIONS` or `EXAMPLES`."""
    exif = picture.getexif()
    exif[_SOFTWARE] = made_by
    return exif


def is_drawn(path: Path, *made_by: str) -> bool:
    """Whether tailseg drew the picture, with one of these marks (with any mark unless given)."""
    length = 1024  # bytes; the mark is at the start, in WebP at the end
    try:
        with path.open("rb") as file:
            content = file.read(length)
            file.seek(max(path.stat().st_size - length, 0))
            content += file.read(length)
    except OSError:
        return False
    return any(mark.encode() in content for mark in made_by or (DETECTIONS, EXAMPLES))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes, completely or not at all; see `write_atomically` for the error."""
    with write_atomically(path) as written:
        written.write_bytes(content)


class JsonList:
    """A file that is a valid JSON list after each added item: nothing is lost if the process ends.

    Each item overwrites the closing bracket and adds a new one, in one write. If an item cannot be added, the file
    stays as it was. Only SIGKILL during a write can truncate the item: Linux may end such a write at the end of a page.

    Args:
        path: the file; an existing one is replaced by an empty list.
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
        with suppress(OSError):  # all items are in the file; the disk may report errors later
            os.fsync(self._file.fileno())
        self._file.close()

    def add(self, items: Iterable[object]) -> None:
        """Adds the items one by one.

        Raises:
            OSError: the disk is full or cannot be written. The message names the file, which has the earlier items.
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


class JsonLines:
    """A file with a JSON object in each line: what is added is complete, or cut off when the file is opened again.

    Args:
        path: the file.
        keep: bytes of an existing file that stay; the rest is cut off.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        if not keep:
            write_text(path, "")
        self.path = path
        self._file = path.open("rb+", buffering=0)
        self._end = keep
        self._file.truncate(keep)

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()

    def add(self, item: object) -> None:
        """Adds a line.

        Raises:
            OSError: the disk is full or cannot be written. The message names the file, which has the earlier lines.
        """
        content = json.dumps(item).encode() + b"\n"
        try:
            self._file.seek(self._end)
            rest = content
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            if isinstance(error, OSError):
                raise make_write_error(self.path, error) from error
            raise
        self._end += len(content)


def read_json_lines(path: Path) -> Generator[tuple[dict[str, Any], bytes]]:
    """Yields each object and its line, up to the first line that is not a complete object: a kill may cut it."""
    with path.open("rb") as file:
        for line in file:
            try:
                item = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if not isinstance(item, dict):
                return
            yield item, line


def remove_unfinished(folder: Path) -> None:
    """Removes files that killed processes left unfinished in a folder. No process may be writing there."""
    for path in folder.glob(f"*{UNFINISHED}"):
        path.unlink()
