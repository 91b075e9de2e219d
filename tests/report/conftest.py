"""Small data sets on the disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.io import encode_jpeg, write_file

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset


@pytest.fixture
def read(tmp_path: Path) -> Callable[[dict[str, Any]], Annotations]:
    """Writes a data set and its images, and reads it."""

    def read_written(data: dict[str, Any]) -> Annotations:
        for image in data["images"]:
            pixels = torch.full((3, image["height"], image["width"]), 90, dtype=torch.uint8)
            write_file(str(tmp_path / image["file_name"]), encode_jpeg(pixels))
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(data))
        return read_dataset(path)

    return read_written
