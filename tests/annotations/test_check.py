"""`tailseg data check` finds what any use refuses, and no more: `tailseg.data.check`."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import open_file, read_dataset
from tailseg.data.check import find_image_problems, is_fault, read_problems

from .changes import CHANGES, USES, write_change


def refused_by(path: Path, images: Path) -> set[str]:
    uses = set()
    for use in USES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_dataset(path, images=images, use=use)
            except DatasetError:
                uses.add(use)
    return uses


FILES_OF_BOXES = ("no object with a mask", "boxes only, one of a crowd")
"""What stops masks alone, in a file that has none, is a note."""


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_use_refuses_is_found(name: str, raw: dict[str, Any], tmp_path: Path) -> None:
    path, images = write_change(name, raw, tmp_path), tmp_path / "pictures"
    problems = read_problems(path, images).problems
    refused = refused_by(path, images)
    assert {use for problem in problems for use in problem.kind.stops} == refused
    assert any(map(is_fault, problems)) == (bool(refused) and name not in FILES_OF_BOXES)
    assert len({problem.kind.name for problem in problems}) == len(problems), "each is told once"


def test_sizes_from_the_pictures_do_not_hide_what_evaluation_refuses(
    raw: dict[str, Any], write: Callable[..., Path]
) -> None:
    raw["annotations"][1]["bbox"] = [60, 5, 20, 20]
    write(raw, images=True)
    del raw["images"][0]["width"]
    annotations = read_problems(write(raw))
    kinds = {problem.kind.name for problem in annotations.problems}
    assert kinds == {"box_outside", "size_missing", "size_missing_for_polygons"}
    assert find_image_problems(annotations, decode=True) == ()


def test_files_that_are_listed_twice_are_counted(raw: dict[str, Any], write: Callable[..., Path]) -> None:
    """By one name, by another spelling of it, and by a link."""
    path = write(raw, images=True)
    first = dict(raw["images"][0])
    name = str(first["file_name"])
    link = path.parent / "link.png"
    link.symlink_to(annotated := open_file(path).get_info(0).file)
    raw["images"] += [{**first, "id": 900, "file_name": f"./{name}"}, {**first, "id": 901, "file_name": link.name}]

    (found,) = find_image_problems(read_problems(write(raw)), decode=False)

    assert found.kind.name == "images_twice"
    assert not is_fault(found)
    assert found.text == f"1 file is listed more than once, as different images: {annotated} (images 20, 900, 901)"
