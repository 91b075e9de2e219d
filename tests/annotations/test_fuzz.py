"""Annotation files by strangers: whatever they hold, they are read, or refused with a message; nothing else happens."""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import read_dataset
from tailseg.ops.masks import segmentation_to_rle

RawDataset = dict[str, Any]

NASTY = [
    *[None, True, -1, 2**31, 2**63, 2**64, 10**400, 1e308, float("nan"), float("inf")],
    *["", "../../x", "/dev/zero", "a\n/etc/passwd", "\0", "\ud800", "x" * 5000, "a/" * 3000 + "a", "5:FIT", "T10"],
    *[[], {}, [[]], [[1, 2]], [None] * 6, [[1e400] * 6], [[10**400] * 6], {"size": [36, 48], "counts": [2**32, 1]}],
]
SCALARS = st.sampled_from(NASTY) | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["id", "size", "counts", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)
FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every value within a value, itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((*path, key), *places(inner, (*path, key)))]


def change(raw: RawDataset, place: tuple[Any, ...], to: Any) -> None:
    inside: Any = raw
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = copy.deepcopy(to)  # what is drawn may be drawn again, and then be put into itself


def read(path: Path) -> Annotations | DatasetError:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read_dataset(path)
        except DatasetError as error:
            return error


def test_the_file_that_is_changed_is_accepted(everything: RawDataset, write: Callable[..., Path]) -> None:
    """Else no change to it would be looked at any further."""
    assert read_dataset(write(everything)).num_objects == 3


def use(path: Path) -> None:
    """Reads the file, and if it is accepted everything that it says."""
    annotations = read(path)
    if isinstance(annotations, DatasetError):
        assert str(path) in str(annotations)
        assert len(str(annotations)) < 4_000
        return
    for i in range(annotations.num_images):
        record = annotations.get_record(i)
        for mask in record.segmentations:
            segmentation_to_rle(mask, *annotations.sizes[i].tolist())
        with pytest.raises(ImageError):
            annotations.get_info(i)


@pytest.fixture
def everything(raw: RawDataset) -> RawDataset:
    """A file with all that the reader knows."""
    for image in raw["images"]:
        image.update(coco_url="http://x.org/train/a.jpg", neg_category_ids=[7], not_exhaustive_category_ids=[3])
    for category in raw["categories"]:
        category["frequency"] = "r"
    raw["annotations"][0]["segmentation"] = {"size": [36, 48], "counts": [100, 28, 1600]}
    raw["annotations"][1]["segmentation"] = {"size": [36, 48], "counts": "T3l0Pb1"}
    for annotation in raw["annotations"][:2]:
        annotation.update(bbox=[2, 0, 2, 36], area=28)
    raw["annotations"][1]["ignore"] = 0
    return raw


@pytest.mark.parametrize("value", NASTY, ids=range(len(NASTY)))
def test_each_nasty_value_in_each_place(value: object, everything: RawDataset, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for place in places(everything):
        raw = copy.deepcopy(everything)
        change(raw, place, value)
        path.write_text(json.dumps(raw))
        use(path)


@FUZZ
@given(data=st.data())
def test_any_values_in_any_places(data: st.DataObject, everything: RawDataset, tmp_path: Path) -> None:
    raw = copy.deepcopy(everything)
    for _ in range(data.draw(st.integers(1, 3))):
        change(raw, data.draw(st.sampled_from(places(raw))), data.draw(VALUES))
    path = tmp_path / "x.json"
    path.write_text(json.dumps(raw))
    use(path)


@FUZZ
@given(data=st.data())
def test_any_bytes_in_any_place(data: st.DataObject, everything: RawDataset, tmp_path: Path) -> None:
    content = json.dumps(everything).encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.sampled_from([start, start + 1, start + 20, len(content)]))
    path = tmp_path / "x.json"
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=6)) + content[end:])
    use(path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"images":' * 50_000,
        b'{"images":[{"id":1}],"annotations":[' + b"[" * 100_000 + b"]" * 100_000 + b'],"categories":[{"id":1}]}',
        b'{"images":[{"id":1}],"annotations":[{"id":' + b"9" * 5000 + b'}],"categories":[{"id":1}]}',
        "{}".encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b"\0" * 1000,
    ],
)
def test_files_made_to_break_a_parser(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError):
        read_dataset(path)


@pytest.mark.parametrize("place", ["segmentation", "category_id"])
def test_lists_as_deep_as_can_be_read_are_refused(place: str, raw: RawDataset, tmp_path: Path) -> None:
    """A record is read again for the message, with less of the stack left."""
    path = tmp_path / "x.json"
    raw["annotations"][0][place] = "deep"
    content = json.dumps(raw)
    for depth in range(700, 1000):
        path.write_text(content.replace('"deep"', "[" * depth + "]" * depth))
        assert isinstance(read(path), DatasetError)


def test_a_name_of_two_lines_does_not_lead_out_of_the_folder(
    raw: RawDataset, write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "secret.jpg").touch()
    raw["images"][0]["file_name"] = f"none.jpg\n{tmp_path}/secret.jpg"
    with pytest.raises(DatasetError, match="file name is not valid, or leads out"):
        read_dataset(write(raw), images=tmp_path / "photographs")
