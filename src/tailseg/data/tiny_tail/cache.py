"""Draws tiny_tail once and then reads it from the cache."""

import errno
import os
import re
import tempfile
from pathlib import Path
from typing import Final

from tailseg.files import get_cache_folder

VERSION: Final = 3
"""Part of a cached folder's name; it increases if the drawn files change."""


def is_tiny_tail(spec: str) -> bool:
    """Whether a data setting names the embedded data set instead of an annotation file."""
    return spec.split(":")[0] == "tiny_tail"


def prepare(spec: str, *, home: Path | None = None, progress: bool = False) -> tuple[Path, Path]:
    """Returns the annotation files of tiny_tail; draws them on the first call.

    Processes that call at the same time draw into separate folders. The first process to finish renames its folder, and
    all processes return this one.

    Args:
        spec: ``tiny_tail[:preset[:seed]]``; the defaults are preset ``full`` and seed 0.
        home: the cache folder; ``$TAILSEG_HOME`` or ``~/.cache/tailseg`` unless given.
        progress: whether to show a progress bar while drawing.

    Returns:
        The paths of ``train.json`` and ``val.json``.

    Raises:
        ValueError: the spec has another form, or the preset is unknown.
    """
    from tailseg.data.tiny_tail.write import find_preset, generate  # imported late: drawing needs more packages

    preset, seed = _parse(spec)
    find_preset(preset)
    folder = (home or get_cache_folder()) / f"tiny_tail-{preset}-{seed}-v{VERSION}"
    if not folder.is_dir():
        _require_writable(folder.parent)
        with tempfile.TemporaryDirectory(prefix=".tiny_tail-", dir=folder.parent) as scratch:
            drawn = generate(Path(scratch) / "drawn", preset=preset, seed=seed, progress=progress)
            try:
                drawn.rename(folder)
            except OSError:  # another process was faster; its files are the same
                if not folder.is_dir():
                    raise
    return folder / "train.json", folder / "val.json"


def _require_writable(home: Path) -> None:
    """Creates the cache folder if necessary.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not os.access(home, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise OSError(
            f"{home} cannot be written ({error.strerror}), but tiny_tail is drawn there. Set TAILSEG_HOME to a "
            f"writable "
            "folder"
        ) from None


def _parse(spec: str) -> tuple[str, int]:
    match = re.fullmatch(r"tiny_tail(?::([^:]+))?(?::([0-9]+))?", spec)
    if match is None:
        raise ValueError(
            f"expected tiny_tail[:preset[:seed]], such as tiny_tail:demo or tiny_tail:full:1; got {spec!r}"
        )
    preset, seed = match.groups()
    return preset or "full", int(seed or 0)
