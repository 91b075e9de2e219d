"""Images that are in the training and in the validation file: `tailseg.annotations.leaks`."""

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tailseg.annotations.leaks import find_leaks
from tailseg.annotations.read import open_file

RawDataset = dict[str, Any]


def scenery(seed: int) -> Image.Image:
    """A picture unlike any other: a few soft lights."""
    lights = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(lights).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.fixture
def pair(raw: RawDataset, tmp_path: Path) -> Callable[..., dict[str, tuple[int, tuple[str, ...]]]]:
    """Writes ``train/x.json`` and ``val/x.json`` with images of these names, and finds what both have."""

    def find(train: Sequence[str], val: Sequence[str], *, decode: bool = False, **change: Any) -> dict[str, Any]:
        for part, names in (("train", train), ("val", val)):
            content = copy.deepcopy(raw)
            content["images"] = [{**raw["images"][0], "id": i, "file_name": name} for i, name in enumerate(names)]
            content["annotations"] = [{**raw["annotations"][0], "image_id": 0}]
            if part == "val":
                content |= change
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / "x.json").write_text(json.dumps(content))
        parts = [open_file(tmp_path / part / "x.json", images=tmp_path / part) for part in ("train", "val")]
        found = find_leaks(*parts, decode=decode)
        return {problem.kind.name: (problem.count, problem.examples) for problem in found}

    return find


def test_nothing_in_common(pair: Any) -> None:
    assert pair(["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"]) == {}


def test_the_same_names_where_the_files_are_not_there(pair: Any) -> None:
    assert pair(["a.jpg", "b.jpg"], ["b.jpg", "c.jpg"]) == {"leak_names": (1, ("b.jpg",))}


def test_a_name_of_two_different_pictures_is_no_leak(pair: Any, tmp_path: Path) -> None:
    """Both parts number their images from 1."""
    for number, part in enumerate(("train", "val")):
        (tmp_path / part).mkdir()
        scenery(number).save(tmp_path / part / "1.png")
        scenery(9).save(tmp_path / part / "2.png")
    assert pair(["1.png", "2.png"], ["1.png", "2.png"], decode=True) == {"leak_names": (1, ("2.png",))}


def test_the_same_content_under_another_name(pair: Any, tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    (tmp_path / "train" / "a.png").write_bytes(b"12345")
    (tmp_path / "train" / "b.png").write_bytes(b"123456")
    (tmp_path / "val" / "c.png").write_bytes(b"54321")
    (tmp_path / "val" / "d.png").write_bytes(b"123456")
    assert pair(["a.png", "b.png"], ["c.png", "d.png"]) == {"leak_content": (1, ("d.png has the content of b.png",))}


def test_frames_of_a_video_and_augmentations_of_a_picture(pair: Any) -> None:
    train = [f"clip{video}_{frame}.jpg" for video in range(3) for frame in range(4)]
    val = [f"clip{video}_{frame}.jpg" for video in (2, 3) for frame in range(10, 14)]
    assert pair(train, val) == {"leak_scenes": (1, ("clip2",))}
    assert pair(["a_jpg.rf.0123456789.jpg"], ["a_jpg.rf.9876543210.jpg"]) == {"leak_scenes": (1, ("a",))}
    assert pair(["a_jpg.rf.0123456789.jpg"], ["b_jpg.rf.9876543210.jpg"]) == {}


def test_the_same_looks(pair: Any, tmp_path: Path) -> None:
    """At half the size and as JPEG; pictures that show nothing, and damaged ones, look like none."""
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        Image.new("RGB", (160, 120), (30, 30, 30) if part == "val" else (90, 90, 90)).save(tmp_path / part / "flat.png")
        (tmp_path / part / f"damaged_{part}.png").write_bytes(b"no picture" * len(part))
    for seed in range(8):
        scenery(seed).save(tmp_path / "train" / f"{seed}.png")
        scenery(100 + seed).save(tmp_path / "val" / f"v{seed}.png")
    scenery(3).resize((80, 60)).save(tmp_path / "val" / "v3.jpg", quality=60)
    shutil.copy(tmp_path / "train" / "4.png", tmp_path / "val" / "v4.png")
    train = [*(f"{seed}.png" for seed in range(8)), "flat.png", "damaged_train.png"]
    val = ["v0.png", "v3.jpg", "v4.png", "flat.png", "damaged_val.png"]
    content = {"leak_content": (1, ("v4.png has the content of 4.png",))}
    assert pair(train, val) == content
    assert pair(train, val, decode=True) == content | {"leak_pixels": (1, ("v3.jpg looks like 3.png",))}


def test_classes_that_differ(pair: Any) -> None:
    categories = [{"id": 7, "name": "seven"}, {"id": 3, "name": "four"}]
    said = ("3 'four', only in the validation file", "3 'three', only in the training file")
    assert pair(["a.jpg"], ["b.jpg"], categories=categories) == {"classes_differ": (2, said)}


def test_classes_of_the_same_names_with_other_ids(pair: Any) -> None:
    categories = [{"id": 3, "name": "seven"}, {"id": 7, "name": "three"}]
    said = (
        "'three' is 3 in the training file and 7 in the validation file",
        "'seven' is 7 in the training file and 3 in the validation file",
    )
    assert pair(["a.jpg"], ["b.jpg"], categories=categories) == {"classes_differ": (2, said)}


@pytest.mark.parametrize("name", ["coco_tail", "trashcan"])
def test_real_splits_share_nothing(name: str, shared: Path) -> None:
    """TrashCan's pictures are hard to tell apart: fog, a black frame, and the same letters in all of them."""
    train, val = (open_file(shared / "data" / name / f"{part}.json") for part in ("train", "val"))
    assert find_leaks(train, val, decode=name == "coco_tail") == ()


@pytest.mark.slow
def test_fog_does_not_look_alike(shared: Path) -> None:
    train, val = (open_file(shared / "data/trashcan" / f"{part}.json") for part in ("train", "val"))
    assert find_leaks(train, val, decode=True) == ()
