"""Crowd regions are told where they are so many that objects were hardly meant so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations.read import open_file


def dataset(classes: int, images: int) -> dict[str, Any]:
    """An object of each class in each image, none of them a crowd."""
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    fields = {"bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [square]}
    return {
        "images": [{"id": key, "file_name": f"{key}.png", "height": 60, "width": 80} for key in range(1, images + 1)],
        "categories": [{"id": key, "name": f"c{key}"} for key in range(1, classes + 1)],
        "annotations": [
            {"id": key + 1, "image_id": key // classes + 1, "category_id": key % classes + 1, **fields}
            for key in range(classes * images)
        ],
    }


@pytest.mark.parametrize(
    ("images", "crowds", "said"),
    [
        (6, {}, ""),
        (6, {1: 1}, ""),
        (
            6,
            {1: 2},
            "2 of 18 annotations are crowd regions and are not used in training: classes with a third or more crowds",
        ),
        (
            6,
            {1: 3, 3: 2},
            "5 of 18 annotations are crowd regions and are not used in training: classes with a third or more",
        ),
        (7, {1: 2, 2: 2}, ""),
        (3, {2: 1}, ""),
        (3, {2: 3}, "3 of 9 annotations are crowd regions and are not used in training: classes with nothing else: c2"),
    ],
)
def test_crowds_that_are_a_large_share_of_a_class(
    images: int, crowds: dict[int, int], said: str, write: Callable[..., Path]
) -> None:
    """Each image keeps an object. A crowd or two of many objects are what official files have."""
    content = dataset(3, images)
    for category, count in crowds.items():
        of_class = [each for each in content["annotations"] if each["category_id"] == category]
        for annotation in of_class[:count]:
            annotation["iscrowd"] = 1
    problems = open_file(write(content)).problems
    if not said:
        assert problems == ()
        return
    (found,) = problems
    assert found.text.startswith(said)
    assert found.text.endswith(", ".join(f"c{category}" for category in crowds))
