"""`tailseg predict` on many images: tar files, lists and videos; interrupted, in parts, in batches."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from tailseg.cli import main
from tailseg.cli.predict import MAX_ERRORS, Predict, read_part
from tailseg.inference import Predictor


@pytest.fixture(scope="module")
def images(run: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 images, of which three are cut off."""
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    (photos,) = home.glob("tiny_tail-test-*/val")
    contents = [path.read_bytes() for path in sorted(photos.iterdir())]
    for number in range(24):
        content = contents[number % len(contents)]
        (folder / f"{number:02}.jpg").write_bytes(content[:150] if number % 8 == 5 else content)
    return folder


@pytest.fixture(scope="module")
def whole(run: Path, images: Path) -> dict[str, bytes]:
    """The files of one call."""
    out = images.parent / "whole"
    assert main(["predict", str(run), str(images), f"--out={out}", "--score-threshold=0"]) == 1
    return read(out)


def read(folder: Path) -> dict[str, bytes]:
    """The results files and pictures of a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def predict(run: Path, source: Path, out: Path, *options: str, code: int = 1) -> None:
    arguments = ["predict", str(run), str(source), f"--out={out}", "--score-threshold=0", *options]
    assert main(arguments) == code


def strip_names(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "file_name"} for record in records]


def read_lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_each_image_has_a_line_with_its_detections_or_its_error(whole: dict[str, bytes], images: Path) -> None:
    lines = [json.loads(line) for line in whole["results.jsonl"].splitlines()]
    assert [line["image_id"] for line in lines] == list(range(1, 25))
    assert [line["file_name"] for line in lines] == [str(path) for path in sorted(images.iterdir())]
    assert [line["image_id"] for line in lines if "error" in line] == [6, 14, 22]
    assert "05.jpg cannot be read" in lines[5]["error"]
    assert {"width", "height"} <= lines[0].keys()
    records = [{"file_name": line["file_name"], **record} for line in lines for record in line["detections"]]
    assert records
    assert json.loads(whole["results.json"]) == records
    call = json.loads(whole["predict.json"])
    assert (call["images"], call["finished"], call["settings"]["score_threshold"]) == (24, True, 0)


def test_a_tar_file_and_a_list_give_the_results_of_the_folder(
    run: Path, images: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    shards = [tmp_path / f"shard-{number}.tar" for number in range(2)]
    files = sorted(images.iterdir())
    for shard, part in zip(shards, (files[:10], files[10:]), strict=True):
        with tarfile.open(shard, "w") as archive:
            for file in part:
                archive.add(file, file.name)
    (tmp_path / "list.txt").write_text("\n".join(map(str, shards)))
    (tmp_path / "files.txt").write_text("\n".join(map(str, files)))
    records = json.loads(whole["results.json"])
    predict(run, tmp_path / "list.txt", tmp_path / "out")
    assert strip_names(json.loads((tmp_path / "out/results.json").read_text())) == strip_names(records)
    assert read_lines(tmp_path / "out")[11]["file_name"] == f"{shards[1]}/11.jpg"
    assert (tmp_path / "out/shard-1_11.jpg").is_file()
    predict(run, tmp_path / "files.txt", tmp_path / "listed")
    assert read(tmp_path / "listed") == whole


def test_a_video_gives_the_results_of_its_frames(run: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs the extra video")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(7):
            pixels = np.zeros((64, 96, 3), np.uint8)
            pixels[10:40, 5 * number : 5 * number + 30] = (250, 200, 10)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    predict(run, tmp_path / "clip.mp4", tmp_path / "out", "--frame-step=3", code=0)
    lines = read_lines(tmp_path / "out")
    assert [(line["frame"], line["seconds"]) for line in lines] == [(0, 0.0), (3, 0.3), (6, 0.6)]
    assert [line["file_name"].rpartition("#")[2] for line in lines] == ["0", "3", "6"]
    with av.open(str(tmp_path / "clip.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    predictor = Predictor.from_run(run)
    for line in lines:
        expected = predictor.detect(frames[line["frame"]]).scores.tolist()
        assert [record["score"] for record in line["detections"]] == expected
    assert (tmp_path / "out/clip_000003.jpg").is_file()


def test_what_was_killed_goes_on_and_ends_as_if_it_had_not(
    run: Path, images: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(run), str(images), f"--out={out}", "--score-threshold=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums are shared as here
    arguments = [sys.executable, "-m", "tailseg", *command]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, env=environment) as process:
        while process.poll() is None and (not (out / "results.jsonl").is_file() or len(read_lines_so_far(out)) < 7):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == -signal.SIGKILL, said
    done = len(read_lines_so_far(out))
    assert 7 <= done < 24
    predict(run, images, out, "--resume")
    assert read(out) == whole


def read_lines_so_far(out: Path) -> list[bytes]:
    return [line for line in (out / "results.jsonl").read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def test_resume_needs_the_same_call(run: Path, images: Path, tmp_path: Path, capsys) -> None:
    predict(run, images, tmp_path, "--resume", "--no-pictures")
    assert "has no results of `tailseg predict`" in capsys.readouterr().err
    predict(run, images, tmp_path, "--no-pictures")
    assert main(["predict", str(run), str(images), f"--out={tmp_path}", "--resume", "--score-threshold=0.5"]) == 1
    assert "score_threshold was 0.0 and is now 0.5" in " ".join(capsys.readouterr().err.split())
    predict(run, images / "00.jpg", tmp_path, "--resume", "--no-pictures")
    assert "has more images than there are now" in " ".join(capsys.readouterr().err.split())


def test_three_parts_become_the_results_of_one_call(
    run: Path, images: Path, whole: dict[str, bytes], tmp_path: Path, capsys
) -> None:
    for part in (3, 1, 2):
        predict(run, images, tmp_path, f"--part={part}/3")
        if part == 1:
            assert main(["merge", str(tmp_path)]) == 1
            assert "part-2-of-3 is missing: 2 of 3 parts are there" in " ".join(capsys.readouterr().err.split())
    capsys.readouterr()
    assert main(["merge", str(tmp_path)]) == 0
    merged = read(tmp_path)
    assert merged == {name: content for name, content in whole.items() if not name.endswith(".jpg")}
    count = len(json.loads(whole["results.json"]))
    said = " ".join(capsys.readouterr().out.split())
    assert f"{count} objects in 21 images; 3 images could not be read or drawn" in said
    pictures = {file.name: file.read_bytes() for file in tmp_path.glob("part-*/*.jpg")}
    assert pictures == {name: content for name, content in whole.items() if name.endswith(".jpg")}
    assert main(["merge", str(tmp_path)]) == 0, "its own files are replaced"


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5"])
def test_a_part_that_is_none(text: str, run: Path, images: Path, capsys) -> None:
    assert main(["predict", str(run), str(images), f"--part={text}"]) == 2
    assert "--part is K/N with K from 1 to N" in " ".join(capsys.readouterr().err.split())


def test_parts_are_read() -> None:
    assert [read_part(text) for text in (None, "1/1", "3/8")] == [(1, 1), (1, 1), (3, 8)]


def test_batches_find_the_same(run: Path, images: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Images of one size are not padded, so that only the order of sums differs."""
    predict(run, images, tmp_path, "--no-pictures", "--batch-size=5")
    found, expected = (read_lines(folder) for folder in (tmp_path, images.parent / "whole"))
    for line, other in zip(found, expected, strict=True):
        assert line["image_id"] == other["image_id"]
        one, two = (sorted(record["score"] for record in each["detections"])[-5:] for each in (line, other))
        assert one == pytest.approx(two, abs=1e-3)


def test_a_thousand_bad_files_are_counted_and_a_few_named(run: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(MAX_ERRORS + 15):
        (folder / f"{number:03}.jpg").write_bytes(b"no image")
    predict(run, folder, tmp_path / "out", "--no-pictures")
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("cannot be read") == MAX_ERRORS
    assert f"{MAX_ERRORS + 15} of {MAX_ERRORS + 15} images could not be read or drawn (see {tmp_path / 'out'}" in said


def test_a_picture_of_a_tar_file_replaces_no_other_file(run: Path, images: Path, tmp_path: Path, capsys) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(images / "00.jpg", "00.jpg")
    shutil.copy(images / "01.jpg", tmp_path / "a_00.jpg")
    predict(run, tmp_path / "a.tar", tmp_path)
    assert "a_00.jpg exists and is not a picture of predictions" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "a_00.jpg").read_bytes() == (images / "01.jpg").read_bytes()
    predict(run, tmp_path / "a.tar", tmp_path, "--overwrite", code=0)
    assert (tmp_path / "a_00.jpg").read_bytes() != (images / "01.jpg").read_bytes()


def test_tiles_and_views_have_their_place_in_the_image(run: Path, images: Path, tmp_path: Path) -> None:
    """Four copies of an image, each as large as a tile with its band, are detected like one in each corner."""
    with Image.open(images / "00.jpg") as opened:
        one = np.asarray(opened.convert("RGB").crop((0, 0, 96, 96)))
    Image.fromarray(np.tile(one, (2, 2, 1))).save(tmp_path / "four.png")
    options = ["--tiles=96", "--tile-overlap=0.05", "--flip", "--scales", "0.75", "1", "--no-pictures"]
    predict(run, tmp_path / "four.png", tmp_path / "out", *options, code=0)
    (line,) = read_lines(tmp_path / "out")
    assert (line["width"], line["height"]) == (192, 192)
    boxes = np.array([record["bbox"] for record in line["detections"]])
    assert (boxes[:, :2] + boxes[:, 2:] > 97).any(axis=0).all()
    assert (boxes[:, :2] < 90).any(axis=0).all()
    for record in line["detections"]:
        x, y, w, h = coco.toBbox(record["segmentation"])
        left, top, width, height = record["bbox"]
        assert x >= left - 2
        assert y >= top - 2
        assert x + w <= left + width + 2
        assert y + h <= top + height + 2
    call = json.loads((tmp_path / "out/predict.json").read_text())["settings"]
    assert (call["tiles"], call["views"]) == ([96, 0.05], [0.75, 1, True])


def test_rasters_and_ray_called_wrongly(run: Path, images: Path, capsys) -> None:
    for options, message in (
        (["--bands", "1", "2"], "--bands takes one band or three, got 2"),
        (["--values", "5", "5"], "--values is the value of black and a larger one of white, got 5 and 5"),
        (["--ray", "auto"], "--ray draws no pictures: add --no-pictures"),
    ):
        assert main(["predict", str(run), str(images), *options]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_the_examples_of_the_help_are_options() -> None:
    """A misspelled one would be found by a user first."""
    fields = {name.replace("_", "-") for name in Predict.__dataclass_fields__}
    words = [word for word in (Predict.__doc__ or "").split() if word.startswith("--")]
    assert {word[2:].removeprefix("no-") for word in words} <= fields
