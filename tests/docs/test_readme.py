"""The README's figures, picture and badges are those of the repository, and its text works on a package index."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("tool", ["draw_badges.py", "write_figures.py"])
def test_pictures_and_figures_are_current(tool):
    """The message says which command writes them again."""
    done = subprocess.run([sys.executable, ROOT / "tools" / tool, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
