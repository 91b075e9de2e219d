"""Situations from public bug reports."""

import json
import re
import shutil
import sys
from collections.abc import Iterator

from case_checks.desk import SHORT, Answer, Desk, Said, case, image_names, line, says, scores, sums, unharmed


@case("trials/01-predict-overwrites-photos")
def _(desk: Desk) -> Iterator[Answer]:
    before = sums(desk.here)
    said = desk.tailseg("predict", desk.run, "photos", "--out", "photos", "--score-threshold", "0.01")
    yield unharmed(before, desk.here, said)


@case("trials/02-holdout-mostly-empty")
def _(desk: Desk) -> Iterator[Answer]:
    said = desk.tailseg("train", "ships.json", *SHORT, "--run.out", "r")
    part = json.loads((desk.here / "r/data/val.json").read_text())
    with_objects = len({record["image_id"] for record in part["annotations"]})
    shares = f"{with_objects} with objects, {len(part['images']) - with_objects} without"
    yield "a tenth of each is held out: 1 and 11", shares, shares == "1 with objects, 11 without"
    yield says("the first line says what is trained on", said, r"custom_small: \d+ images with \d+ objects to train on")


@case("trials/03-results-by-numeric-stem")
def _(desk: Desk) -> Iterator[Answer]:
    for truth, results in (("gt", "res_stem"), ("gt", "res_strstem"), ("gt_for_names", "res_names_with_suffix")):
        said = desk.tailseg("eval", f"{truth}.json", f"{results}.json")
        yield f"{results}: AP 100", line(said, r"^ ?boxes|error|note"), scores(said) == 100.0


@case("trials/04-validation-refused-after-training")
def _(desk: Desk) -> Iterator[Answer]:
    for name in ("extra_nan", "info_nan", "area_neg", "area_str", "rle_float_size", "one_no_seg"):
        val = ("--data.val", f"val/{name}.json", "--data.val-images", "val/images")
        said = desk.tailseg("train", "train/ann.json", *val, "--optim.epochs", "2", *SHORT[2:], "--run.out", f"r{name}")
        right = said[0] == 0 or "epoch 1" not in said[1]
        yield (
            f"{name}: evaluated, or refused before the first step",
            line(said, "cannot be used|records|epoch 2"),
            right,
        )


@case("trials/05-same-picture-twice")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("20 names more than once", desk.tailseg("data", "check", "twice.json"), r"\b20 .*more than once")
    said = desk.tailseg("train", "twice.json", *SHORT, "--run.out", "r")
    both = image_names(desk.here / "r/data/train.json") & image_names(desk.here / "r/data/val.json")
    yield "no picture in both parts", f"exit {said[0]}, {len(both)} in both", said[0] == 0 and not both


@case("trials/06-basename-fallback")
def _(desk: Desk) -> Iterator[Answer]:
    pattern = r"has the same last part, but so do other images"
    yield says("a file for two names is said", desk.tailseg("data", "check", "both.json"), pattern)
    yield says("in training too", desk.tailseg("train", "both.json", *SHORT, "--run.out", "r"), pattern)


@case("trials/07-exif-orientation-3")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("the orientation is said", desk.tailseg("data", "check", "o3.json", "--decode"), r"\b1 .*EXIF")
    yield desk.test("tests/data/test_images.py")


@case("trials/08-mask-and-box-disagree")
def _(desk: Desk) -> Iterator[Answer]:
    for name in sorted(path.stem for path in desk.here.glob("*.json") if path.stem != "right"):
        said = desk.tailseg("data", "check", f"{name}.json", "--decode")
        yield says(f"{name}: masks against boxes", said, r"\b2[04]\b.*(box|pixel|normal)")
    yield says(
        "right: nothing", desk.tailseg("data", "check", "right.json", "--decode"), "^[^ ]*right.json: nothing wrong"
    )


@case("trials/09-brush-masks-are-crowds")
def _(desk: Desk) -> Iterator[Answer]:
    for name in ("all_crowd", "class3_crowd"):
        yield says(f"{name}: check", desk.tailseg("data", "check", f"{name}.json"), r"crowd")
        yield says(f"{name}: train", desk.tailseg("train", f"{name}.json", *SHORT, "--run.out", name), r"crowd")


@case("trials/10-windows-separators")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("found", desk.tailseg("data", "check", "win_sep.json", "--decode"), "nothing wrong", code=0)


@case("trials/11-folder-skips-formats")
def _(desk: Desk) -> Iterator[Answer]:
    said = desk.tailseg("predict", desk.run, "mixed", "--out", "found", "--score-threshold", "0.9")
    yield says("8 files are read, or the others are counted", said, r"in [78] images|left out|not read")


@case("trials/12-class-name-is-a-number")
def _(desk: Desk) -> Iterator[Answer]:
    said = desk.tailseg("data", "check", "name_int.json")
    yield "the names are taken as text, or called numbers", line(said), "without a name" not in said[1]


@case("trials/13-ids-as-text-or-float")
def _(desk: Desk) -> Iterator[Answer]:
    check = {
        name: desk.tailseg("data", "check", f"{name}.json") for name in ("str_image_ids", "float_ids", "float_size")
    }
    yield says("text: a counted note", check["str_image_ids"], r"12 ids are written as text", code=0)
    yield says("1.0 is whole", check["float_ids"], r"nothing wrong", code=0)
    yield says("96.0 is whole", check["float_size"], r"nothing wrong", code=0)
    yield says("named as panoptic", desk.tailseg("data", "check", "panoptic.json"), r"panoptic file", code=1)


@case("trials/14-boxes-only")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("the way out is named", desk.tailseg("train", "boxes.json", *SHORT, "--run.out", "a"), r"--boxes-only")
    said = desk.tailseg("train", "boxes.json", "--boxes-only", *SHORT, "--run.out", "b")
    yield says("and is one", said, r"epoch 1: boxes AP", code=0)
    yield says("counted", desk.tailseg("data", "check", "one_box.json"), r"1 of 24\).*annotation 1")


@case("trials/15-other-classes-start")
def _(desk: Desk) -> Iterator[Answer]:
    def train(count: str, number: int, *more: str) -> Said:
        data = ["--data.train-images", f"images{number}", "--data.val", f"{count}.json", "--data.val-images"]
        return desk.tailseg(
            "train", f"{count}.json", *data, f"images{number}", *SHORT, "--run.out", f"r{number}", *more
        )

    assert train("three", 3)[0] == 0
    said = train("two", 2, "--run.init-from", "r3/checkpoints/best.pt")
    yield says("rows go by name", said, r"epoch 1", code=0)


@case("trials/16-timm-swin")
def _(desk: Desk) -> Iterator[Answer]:
    for name in ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "hiera_tiny_224", "mvitv2_tiny"):
        side = None if name.startswith("swin") else 320  # the others take images of one size
        text = (
            "import torch; from tailseg.models.config import TimmConfig; from tailseg.models.timm_backbone import "
            f"TimmBackbone\nb = TimmBackbone(TimmConfig(name={name!r}, weights='none', image_side={side})).eval()\n"
            "print([tuple(m.shape[1:]) for m in b(torch.zeros(1, 3, 256, 320))])"
        )
        said = desk.call(sys.executable, "-c", text)
        shapes = re.search(r"64, 80\).*32, 40\).*16, 20\).*8, 10\)", said[1])
        yield f"{name}, image_side {side}: four maps", line(said), shapes is not None


@case("trials/17-results-boxes-xyxy")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("corners are said", desk.tailseg("eval", "gt.json", "bbox_xyxy.json"), r"beyond|corners|x2")
    yield says(
        "scores above 1 are said",
        desk.tailseg("eval", "gt.json", "score_percent.json"),
        r"scores? .*(above 1|\[0, 1\]|0 .*1)",
    )


@case("trials/18-predict-finds-its-own-pictures")
def _(desk: Desk) -> Iterator[Answer]:
    for number in range(3):
        said = desk.tailseg("predict", desk.run, "photos", "--out", "photos/found")
        yield says(f"3 images, call {number + 1}", said, r"in 3 images", code=0)


@case("trials/19-out-is-an-input")
def _(desk: Desk) -> Iterator[Answer]:
    before = sums(desk.here)
    said = desk.tailseg("compare", "res.json", "other.json", "--annotations", "gt.json", "--out", "other.json")
    yield unharmed(before, desk.here, said)


@case("trials/20-relative-paths-in-run")
def _(desk: Desk) -> Iterator[Answer]:
    data = desk.cases / "trials/22-class-never-in-training"
    shutil.copytree(data, desk.here / "A/data")
    train = desk.tailseg("train", "data/ann.json", *SHORT, "--run.out", "runs/x", at=desk.here / "A")
    said = desk.tailseg("test", "A/runs/x")
    yield says("the run's data are found", said, r"Written", code=train[0])


@case("trials/21-twelve-bits-in-sixteen")
def _(desk: Desk) -> Iterator[Answer]:
    from PIL import Image

    names = sorted(path.name for path in desk.here.glob("*.png"))
    images = []
    for number, name in enumerate(names, 1):
        with Image.open(desk.here / name) as picture:
            images.append({"id": number, "file_name": name, "width": picture.width, "height": picture.height})
    record = {
        "category_id": 1,
        "bbox": [1, 1, 8, 8],
        "area": 64,
        "iscrowd": 0,
        "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]],
    }
    content = {
        "images": images,
        "annotations": [{"id": n, "image_id": n, **record} for n in range(1, len(images) + 1)],
        "categories": [{"id": 1, "name": "a"}],
    }
    (desk.here / "all.json").write_text(json.dumps(content))
    yield says("2 images use few of their bits", desk.tailseg("data", "check", "all.json", "--decode"), r"\b2 .*16")


@case("trials/22-class-never-in-training")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("check names the class", desk.tailseg("data", "check", "no3.json"), r"c3|category 3")
    val = ("--data.train-images", "images", "--data.val", "ann.json", "--data.val-images", "images")
    said = desk.tailseg("train", "no3.json", *val, *SHORT, "--run.out", "r")
    yield says("train says that c3 cannot be learned", said, r"c3")
    measured = desk.tailseg("eval", "ann.json", "r/results.json", "--train", "no3.json", "--classes", "3")
    yield says("eval leaves it out of the groups", measured, r"no object in the training set")
