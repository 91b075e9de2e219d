"""Frames of one video and copies of one picture are found by names and contents; plain numbered sets are left alone."""

from pathlib import Path

import numpy as np
import pytest

from tailseg.annotations.groups import group_by_content, group_by_name, merge_groups


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["000000052016.jpg", "000000052017.jpg"], [0, 1]),  # COCO
        (["train2017/000000000001.jpg", "train2017/000000000002.jpg", "val2017/000000000003.jpg"], [0, 1, 2]),  # LVIS
        (["a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg"], [0, 1, 2, 3]),  # no separator
        (["clip_0012.jpg", "clip_0013.jpg", "clip_0014.jpg"], [0, 1, 2]),  # one stem: a numbered set
        (["clip_0012.jpg", "clip_0013.jpg", "cat_1.jpg"], [0, 1, 2]),  # the other one has one number
        (["vid_000002_frame0000013", "vid_000002_frame0000014", "vid_000003_frame0000013"], [0, 1, 2]),
        (["vid_2_frame13.jpg", "vid_2_frame14.jpg", "vid_3_frame13.jpg", "vid_3_frame9.jpg", "x.jpg"], [0, 0, 1, 1, 2]),
        (
            ["a/img_1.jpg", "b/img_1.jpg", "c/img_1.jpg", "a/img_2.jpg", "b/img_2.jpg", "c/img_2.jpg"],
            [0, 1, 2, 0, 1, 2],
        ),
        (["a\\1.jpg", "a/1.jpg", "b/1.jpg"], [0, 0, 1]),  # one name is one file
        (["t/a_jpg.rf." + "0f" * 16 + ".jpg", "v/a_jpg.rf." + "1e" * 16 + ".jpg", "v/a.jpg"], [0, 0, 1]),  # Roboflow
    ],
)
def test_groups_by_name(names, groups):
    assert group_by_name(names).tolist() == groups


def test_frames_are_images_by_themselves_where_that_is_asked_for():
    names = ["vid_2_frame13.jpg", "vid_2_frame14.jpg", "vid_3_frame13.jpg", "vid_3_frame9.jpg", "vid_2_frame13.jpg"]
    assert group_by_name(names, videos=False).tolist() == [0, 1, 2, 3, 0]


def test_copies_are_found_by_content_whatever_they_are_called(tmp_path: Path):
    long = bytes(range(256)) * 200
    contents = [long, long[:-1] + b"x", b"y" + long[1:], b"short", long, b"other"]
    files: list[Path | None] = [tmp_path / str(place) for place in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        assert file
        file.write_bytes(content)
    assert group_by_content([*files, None, None, tmp_path / "none"]).tolist() == [0, 1, 2, 3, 0, 4, 5, 6, 7]


def test_groups_of_two_kinds_are_joined():
    one, other = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 1, 2, 3, 4])
    assert merge_groups(one, other).tolist() == [0, 0, 0, 0, 1, 2]
    assert merge_groups(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
