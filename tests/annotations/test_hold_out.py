"""A part of a data set is held out: whole, always the same, and without losing a class."""

import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations.hold_out import hold_out
from tailseg.annotations.read import read_dataset

RawDataset = dict[str, Any]
Write = Callable[..., Path]


def test_the_parts_are_the_whole(many: RawDataset, write: Write, tmp_path: Path) -> None:
    whole = read_dataset(write(many))
    parts = [read_dataset(path) for path in hold_out(whole, tmp_path / "data", share=0.3)]
    assert [part.num_images for part in parts] == [8, 4]
    found = {i: str(part.record(row)) for part in parts for row, i in enumerate(part.image_ids.tolist())}
    assert found == {i: str(whole.record(row)) for row, i in enumerate(whole.image_ids.tolist())}
    assert all([(c.id, c.name) for c in part.categories] == [(3, "three"), (7, "seven")] for part in parts)


def test_no_class_is_lost_to_training(many: RawDataset, write: Write, tmp_path: Path) -> None:
    """Image 4 alone has an object of the class 7, and image 5 a crowd, which teaches nothing."""
    many["annotations"].append({**many["annotations"][4], "id": 100, "image_id": 5, "iscrowd": 1})
    train, val = hold_out(read_dataset(write(many)), tmp_path / "data", share=0.99)
    assert read_dataset(train).image_ids.tolist().count(4) == 1
    assert read_dataset(val).num_images == 10  # and one stays for the class 3


def test_nothing_can_be_held_out(raw: RawDataset, write: Write, tmp_path: Path) -> None:
    del raw["annotations"][2]
    with pytest.raises(ValueError, match=r"no image can be held out .*name a validation set"):
        hold_out(read_dataset(write(raw)), tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_can_be_read_can_be_split(encoding: str, many: RawDataset, write: Write, tmp_path: Path) -> None:
    """Files of Windows programs begin with a mark; a number that JSON does not have stands in a field nobody reads."""
    many["annotations"][0]["area"] = float("nan")
    path = write(many)
    path.write_text(path.read_text(), encoding=encoding)
    assert [read_dataset(part).num_images for part in hold_out(read_dataset(path), tmp_path / "data")] == [11, 1]


def test_the_parts_are_written_once(many: RawDataset, write: Write, tmp_path: Path) -> None:
    path = write(many)
    train, val = hold_out(read_dataset(path), tmp_path / "data")

    def inodes() -> list[int]:
        return [part.stat().st_ino for part in (train, val)]

    assert train.stat().st_mode == path.stat().st_mode, "whoever may read the whole may read the parts"
    first, content = inodes(), train.read_bytes()
    hold_out(read_dataset(path), tmp_path / "data")
    assert inodes() == first
    train.write_bytes(content[:100])  # cut short, as by a power failure
    hold_out(read_dataset(path), tmp_path / "data")
    assert train.read_bytes() == content
    many["categories"][0]["name"] = "other"
    write(many)
    hold_out(read_dataset(path), tmp_path / "data")
    assert b"other" in train.read_bytes()
    hold_out(read_dataset(path), tmp_path / "data", share=0.3)
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
            train, val = hold_out(annotations, tmp_path / str(turn))
            assert len(json.loads(train.read_bytes())["images"]) == 11
            assert len(json.loads(val.read_bytes())["images"]) == 1

    processes = [context.Process(target=split) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * 4
