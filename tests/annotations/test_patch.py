"""Patches: what they change, and what they refuse."""

import json

import pytest

from tailseg.annotations.patch import FORMAT, Change, Patch, apply_patch, compute_key, read_patch, to_plain
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import read_dataset
from tailseg.annotations.writers.labels import read_labels

BOX = [10.0, 10.0, 20.0, 20.0]


def annotation(number, **fields):
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 400.0, "iscrowd": 0} | fields


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.json"
    image = {"id": 1, "file_name": "a.jpg", "height": 100, "width": 100}
    image |= {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
    categories = [{"id": n, "name": name, "frequency": "f"} for n, name in ((1, "ant"), (2, "bee"))]
    content = {"images": [image], "annotations": [annotation(1, note="mine"), annotation(2)], "categories": categories}
    path.write_text(json.dumps(content))
    return path


def changed(file, *changes, key=None):
    labels = read_labels(read_dataset(file, use="boxes"))
    apply_patch(labels, Patch("my.json", key or compute_key(file), changes))
    return labels


def test_each_kind_of_change(file):
    labels = changed(
        file,
        Change("class", 1, 1, {"category_id": 1}, {"category_id": 2}),
        Change("duplicate", 1, 2, {"category_id": 1}, None),
        Change("missing", 1, None, None, {"category_id": 1, "bbox": [0.0, 0.0, 5.0, 5.0], "area": 25.0}),
    )
    first, new = labels.objects[1]
    assert first == annotation(1, category_id=2, note="mine")
    assert new == annotation(3, bbox=[0.0, 0.0, 5.0, 5.0], area=25.0)
    assert labels.images[0]["neg_category_ids"] == []


def test_an_outline_keeps_the_other_fields(file):
    labels = changed(file, Change("outline", 1, 1, {"bbox": BOX}, {"bbox": [1.0, 1.0, 2.0, 2.0], "area": 4.0}))
    assert labels.objects[1][0] == annotation(1, note="mine", bbox=[1.0, 1.0, 2.0, 2.0], area=4.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change("class", 7, 1, {}, {"category_id": 2}), "changes image 7"),
        (Change("class", 1, 7, {}, {"category_id": 2}), "changes annotation 7 of image 1"),
        (Change("class", 1, 1, {"category_id": 2}, {"category_id": 1}), "another category_id than the patch says"),
        (Change("class", 1, 1, {"category_id": 1}, {"category_id": 9}), "names the class 9"),
    ],
)
def test_what_does_not_fit_is_refused(file, change, said):
    with pytest.raises(DatasetError, match=said):
        changed(file, change)


def test_a_patch_of_another_file_is_refused(file):
    with pytest.raises(DatasetError, match=r"Name the unchanged file"):
        changed(file, key="0" * 64)


def test_a_patch_is_read_as_it_was_written(file, tmp_path):
    patch = Patch("my.json", compute_key(file), [Change("duplicate", 1, 2, {"category_id": 1}, None)])
    path = tmp_path / "patch.json"
    path.write_text(json.dumps(to_plain(patch)))
    assert read_patch(path) == patch


VALID = {"kind": "class", "image_id": 1, "annotation_id": 1, "was": {}, "becomes": {}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "has no"),
        ('{"suspects": {}}', "nobody has confirmed"),
        (json.dumps({"format": FORMAT, "file": "a", "key": 1, "changes": []}), 'needs the texts "file" and "key"'),
        (json.dumps({"format": FORMAT, "file": "a", "key": "b", "changes": [{}]}), "change 1 is"),
        *(
            (json.dumps({"format": FORMAT, "file": "a", "key": "b", "changes": [VALID | change]}), said)
            for change, said in [
                ({"image_id": "1"}, "image_id a whole number"),
                ({"becomes": {"file_name": "x"}}, "may have the fields"),
                ({"annotation_id": None}, "has no annotation_id and no was"),
                ({"was": None}, "each other has both"),
                (
                    {"becomes": {"bbox": "x"}},
                    r"becomes is wrong: Expected `array`, got `str` - at `\$.bbox`",
                ),
                ({"becomes": {"bbox": [1, 2, -3, 4]}}, r"Expected `float` >= 0.0 - at `\$.bbox"),
                ({"becomes": {"bbox": [1, float("nan"), 3, 4]}}, "is not JSON"),
                ({"becomes": {"area": -1}}, r"at `\$.area`"),
                ({"becomes": {"iscrowd": 2}}, r"at `\$.iscrowd`"),
                ({"becomes": {"segmentation": [1, 2]}}, r"at `\$.segmentation"),
                ({"annotation_id": None, "was": None, "becomes": {"category_id": 1}}, "needs category_id and bbox"),
            ]
        ),
    ],
)
def test_a_malformed_patch_is_refused(content, said, tmp_path):
    path = tmp_path / "patch.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=said):
        read_patch(path)
