"""The bounds of the frequency groups: from data.groups to the losses and the figures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations.dataset import get_scored_groups
from tailseg.annotations.read import open_file
from tailseg.annotations.types import GroupBounds
from tailseg.losses.tail import tail_classes
from tailseg.ranges import SettingError
from tailseg.recipes import Recipe, get_recipe
from tailseg.recipes.build import build_data
from tailseg.recipes.saved import from_plain, to_plain
from tailseg.structures import ClassFrequency

RawDataset = dict[str, Any]
Write = Callable[..., Path]


def recipe(path: Path, groups: GroupBounds = (10, 100)) -> Recipe:
    base = get_recipe("custom_small")
    return replace(base, data=replace(base.data, train=str(path), val=str(path), groups=groups))


@pytest.fixture
def file(many: RawDataset, write: Write) -> Path:
    """Class 3 in 11 images, class 7 in one."""
    return write(many, images=True)


@pytest.mark.parametrize(
    ("bounds", "groups", "rare"),
    [
        ((10, 100), ("c", "r"), [False, True]),
        ((1, 5), ("f", "r"), [False, True]),
        ((11, 12), ("r", "r"), [True, True]),
    ],
)
def test_groups_and_tail_follow_the_bounds(file: Path, bounds: GroupBounds, groups: tuple, rare: list[bool]) -> None:
    train, val = build_data(recipe(file, bounds))
    frequency = ClassFrequency.from_class_counts(train.frequency)
    assert frequency.groups == groups
    assert tail_classes(frequency, "r").tolist() == rare
    assert get_scored_groups(val) == {3: groups[0], 7: groups[1]}
    assert tuple(category.group for category in val.categories) == groups


def test_a_class_that_training_never_shows_is_in_no_group(many: RawDataset, write: Write) -> None:
    val = write(many, images=True, name="val.json")
    many["annotations"] = [each for each in many["annotations"] if each["category_id"] != 7]
    base = recipe(write(many, name="train.json"), (1, 5))
    _, validation = build_data(replace(base, data=replace(base.data, val=str(val))))
    assert get_scored_groups(validation) == {3: "f"}


def test_groups_that_a_file_states_are_used_with_lviss_bounds_alone(many: RawDataset, write: Write) -> None:
    for category in many["categories"]:
        category["frequency"] = "f"
    file = write(many, images=True)
    for bounds, expected in (((10, 100), {3: "f", 7: "f"}), ((2, 50), {3: "c", 7: "r"})):
        train, val = build_data(recipe(file, bounds))
        assert get_scored_groups(train) == get_scored_groups(val) == expected


def test_bounds_are_saved_with_the_recipe(file: Path) -> None:
    chosen = recipe(file, (5, 30))
    assert from_plain(to_plain(chosen)).data.groups == (5, 30)
    old = to_plain(chosen)
    del old["resolved"]["data"]["groups"]
    assert from_plain(old).data.groups == (10, 100)


@pytest.mark.parametrize("bounds", [(30, 5), (5, 5), (0, 5)])
def test_wrong_bounds_are_refused(file: Path, bounds: GroupBounds) -> None:
    with pytest.raises(SettingError, match=r"data.groups is numbers, each 1 or more, in ascending order"):
        recipe(file, bounds)


def test_what_was_read_before_is_not_changed(file: Path) -> None:
    before = open_file(file)
    build_data(recipe(file, (1, 5)))
    assert open_file(file).frequency.groups == before.frequency.groups == ("c", "r")
