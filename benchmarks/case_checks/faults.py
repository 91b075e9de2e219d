"""Files written over, splits drawn again, calls that lose their work; losses, training and settings."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from case_checks.desk import ROOT, SHORT, Answer, Desk, case, image_names, line, says, scores, sums, unharmed


@case("faults/holdout-resplit")
def _(desk: Desk) -> Iterator[Answer]:
    shutil.copytree(desk.cases / "trials/05-same-picture-twice/images", desk.here / "images")
    content = json.loads((desk.cases / "trials/05-same-picture-twice/twice.json").read_text())
    images = content["images"][:20]
    kept = {image["id"] for image in images}
    objects = [record for record in content["annotations"] if record["image_id"] in kept]
    last = {record["image_id"] for record in objects if record["image_id"] != images[-1]["id"]}
    write(desk.here / "my.json", content, [image for image in images if image["id"] in last], objects)
    code, text = desk.tailseg("train", "my.json", *SHORT, "--run.out", "r")
    assert code == 0, text
    trained = image_names(desk.here / "r/data/train.json")
    write(desk.here / "my.json", content, images, objects)
    said = desk.tailseg("test", "r")
    both = len(trained & image_names(desk.here / "r/data/val.json"))
    yield "no image was trained on", f"exit {said[0]}, {both} of the validation images", both == 0


def write(path: Path, content: dict[str, Any], images: list[Any], objects: list[Any]) -> None:
    """A part of an annotation file."""
    kept = {image["id"] for image in images}
    part = [record for record in objects if record["image_id"] in kept]
    path.write_text(json.dumps({**content, "images": images, "annotations": part}))


@case("faults/predict-over-originals")
def _(desk: Desk) -> Iterator[Answer]:
    before = sums(desk.here)
    yield unharmed(before, desk.here, desk.tailseg("predict", desk.run, "photo.jpg", "--out", "."))


@case("faults/records-wrong-is-one-short")
def _(desk: Desk) -> Iterator[Answer]:
    said = desk.tailseg("eval", "truth.json", "results.json")
    right = scores(said, "masks") is not None or re.search(r"3 of 3", said[1]) is not None
    yield "all 3 records are counted, or polygons scored", line(said, "masks|records"), right


@case("faults/run-out-over-data")
def _(desk: Desk) -> Iterator[Answer]:
    data = desk.cases / "trials/22-class-never-in-training"
    shutil.copytree(data, desk.here / "data")
    for source, name in (("ann.json", "train.json"), ("no3.json", "val.json")):
        shutil.move(desk.here / "data" / source, desk.here / "data" / name)
    before = sums(desk.here)
    yield unharmed(before, desk.here, desk.tailseg("train", "data/train.json", *SHORT, "--run.out", "."))


@case("faults/same-name-in-two-folders")
def _(desk: Desk) -> Iterator[Answer]:
    text = "from tailseg.annotations.read import read_dataset as r; print(r('set/train/all.json').get_info(1).file)"
    yield says("image 2 is valid/0001.png", desk.call(sys.executable, "-c", text), r"set/valid/0001\.png")


@case("faults/tall-picture")
def _(desk: Desk) -> Iterator[Answer]:
    shutil.copy(desk.cases / "faults/predict-over-originals/photo.jpg", desk.here / "good.jpg")
    said = desk.tailseg("predict", desk.run, "good.jpg", "z_scan.png", "--out", "o")
    kept = (desk.here / "o/results.json").exists()
    yield says("named, results kept, exit 1", said, r"z_scan\.png", code=1 if kept else -1)


@case("numerics/average_short_run")
def _(desk: Desk) -> Iterator[Answer]:
    yield desk.test("tests/training/test_optimizer.py")


@case("numerics/bags_processes")
def _(desk: Desk) -> Iterator[Answer]:
    yield desk.test("tests/losses/test_processes.py")


@case("numerics/batchnorm_processes")
def _(desk: Desk) -> Iterator[Answer]:
    yield desk.test("tests/training/test_norms.py")


@case("numerics/fractal_nan")
def _(desk: Desk) -> Iterator[Answer]:
    text = (
        "import torch; from tailseg.detection.recalibration import fractal_dimensions as f\n"
        "print(f(torch.rand(50, 2), torch.zeros(50).long(), num_classes=1, max_grid=1))"
    )
    said = desk.call(sys.executable, "-c", text)
    yield "refused, or 1", line(said), "nan" not in said[1] and ("ValueError" in said[1] or "1." in said[1])


@case("numerics/ldam_accumulate")
def _(desk: Desk) -> Iterator[Answer]:
    yield desk.test("tests/training/test_accumulation.py")


@case("numerics/nonfinite_gradient")
def _(desk: Desk) -> Iterator[Answer]:
    yield desk.test("tests/training/test_finite.py")


@case("numerics/paste_threshold_0")
def _(desk: Desk) -> Iterator[Answer]:
    said = desk.call(sys.executable, "case.py")
    pair = re.search(r"tensor\(?\[?(\d+)|^(\d+) (\d+)", said[1])
    same = pair is not None and pair[2] is not None and pair[2] == pair[3]
    yield "the same pixels, or refused", line(said), same or "ValueError" in said[1]


@case("numerics/settings_unchecked")
def _(desk: Desk) -> Iterator[Answer]:
    from tailseg.data.tiny_tail import generate

    data = generate(desk.runs / "tiny", preset="test") if not (desk.runs / "tiny").exists() else desk.runs / "tiny"
    settings = {
        "optim.clip-norm": ("-1", "0", "nan"),
        "optim.epochs": ("0",),
        "optim.lr": ("nan",),
        "optim.momentum": ("1.5",),
        "optim.gamma": ("-1",),
        "optim.warmup-ratio": ("2",),
        "optim.ema_decay": ("1",),
        "loss.weight": ("-1",),
        "model.postprocess.nms-iou": ("1.5",),
        "model.postprocess.max-detections": ("0",),
        "model.postprocess.score-threshold": ("-0.1",),
        "model.postprocess.mask-threshold": ("0",),
        "run.log-every": ("0",),
    }
    files = ("--data.train", f"{data}/train.json", "--data.val", f"{data}/val.json")
    env = {"PYTHONPATH": str(ROOT / "tests/training")}
    for name, values in settings.items():
        for value in values:
            out = f"out-{name}{value}"
            said = desk.tailseg("train", "small:recipe", *files, "--run.out", out, f"--{name}", value, env=env)
            field = re.escape(name).replace("\\-", "[-_]")
            right = said[0] != 0 and re.search(field, said[1]) is not None and not (desk.here / out).exists()
            yield f"--{name} {value}: refused by name before the first step", line(said, field), right
    both = ("--run.checkpoint-every", "0", "--run.eval-every", "0")
    said = desk.tailseg("train", "small:recipe", *files, "--run.out", "none", *both, env=env)
    yield says("checkpoint_every 0 with eval_every 0: refused", said, r"run\.checkpoint[-_]every", code=said[0] or -1)


@case("numerics/start_from_counts")
def _(desk: Desk) -> Iterator[Answer]:
    yield desk.test("tests/training/test_first_weights.py")


@case("numerics/tide_missed")
def _(desk: Desk) -> Iterator[Answer]:
    said = desk.tailseg("eval", "gt.json", "results.json")
    yield says("missed costs 50.0", said, r"all 2 1 0 0 0 0 0 1 \+0\.0 \+0\.0 \+0\.0 \+0\.0 \+0\.0 \+50\.0")
