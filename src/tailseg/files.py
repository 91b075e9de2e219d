"""Where tailseg keeps what it can make again, and the one writer of files that are whole or not there.

Whenever the writer is killed, a file is the old one or the new one: the new one is written under another name, brought
to the disk and renamed.
"""

import json
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError

UNFINISHED = ".unfinished"
"""Ending of a file that is being written."""


def cache_folder() -> Path:
    """``$TAILSEG_HOME``, else ``~/.cache/tailseg``; anything in it may be deleted at any time.

    Raises:
        OSError: the user has no home, as in a container, and the variable is not set.
    """
    try:
        return Path(os.environ.get("TAILSEG_HOME") or "~/.cache/tailseg").expanduser()
    except RuntimeError as error:
        raise OSError(f"{error} Set TAILSEG_HOME to a folder that can be written") from error


@contextmanager
def unfinished(path: Path) -> Generator[Path]:
    """A name beside ``path`` to write to, which becomes ``path`` once its content is on the disk.

    The folder is made if need be. After an error nothing stays, and the file of before is as it was. Each use has a
    name of its own, so that two processes may write the same file: the last one stays.

    Raises:
        OSError: the disk is full or cannot be written; names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not mkstemp, whose files nobody else may read
    written = path.with_name(f".{path.stem}-{os.urandom(8).hex()}{UNFINISHED}")
    try:
        yield written
        with written.open("rb+") as file:
            os.fsync(file.fileno())
        written.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's and safetensors' writers have their own
        raise unwritten(path, error) from error
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


def unwritten(path: Path, error: Exception) -> OSError:
    """The error of a file that could not be written, with the space that is left for it."""
    free = shutil.disk_usage(path.parent).free
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return OSError(
        f"{path} could not be written ({reason}); {free / 2**20:.0f} MB are free there. What was saved before is whole"
    )


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, whole or not at all; see `unfinished` for the error."""
    with unfinished(path) as written:
        written.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes, whole or not at all; see `unfinished` for the error."""
    with unfinished(path) as written:
        written.write_bytes(content)


class JsonList:
    """A file that holds a JSON list at every moment while items are added to it: nothing is lost with the process.

    Each item takes the closing bracket's place in one write, behind which stands the next closing bracket. What cannot
    be added leaves the file as it was before.

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
                    raise unwritten(self.path, error) from error
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
