"""`tailseg test` and `tailseg predict` on a trained run."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from tailseg.cli import main
from tailseg.cli.predict import PictureNames, describe_other_files, find_images
from tailseg.report.run import read_run

RESULTS = {"results.json", "results.jsonl", "predict.json"}
"""What `predict` writes without pictures."""


def test_test_evaluates_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    for name in ("results.json", "metrics.json"):
        (moved / name).unlink()
    assert main(["test", str(moved), "--checkpoint", "last"]) == 0
    shown = capsys.readouterr().out
    assert "APr" in shown
    assert "masks" in shown
    assert (moved / "results.json").read_text() == (run / "results.json").read_text()
    assert json.loads((moved / "metrics.json").read_text())["scores"].keys() == {"bbox", "segm"}


def test_test_takes_another_validation_set(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    other = photos.parent / "train.json"
    assert main(["test", str(moved), "--val", str(other)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "16 images" in shown
    assert f"`report` and `compare` take them as results of {other}, until" in shown
    scores = json.loads((moved / "metrics.json").read_text())["scores"]
    ours = read_run(moved).analysis.metrics.scores  # the run's own validation set has images with the same ids
    assert {kind: ours[kind]["AP"] for kind in scores} == {kind: scores[kind]["AP"] for kind in scores}
    assert read_run(moved).annotations.num_images == 16
    assert main(["compare", str(moved), str(run)]) == 2
    assert "which differ" in capsys.readouterr().err
    assert main(["test", str(moved)]) == 0
    assert "take them" not in capsys.readouterr().out
    assert read_run(moved).annotations.num_images == read_run(run).annotations.num_images


def test_test_refuses_other_classes(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((photos.parent / "val.json").read_text())
    content["categories"][0]["name"] = "something else"
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert main(["test", str(run), "--val", str(tmp_path / "other.json"), "--val-images", str(photos)]) == 1
    assert "something else" in capsys.readouterr().err


def test_test_says_before_it_begins_that_results_cannot_be_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("tailseg.detection.testing.detect_all", lambda *_args, **_named: pytest.fail("it has begun"))
    assert main(["test", str(run)]) == 1
    assert "cannot be written, but the results go there: copy the run" in " ".join(capsys.readouterr().err.split())


def test_predict_without_a_detection_says_how_to_see_the_best_ones(run, photos, tmp_path, capsys) -> None:
    arguments = [str(run), str(photos), "--no-pictures", f"--out={tmp_path / 'out'}"]
    assert main(["predict", *arguments, "--score-threshold=1"]) == 0
    note = " ".join(capsys.readouterr().out.split())
    command = re.search(r"--score-threshold is 1\. See the best detections with `tailseg (.*?)`", note)
    assert command, note
    assert main([*shlex.split(command[1]), "--no-pictures", f"--out={tmp_path / 'out'}"]) == 0
    assert json.loads((tmp_path / "out/results.json").read_text())


def test_predict_writes_results_and_pictures(run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    assert main(["predict", str(run), str(photos), "--out", str(out), "--score-threshold", "0"]) == 0
    results = json.loads((out / "results.json").read_text())
    images = sorted(photos.iterdir())
    assert {path.name for path in out.iterdir()} == {*RESULTS, *(f"{image.stem}.jpg" for image in images)}
    assert {record["file_name"] for record in results} <= {str(image) for image in images}
    for record in results:
        with Image.open(record["file_name"]) as image:
            assert coco.decode(record["segmentation"]).shape == (image.height, image.width)
        assert 0 <= record["score"] <= 1
        assert record["image_id"] == images.index(Path(record["file_name"])) + 1
        assert isinstance(record["category"], str)


def test_predict_names_a_folder_in_brackets(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    """Which are markup elsewhere."""
    out = tmp_path / "[v2]" / "[" / "b]"
    assert main(["predict", str(run), str(min(photos.iterdir())), "--out", str(out), "--no-pictures"]) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")


def test_predict_leaves_out_what_scores_less(run: Path, photos: Path, tmp_path: Path) -> None:
    image = min(photos.iterdir())
    out = ["--out", str(tmp_path), "--no-pictures"]
    assert main(["predict", str(run), str(image), *out, "--score-threshold", "0"]) == 0
    scores = sorted(record["score"] for record in json.loads((tmp_path / "results.json").read_text()))
    threshold = scores[len(scores) // 2]
    assert main(["predict", str(run), str(image), *out, "--score-threshold", str(threshold + 1e-9)]) == 0
    kept = [record["score"] for record in json.loads((tmp_path / "results.json").read_text())]
    assert sorted(kept) == [score for score in scores if score > threshold]
    assert {path.name for path in tmp_path.iterdir()} == RESULTS


def test_predict_in_half_precision_finds_about_the_same(run: Path, photos: Path, tmp_path: Path) -> None:
    scores = []
    for precision in ("float32", "bfloat16"):
        arguments = ["--out", str(tmp_path), "--no-pictures", "--score-threshold", "0", "--precision", precision]
        assert main(["predict", str(run), str(min(photos.iterdir())), *arguments]) == 0
        scores.append([record["score"] for record in json.loads((tmp_path / "results.json").read_text())])
    assert scores[0] != scores[1]
    assert scores[0][:5] == pytest.approx(scores[1][:5], abs=0.05)


def test_predict_names_a_bad_image_and_does_the_others(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = sorted(photos.iterdir())
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "truncated.jpg").write_bytes(first.read_bytes()[:200])
    shutil.copy(second, folder / "whole.jpg")
    assert main(["predict", str(run), str(folder), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "truncated.jpg" in error
    assert "1 of 2 images" in error
    assert (tmp_path / "out" / "whole.jpg").is_file()


def test_predict_names_an_image_that_cannot_be_drawn_and_keeps_what_was_found(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("L", (70_000, 4)).save(folder / "long.png")  # longer than a JPEG
    shutil.copy(min(photos.iterdir()), folder / "whole.jpg")
    out = tmp_path / "out"
    assert main(["predict", str(run), str(folder), "--out", str(out), "--score-threshold", "0"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"{folder / 'long.png'}: a picture of 70000 x 4 pixels cannot be written" in error
    assert "1 of 2 images could not be read or drawn" in error
    assert (out / "whole.jpg").is_file()
    assert not (out / "long.jpg").exists()
    assert {record["image_id"] for record in json.loads((out / "results.json").read_text())} >= {2}


def test_predict_goes_on_whatever_the_model_makes_of_one_image(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tailseg.inference import Predictor

    detect, seen = Predictor.detect_batch, []

    def fail_at_the_second(self, images, **options):
        seen.append(images)
        if len(seen) == 2:
            raise RuntimeError("out of memory")
        return detect(self, images, **options)

    monkeypatch.setattr(Predictor, "detect_batch", fail_at_the_second)
    images = sorted(photos.iterdir())[:3]
    out = ["--out", str(tmp_path / "out"), "--score-threshold", "0"]
    assert main(["predict", str(run), *map(str, images), *out]) == 1
    assert f"image {images[1]}: out of memory" in capsys.readouterr().err
    assert {record["image_id"] for record in json.loads((tmp_path / "out/results.json").read_text())} == {1, 3}


def bad_among(photos: Path, folder: Path, *, count: int, bad: int) -> Path:
    """A folder of so many images, some of which end after a few bytes."""
    folder.mkdir()
    contents = [path.read_bytes() for path in sorted(photos.iterdir())]
    for number in range(count):
        content = contents[number % len(contents)]
        is_bad = number % (count // bad) == 5
        (folder / f"{number:03}.jpg").write_bytes(content[:150] if is_bad else content)
    return folder


def found(out: Path) -> list[dict]:
    return json.loads((out / "results.json").read_text()) if (out / "results.json").is_file() else []


def last_image(out: Path) -> int:
    """Of what was found so far; 0 where the look meets the write of a record, of which it may see a part."""
    try:
        return (found(out) or [{"image_id": 0}])[-1]["image_id"]
    except json.JSONDecodeError:
        return 0


def check_stopped(run: Path, images: Path, out: Path, number: int, *, code: int, after: int) -> str:
    """Signals a prediction in the middle: what was found stands in a valid file, as without the signal."""
    arguments = ["predict", str(run), str(images), "--score-threshold", "0", "--out"]
    command = [sys.executable, "-m", "tailseg", *arguments, str(out)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums are shared by as many as here
    with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, **threads}) as process:
        while process.poll() is None and last_image(out) < after:
            time.sleep(0.005)
        process.send_signal(number)
        said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == code, said
    assert main([*arguments, str(out.parent / "whole"), "--no-pictures"]) == 1
    records, whole = found(out), found(out.parent / "whole")
    assert records == whole[: len(records)]
    assert after <= records[-1]["image_id"] < len(list(images.iterdir()))
    return said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_predict_stopped_in_the_middle_loses_nothing(
    run: Path, photos: Path, tmp_path: Path, number: int, code: int
) -> None:
    images = bad_among(photos, tmp_path / "images", count=30, bad=3)
    said = check_stopped(run, images, tmp_path / "out", number, code=code, after=8)
    if code == 130:
        assert "of 30 images; their detections are in" in " ".join(said.split())
        assert not list((tmp_path / "out").glob("*.unfinished"))


@pytest.mark.slow
def test_predict_of_five_hundred_images_with_ten_bad_ones_and_a_kill(run: Path, photos: Path, tmp_path: Path) -> None:
    images = bad_among(photos, tmp_path / "images", count=500, bad=10)
    check_stopped(run, images, tmp_path / "out", signal.SIGKILL, code=-9, after=250)


def test_predict_on_a_full_disk_keeps_what_was_found(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tailseg", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        assert main(["predict", str(run), str(photos), "--out", str(disk), "--score-threshold", "0"]) == 1
        assert "could not be written" in capsys.readouterr().err
        assert found(disk)
        assert not list(disk.glob(".*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_validation_images_that_cannot_be_read_are_named_and_the_others_evaluated(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(photos.parent, tmp_path / "data")
    moved = shutil.copytree(run, tmp_path / "moved")
    arguments = ["test", str(moved), "--val", str(data / "val.json"), "--val-images", str(data / "val")]
    assert main(arguments) == 0
    whole = found(moved)
    first, second, *_ = images = sorted((data / "val").iterdir())
    kept = {path: path.read_bytes() for path in (first, second)}
    first.unlink()
    second.write_bytes(kept[second][:200])
    capsys.readouterr()
    assert main(arguments) == 1
    shown = capsys.readouterr()
    for image in (first, second):
        assert image.name in shown.err
    error = " ".join(shown.err.split())
    assert f"2 of {len(images)} images could not be used (see above)" in error
    assert "2 of" in shown.out
    assert "APr" in shown.out
    lost = {record["image_id"] for record in whole} - {record["image_id"] for record in found(moved)}
    assert len(lost) <= 2
    assert found(moved) == [record for record in whole if record["image_id"] not in lost]
    notes = json.loads((moved / "metrics.json").read_text())["notes"]
    assert any("2 of" in note and "count as images without detections" in note for note in notes)
    for path, content in kept.items():
        path.write_bytes(content)
    assert main(arguments) == 0
    assert found(moved) == whole
    shutil.rmtree(data / "val")
    (data / "val").mkdir()
    assert main(arguments) == 1
    assert f"{len(images)} images, and none can be used" in " ".join(capsys.readouterr().err.split())


def test_predict_called_wrongly(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["no/such/image.jpg"], "no/such/image.jpg does not exist"),
        ([], "name at least one image"),
        ([str(tmp_path)], "no images"),
        ([str(photos), "--score-threshold", "1.5"], "in [0, 1]"),
    ):
        assert main(["predict", str(run), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_find_images_looks_into_folders_in_order(tmp_path: Path) -> None:
    images = ["a.jpg", "b.PNG", "below.jpg/c.jpeg", "d.webp", "e.gif", "f.tif", "g.TIFF", "h.bmp", "i.jfif", "j.jpe"]
    for name in (*images, "notes.txt", "k.heic", "below.jpg/l.HEIC", "m.svs", "n", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path, tmp_path / "a.jpg"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == images
    expected = "left out: 4 files of other formats (.heic, .svs, without ending)"
    assert sorted(describe_other_files([tmp_path, tmp_path / "a.jpg"]).split()) == sorted(expected.split())
    assert describe_other_files([tmp_path / "a.jpg"]) == ""


def test_predict_reads_what_folders_hold_and_says_what_it_leaves_out(run: Path, photos: Path, tmp_path: Path, capsys):
    """The picture of one photograph in each format, and turned by EXIF: the same objects, in pixels as it is shown."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "slide.svs").touch()
    with Image.open(min(photos.iterdir())) as photo:
        shown = photo.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 8
    for name in ("a.png", "b.bmp", "c.tiff"):
        shown.save(folder / name)
    shown.transpose(Image.Transpose.ROTATE_270).save(folder / "d.png", exif=exif)

    assert main(["predict", str(run), str(folder), f"--out={tmp_path / 'out'}", "--score-threshold=0"]) == 0

    assert "left out: 1 file of other formats (.svs)" in capsys.readouterr().out
    found = {}
    for record in json.loads((tmp_path / "out" / "results.json").read_text()):
        name = Path(record.pop("file_name")).name
        found.setdefault(name, []).append({**record, "image_id": 0})
    assert found["a.png"]
    assert found["a.png"] == found["b.bmp"] == found["c.tiff"] == found["d.png"]
    with Image.open(tmp_path / "out" / "a.jpg") as plain, Image.open(tmp_path / "out" / "d.jpg") as turned:
        assert plain.size == turned.size


def test_pictures_of_the_same_name_do_not_overwrite_each_other() -> None:
    names = PictureNames()
    assert [names.choose(stem) for stem in ("a", "a", "A", "a_2")] == ["a.jpg", "a_2.jpg", "A_3.jpg", "a_2_2.jpg"]


def test_predict_writes_over_no_image(run: Path, photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """By another path, by a link, by the case of its letters, in the folder of the images."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    first = min(folder.iterdir())
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / first.name).hardlink_to(first)
    upper = tmp_path / "upper"
    upper.mkdir()
    shutil.copy(first, upper / "A.JPG")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.chdir(folder)
    for images, out in (
        (folder, folder),
        (first, folder),
        (first.name, "."),
        (folder, tmp_path / "link"),
        (tmp_path / "link", folder),
        (first, tmp_path / "linked"),
        (upper / "A.JPG", upper),
        (first, run),
    ):
        assert main(["predict", str(run), str(images), "--out", str(out), "--overwrite"]) == 2
        assert "name another folder (--out)" in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_predict_does_not_find_its_own_pictures(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "notes.jpg").write_text("mine")
    count = len(list(photos.iterdir()))
    for out in (folder / "found", folder / "found", tmp_path / "photos" / "other"):
        main(["predict", str(run), str(folder), "--out", str(out)])
        assert f"in {count} images" in " ".join(capsys.readouterr().out.split())
    assert (folder / "notes.jpg").read_text() == "mine"


def test_a_second_predict_leaves_no_picture_of_the_first(run: Path, photos: Path, tmp_path: Path) -> None:
    first, second, *_ = sorted(photos.iterdir())
    own = tmp_path / "own.jpg"
    shutil.copy(first, own)
    for image in (first, second):
        assert main(["predict", str(run), str(image), "--out", str(tmp_path)]) == 0
        assert {path.name for path in tmp_path.iterdir()} == {"own.jpg", *RESULTS, f"{image.stem}.jpg"}
    assert own.read_bytes() == first.read_bytes()
    assert main(["predict", str(run), str(first), "--out", str(tmp_path), "--no-pictures"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"own.jpg", *RESULTS}


def test_a_run_is_not_predicted_or_compared_into(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    """Not even when asked: another run's results are what is compared."""
    copy = shutil.copytree(run, tmp_path / "copy")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    results = str(copy / "results.json")
    for arguments in (
        ["predict", str(copy), str(photos), "--out", str(copy)],
        ["compare", str(run), str(copy), "--out", str(copy)],
        ["compare", str(run), str(copy), "--out", results],
        ["compare", str(run), str(copy), "--out", str(copy / "metrics.json")],
        ["eval", str(photos.parent / "val.json"), str(run / "results.json"), "--out", str(copy)],
        ["report", str(copy), "--out", str(copy / "recipe.json")],
    ):
        code = main([*arguments, *([] if arguments[0] == "eval" else ["--overwrite"])])
        assert code == 2, capsys.readouterr().err
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_predictions_score_the_same_in_any_order_of_the_annotation_file(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    """Their image_id count from 1; their file_name says which image is meant."""
    val = json.loads((photos.parent / "val.json").read_text())
    predict = ["predict", str(run), str(photos), "--no-pictures", "--score-threshold=0", "--no-calibrated"]
    assert main([*predict, f"--out={tmp_path / 'found'}"]) == 0
    results = str(tmp_path / "found" / "results.json")
    ids = [image["id"] for image in val["images"]]
    number = dict(zip(ids, np.random.default_rng(0).permutation(len(ids)) + 1, strict=True))
    scores = []
    for order, renumber in ((1, number.get), (-1, number.get), (1, lambda key: key + 1000)):
        truth = {
            **val,
            "images": [{**image, "id": int(renumber(image["id"]))} for image in val["images"][::order]],
            "annotations": [{**entry, "image_id": int(renumber(entry["image_id"]))} for entry in val["annotations"]],
        }
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        assert main(["eval", str(tmp_path / "truth.json"), results, f"--out={tmp_path / 'scores'}"]) == 0
        scores.append(json.loads((tmp_path / "scores" / "metrics.json").read_text())["per_class"])
    assert scores[0] == scores[1] == scores[2]
    assert max(entry["AR"] or 0 for entry in scores[0]["bbox"]) > 0
