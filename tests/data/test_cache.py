"""The cache of annotation files: the same as parsing, once, and never worse than parsing."""

import copy
import dataclasses
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

from tailseg.data import cache
from tailseg.data.annotations import Annotations, Contents
from tailseg.data.cache import cached, store_path
from tailseg.data.coco import parse, read_dataset
from tailseg.data.packed import Mapped
from tailseg.data.problems import DatasetError

RawDataset = dict[str, Any]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every file counts as large, its times as settled, and the caches are the test's own."""
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache, "CACHE_FROM", 0)
    monkeypatch.setattr(cache, "SETTLED", 0.0)
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
    return {name: array.tolist() for name, array in cache._arrays(contents).items()}


def same(one: Contents, other: Contents) -> bool:
    rest = ("key", "format", "category_ids", "category_names", "groups", "notes")
    return arrays(one) == arrays(other) and all(getattr(one, name) == getattr(other, name) for name in rest)


def no_parsing(path: Path) -> Contents:
    raise AssertionError(f"{path} was parsed again")


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_opening_reads_the_same_from_the_cache(kind: str, raw: RawDataset, write: Write) -> None:
    KINDS[kind](raw)
    path = write(raw)
    parsed = parse(path)
    assert same(cached(path, parse), parsed)
    assert same(cached(path, no_parsing), parsed)


def test_a_data_set_from_the_cache_is_the_data_set(many: RawDataset, write: Write) -> None:
    lvis(many)
    path = write(many)
    first, second = read_dataset(path), read_dataset(path)
    assert isinstance(second.objects.polygons.values, Mapped)
    assert first.categories == second.categories
    for i in range(first.num_images):
        one, other = first.record(i), second.record(i)
        assert str(one) == str(other)
    assert second.frequency.instance_counts.tolist() == first.frequency.instance_counts.tolist()
    assert second.key == first.key
    assert len(second.key) == 64


def test_notes_are_warned_of_each_time(raw: RawDataset, write: Write) -> None:
    repaired(raw)
    path = write(raw)
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 boxes reach up to"):
            read_dataset(path)


def test_small_files_are_not_cached(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CACHE_FROM", 1_000_000)
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
    assert cached(one, parse).key == cached(other, no_parsing).key
    assert len(list(folder.glob("*.safetensors"))) == 1


def test_an_edit_of_the_same_size_and_time_is_noticed(raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    before, status = cached(path, parse), path.stat()
    time.sleep(0.02)  # the kernel's clock ticks every few milliseconds
    with path.open("r+") as file:
        content = file.read().replace("seven", "eight")
        file.seek(0)
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = cached(path, parse)
    assert after.category_names == ("three", "eight")
    assert after.key != before.key
    assert [file.stem for file in folder.glob("*.safetensors")] == [after.key], "nobody has the old content any more"


def test_a_file_that_has_just_changed_is_hashed_again(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED", 1000.0)
    path = write(raw)
    cached(path, parse)
    assert not list(folder.glob("index/*"))
    assert same(cached(path, no_parsing), parse(path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stamp": 1, "key": 2}', '{"stamp": [], "key": "../../x"}'])
def test_a_damaged_index_is_made_anew(content: str, raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    cached(path, parse)
    (entry,) = folder.glob("index/*.json")
    right = entry.read_text()
    entry.write_text(content)
    assert same(cached(path, no_parsing), parse(path))
    assert json.loads(entry.read_text()) == json.loads(right)


def damage(file: Path, content: bytes) -> None:
    """Puts other bytes in the place of a cache file."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def reread(path: Path) -> tuple[Contents, list[str]]:
    """What is read, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return cached(path, parse), [str(warning.message) for warning in caught]


def test_any_flipped_bit_is_noticed_and_mended(raw: RawDataset, write: Write, folder: Path) -> None:
    lvis(raw)
    path = write(raw)
    parsed = cached(path, parse)
    file = store_path(folder, parsed.key)
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
        assert "is damaged or outdated" in warned[0]
        assert same(cached(path, no_parsing), parsed)


def test_a_truncated_or_extended_cache_is_noticed_and_mended(raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    parsed = cached(path, parse)
    file = store_path(folder, parsed.key)
    right = file.read_bytes()
    for content in (*(right[:end] for end in range(0, len(right), 97)), right[:-1], right + b"x", b"\xff" * 100):
        damage(file, content)
        found, warned = reread(path)
        assert same(found, parsed)
        assert len(warned) == 1
        assert same(cached(path, no_parsing), parsed)


def test_another_version_is_made_anew(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(raw)
    with monkeypatch.context() as older:
        older.setattr(cache, "VERSION", "0")
        cached(path, parse)
    found, warned = reread(path)
    assert same(found, parse(path))
    assert "another version" in warned[0]
    assert reread(path)[1] == []


def broken_objects(parsed: Contents, **change: Any) -> Contents:
    return dataclasses.replace(parsed, objects=dataclasses.replace(parsed.objects, **change))


def test_numbers_that_lead_out_of_the_arrays_are_refused_with_a_right_checksum(
    raw: RawDataset, write: Write, folder: Path
) -> None:
    path = write(raw)
    parsed = parse(path)
    objects = parsed.objects
    ragged = dataclasses.replace(parsed.names, offsets=parsed.names.offsets[::-1].copy())
    forged = [
        broken_objects(parsed, labels=objects.labels + 100),
        broken_objects(parsed, labels=objects.labels - 5),
        broken_objects(parsed, offsets=objects.offsets * 1000),
        broken_objects(parsed, offsets=objects.offsets[:-1].copy()),
        broken_objects(parsed, polygon_offsets=objects.polygon_offsets - 1),
        broken_objects(parsed, boxes=objects.boxes[:1].copy()),
        dataclasses.replace(parsed, names=ragged),
        dataclasses.replace(parsed, sizes=-parsed.sizes),
        dataclasses.replace(parsed, groups=("r",)),
        dataclasses.replace(parsed, category_names=("one",)),
    ]
    for contents in forged:
        cache._save(contents, folder)
        found, warned = reread(path)
        assert same(found, parsed)
        assert "its parts do not fit together" in warned[0]


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
    assert "could not be kept in" in warned[0]
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
    assert "could not be kept in" in warned[0]


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
    assert "is parsed each time: Could not determine home directory. Set TAILSEG_HOME to a folder" in warned[0]


def test_a_tilde_in_the_environment_is_the_home(
    raw: RawDataset, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("TAILSEG_HOME", "~/mine")
    cached(write(raw), parse)
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
    assert "could not be kept in" in warned[0]


def open_and_log(path: Path, log: Path) -> None:
    def logged(path: Path) -> Contents:
        with log.open("a") as file:
            file.write("parsed\n")
        time.sleep(0.2)
        return parse(path)

    contents = cached(path, logged)
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
    cached(path, parse)
    assert not left.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="relies on fork")
def test_nothing_stays_of_a_process_that_is_killed_while_it_writes(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(raw)
    cached(path, parse)
    whole = sorted(folder.iterdir())
    store_path(folder, parse(path).key).unlink()

    def killed(arrays: Any, file: Path, metadata: Any) -> None:
        """As safetensors does it: a name of its own beside the file's."""
        (file.parent / ".tmpA1b2C3").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "save_file", killed)
        process = multiprocessing.get_context("fork").Process(target=cached, args=(path, parse))
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert same(cached(path, parse), parse(path))
    assert sorted(folder.iterdir()) == whole


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_who_may_read_the_folder_may_read_the_cache(raw: RawDataset, write: Write, folder: Path) -> None:
    path = write(raw)
    cached(path, parse)
    assert store_path(folder, parse(path).key).stat().st_mode == path.stat().st_mode


def test_a_change_while_the_file_is_hashed_does_not_count_as_settled(
    raw: RawDataset, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may carry the time of the change before it: hashing a gigabyte takes longer than the clocks are coarse."""
    monkeypatch.setattr(cache, "SETTLED", 0.5)
    digest = hashlib.file_digest

    def slow(*args: Any) -> Any:
        time.sleep(0.7)
        return digest(*args)

    monkeypatch.setattr(hashlib, "file_digest", slow)
    cached(write(raw), parse)
    assert not list(folder.glob("index/*"))


def test_mapped_arrays_are_read_only_and_pickled_as_their_place(many: RawDataset, write: Write) -> None:
    big = copy.deepcopy(many)
    for annotation in big["annotations"]:
        annotation["segmentation"] = [[float(i % 40) for i in range(4000)]]
    path = write(big)
    annotations = read_dataset(path)
    with pytest.raises(ValueError, match="read-only"):
        annotations.objects.polygons.values[0] = 1
    pickled = pickle.dumps(annotations)
    assert len(pickled) < 10_000 < annotations.objects.polygons.values.nbytes
    again: Annotations = pickle.loads(pickled)
    assert str(again.record(3)) == str(annotations.record(3))
    part = pickle.loads(pickle.dumps(annotations.objects.boxes[2:4]))
    assert part.tolist() == annotations.objects.boxes[2:4].tolist()
