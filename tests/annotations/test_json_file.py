"""The text of annotation files: mapped or read, it says the same."""

import copy
import gzip
import json
import math
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations import columns, json_file
from tailseg.annotations.cache import _collect_arrays
from tailseg.annotations.dataset import Contents
from tailseg.annotations.json_file import read_text, release_memory, split_sections
from tailseg.annotations.parse import parse

RawDataset = dict[str, Any]
Write = Callable[..., Path]

FAULTS: dict[str, dict[str, Any]] = {
    "as nearly all files": {},
    "an area that is text": {"area": "x"},
    "an area of NaN, which the standard library reads": {"area": math.nan},
    "numbers in the flat": {"segmentation": [1, 2, 3, 4, 5, 6]},
    "a box of three": {"bbox": [1, 2, 3]},
    "run lengths": {"segmentation": {"size": [36, 48], "counts": [100, 28, 1600]}, "bbox": [2, 0, 2, 36], "area": 28},
}


def arrays(contents: Contents) -> dict[str, str]:
    """As text, in which NaN is equal to NaN."""
    return {name: repr(array.tolist()) for name, array in _collect_arrays(contents).items()}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_mapped_file_is_read_as_any_other(
    many: RawDataset, write: Write, monkeypatch: pytest.MonkeyPatch, fault: str, packed: bool
) -> None:
    big = copy.deepcopy(many)
    for annotation in big["annotations"]:
        annotation["segmentation"] = [[10.25, 5.5, 30.0, 5.5, 30.0, 25.0, 10.25, 25.0] * 50]
    big["annotations"][0].update(FAULTS[fault])  # named in a message when its text has been given back long since
    path = write(big)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    expected = parse(path)
    monkeypatch.setattr(json_file, "MIN_MAPPED_BYTES", 1)
    monkeypatch.setattr(columns, "BATCH", 2)
    monkeypatch.setattr(columns, "BATCHES_KEPT", 1)
    found = parse(path)
    assert arrays(found) == arrays(expected)
    assert found.problems == expected.problems
    assert bool(found.problems) == (fault not in ("as nearly all files", "run lengths"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_text_that_is_given_back_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.json"
    records = [{"id": i, "image_id": 1, "category_id": 1, "filler": "x" * 1000} for i in range(2000)]
    path.write_text(json.dumps({"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": records}))
    monkeypatch.setattr(json_file, "MIN_MAPPED_BYTES", 1)
    text = read_text(path)
    assert isinstance(text, mmap.mmap)
    annotations = split_sections(text, path).annotations
    before = resident(path)
    release_memory(text, annotations[1000])
    assert resident(path) < 0.6 * before
    assert json.loads(bytes(annotations[3])) == records[3], "read from the file again"


def resident(path: Path) -> int:
    """Kilobytes of a mapped file that are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return next(int(other.split()[1]) for other in lines if other.startswith("Rss:"))
    raise AssertionError("not mapped")
