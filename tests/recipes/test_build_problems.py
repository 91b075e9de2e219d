"""What a run makes of problems in its annotation files, before its first step."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations.problems import DatasetError
from tailseg.evaluation import evaluate
from tailseg.models.config import MaskHeadConfig
from tailseg.recipes import Recipe, get_recipe
from tailseg.recipes.build import build_data, build_validation

RawDataset = dict[str, Any]
Write = Callable[..., Path]


def recipe(train: Path, val: Path | None = None, *, masks: bool = True, **data: Any) -> Recipe:
    made = get_recipe("custom_small")
    made = replace(made, data=replace(made.data, train=str(train), val=val and str(val), **data))
    made = replace(made, run=replace(made.run, out=str(train.parent / "run")))
    assert isinstance(made.model.mask, MaskHeadConfig)
    return made if masks else replace(made, model=replace(made.model, mask=None))


def without_mask(raw: RawDataset) -> RawDataset:
    raw["annotations"][1]["segmentation"] = []
    return raw


def test_objects_without_a_mask_are_refused_with_the_users_file_their_number_and_the_first(many, write: Write):
    path = write(without_mask(many))
    with pytest.raises(
        DatasetError, match=r"(?s)object has no mask \(1 of 12\): annotation 1 .*on-problem repair"
    ) as it:
        build_data(recipe(path))
    assert str(path) in str(it.value)


def test_objects_without_a_mask_are_left_out_where_that_is_asked_for_and_learned_as_boxes(many, write: Write):
    path = write(without_mask(many))
    parts = build_data(recipe(path, on_problem="repair"))
    assert sum(part.num_objects for part in parts) == 11
    notes = [note for part in parts for note in part.notes]
    assert any("1 object has no mask" in note and note.endswith(": left out") for note in notes)
    assert sum(part.num_objects for part in build_data(recipe(path, masks=False))) == 12


def test_what_evaluation_refuses_is_refused_before_the_first_step(many, write: Write):
    train = write(many, name="train.json")
    many["annotations"][3]["area"] = -1
    val = write(many, name="val.json")
    with pytest.raises(DatasetError, match=r"1 area is negative: annotation 3 \(image 3\) has -1"):
        build_data(recipe(train, val))
    with pytest.raises(DatasetError, match="area is negative"):
        build_validation(recipe(train, val))
    build_data(recipe(val, train))  # for training areas mean nothing
    repaired = build_data(recipe(train, val, on_problem="repair"))[1]
    assert repaired.num_objects == 11
    evaluate(repaired, [])  # and the run's evaluation takes it


def test_a_class_that_the_validation_file_leaves_out_is_a_class_of_the_run(many, write: Write):
    train = write(many, name="train.json")
    part = copy.deepcopy(many)
    part["annotations"] = [each for each in part["annotations"] if each["category_id"] == 7]
    part["categories"] = [each for each in part["categories"] if each["id"] == 7]
    _, val = build_data(recipe(train, write(part, name="val.json")))
    assert [category.id for category in val.categories] == [3, 7]
    assert val.objects.labels.tolist() == [1]
    assert val.notes == ("1 class of the training set " + str(train) + " is not in this file",)
    result = {"image_id": 4, "category_id": 7, "bbox": [10, 5, 20, 20], "score": 0.9}
    assert evaluate(val, [result], iou_types=["bbox"])["bbox"]["AP"] == pytest.approx(1)


def test_a_class_of_the_validation_file_alone_plays_no_part_unless_it_has_objects(many, write: Write):
    train = write(many, name="train.json")
    more = copy.deepcopy(many)
    more["categories"].append({"id": 9, "name": "nine"})
    for image in more["images"]:
        image.update(neg_category_ids=[9], not_exhaustive_category_ids=[9, 3])
    _, val = build_data(recipe(train, write(more, name="val.json")))
    assert [category.id for category in val.categories] == [3, 7]
    assert val.get_record(0).negative_ids == ()
    assert val.get_record(0).not_exhaustive_ids == (3,)
    more["annotations"][0]["category_id"] = 9
    with pytest.raises(DatasetError, match=r"1 category differs .* 9 is 'nine' here and missing there"):
        build_data(recipe(train, write(more, name="val.json")))


def test_crowds_are_said_to_be_left_alone_and_can_be_objects(many, write: Write):
    for annotation in many["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 7)
    path = write(many)
    train, _ = build_data(recipe(path, path))
    assert train.num_objects == 11
    (said,) = train.remarks
    assert said.startswith("1 of 12 annotations is a crowd region and is not used in training")
    assert "classes with nothing else: seven" in said
    train, val = build_data(recipe(path, path, crowds="objects"))
    assert train.num_objects == val.num_objects == 12
    assert train.frequency.instance_counts.tolist() == [11, 1]
    assert train.remarks == ()
    assert train.notes == ("1 crowd region is read as an object",)
    result = {"image_id": 4, "category_id": 7, "bbox": [10, 5, 20, 20], "score": 0.9}
    scores = evaluate(val, [result], iou_types=["bbox"]).per_class["bbox"]
    assert pytest.approx(1) == scores[1].AP
