"""A class that training never shows is in no frequency group: APr is that of the others, and a note says so."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations.dataset import find_untrained_classes, get_scored_groups
from tailseg.annotations.read import adopt_training_classes, open_file
from tailseg.cli import main
from tailseg.evaluation import evaluate

RawDataset = dict[str, Any]
Write = Callable[..., Path]
NOTE = "1 class with objects here has no object in the training set (seven): it counts in AP and is in no frequency "


@pytest.fixture
def unseen(raw: RawDataset, write: Write) -> Path:
    """A training file without an object of the class 7."""
    train = copy.deepcopy(raw)
    train["annotations"] = [each for each in train["annotations"] if each["category_id"] != 7]
    return write(train, name="train.json")


@pytest.fixture
def results(raw: RawDataset, write: Write) -> Path:
    """All objects of the class 3, none of the class 7."""
    found = [
        {"image_id": each["image_id"], "category_id": each["category_id"], "bbox": each["bbox"], "score": 0.9}
        for each in raw["annotations"]
        if each["category_id"] == 3
    ]
    return write(found, name="results.json")  # ty: ignore[invalid-argument-type]


def test_it_is_left_out_of_APr_and_the_note_says_what_it_would_be(
    raw: RawDataset, write: Write, unseen: Path, results: Path, tmp_path: Path
) -> None:
    arguments = ["eval", str(write(raw)), str(results), "--train", str(unseen), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (found["scores"]["bbox"]["AP"], found["scores"]["bbox"]["APr"]) == pytest.approx((0.5, 1.0))
    assert [
        note.startswith(NOTE) and note.endswith("APr of boxes 100.0 (50.0 with them)") for note in found["notes"]
    ] == [True]
    assert [entry["group"] for entry in found["per_class"]["bbox"]] == ["r", None]


def test_groups_that_a_file_states_stay(raw: RawDataset, write: Write, unseen: Path, results: Path) -> None:
    """As in official LVIS files: lvis-api counts such a class as the file says."""
    for image in raw["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    for category in raw["categories"]:
        category["frequency"] = "r"
    metrics = evaluate(write(raw), results, iou_types=("bbox",))
    assert metrics["bbox"]["APr"] == pytest.approx(0.5)
    assert metrics.notes == ()
    validated = adopt_training_classes(open_file(write(raw)), open_file(unseen))
    assert get_scored_groups(validated) == {3: "r", 7: "r"}


def test_a_run_leaves_it_out_of_its_own_figures(raw: RawDataset, write: Write, unseen: Path) -> None:
    training = open_file(unseen)
    validated = adopt_training_classes(open_file(write(raw)), training)
    assert get_scored_groups(training) == get_scored_groups(validated) == {3: "r"}
    assert find_untrained_classes(training, validated) == ["seven"]
    assert find_untrained_classes(validated, training) == []


def test_groups_of_other_classes_are_doubted(raw: RawDataset, write: Write, results: Path, tmp_path: Path) -> None:
    train = copy.deepcopy(raw)
    train["categories"][0]["name"], train["categories"][1]["name"] = "three", "seven"
    path = write(train, name="train.json")
    arguments = ["eval", str(write(raw)), str(results), "--train", str(path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    (note,) = json.loads((tmp_path / "out/metrics.json").read_text())["notes"]
    assert note.startswith("2 category ids have another name (3: 'three', 'seven' there) in ")
