"""Where tailseg keeps what it can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$TAILSEG_HOME``, else ``~/.cache/tailseg``; anything in it may be deleted at any time."""
    return Path(os.environ.get("TAILSEG_HOME") or Path.home() / ".cache" / "tailseg")
