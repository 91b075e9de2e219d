"""What is suspect in a well-formed file: `tailseg.annotations.lints`."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations.lints import lint
from tailseg.annotations.read import open_file

from .changes import SQUARE, lists

RawDataset = dict[str, Any]
Write = Callable[..., Path]

HOLE = [15.0, 10.0, 25.0, 10.0, 25.0, 20.0, 15.0, 20.0]
BESIDE = [32.0, 5.0, 40.0, 5.0, 40.0, 25.0]
ACROSS = [20.0, 10.0, 40.0, 10.0, 40.0, 20.0]
TRIANGLE = [10.0, 5.0, 30.0, 5.0, 10.0, 25.0]
CORNER = [29.0, 23.0, 29.5, 23.0, 29.5, 24.0]
"""In the triangle's box, not in the triangle."""


def found(path: Path) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {problem.kind.name: (problem.count, problem.examples) for problem in lint(open_file(path))}


def test_nothing_is_suspect(raw: RawDataset, write: Write) -> None:
    assert found(write(raw)) == {}


@pytest.mark.parametrize(
    ("polygons", "inside"),
    [
        ([SQUARE, HOLE], True),
        ([HOLE, SQUARE], True),
        ([SQUARE, BESIDE, HOLE], True),
        ([SQUARE, BESIDE], False),
        ([SQUARE, ACROSS], False),
        ([TRIANGLE, CORNER], False),
        ([SQUARE], False),
    ],
)
def test_a_polygon_inside_another_one(polygons: list[list[float]], inside: bool, raw: RawDataset, write: Write) -> None:
    raw["annotations"][2]["segmentation"] = [HOLE]  # inside another object's
    raw["annotations"][2]["area"] = 100
    raw["annotations"][1]["segmentation"] = polygons
    raw["annotations"][1]["area"] = 350
    expected = {"polygon_inside": (1, ("annotation 2 (image 20)",))} if inside else {}
    assert found(write(raw)) == expected


def test_many_polygons_in_parts(raw: RawDataset, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of pairs do not change what is found: every third object has a hole."""
    monkeypatch.setattr("tailseg.annotations.lints.BLOCK", 5)
    annotation = raw["annotations"][1]
    raw["annotations"] = [
        {**annotation, "id": i, "area": 7 + i, "segmentation": [SQUARE, BESIDE, *[HOLE] * (i % 3 == 0)]}
        for i in range(20)
    ]
    for i, record in enumerate(raw["annotations"]):
        record["bbox"] = [10, 5, 20, 20 + i / 100]
    assert found(write(raw))["polygon_inside"][0] == 7


@pytest.mark.parametrize(
    ("segmentation", "area", "suspect"),
    [
        ([TRIANGLE], 400, True),
        ([TRIANGLE], 200, False),
        ([SQUARE], 400, False),
        ({"size": [36, 48], "counts": [365, 20, 16, 20, 1307]}, 400, True),
        ([], 400, False),
    ],
)
def test_areas_of_boxes(segmentation: Any, area: float, suspect: bool, raw: RawDataset, write: Write) -> None:
    raw["annotations"][1].update(segmentation=segmentation, area=area)
    assert ("area_of_box" in found(write(raw))) == suspect


SMALLER = "12 areas are those of the boxes, while the masks are smaller"


@pytest.mark.parametrize(
    ("medium", "elsewhere", "said"),
    [
        (0, False, [SMALLER]),
        (1, False, [f"{SMALLER}; 1 object is in a larger size group"]),
        (12, False, []),
        (0, True, []),
    ],
)
def test_areas_of_boxes_are_told_once(
    medium: int, elsewhere: bool, said: list[str], raw: RawDataset, write: Write
) -> None:
    """Triangles with their boxes' areas; nothing is said where size groups, or masks that lie elsewhere, are told."""
    raw["images"] = [raw["images"][0] | {"height": 400, "width": 400}]
    raw["annotations"] = []
    for i in range(12):
        side = 40 if i < medium else 30
        mask = [9 * i, 5, 9 * i + side, 5, 9 * i, 5 + side]
        box = [9 * i, 200, side, side] if elsewhere else [9 * i, 5, side, side]
        fields = {"id": i, "image_id": raw["images"][0]["id"], "category_id": 7, "iscrowd": 0}
        raw["annotations"].append(fields | {"bbox": box, "area": side * side, "segmentation": [mask]})
    told = [problem for problem in lint(open_file(write(raw))) if problem.kind.name == "area_of_box"]
    assert [problem.counted for problem in told] == said
    assert all(problem.kind.done == "used unchanged" for problem in told)


@pytest.mark.parametrize(
    ("change", "is_copy"),
    [
        ({}, True),
        ({"id": 2}, True),
        ({"score": 0.5}, True),
        ({"category_id": 7}, False),
        ({"bbox": [10, 5, 20, 20.5]}, False),
        ({"segmentation": [TRIANGLE]}, False),
        ({"iscrowd": 1}, False),
    ],
)
def test_copies(change: dict[str, Any], is_copy: bool, raw: RawDataset, write: Write) -> None:
    raw["annotations"].append(copy.deepcopy(raw["annotations"][1]) | {"id": 4, "area": 300} | change)
    assert ("copies" in found(write(raw))) == is_copy


def test_all_copies_but_the_first_are_counted(raw: RawDataset, write: Write) -> None:
    raw["annotations"] += [{**raw["annotations"][1], "id": i} for i in (4, 5, 6)]
    names = tuple(f"annotation {i} (image 20)" for i in (4, 5, 6))
    assert found(write(raw)) == {"copies": (3, names)}


def test_a_class_that_is_listed_as_absent_and_has_objects(raw: RawDataset, write: Write) -> None:
    lists(raw, [7])
    raw["annotations"].append({**raw["annotations"][0], "id": 4, "bbox": [1, 2, 3, 4]})
    said = "image 10: class 'seven' is listed as absent and has 2 objects"
    assert found(write(raw))["absent_present"] == (1, (said,))
    raw["annotations"][0]["iscrowd"] = raw["annotations"][3]["iscrowd"] = 1
    assert "absent_present" not in found(write(raw))


def test_objects_of_no_area_under_the_rules_of_lvis(raw: RawDataset, write: Write) -> None:
    raw["annotations"][1]["area"] = 0
    assert found(write(raw)) == {}
    lists(raw, [])
    assert found(write(raw)) == {"area_zero": (1, ("annotation 2 (image 20)",))}


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("fiftyone.json", {"polygon_inside", "area_of_box"}),
        ("supervision.json", {"polygon_inside"}),
        ("sahi_gt.json", set()),
    ],
)
def test_what_tools_write(file: str, kinds: set[str], shared: Path) -> None:
    assert set(found(shared / "cases/crossed" / file)) == kinds
