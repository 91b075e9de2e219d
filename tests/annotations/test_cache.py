"""The cache of annotation files: the same as parsing, once, and never worse than parsing."""

import copy
import hashlib
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from tailseg.annotations import cache, read
from tailseg.annotations.cache import get_cache_file, read_cached
from tailseg.annotations.dataset import Annotations, Contents, Record
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.ragged import Mapped, Ragged
from tailseg.annotations.read import parse, read_dataset

RawDataset = dict[str, Any]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every file counts as large, its times as settled, and the caches are the test's own."""
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache, "MIN_CACHED_BYTES", 0)
    monkeypatch.setattr(cache, "SETTLED_SECONDS", 0.0)
    return tmp_path / "home" / "annotations"


def boxes_only(raw: RawDataset) -> None:
    for annotation in raw["annotations"]:
        del annotation["segmentation"]


def run_lengths(raw: RawDataset) -> None:
    raw["annotations"][0]["segmentation"] = {"size": [36, 48], "counts": [100, 28, 1600]}
    raw["annotations"][1]["iscrowd"] = 1


def lvis(raw: RawDataset) -> None:
    for image in raw["images"]:
        image.update(neg_category_ids=[7], not_exhaustive_category_ids=[3, 7])
    for category in raw["categories"]:
        category["frequency"] = "c"


def repaired(raw: RawDataset) -> None:
    raw["annotations"][1]["bbox"] = [-1.5, 5, 50.5, 31.5]


def several_polygons(raw: RawDataset) -> None:
    raw["annotations"][0]["segmentation"] += [[1.5, 2, 3, 4, 5, 6.25]]


KINDS = {f.__name__: f for f in (boxes_only, run_lengths, lvis, repaired, several_polygons)}


def arrays(contents: Contents) -> dict[str, list[Any]]:
    return {name: array.tolist() for name, array in cache._collect_arrays(contents).items()}


def same(one: Contents, other: Contents) -> bool:
    rest = ("key", "format", "category_ids", "category_names", "groups", "problems", "text_ids")
    return arrays(one) == arrays(other) and all(getattr(one, name) == getattr(other, name) for name in rest)


def no_parsing(path: Path, *, key: str | None = None) -> Contents:
    raise AssertionError(f"{path} was parsed again")


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_opening_reads_the_same_from_the_cache(kind: str, raw: RawDataset, write: Write) -> None:
    KINDS[kind](raw)
    path = write(raw)
    parsed = parse(path)
    assert same(read_cached(path, parse), parsed)
    assert same(read_cached(path, no_parsing), parsed)


def test_a_data_set_from_the_cache_is_the_data_set(many: RawDataset, write: Write) -> None:
    lvis(many)
    path = write(many)
    first, second = read_dataset(path), read_dataset(path)
    assert isinstance(second.objects.polygons.values, Mapped)
    assert first.categories == second.categories
    for i in range(first.num_images):
        one, other = first.get_record(i), second.get_record(i)
        assert str(one) == str(other)
    assert second.frequency.instance_counts.tolist() == first.frequency.instance_counts.tolist()
    assert second.key == first.key
    assert len(second.key) == 64


def test_unusual_names_come_back_from_the_cache(raw: RawDataset, write: Write) -> None:
    for image, name in zip(raw["images"], ("bilder/grün 1:2.jpg", "a..b.jpg"), strict=True):
        image["file_name"] = name
    path = write(raw)
    parsed = parse(path)
    assert same(read_cached(path, parse), parsed)
    assert same(read_cached(path, no_parsing), parsed)
    assert parsed.names.text(0) == "bilder/grün 1:2.jpg\ngrün 1:2.jpg"


V0_5: RawDataset = {
    "info": {"version": "0.5", "year": 2019},
    "licenses": [{"id": 1, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
    "images": [
        {
            "id": 397133,
            "file_name": "COCO_val2014_000000397133.jpg",
            "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
            "height": 427,
            "width": 640,
            "neg_category_ids": [12, 1202],
            "not_exhaustive_category_ids": [7],
        },
        {
            "id": 37777,
            "file_name": "COCO_val2014_000000037777.jpg",
            "coco_url": "http://images.cocodataset.org/train2017/000000037777.jpg",
            "height": 230,
            "width": 352,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
        },
    ],
    "annotations": [
        {"id": 5, "image_id": 37777, "category_id": 1202, "area": 5000.0, "bbox": [10.0, 20.0, 100.0, 50.0]}
        | {"segmentation": [[10.0, 20.0, 110.0, 20.0, 110.0, 70.0, 10.0, 70.0]]},
        {"id": 9, "image_id": 397133, "category_id": 7, "area": 40.0, "bbox": [1.5, 2.25, 10.0, 4.0]}
        | {"segmentation": [[1.5, 2.25, 11.5, 2.25, 11.5, 6.25], [1.5, 2.25, 11.5, 6.25, 1.5, 6.25]]},
    ],
    "categories": [
        {"id": category_id, "name": name, "frequency": group, "image_count": 1, "instance_count": 1, "def": "a thing"}
        | {"synset": f"{name}.n.01", "synonyms": [name]}
        for category_id, name, group in ((1202, "zebra", "c"), (12, "apple", "f"), (7, "alligator", "r"))
    ],
}
"""LVIS v0.5: unlike v1's, an image has a ``file_name``, of COCO 2014, beside the ``coco_url`` of 2017."""


def plain(record: Record) -> list[Any]:
    """What it says, in lists."""
    arrays = (record.boxes, record.labels, record.annotation_ids, record.ignore_boxes)
    masks = [[polygon.tolist() for polygon in mask] for mask in record.segmentations if isinstance(mask, tuple)]
    return [[array.tolist() for array in arrays], masks, record.negative_ids, record.not_exhaustive_ids]


def test_lvis_v0_5_is_the_same_from_the_cache(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(V0_5)
    for place in ("val2017/000000397133.jpg", "COCO_val2014_000000037777.jpg"):  # by one name each
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    with monkeypatch.context() as without:
        without.setattr(cache, "MIN_CACHED_BYTES", 1_000_000)
        parsed = read_dataset(path)
    assert not isinstance(parsed.objects.boxes, Mapped)
    first = read_dataset(path)
    monkeypatch.setattr(read, "parse", no_parsing)
    for opened in (first, read_dataset(path)):
        assert isinstance(opened.objects.boxes, Mapped)
        assert (opened.key, opened.format, opened.notes) == (parsed.key, "lvis", ())
        assert opened.categories == parsed.categories
        assert [(c.id, c.name, c.group) for c in opened.categories] == [
            (7, "alligator", "r"),
            (12, "apple", "f"),
            (1202, "zebra", "c"),
        ]
        assert str(opened.frequency) == str(parsed.frequency)
        assert opened.frequency.image_counts.tolist() == [1, 0, 1]
        assert opened.image_ids.tolist() == [397133, 37777]
        assert opened.has_masks
        for i in range(2):
            assert plain(opened.get_record(i)) == plain(parsed.get_record(i))
            assert opened.get_info(i) == parsed.get_info(i)
        one, other = opened.get_record(0), opened.get_record(1)
        assert (one.negative_ids, one.not_exhaustive_ids) == ((12, 1202), (7,))
        assert (other.negative_ids, other.not_exhaustive_ids) == ((), ())
        assert one.boxes.tolist() == [[1.5, 2.25, 11.5, 6.25]]
        assert [len(polygon) for polygon in one.segmentations[0]] == [3, 3]
        assert (other.labels.tolist(), other.annotation_ids.tolist()) == ([2], [5])
        assert [Path(opened.get_info(i).file).relative_to(tmp_path).as_posix() for i in range(2)] == [
            "val2017/000000397133.jpg",
            "COCO_val2014_000000037777.jpg",
        ]


def test_notes_are_warned_of_each_time(raw: RawDataset, write: Write) -> None:
    repaired(raw)
    path = write(raw)
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 box reaches "):
            read_dataset(path)


def test_small_files_are_not_cached(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MIN_CACHED_BYTES", 1_000_000)
    assert read_dataset(write(raw)).num_images == 2
    assert not folder.exists()


def test_malformed_files_are_not_cached(raw: RawDataset, write: Write, folder: Path) -> None:
    raw["annotations"][0]["image_id"] = 5
    path = write(raw)
    for _ in range(2):
        with pytest.raises(DatasetError, match="unknown image"):
            read_dataset(path)
    assert not list(folder.glob("*.safetensors"))


def test_copies_of_a_file_share_a_cache(raw: RawDataset, write: Write, folder: Path) -> None:
    one, other = write(raw, name="one.json"), write(raw, name="other.json")
    assert read_cached(one, parse).key == read_cached(other, no_parsing).key
    assert len(list(folder.glob("*.safetensors"))) == 1


def test_an_edit_of_the_same_size_and_time_is_noticed(raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    before, status = read_cached(path, parse), path.stat()
    time.sleep(0.02)  # the kernel's clock ticks every few milliseconds
    with path.open("r+") as file:
        content = file.read().replace("seven", "eight")
        file.seek(0)
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = read_cached(path, parse)
    assert after.category_names == ("three", "eight")
    assert after.key != before.key
    assert [file.stem for file in folder.glob("*.safetensors")] == [after.key], "nobody has the old content any more"


def test_a_file_that_has_just_changed_is_hashed_again(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED_SECONDS", 1000.0)
    path = write(raw)
    read_cached(path, parse)
    assert not list(folder.glob("index/*"))
    assert same(read_cached(path, no_parsing), parse(path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stamp": 1, "key": 2}', '{"stamp": [], "key": "../../x"}'])
def test_a_damaged_index_is_made_again(content: str, raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    read_cached(path, parse)
    (entry,) = folder.glob("index/*.json")
    right = entry.read_text()
    entry.write_text(content)
    assert same(read_cached(path, no_parsing), parse(path))
    assert json.loads(entry.read_text()) == json.loads(right)


def damage(file: Path, content: bytes) -> None:
    """Puts other bytes in the place of a cache file."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def reread(path: Path) -> tuple[Contents, list[str]]:
    """What is read, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return read_cached(path, parse), [str(warning.message) for warning in caught]


def test_any_flipped_bit_is_noticed_and_repaired(raw: RawDataset, write: Write, folder: Path) -> None:
    lvis(raw)
    path = write(raw)
    parsed = read_cached(path, parse)
    file = get_cache_file(folder, parsed.key)
    right = file.read_bytes()
    rng = np.random.default_rng(0)
    positions = {*range(16), *rng.integers(len(right), size=300).tolist()}
    for position in positions:
        flipped = bytearray(right)
        flipped[position] ^= 1 << int(rng.integers(8))
        damage(file, bytes(flipped))
        found, warned = reread(path)
        assert same(found, parsed)
        assert len(warned) == 1
        assert "is damaged" in warned[0]
        assert same(read_cached(path, no_parsing), parsed)


def test_a_truncated_or_extended_cache_is_noticed_and_repaired(raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    parsed = read_cached(path, parse)
    file = get_cache_file(folder, parsed.key)
    right = file.read_bytes()
    for content in (*(right[:end] for end in range(0, len(right), 97)), right[:-1], right + b"x", b"\xff" * 100):
        damage(file, content)
        found, warned = reread(path)
        assert same(found, parsed)
        assert len(warned) == 1
        assert same(read_cached(path, no_parsing), parsed)


def test_another_version_is_made_again(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(raw)
    with monkeypatch.context() as older:
        older.setattr(cache, "VERSION", "0")
        read_cached(path, parse)
    found, warned = reread(path)
    assert same(found, parse(path))
    assert warned == [], "it is no damage"
    assert same(read_cached(path, no_parsing), found)


def test_the_cache_of_another_file_is_not_taken(raw: RawDataset, write: Write, folder: Path) -> None:
    """It is whole, and its checksum right."""
    path = write(raw)
    mine = read_cached(path, parse)
    raw["categories"][0]["name"] = "other"
    theirs = read_cached(write(raw, name="other.json"), parse)
    shutil.copy(get_cache_file(folder, theirs.key), get_cache_file(folder, mine.key))
    found, warned = reread(path)
    assert same(found, parse(path))
    assert len(warned) == 1
    assert "belongs to another file" in warned[0]
    assert same(read_cached(path, no_parsing), found)


Forge = Callable[[Contents], dict[str, Any]]
"""What a forged cache says in place of the contents, or of their objects."""


def text(*rows: str | bytes) -> Ragged:
    return Ragged.pack_text(rows)


def moved(ragged: Ragged, row: int, by: int) -> Ragged:
    """Where a row begins, and the one before ends."""
    return Ragged(ragged.values, moved_offsets(ragged.offsets, row, by))


def moved_offsets(offsets: np.ndarray, row: int, by: int) -> np.ndarray:
    return offsets + by * (np.arange(len(offsets)) == row % len(offsets))


FORGED: dict[str, Forge] = {
    "labels beyond the classes": lambda c: {"labels": c.objects.labels + 100},
    "negative labels": lambda c: {"labels": c.objects.labels - 5},
    "offsets beyond the objects": lambda c: {"offsets": c.objects.offsets * 1000},
    "offsets that go back": lambda c: {"offsets": moved_offsets(c.objects.offsets, 1, 100)},
    "negative offsets": lambda c: {"offsets": moved_offsets(c.objects.offsets, 1, -100)},
    "objects left out": lambda c: {"offsets": moved_offsets(c.objects.offsets, 2, -1)},
    "an offset too few": lambda c: {"offsets": c.objects.offsets[:-1].copy()},
    "no offsets": lambda c: {"offsets": np.zeros(0, np.int64)},
    "one offset, not a list of one": lambda c: {"offsets": np.array(0)},
    "polygons from -1": lambda c: {"first_polygons": c.objects.first_polygons - 1},
    "polygons beyond the last": lambda c: {"first_polygons": c.objects.first_polygons + 1},
    "more polygons than there are": lambda c: {"polygon_counts": c.objects.polygon_counts + 100},
    "fewer polygons than none": lambda c: {"polygon_counts": -c.objects.polygon_counts},
    "written boxes of NaN": lambda c: {"written_boxes": c.objects.written_boxes * np.nan},
    "infinite areas": lambda c: {"areas": c.objects.areas * np.inf},
    "coordinates beyond the last": lambda c: {"polygons": moved(c.objects.polygons, len(c.objects.polygons), 8)},
    "half a point": lambda c: {"polygons": moved(c.objects.polygons, 1, 1)},
    "two points": lambda c: {"polygons": moved(c.objects.polygons, 1, -4)},
    "fewer boxes": lambda c: {"boxes": c.objects.boxes[:1].copy()},
    "boxes beyond the image": lambda c: {"boxes": c.objects.boxes + np.float32(30)},
    "boxes wider than the image": lambda c: {"boxes": c.objects.boxes + np.float32([0, 0, 30, 0])},
    "boxes before the image": lambda c: {"boxes": c.objects.boxes - np.float32(11)},
    "boxes inside out": lambda c: {"boxes": c.objects.boxes[:, [2, 1, 0, 3]].copy()},
    "boxes of NaN": lambda c: {"boxes": c.objects.boxes * np.float32("nan")},
    "crowds of another byte": lambda c: {"ignored": np.array([0, 2, 255], np.uint8).view(bool)},
    "runs of fewer pixels": lambda c: {"run_lengths": Ragged.pack_text(["", "", "T10"])},
    "runs that go on": lambda c: {"run_lengths": Ragged.pack_text(["", "", "ooo"])},
    "runs of no text": lambda c: {"run_lengths": Ragged.pack_text(["", "", b"\xff\x00"])},
    "runs of two objects": lambda c: {"run_lengths": moved(c.objects.run_lengths, 2, 1)},
    "names cut elsewhere": lambda c: {"names": Ragged(c.names.values, c.names.offsets[::-1].copy())},
    "names beyond the folder": lambda c: {"names": text("../b.jpg", "a.jpg")},
    "names from the root": lambda c: {"names": text("b.jpg\n/etc/passwd", "a.jpg")},
    "names on another machine": lambda c: {"names": text("\\\\host\\b.jpg", "a.jpg")},
    "names on a drive": lambda c: {"names": text("C:b.jpg", "a.jpg")},
    "names with control characters": lambda c: {"names": text("b.jpg", "\0a.jpg")},
    "names too long": lambda c: {"names": text("b" * 300, "a.jpg")},
    "names of no text": lambda c: {"names": text(b"\xff", "a.jpg")},
    "no name": lambda c: {"names": text("b.jpg", "")},
    "an image twice": lambda c: {"image_ids": c.image_ids[[0, 0]]},
    "negative sizes": lambda c: {"sizes": -c.sizes},
    "sizes beyond all memory": lambda c: {"sizes": c.sizes * 2**40},
    "other groups": lambda c: {"groups": ("r", "x")},
    "a group for two classes": lambda c: {"groups": ("r",)},
    "a name for two classes": lambda c: {"category_names": ("one",)},
    "half a character": lambda c: {"category_names": ("three", "\ud800")},
    "a class twice": lambda c: {"category_ids": (3, 3)},
    "classes out of order": lambda c: {"category_ids": (7, 3)},
    "a class of no number": lambda c: {"category_ids": (3, True)},
    "absent classes that are none": lambda c: {"negative": Ragged(c.negative.values + 1, c.negative.offsets)},
    "absent classes beyond the last": lambda c: {"negative": moved(c.negative, -1, 1)},
    "incomplete classes that are none": lambda c: {
        "not_exhaustive": Ragged(-c.not_exhaustive.values, c.negative.offsets)
    },
    "a format without its lists": lambda c: {"format": "coco"},
    "another format": lambda c: {"format": "voc"},
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_cache_with_a_right_checksum_is_made_again(
    forge: Forge, raw: RawDataset, write: Write, folder: Path
) -> None:
    lvis(raw)
    run_lengths(raw)
    path = write(raw)
    parsed = parse(path)
    forged, objects = copy.copy(parsed), copy.copy(parsed.objects)
    for name, value in {"objects": objects, **forge(parsed)}.items():  # not by replace, which the tests let check types
        object.__setattr__(objects if hasattr(objects, name) else forged, name, value)
    cache._save(parsed, folder)
    assert same(read_cached(path, no_parsing), parsed)
    cache._save(forged, folder)
    found, warned = reread(path)
    assert same(found, parsed)
    assert len(warned) == 1
    assert "is damaged" in warned[0]
    assert same(read_cached(path, no_parsing), parsed)


@contextmanager
def full_disk(size: int) -> Generator[None]:
    """No file may grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_a_warning(raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    with full_disk(1000):
        found, warned = reread(path)
    assert same(found, parse(path))
    assert len(warned) == 1
    assert "could not be cached in" in warned[0]
    assert "Set TAILSEG_HOME to a folder with" in warned[0]
    assert not [file for file in folder.iterdir() if file.suffix != ".lock" and file.name != "index"]


def test_a_home_that_cannot_be_written_costs_a_warning(
    raw: RawDataset, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path / "file"))
    path = write(raw)
    found, warned = reread(path)
    assert same(found, parse(path))
    assert len(warned) == 1
    assert "could not be cached in" in warned[0]


def test_a_user_without_a_home_has_no_cache(raw: RawDataset, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as any number: expanduser finds no such user."""
    monkeypatch.delenv("TAILSEG_HOME")

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setattr(Path, "home", lambda: homeless(Path()))
    path = write(raw)
    found, warned = reread(path)
    assert same(found, parse(path))
    assert len(warned) == 1
    assert "is parsed each time: Could not determine home directory. Set TAILSEG_HOME to a writable folder" in warned[0]


def test_a_tilde_in_the_environment_is_the_home(
    raw: RawDataset, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("TAILSEG_HOME", "~/mine")
    read_cached(write(raw), parse)
    assert len(list((tmp_path / "mine" / "annotations").glob("*.safetensors"))) == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="root alone can become another user")
@pytest.mark.parametrize("mode", [0o000, 0o555], ids=["unreadable", "read_only"])
def test_a_home_of_another_user_costs_a_warning(
    mode: int, raw: RawDataset, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TemporaryDirectory() as place:  # the folders above tmp_path are for one user only
        path, home = Path(place) / "set.json", Path(place) / "home"
        shutil.copy(write(raw), path)
        parsed = parse(path)
        monkeypatch.setenv("TAILSEG_HOME", str(home))
        home.mkdir()
        home.chmod(mode)
        Path(place).chmod(0o755)
        os.seteuid(12345)
        try:
            found, warned = reread(path)
        finally:
            os.seteuid(0)
    assert same(found, parsed)
    assert len(warned) == 1
    assert "could not be cached in" in warned[0]


def open_and_log(path: Path, log: Path) -> None:
    def logged(path: Path, *, key: str | None = None) -> Contents:
        with log.open("a") as file:
            file.write("parsed\n")
        time.sleep(0.2)
        return parse(path)

    contents = read_cached(path, logged)
    with log.open("a") as file:
        file.write(f"{contents.objects.polygons.values.sum()}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="relies on fork")
def test_of_many_processes_one_parses(many: RawDataset, write: Write, tmp_path: Path) -> None:
    path, log = write(many), tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=open_and_log, args=(path, log)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    lines = log.read_text().split()
    assert lines.count("parsed") == 1
    assert lines.count(str(parse(path).objects.polygons.values.sum())) == 6


def test_what_a_killed_process_left_is_cleared_away(raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    folder.mkdir(parents=True)
    left = folder / f".{parse(path).key}-abc.unfinished"
    left.write_bytes(b"x")
    read_cached(path, parse)
    assert not left.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="relies on fork")
def test_nothing_stays_of_a_process_that_is_killed_while_it_writes(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(raw)
    read_cached(path, parse)
    whole = sorted(folder.iterdir())
    get_cache_file(folder, parse(path).key).unlink()

    def killed(arrays: Any, file: Path, metadata: Any) -> None:
        file.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_arrays", killed)
        process = multiprocessing.get_context("fork").Process(target=read_cached, args=(path, parse))
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert same(read_cached(path, parse), parse(path))
    assert sorted(folder.iterdir()) == whole


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_who_may_read_the_folder_may_read_the_cache(raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    read_cached(path, parse)
    assert get_cache_file(folder, parse(path).key).stat().st_mode == path.stat().st_mode


def test_a_change_while_the_file_is_hashed_does_not_count_as_settled(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may carry the time of the change before it: hashing a gigabyte takes longer than the clocks are coarse."""
    monkeypatch.setattr(cache, "SETTLED_SECONDS", 0.5)
    digest = hashlib.file_digest

    def slow(*args: Any) -> Any:
        time.sleep(0.7)
        return digest(*args)

    monkeypatch.setattr(hashlib, "file_digest", slow)
    read_cached(write(raw), parse)
    assert not list(folder.glob("index/*"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_cache_file_is_mapped_once(many: RawDataset, write: Write) -> None:
    path = write(many)
    read_cached(path, parse)
    opened = read_cached(path, no_parsing)
    assert Path("/proc/self/maps").read_text().count(opened.key) == 1


def test_mapped_arrays_are_read_only_and_pickled_as_their_place(many: RawDataset, write: Write) -> None:
    big = copy.deepcopy(many)
    for annotation in big["annotations"]:
        annotation["segmentation"] = [[10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0] * 500]
    path = write(big)
    annotations = read_dataset(path)
    with pytest.raises(ValueError, match="read-only"):
        annotations.objects.polygons.values[0] = 1
    pickled = pickle.dumps(annotations)
    assert len(pickled) < 10_000 < annotations.objects.polygons.values.nbytes
    again: Annotations = pickle.loads(pickled)
    assert str(again.get_record(3)) == str(annotations.get_record(3))
    part = pickle.loads(pickle.dumps(annotations.objects.boxes[2:4]))
    assert part.tolist() == annotations.objects.boxes[2:4].tolist()


def test_a_file_that_is_edited_while_it_is_opened_is_not_kept_under_the_key_of_before(
    raw: RawDataset, write: Write, folder: Path
) -> None:
    path = write(raw)
    before = parse(path).key

    def edited(path: Path, *, key: str | None = None) -> Contents:
        path.write_bytes(path.read_bytes() + b" ")
        return parse(path, key=key)

    contents = read_cached(path, edited)
    assert contents.key == hashlib.sha256(path.read_bytes()).hexdigest() != before
    assert not list(folder.glob("*.safetensors"))
