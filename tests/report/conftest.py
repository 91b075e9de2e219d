"""Small data sets on the disk, and a page in a browser."""

import json
from collections.abc import Callable, Iterator
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


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page at a phone's width that must not complain, ask for anything outside the file, or show a dialogue."""
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("dialog", lambda dialog: complaints.append(f"dialogue: {dialog.message}") or dialog.dismiss())
    page.on(
        "request", lambda request: complaints.append(request.url) if request.url[:5] not in ("file:", "data:") else 0
    )
    yield page
    context.close()
    assert complaints == []
