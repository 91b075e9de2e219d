"""Classes from an annotation file or a list, held against the names that a checkpoint states."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from tailseg.annotations.dataset import Category
from tailseg.interop.classes import check_class_names, read_classes
from tailseg.structures import ClassFrequency
from tailseg.training.checkpoint import CheckpointError

CATEGORIES = [
    {"id": 5, "name": "tea_pot", "image_count": 4, "instance_count": 9},
    {"id": 2, "name": "cat", "image_count": 400, "instance_count": 500, "frequency": "f"},
]


def test_lvis_v1(shared: Path) -> None:
    categories, frequency = read_classes(shared / "data" / "lvis" / "categories_v1.json")
    assert len(categories) == frequency.num_classes == 1203
    assert (categories[0].name, categories[0].id, categories[0].group) == ("aerosol_can", 1, "c")
    assert frequency.num_images == 99388
    assert frequency.groups.count("r") == 337


def test_a_list_is_ordered_by_id(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"num_images": 500, "categories": CATEGORIES}))
    categories, frequency = read_classes(tmp_path / "x.json")
    assert categories == (Category(2, "cat", "f"), Category(5, "tea_pot", "r"))
    assert frequency.image_counts.tolist() == [400, 4]
    assert frequency.instance_counts.tolist() == [500, 9]


def test_an_annotation_file_is_counted(shared: Path) -> None:
    categories, frequency = read_classes(shared / "data" / "coco_tail" / "train.json")
    assert len(categories) == frequency.num_classes
    assert int(frequency.instance_counts.max()) == 350  # people, crowds left out


def test_a_packed_file(shared: Path, tmp_path: Path) -> None:
    file = shared / "data" / "coco_tail" / "val.json"
    (tmp_path / "val.json.gz").write_bytes(gzip.compress(file.read_bytes()))
    (categories, frequency), (expected, counts) = read_classes(tmp_path / "val.json.gz"), read_classes(file)
    assert categories == expected
    assert torch.equal(frequency.image_counts, counts.image_counts)


def test_counts_as_lists_and_counts_that_cannot_be() -> None:
    frequency = ClassFrequency.from_counts([500, 80, 0], [900, 80, 0], 520)
    assert frequency.image_counts.tolist() == [500, 80, 0]
    assert frequency.groups == ("f", "c", "r")
    with pytest.raises(ValueError, match="image_counts are 0 .. num_images = 400, got 0 .. 500"):
        ClassFrequency.from_counts([500, 80, 0], [900, 80, 0], 400)
    with pytest.raises(ValueError, match="instance_counts are at least 0, got -1"):
        ClassFrequency.from_counts([5], [-1], 5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no json", "is not JSON"),
        ("[]", "no list of categories"),
        ('{"categories": [{"id": 1, "name": "cat"}]}', "expected num_images, and categories with id"),
        ('{"categories": [3]}', "expected num_images, and categories with id"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        read_classes(tmp_path / "x.json")
    with pytest.raises(CheckpointError, match="no file"):
        read_classes(tmp_path / "absent.json")


def test_stated_names() -> None:
    categories = (Category(1, "tea_pot", "r"), Category(2, "cat", "f"))
    assert check_class_names(["Tea pot", "cat"], categories, "x") == []
    assert check_class_names(["tea pot", "kitty"], categories, "x") == [
        "1 class name is spelled differently in the file: 'kitty' for 'cat'"
    ]
    with pytest.raises(CheckpointError, match=r"x states 1 classes, expected 2"):
        check_class_names(["cat"], categories, "x")
    with pytest.raises(CheckpointError, match=r"another order: 'cat' is 0 there and 1 here"):
        check_class_names(["cat", "tea pot"], categories, "x")
