"""tiny_tail on demand: drawn once, then read from the cache."""

import errno
import os
import re
import tempfile
from pathlib import Path
from typing import Final

from tailseg.files import get_cache_folder

VERSION: Final = 3
"""Part of a cached folder's name: goes up whenever the drawn files change."""


def is_tiny_tail(spec: str) -> bool:
    """Whether a data setting names the embedded data set instead of an annotation file."""
    return spec.split(":")[0] == "tiny_tail"


def prepare(spec: str, *, home: Path | None = None, progress: bool = False) -> tuple[Path, Path]:
    """The annotation files ``train.json`` and ``val.json`` of tiny_tail, drawn when they are asked for first.

    Processes that ask at the same time each draw into a folder of their own; the first to finish gives its folder the
    final name, and all return that one.

    Args:
        spec: ``tiny_tail[:preset[:seed]]``; preset ``full`` and seed 0 unless given.
        home: folder of the caches; ``$TAILSEG_HOME`` unless given, else ``~/.cache/tailseg``.
        progress: shows a progress bar while drawing.

    Raises:
        ValueError: a spec of another form, or an unknown preset.
    """
    from tailseg.data.tiny_tail.write import find_preset, generate  # what draws is not for those who only ask

    preset, seed = _parse(spec)
    find_preset(preset)
    folder = (home or get_cache_folder()) / f"tiny_tail-{preset}-{seed}-v{VERSION}"
    if not folder.is_dir():
        _require_writable(folder.parent)
        with tempfile.TemporaryDirectory(prefix=".tiny_tail-", dir=folder.parent) as scratch:
            drawn = generate(Path(scratch) / "drawn", preset=preset, seed=seed, progress=progress)
            try:
                drawn.rename(folder)
            except OSError:  # another process was faster: its files are the same
                if not folder.is_dir():
                    raise
    return folder / "train.json", folder / "val.json"


def _require_writable(home: Path) -> None:
    """Makes the folder of the caches if need be.

    Raises:
        OSError: it cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not os.access(home, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise OSError(
            f"{home} cannot be written ({error.strerror}), and tiny_tail is drawn there: set TAILSEG_HOME to a folder "
            "that can be written"
        ) from None


def _parse(spec: str) -> tuple[str, int]:
    match = re.fullmatch(r"tiny_tail(?::([^:]+))?(?::([0-9]+))?", spec)
    if match is None:
        raise ValueError(
            f"expected tiny_tail[:preset[:seed]], such as tiny_tail:demo or tiny_tail:full:1; got {spec!r}"
        )
    preset, seed = match.groups()
    return preset or "full", int(seed or 0)
