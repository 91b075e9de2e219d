"""The README's figures, picture and badges are those of the repository, and its text works on a package index."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("tool", ["draw_badges.py", "write_figures.py"])
def test_pictures_and_figures_are_current(tool):
    """The message says which command writes them again."""
    done = subprocess.run([sys.executable, ROOT / "tools" / tool, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_package_index_shows_no_broken_link_or_picture():
    """The substitutions of pyproject.toml, applied as the build does it."""
    readme = (ROOT / "README.md").read_text()
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    text = readme
    for step in hooks["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(step["pattern"], step["replacement"], text)
    page = MarkdownIt("commonmark").enable("table").render(text)
    addresses = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert addresses
    assert [address for address in addresses if not address.startswith(("https://", "#"))] == []
    assert [part for part in ("<img", "&lt;!--", "](") if part in page] == []
    assert page.count("<h2>") == len(re.findall("(?m)^## ", readme))
