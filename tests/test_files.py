"""A file is whole or it is not there, and whoever cannot write one says which."""

import errno
import json
import multiprocessing
import os
import random
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors import SafetensorError

from tailseg.files import (
    DETECTIONS,
    EXAMPLES,
    PICTURE_FORMATS,
    JsonList,
    is_drawn,
    remove_unfinished,
    write_atomically,
    write_picture,
    write_text,
)


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    with write_atomically(path) as written:
        write(written)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_with(tmp_path / "x.pth", full)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_file_system_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)  # even of a file that is not there
    with pytest.raises(OSError, match=r"a\.pt could not be written \(.*Read-only file system\)"):
        write_with(tmp_path / "a.pt", refuse)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("no space left on device"), r"\(no space left on device\); \d+ MB are free there"),
        (RuntimeError("[enforce fail] short write\nframe 1"), r"\(\[enforce fail\] short write\); \d+ MB"),
        (SafetensorError("I/O error"), r"\(I/O error\); \d+ MB"),
        (OSError(), r"\(OSError\); \d+ MB"),
    ],
)
def test_whatever_the_writer_raises_the_file_is_named_and_the_old_one_stays(
    tmp_path: Path, error: Exception, told: str
) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise error

    write_text(tmp_path / "a.json", "old")
    with pytest.raises(
        OSError, match=rf"a\.json could not be written {told}.*Files that were saved before are complete"
    ):
        write_with(tmp_path / "a.json", fail)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "old")]


def test_an_error_of_what_is_written_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^a record is wrong$"), write_atomically(tmp_path / "a.json"):
        raise ValueError("a record is wrong")
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_on_the_disk_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "made" / "ü.txt", []

    def note(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), os.fstat(descriptor).st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", note)
    write_text(path, "ü")
    content, *folder = synced
    assert content == (False, 2, False)
    assert [(is_folder, there) for is_folder, _, there in folder] == [(True, True)] * (os.name == "posix")
    assert path.read_bytes() == "ü".encode()


def test_two_processes_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with write_atomically(path) as first, write_atomically(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_whoever_may_read_the_folder_may_read_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "")
    (tmp_path / "new").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a.json") as left:
        left.write_text("half")
        (tmp_path / "b.pt.unfinished").touch()  # as versions before wrote
        remove_unfinished(tmp_path)
        assert list(tmp_path.iterdir()) == []
        left.write_text("whole")
    remove_unfinished(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_free_space_is_named_when_the_disk_is_full(number: int, tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=r"a\.json could not be written") as told:
        write_with(tmp_path / "new" / "a.json", fail)
    assert ("MB are free there" in str(told.value)) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_a_folder_that_cannot_be_made_is_told_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"a\.json could not be written \(.*exists: .*file'\)"):
        write_text(tmp_path / "file" / "a.json", "")


@pytest.mark.parametrize("ending", PICTURE_FORMATS)
def test_a_picture_says_who_drew_it(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    picture = Image.effect_noise((300, 200), 90).convert("RGB")
    picture.save(path)
    assert not is_drawn(path)
    write_picture(path, picture, EXAMPLES)
    assert is_drawn(path)
    assert is_drawn(path, EXAMPLES)
    assert not is_drawn(path, DETECTIONS)
    with Image.open(path) as read:
        assert (read.size, read.format) == ((300, 200), PICTURE_FORMATS[ending])


def test_what_is_no_file_was_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert not any(map(is_drawn, (tmp_path, tmp_path / "empty.jpg", tmp_path / "missing.jpg")))


def test_a_list_is_valid_after_each_item_and_as_json_writes_it(tmp_path: Path) -> None:
    path, items = tmp_path / "list.json", [{"a": 1}, "é", [2.5, None]]
    path.write_text("what was there before, and is longer than what comes")
    with JsonList(path) as written:
        assert json.loads(path.read_text()) == []
        for count in range(3):
            written.add(items[count : count + 1])
            assert json.loads(path.read_text()) == items[: count + 1]
        assert written.count == 3
    assert path.read_text() == json.dumps(items)


def test_a_list_has_all_that_was_added_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    """Linux may end the write of a killed process at a page's end: then the item that is being written is cut."""
    path, moments = tmp_path / "list.json", random.Random(0)
    for _ in range(20):
        receiver, sender = multiprocessing.Pipe(duplex=False)

        def write(sender=sender) -> None:
            with JsonList(path) as written:
                for number in range(10_000_000):
                    written.add([{"number": number, "text": "x" * 300}])
                    sender.send_bytes(b"")

        process = multiprocessing.get_context("fork").Process(target=write)
        process.start()
        sender.close()
        said, end = 0, time.monotonic() + moments.uniform(0.05, 0.15)
        while time.monotonic() < end or not said:
            receiver.recv_bytes()
            said += 1
        process.kill()
        process.join()
        while receiver.poll():
            try:
                receiver.recv_bytes()
            except EOFError:
                break
            said += 1
        text = path.read_text()
        if not text.endswith("]"):
            text = text[: text.rindex("}, {") + 1] + "]"
        numbers = [item["number"] for item in json.loads(text)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in (said, said + 1)


def test_a_full_disk_leaves_the_list_as_it_was(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tailseg", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        path = tmp_path / "list.json"
        with (
            JsonList(path) as written,
            pytest.raises(OSError, match=r"list\.json could not be written .*No space left"),
        ):
            written.add([number, "x" * 1000] for number in range(1000))
        items = json.loads(path.read_text())
        assert [number for number, _ in items] == list(range(written.count))
        assert written.count > 40
    finally:
        subprocess.run(["umount", tmp_path], check=True)
