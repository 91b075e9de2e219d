"""Which names are those of frames of one video, or of augmentations of one picture."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailseg.annotations.hold_out import hold_out_validation
from tailseg.annotations.read import read_dataset
from tailseg.annotations.videos import find_scenes

RawDataset = dict[str, Any]
Write = Callable[..., Path]

TOGETHER = {
    "a number behind the video": "vid{video}_{frame:06}.jpg",
    "a word for frame": "vid{video}_frame_{frame:06}.png",
    "a folder a video": "{video:08x}/{frame:05}.jpg",
    "VisDrone": "{video:07}_02999_d_{frame:07}.jpg",
    "UAVDT": "M{video:04}_img{frame:06}.jpg",
    "TrashCan": "vid_{video:06}_frame{frame:07}.jpg",
    "Roboflow, augmented": "{video:06}_jpg.rf.{frame:032x}.jpg",
    "Roboflow, of frames": "clip{video}_{frame:04}_jpg.rf.216b2171bcaff25c08b6a632ffa40ed5.jpg",
}


@pytest.mark.parametrize("kind", TOGETHER)
def test_frames_of_a_video_belong_together(kind: str) -> None:
    videos = [video for video in range(4) for _ in range(5)]
    names = [TOGETHER[kind].format(video=video, frame=7 * place) for place, video in enumerate(videos)]
    found = find_scenes(names)
    assert [found.index(scene) for scene in found] == [5 * video for video in videos]


APART = {
    "COCO": [f"{139 * i:012}.jpg" for i in range(20)],
    "COCO 2014": [f"COCO_{part}2014_{139 * i:012}.jpg" for part in ("train", "val") for i in range(20)],
    "COCO with folders": [f"{part}2017/{139 * i:012}.jpg" for part in ("train", "val") for i in range(20)],
    "plain numbers": [f"a{i}.jpg" for i in range(20)],
    "one beginning": [f"clip_{i:04}.jpg" for i in range(20)],
    "cameras": [f"{camera}_{i:04}.jpg" for camera in ("IMG", "DSC") for i in range(20)],
    "one beginning for most": [*(f"IMG_{i:04}.jpg" for i in range(20)), "b_1.jpg", "b_2.jpg", "c_1.jpg", "c_2.jpg"],
    "single images of many": [f"{i:08x}_1.jpg" for i in range(20)],
    "classes": [f"{name}_{i}.jpg" for name in ("dog", "cat", "owl") for i in range(5)],
    "folders of classes": [f"{name}/{i}.jpg" for name in ("Dog", "cat", "owl") for i in range(5)],
}


@pytest.mark.parametrize("kind", APART)
def test_numbered_images_are_no_videos(kind: str) -> None:
    names = APART[kind]
    assert len(set(find_scenes(names, ["dog", "cat", "owl"]))) == len({Path(name).with_suffix("") for name in names})


def test_images_without_a_name() -> None:
    assert find_scenes(["", "", "a.jpg"]) == ["", "", "a.jpg"]


def test_two_videos_that_are_called_so() -> None:
    assert len(set(find_scenes([f"video{i % 2}_{i}.jpg" for i in range(10)]))) == 2
    assert len(set(find_scenes([f"scan{i % 2}_{i}.jpg" for i in range(10)]))) == 10


def test_a_split_does_not_part_a_video(many: RawDataset, write: Write, tmp_path: Path) -> None:
    many["annotations"] = [{**annotation, "category_id": 3} for annotation in many["annotations"]]
    for place, image in enumerate(many["images"]):
        image["file_name"] = f"clip{place % 4}_{place:04}.jpg"
    parts = [
        json.loads(part.read_bytes())
        for part in hold_out_validation(read_dataset(write(many)), tmp_path / "data", share=0.2)
    ]
    names = [{image["file_name"][:5] for image in part["images"]} for part in parts]
    assert [len(part["images"]) for part in parts] == [9, 3]
    assert not names[0] & names[1]


def test_a_split_goes_by_the_videos_of_the_file(many: RawDataset, write: Write, tmp_path: Path) -> None:
    many["annotations"] = [{**annotation, "category_id": 3} for annotation in many["annotations"]]
    many["videos"] = [{"id": video} for video in range(3)]
    for place, image in enumerate(many["images"]):
        image["video_id"] = place % 3
    annotations = read_dataset(write(many))
    parts = [json.loads(part.read_bytes()) for part in hold_out_validation(annotations, tmp_path / "data")]
    videos = [{image["video_id"] for image in part["images"]} for part in parts]
    assert [len(part["images"]) for part in parts] == [8, 4], "a long video, as there is no short one"
    assert not videos[0] & videos[1]


def test_a_video_that_alone_has_a_class_is_not_held_out(many: RawDataset, write: Write, tmp_path: Path) -> None:
    """Image 4, which alone has the class 7, is a frame of clip0."""
    for place, image in enumerate(many["images"]):
        image["file_name"] = f"clip{place % 2}_{place:04}.jpg"
    _, val = hold_out_validation(read_dataset(write(many)), tmp_path / "data")
    assert {image["file_name"][:5] for image in json.loads(val.read_bytes())["images"]} == {"clip1"}


def test_a_split_that_a_run_has_stays(many: RawDataset, write: Write, tmp_path: Path) -> None:
    """Made before videos were looked at: the run goes on with it."""
    for place, image in enumerate(many["images"]):
        image["file_name"] = f"clip{place % 4}_{place:04}.jpg"
    annotations = read_dataset(write(many))
    train, val = hold_out_validation(annotations, tmp_path / "data")
    (video, *_) = {image["file_name"][:5] for image in json.loads(val.read_bytes())["images"]}
    other = next(image["file_name"] for image in json.loads(train.read_bytes())["images"])
    parted = train.read_bytes().replace(other.encode(), f"{video}_9999.jpg".encode())
    train.write_bytes(parted)
    assert hold_out_validation(annotations, tmp_path / "data") == (train, val)
    assert train.read_bytes() == parted
