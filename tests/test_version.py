"""The version is written in tailseg/__init__.py; the package's metadata and the changelog say the same."""

import re
from importlib.metadata import version
from pathlib import Path

from tailseg import __version__


def test_the_metadata_and_the_changelog_name_the_version() -> None:
    """After a change of the version: uv sync."""
    assert version("tailseg") == __version__
    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(\d[^]]*)\]", changelog, re.MULTILINE)[0] == __version__
