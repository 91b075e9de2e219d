"""What a data set contains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tailseg.annotations.read import read_dataset
from tailseg.annotations.summary import GroupCount, summarize


def test_counts_of_a_small_file(many: dict[str, Any], write: Callable[..., Path]) -> None:
    many["annotations"][0]["iscrowd"] = 1
    many["categories"].append({"id": 9, "name": "never"})
    found = summarize(read_dataset(write(many)))
    assert (found.images, found.annotated_images, found.objects, found.ignored) == (12, 11, 11, 1)
    assert found.groups == {"r": GroupCount(3, 2, 11), "c": GroupCount(0, 0, 0), "f": GroupCount(0, 0, 0)}
    assert [(c.category.name, c.images, c.objects) for c in found.counts] == [
        ("three", 10, 10),
        ("seven", 1, 1),
        ("never", 0, 0),
    ]
    assert [c.category.name for c in found.least_frequent(2)] == ["seven", "three"]
    assert [c.category.name for c in found.most_frequent(1)] == ["three"]
    assert found.objects_per_image == (1, 1, 1, 1, 1)
    assert found.object_sizes == (20, 20, 20, 20, 20)
    assert found.image_sizes == ((48, 36), 1.0)


def test_counts_of_coco_tail(shared: Path) -> None:
    found = summarize(read_dataset(shared / "data/coco_tail/train.json"))
    assert (found.images, found.objects + found.ignored) == (178, 1370)
    assert sum(group.present for group in found.groups.values()) == 75
    assert found.most_frequent(1)[0].category.name == "person"
    assert found.with_masks
