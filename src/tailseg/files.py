"""Where tailseg keeps what it can make again."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


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
def unfinished(file: Path) -> Generator[Path]:
    """A name beside ``file`` to write to, renamed to it at the end, or deleted after an error."""
    # not mkstemp, whose files nobody else may read
    written = file.with_name(f".{file.stem}-{secrets.token_hex(8)}.unfinished")
    try:
        yield written
        written.replace(file)
    finally:
        written.unlink(missing_ok=True)
