"""What the tests of training share."""

from pathlib import Path

import pytest

from tailseg.data.tiny_tail import generate


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """tiny_tail's test preset: 16 images to train on, 8 to evaluate."""
    folder = tmp_path_factory.mktemp("tiny_tail")
    generate(folder, preset="test")
    return folder
