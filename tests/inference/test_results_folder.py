"""Results that go on after a kill, and parts that become one call."""

import json
from pathlib import Path

import pytest

from tailseg.files import JsonLines, read_json_lines
from tailseg.inference.results_folder import ResultsFolder, make_line, merge_parts, name_part

SETTINGS = {"checkpoint": "best.pt", "score_threshold": 0.3}


def line(number: int) -> dict:
    """Of an image with as many objects as its number's last digit; each seventh has an error."""
    if number % 7 == 0:
        return make_line(number, f"{number}.jpg", {}, None, []) | {"error": "bad"}
    records = [{"category": "ant", "image_id": number, "score": score / 10} for score in range(number % 10)]
    return make_line(number, f"{number}.jpg", {}, (4, 5), records)


def detect(folder: Path, count: int, part=(1, 1), *, resume: bool = False, stop: int = 10**9) -> list[int]:
    """Writes results up to an image; returns the images that were not done."""
    fresh = []
    with ResultsFolder(folder, SETTINGS, part, resume=resume) as results:
        images = ((n, f"{n}.jpg", n) for n in range(1, count + 1) if n % part[1] == part[0] % part[1])
        for number, _, _ in results.skip_done(images):
            if number > stop:
                return fresh
            fresh.append(number)
            results.add_records(line(number))
            results.finish_image(line(number))
        results.finish(count)
    return fresh


def read(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """The files of one call."""
    detect(tmp_path / "whole", 23)
    return read(tmp_path / "whole")


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_call_goes_on_after_the_last_whole_line(cut: int, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    detect(out, 23, stop=9)
    lines = (out / "results.jsonl").read_bytes()
    (out / "results.jsonl").write_bytes(lines[: len(lines) - cut])  # a kill in the middle of a line
    (out / "results.json").write_bytes((out / "results.json").read_bytes()[:-20])
    assert detect(out, 23, resume=True) == list(range(9 + (cut == 0), 24))
    assert read(out) == whole
    assert detect(out, 23, resume=True) == []
    assert read(out) == whole


def test_lines_after_a_damaged_one_are_written_again(whole: dict[str, bytes], tmp_path: Path) -> None:
    detect(tmp_path, 23)
    lines = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
    lines[4] = b"\x00" * 20 + b"\n"
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines))
    assert detect(tmp_path, 23, resume=True) == list(range(5, 24))
    assert read(tmp_path) == whole


def test_a_call_does_not_go_on_with_other_images_or_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no results of `tailseg predict`"):
        detect(tmp_path, 5, resume=True)
    detect(tmp_path, 5)
    with pytest.raises(ValueError, match="score_threshold was 0.3 and is now 0.5. Give the same options"):
        ResultsFolder(tmp_path, SETTINGS | {"score_threshold": 0.5}, resume=True)
    with pytest.raises(ValueError, match=r"part was \[1, 1\] and is now \[1, 2\]"):
        ResultsFolder(tmp_path, SETTINGS, (1, 2), resume=True)
    with (
        ResultsFolder(tmp_path, SETTINGS, resume=True) as results,
        pytest.raises(ValueError, match=r"has 2.jpg as image 2, and now b.jpg is image 2: the images have changed"),
    ):
        list(results.skip_done(iter([(1, "1.jpg", None), (2, "b.jpg", None)])))
    for images, message in (
        ([(1, "1.jpg", None), (2, "b.jpg", None)], "has 2.jpg as image 2, and now b.jpg is image 2: the images have"),
        ([(1, "1.jpg", None)], "has more images than there are now"),
    ):
        with ResultsFolder(tmp_path, SETTINGS, resume=True) as results, pytest.raises(ValueError, match=message):
            list(results.skip_done(iter(images)))


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_parts_become_the_results_of_one_call_to_the_byte(count: int, whole: dict[str, bytes], tmp_path: Path) -> None:
    for number in range(1, count + 1):
        detect(tmp_path / name_part((number, count)), 23, (number, count))
    assert merge_parts(tmp_path) == (23, 3, len(json.loads(whole["results.json"])))
    assert read(tmp_path) == whole


def test_what_is_not_all_parts_of_one_call_is_not_merged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no parts"):
        merge_parts(tmp_path)
    first, second = (tmp_path / name_part((number, 2)) for number in (1, 2))
    detect(first, 23, (1, 2))
    with pytest.raises(ValueError, match="part-2-of-2 is missing: 1 of 2 parts are there"):
        merge_parts(tmp_path)
    detect(second, 23, (2, 2), stop=9)
    with pytest.raises(ValueError, match="part-2-of-2 is not finished: run its command with --resume"):
        merge_parts(tmp_path)
    detect(second, 24, (2, 2))
    with pytest.raises(ValueError, match="counted 24 images, and part-1-of-2 23: the images changed"):
        merge_parts(tmp_path)
    detect(second, 23, (2, 2))
    lines = (second / "results.jsonl").read_bytes().splitlines(keepends=True)
    (second / "results.jsonl").write_bytes(b"".join(lines[:3]))
    with pytest.raises(ValueError, match="lacks image 8: run the part again"):
        merge_parts(tmp_path)
    call = json.loads((second / "predict.json").read_text())
    (second / "predict.json").write_text(json.dumps(call | {"settings": SETTINGS | {"checkpoint": "last.pt"}}))
    with pytest.raises(ValueError, match='other settings than part-1-of-2: checkpoint was "best.pt" and is now "last'):
        merge_parts(tmp_path)


def test_lines_on_a_full_disk_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    with JsonLines(path) as lines:
        lines.add({"a": 1})

        class Full:
            def __init__(self, file):
                self.file = file

            def write(self, content):
                self.file.write(content[:3])
                raise OSError(28, "No space left on device")

            def __getattr__(self, name):
                return getattr(self.file, name)

        monkeypatch.setattr(lines, "_file", Full(lines._file))
        with pytest.raises(OSError, match="could not be written"):
            lines.add({"b": 2})
    assert [item for item, _ in read_json_lines(path)] == [{"a": 1}]
    assert path.read_bytes() == b'{"a": 1}\n'
