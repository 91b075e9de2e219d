"""Splits, merges and other changes of data sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tailseg.annotations import edit
from tailseg.annotations.leaks import group_by_looks
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import open_file, read_dataset
from tailseg.annotations.split import find_groups, split_groups, write_parts
from tailseg.annotations.writers.labels import Labels, read_labels
from tailseg.cli import main

Raw = dict[str, Any]


def make_tail(raw: Raw, *, images: int = 60, frames: int = 1, seed: int = 0) -> Raw:
    """Many images with twelve classes, the class ``n`` in about ``images / (n + 1)`` groups of ``frames`` images."""
    rng = np.random.default_rng(seed)
    records, annotations = [], []
    for group in range(images // frames):
        labels = [label for label in range(12) if rng.random() < 0.7 / (label + 1) or group in (label, 20 + label)]
        for frame in range(frames):
            key = len(records) + 1
            records.append({**raw["images"][0], "id": key, "file_name": f"site{group:03}_{frame:04}.jpg", "who": group})
            for label in labels:
                annotation = {
                    **raw["annotations"][0],
                    "id": len(annotations) + 1,
                    "image_id": key,
                    "category_id": label,
                }
                annotations.append(annotation)
    categories = [{"id": label, "name": f"class {label}"} for label in range(12)]
    return {"images": records, "annotations": annotations, "categories": categories}


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_on_both_sides_and_in_proportion(raw: Raw, write: Callable[..., Path], seed: int) -> None:
    annotations = read_dataset(write(make_tail(raw, seed=seed)))
    split = split_groups(annotations, find_groups(annotations, by="who"), [0.8, 0.2], seed=seed)
    assert split.divided == split.alone == ()
    assert (split.parts == 1).sum() == pytest.approx(12, abs=3)
    labels, images = annotations.objects.labels, annotations.objects.images
    for label in range(12):
        parts = split.parts[np.unique(images[labels == label])]
        assert {*parts.tolist()} == {0, 1}
        assert (parts == 1).sum() == pytest.approx(max(1, 0.2 * len(parts)), abs=2)
    again = split_groups(annotations, find_groups(annotations, by="who"), [0.8, 0.2], seed=seed)
    assert (again.parts == split.parts).all()


def make_images(raw: Raw, classes: list[list[int]]) -> Raw:
    """An image with an object of each of these classes."""
    images = [raw["images"][0] | {"id": key, "file_name": f"{letter}.jpg"} for key, letter in enumerate("abcd")]
    pairs = [(image, label) for image, labels in enumerate(classes) for label in labels]
    annotations = [
        raw["annotations"][0] | {"id": number, "image_id": image, "category_id": label}
        for number, (image, label) in enumerate(pairs, start=1)
    ]
    categories = [{"id": label, "name": f"class {label}"} for label in range(4)]
    return {"images": images, "annotations": annotations, "categories": categories}


def test_groups_are_exchanged_where_no_single_one_can_move(raw: Raw, write: Callable[..., Path]) -> None:
    path = write(make_images(raw, [[0, 2], [3], [1, 2], [3]]))
    split = split_groups(read_dataset(path), np.arange(4), [0.75, 0.25])
    assert (split.divided, split.alone) == ((), ("class 0", "class 1"))


def test_each_class_with_two_groups_is_in_two_folds(raw: Raw, write: Callable[..., Path]) -> None:
    path = write(make_images(raw, [[1, 2], [0, 2], [0, 1], [3]]))
    split = split_groups(read_dataset(path), np.arange(4), [1.0] * 3, folds=True)
    assert (split.divided, split.alone) == ((), ("class 3",))
    assert np.unique(split.parts[:3]).size == 3
    assert main(["data", "split", str(path), str(path.parent / "x"), "--folds", "3", "--test", "0.1"]) == 2


def test_frames_of_one_video_id_stay_together(raw: Raw, write: Callable[..., Path]) -> None:
    made = make_tail(raw, images=24)
    made["images"] = [image | {"video_id": image["id"] // 6} for image in made["images"]]
    groups = find_groups(read_dataset(write(made)))
    assert [np.unique(groups[rows]).size for rows in (slice(5), slice(5, 11), slice(None))] == [1, 1, 5]


@pytest.mark.parametrize("by", ["who", r"^(site\d+)_", None])
def test_groups_stay_together(raw: Raw, write: Callable[..., Path], by: str | None) -> None:
    annotations = read_dataset(write(make_tail(raw, images=120, frames=3)))
    groups = find_groups(annotations, by=by)
    assert (groups == np.repeat(np.arange(40), 3)).all()
    split = split_groups(annotations, groups, [0.7, 0.2, 0.1])
    assert (split.parts.reshape(40, 3) == split.parts.reshape(40, 3)[:, :1]).all()
    assert split.divided == ()


def test_a_group_that_is_no_field_and_no_pattern(raw: Raw, write: Callable[..., Path]) -> None:
    annotations = read_dataset(write(raw))
    with pytest.raises(DatasetError, match="no image has this field, and no file name matches it, such as 'b.jpg'"):
        find_groups(annotations, by="patient")
    with pytest.raises(DatasetError, match="no regular expression"):
        find_groups(annotations, by="(")
    with pytest.raises(DatasetError, match="has 2 groups of images that belong together, fewer than 3 parts"):
        split_groups(annotations, np.arange(2), [1, 1, 1])


def test_a_class_that_cannot_be_on_both_sides_is_named(raw: Raw, write: Callable[..., Path]) -> None:
    """Three classes in three groups, each in two of them: one class is always on one side."""
    raw["images"] = [{**raw["images"][0], "id": key, "file_name": f"{key}.jpg"} for key in range(3)]
    raw["categories"] = [{"id": key, "name": f"class {key}"} for key in range(4)]
    pairs = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (0, 2), (0, 3)]
    raw["annotations"] = [
        {**raw["annotations"][0], "id": number, "image_id": image, "category_id": label}
        for number, (image, label) in enumerate(pairs)
    ]
    split = split_groups(read_dataset(write(raw)), np.arange(3), [0.5, 0.5])
    assert (len(split.divided), split.alone) == (1, ("class 3",))


def test_images_that_look_alike_are_one_group(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files: list[Path | None] = [None]
    for number in range(2):
        picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((160, 120))
        for quality in (95, 60):
            files.append(tmp_path / f"{number}_{quality}.jpg")
            picture.save(files[-1], quality=quality)
    assert group_by_looks(files).tolist() == [0, 1, 1, 2, 2]


def test_parts_are_written_as_they_were_read(raw: Raw, write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(make_tail(raw))
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    annotations = read_dataset(path)
    parts = np.arange(60) % 2
    write_parts(annotations, parts, files)
    before, *after = (json.loads(file.read_text()) for file in (path, *files))
    assert [image["id"] % 2 for image in after[0]["images"]] == [1] * 30
    for key in ("images", "annotations"):
        assert sorted((*after[0][key], *after[1][key]), key=lambda r: r["id"]) == before[key]
    assert after[0]["categories"] == after[1]["categories"] == before["categories"]


def test_the_command_splits_and_folds(raw: Raw, write: Callable[..., Path], tmp_path: Path) -> None:
    path, out = str(write(make_tail(raw))), tmp_path / "parts"
    assert main(["data", "split", path, str(out), "--val", "0.2", "--test", "0.1", "--by", "who"]) == 0
    counts = [open_file(out / f"{part}.json").num_images for part in ("train", "val", "test")]
    assert sum(counts) == 60
    assert counts[1:] == pytest.approx([12, 6], abs=3)
    assert main(["data", "split", path, str(out)]) == 2  # the files exist
    assert main(["data", "split", path, str(out), "--folds", "3", "--by", "who"]) == 0
    held = [{*open_file(out / f"fold{fold}_val.json").image_ids.tolist()} for fold in (1, 2, 3)]
    assert sorted(key for part in held for key in part) == list(range(1, 61))
    assert open_file(out / "fold1_train.json").num_images == 60 - len(held[0])


@pytest.fixture
def labels(raw: Raw, write: Callable[..., Path]) -> Labels:
    for image in raw["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    raw["images"][0]["neg_category_ids"] = [7]
    return read_labels(open_file(write(raw)))


def test_merge(labels: Labels, raw: Raw, write: Callable[..., Path]) -> None:
    for image in raw["images"]:
        image["file_name"] = f"second/{image['file_name']}"
    raw["categories"] = [{"id": 7, "name": "three"}, {"id": 3, "name": "new"}]
    second = read_labels(open_file(write(raw, name="second.json")))
    merged = edit.merge([labels, second])
    assert [(category["id"], category["name"]) for category in merged.categories] == [
        (3, "three"),
        (7, "seven"),
        (8, "new"),
    ]
    assert [image["id"] for image in merged.images] == [20, 10, 21, 22]
    assert merged.images[2]["neg_category_ids"] == [3]
    assert sorted(record["id"] for records in merged.objects.values() for record in records) == [1, 2, 3, 4, 5, 6]
    assert {record["category_id"] for key in (21, 22) for record in merged.objects[key]} == {3, 8}
    assert merged.list_losses() == [
        "2 image ids were taken: numbered again",
        "3 annotation ids were taken: numbered again",
    ]
    with pytest.raises(DatasetError, match=r"second/b\.jpg is an image of .* and of"):
        edit.merge([merged, second])


def test_info_and_licenses_stay_where_all_files_agree(raw: Raw, write: Callable[..., Path], tmp_path: Path) -> None:
    raw |= {"info": {"year": 2026}, "licenses": [{"id": 1, "name": "CC BY"}]}
    first = read_labels(open_file(write(raw)))
    edit.write(first, tmp_path / "copy.json")
    assert (
        json.loads((tmp_path / "copy.json").read_text()).items()
        >= {key: raw[key] for key in ("info", "licenses")}.items()
    )
    for image in raw["images"]:
        image["file_name"] = f"second/{image['file_name']}"
    raw["licenses"][0]["name"] = "CC0"
    merged = edit.merge([first, read_labels(open_file(write(raw, name="second.json")))])
    assert merged.header == {"info": {"year": 2026}}
    assert "1 section licenses that is not the same in all files" in merged.list_losses()
    write_parts(first.annotations, np.array([0, 1]), [tmp_path / "a.json", tmp_path / "b.json"])
    assert json.loads((tmp_path / "b.json").read_text())["licenses"] == [{"id": 1, "name": "CC BY"}]


def test_filter(labels: Labels) -> None:
    edit.keep_classes(labels, ["seven"])
    assert labels.names == {7: "seven"}
    assert {key: len(records) for key, records in labels.objects.items()} == {20: 0, 10: 1}
    edit.drop_empty(labels)
    assert [image["id"] for image in labels.images] == [10]
    edit.drop_small(labels, 401)
    assert labels.objects == {10: []}
    with pytest.raises(DatasetError, match="has no class cat"):
        edit.keep_classes(labels, ["cat"])


def test_drop_rare(labels: Labels) -> None:
    edit.drop_rare(labels, 2)
    assert labels.names == {3: "three"}
    assert labels.images[0]["neg_category_ids"] == []


def test_renamed_classes_are_merged(labels: Labels) -> None:
    """Image 20 has no object of `seven`, but one of `three`: the merged class is not absent."""
    edit.rename_classes(labels, {"seven": "three"})
    assert labels.names == {3: "three"}
    assert {record["category_id"] for records in labels.objects.values() for record in records} == {3}
    assert labels.images[0]["neg_category_ids"] == []


def test_a_renamed_class_stays_absent(labels: Labels) -> None:
    edit.rename_classes(labels, {"seven": "eight"})
    assert labels.names == {3: "three", 7: "eight"}
    assert labels.images[0]["neg_category_ids"] == [7]


def test_a_sample_has_the_rarest_classes(raw: Raw, write: Callable[..., Path]) -> None:
    path = write(make_tail(raw))
    labels = read_labels(open_file(path))
    edit.sample_images(labels, 15)
    assert len(labels.images) == 15
    assert {*edit.count_images(labels)} == {*range(12)}
    with pytest.raises(DatasetError, match="has 60 images, fewer than 61"):
        edit.sample_images(read_labels(open_file(path)), 61)


def test_federate(labels: Labels) -> None:
    edit.federate(labels, {"b.jpg": ["seven"], "*": ["three", "seven"]})
    lists = {image["id"]: (image["neg_category_ids"], image["not_exhaustive_category_ids"]) for image in labels.images}
    assert lists == {20: ([7], []), 10: ([], [])}
    edit.federate(labels, {"B.jpg": ["seven"], "*": ["three", "seven"]})  # a name that no image has
    assert labels.list_losses() == ["1 listed image that the file lacks"]
    with pytest.raises(DatasetError, match="has no class cat, which was looked for"):
        edit.federate(labels, {"*": ["cat"]})
    with pytest.raises(DatasetError, match=r"image a\.jpg is not in the list"):
        edit.federate(labels, {"b.jpg": ["seven"]})


def test_the_commands_write_files(raw: Raw, write: Callable[..., Path], tmp_path: Path) -> None:
    path = str(write(raw))
    for words, number in (
        (["filter", path, "OUT", "--classes", "three"], 2),
        (["remap", path, "OUT", "--rename", "seven=three"], 3),
        (["sample", path, "OUT", "--number", "1"], None),
        (["federate", path, "OUT"], 3),
    ):
        out = tmp_path / f"{words[0]}.json"
        assert main(["data", *[word.replace("OUT", str(out)) for word in words]]) == 0
        assert number is None or open_file(out).num_objects == number
        assert main(["data", *[word.replace("OUT", str(out)) for word in words]]) == 2
    assert open_file(tmp_path / "federate.json").format == "lvis"
    assert main(["data", "merge", path, "--out", str(tmp_path / "m.json")]) == 2


@pytest.mark.parametrize(
    ("words", "left"), [(("--min-images", "100"), "class"), (("--min-area", "1e9", "--drop-empty"), "image")]
)
def test_a_filter_that_leaves_nothing_writes_nothing(
    raw: Raw,
    write: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    left: str,
) -> None:
    out = tmp_path / "out.json"
    assert main(["data", "filter", str(write(raw)), str(out), *words]) == 1
    assert f"no {left} is left" in capsys.readouterr().err
    assert not out.exists()
