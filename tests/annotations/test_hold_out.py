"""A part of a data set is held out: whole, always the same, and without losing a class."""

import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations.hold_out import find_split, hold_out_validation, read_remarks, read_source_key
from tailseg.annotations.read import read_dataset

RawDataset = dict[str, Any]
Write = Callable[..., Path]


def test_the_parts_are_the_whole(many: RawDataset, write: Write, tmp_path: Path) -> None:
    whole = read_dataset(write(many))
    parts = [read_dataset(path) for path in hold_out_validation(whole, tmp_path / "data", share=0.3)]
    assert [part.num_images for part in parts] == [8, 4]
    found = {i: str(part.get_record(row)) for part in parts for row, i in enumerate(part.image_ids.tolist())}
    assert found == {i: str(whole.get_record(row)) for row, i in enumerate(whole.image_ids.tolist())}
    assert all([(c.id, c.name) for c in part.categories] == [(3, "three"), (7, "seven")] for part in parts)


def test_no_class_is_lost_to_training(many: RawDataset, write: Write, tmp_path: Path) -> None:
    """Image 4 alone has an object of the class 7, and image 5 a crowd, which teaches nothing."""
    many["annotations"].append({**many["annotations"][4], "id": 100, "image_id": 5, "iscrowd": 1})
    train, val = hold_out_validation(read_dataset(write(many)), tmp_path / "data", share=0.99)
    assert read_dataset(train).image_ids.tolist().count(4) == 1
    assert read_dataset(val).num_images == 10  # and one stays for the class 3


def test_nothing_can_be_held_out(raw: RawDataset, write: Write, tmp_path: Path) -> None:
    del raw["annotations"][2]
    with pytest.raises(ValueError, match=r"no image can be used for validation.*Name a validation set"):
        hold_out_validation(read_dataset(write(raw)), tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_can_be_read_can_be_split(encoding: str, many: RawDataset, write: Write, tmp_path: Path) -> None:
    """Files of Windows programs begin with a mark; a number that JSON does not have stands in a field nobody reads."""
    many["annotations"][0]["area"] = float("nan")
    path = write(many)
    path.write_text(path.read_text(), encoding=encoding)
    assert [read_dataset(part).num_images for part in hold_out_validation(read_dataset(path), tmp_path / "data")] == [
        11,
        1,
    ]


def test_the_parts_are_written_once(many: RawDataset, write: Write, tmp_path: Path) -> None:
    path = write(many)
    train, val = hold_out_validation(read_dataset(path), tmp_path / "data")

    def inodes() -> list[int]:
        return [part.stat().st_ino for part in (train, val)]

    assert train.stat().st_mode == path.stat().st_mode, "whoever may read the whole may read the parts"
    first, content = inodes(), train.read_bytes()
    hold_out_validation(read_dataset(path), tmp_path / "data")
    assert inodes() == first
    train.write_bytes(content[:100])  # cut short, as by a power failure
    hold_out_validation(read_dataset(path), tmp_path / "data")
    assert train.read_bytes() == content
    many["categories"][0]["name"] = "other"
    write(many)
    hold_out_validation(read_dataset(path), tmp_path / "data")
    assert b"other" in train.read_bytes()
    hold_out_validation(read_dataset(path), tmp_path / "data", share=0.3)
    assert read_dataset(val).num_images == 4
    assert {file.name for file in (tmp_path / "data").iterdir()} == {"train.json", "val.json", "held_out.json"}


@pytest.mark.skipif(sys.platform != "linux", reason="relies on fork")
def test_processes_that_split_at_once_do_not_disturb_each_other(many: RawDataset, write: Write, tmp_path: Path) -> None:
    annotations = read_dataset(write(many))
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(4)

    def split() -> None:
        for turn in range(20):
            gate.wait(20)
            train, val = hold_out_validation(annotations, tmp_path / str(turn))
            assert len(json.loads(train.read_bytes())["images"]) == 11
            assert len(json.loads(val.read_bytes())["images"]) == 1

    processes = [context.Process(target=split) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * 4


def of_images(count: int, empty: int = 0, name: str = "{}.jpg", classes: int = 2) -> RawDataset:
    """Images with one object each, of the classes by turns, and images without."""
    images = [{"id": i, "file_name": name.format(i), "height": 36, "width": 48} for i in range(1, count + empty + 1)]
    square = {"bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [[1, 1, 21, 1, 21, 21, 1, 21]]}
    objects = [{"id": i, "image_id": i, "category_id": 1 + i % classes, **square} for i in range(1, count + 1)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, classes + 1)]
    return {"images": images, "annotations": objects, "categories": categories}


def ids(path: Path) -> set[int]:
    return {image["id"] for image in json.loads(path.read_bytes())["images"]}


@pytest.mark.parametrize(("full", "empty", "held_out"), [(12, 108, (1, 11)), (500, 500, (50, 50)), (50, 950, (5, 95))])
def test_a_tenth_of_the_images_with_objects_and_of_those_without(
    full: int, empty: int, held_out: tuple[int, int], write: Write, tmp_path: Path
) -> None:
    _, val = hold_out_validation(read_dataset(write(of_images(full, empty))), tmp_path / "data")
    assert (sum(i <= full for i in ids(val)), sum(i > full for i in ids(val))) == held_out


def test_a_picture_with_two_ids_stays_in_one_part(write: Write, tmp_path: Path) -> None:
    raw = of_images(40, classes=1)
    for image in raw["images"][20:]:
        image["file_name"] = f"{image['id'] - 20}.jpg"
    path = write(raw)
    (tmp_path / "5.jpg").write_bytes(b"the same")  # under another name
    (tmp_path / "6.jpg").write_bytes(b"the same")
    train, val = (({i % 20 for i in ids(part)}) for part in hold_out_validation(read_dataset(path), tmp_path / "data"))
    assert not train & val
    assert len(val) == 2
    assert {5, 6} <= train or {5, 6} <= val
    assert read_remarks(tmp_path / "data") == [
        "40 images are frames of a video or copies of a picture (19 groups): each group stays in one set"
    ]


def test_frames_of_a_video_stay_in_one_part(write: Write, tmp_path: Path) -> None:
    raw = of_images(100)
    for image in raw["images"]:
        image["file_name"] = f"vid_{image['id'] % 10:06}_frame{image['id']:07}.jpg"
    train, val = (
        ({i % 10 for i in ids(part)}) for part in hold_out_validation(read_dataset(write(raw)), tmp_path / "data")
    )
    assert not train & val
    assert len(val) == 1
    for image in raw["images"]:  # the file says it itself
        image |= {"file_name": f"{image['id']}.jpg", "video_id": image["id"] % 10}
    train, val = (
        ({i % 10 for i in ids(part)}) for part in hold_out_validation(read_dataset(write(raw)), tmp_path / "data")
    )
    assert not train & val


def test_one_video_that_holds_most_images_is_no_reason_to_hold_out_nothing(write: Write, tmp_path: Path) -> None:
    raw = of_images(40)
    for image in raw["images"]:
        video = "short" if image["id"] < 5 else "middle" if image["id"] < 10 else "long"
        image["file_name"] = f"{video}_{image['id']}.jpg"
    _, val = hold_out_validation(read_dataset(write(raw)), tmp_path / "data")
    assert len(ids(val)) == 4
    (remark,) = read_remarks(tmp_path / "data")
    assert remark == "31 of 40 images would be frames of one video: they are not kept in one set"


def test_pictures_that_are_all_the_same_are_not_put_together(write: Write, tmp_path: Path) -> None:
    raw = of_images(20)
    path = write(raw)
    for image in raw["images"]:
        (tmp_path / image["file_name"]).write_bytes(b"black")
    _, val = hold_out_validation(read_dataset(path), tmp_path / "data")
    assert len(ids(val)) == 2
    (remark,) = read_remarks(tmp_path / "data")
    assert remark == "20 of 20 images would be files of one content: they are not kept in one set"


def test_names_that_number_the_images_of_a_class_lose_no_class(write: Write, tmp_path: Path) -> None:
    raw = of_images(40, classes=4)
    for image in raw["images"]:
        image["file_name"] = f"class_{image['id'] % 4}_{image['id']}.jpg"
    train, val = hold_out_validation(read_dataset(write(raw)), tmp_path / "data")
    assert len(ids(val)) == 4
    assert len(read_dataset(train).frequency.image_counts.nonzero()[0]) == 4
    assert read_remarks(tmp_path / "data") == [
        "too few images could be drawn if frames of one video stayed in one set: they may be in both"
    ]


@pytest.mark.filterwarnings("ignore:.*areas are negative")
def test_objects_that_evaluation_refuses_are_trained_on(write: Write, tmp_path: Path) -> None:
    raw = of_images(40)
    for annotation in raw["annotations"][::2]:
        annotation["area"] = -1
    _, val = hold_out_validation(read_dataset(write(raw)), tmp_path / "data")
    assert len(ids(val)) == 4
    read_dataset(val, use="masks")


@pytest.mark.filterwarnings("ignore:.*crowd regions are read as objects")
def test_a_file_of_crowds_is_told_so(write: Write, tmp_path: Path) -> None:
    raw = of_images(12)
    for annotation in raw["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(ValueError, match=r"all 12 annotations are crowd regions .*--data\.crowds objects"):
        hold_out_validation(read_dataset(write(raw)), tmp_path / "data")
    hold_out_validation(read_dataset(write(raw), crowds="objects"), tmp_path / "data")


def test_the_parts_of_a_run_are_found_as_they_were_written(many: RawDataset, write: Write, tmp_path: Path) -> None:
    parts = hold_out_validation(read_dataset(write(many)), tmp_path / "data")
    assert find_split(tmp_path / "data") == parts
    assert read_source_key(tmp_path / "data") == read_dataset(tmp_path / "set.json").key
    note = tmp_path / "data" / "held_out.json"
    old = json.loads(note.read_text())
    note.write_text(json.dumps({key: old[key] for key in ("of", "share", "bytes")}))  # as earlier versions wrote it
    assert (
        hold_out_validation(read_dataset(tmp_path / "set.json"), tmp_path / "data")
        == find_split(tmp_path / "data")
        == parts
    )
    note.unlink()
    assert find_split(tmp_path / "data") == parts
    note.write_text(json.dumps(old))
    parts[1].write_bytes(parts[1].read_bytes()[:100])
    with pytest.raises(ValueError, match=r"val\.json has changed.*--val"):
        find_split(tmp_path / "data")
    parts[1].unlink()
    with pytest.raises(ValueError, match=r"val\.json is missing"):
        find_split(tmp_path / "data")
