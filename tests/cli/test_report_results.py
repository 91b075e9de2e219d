"""`tailseg report ANNOTATIONS RESULTS`: results in the forms of other frameworks, with and without photographs."""

import base64
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.squares import ANT, BEE, GNU, dataset, record

from tailseg.cli import main

RECORDS = [
    record(1, ANT, 5, 5, 0.9),
    record(2, GNU, 41, 25, 0.8),
    record(2, BEE, 40, 25, 0.4),
    record(1, ANT, 40, 20, 0.7),
]
Report = Callable[..., dict[str, Any]]


def unpack(page: Path, block: str) -> Any:
    """A packed block of a page."""
    (packed,) = re.findall(f'<script type="text/plain" id="{block}">([^<]*)</script>', page.read_text())
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def keep(*names: str) -> list[dict[str, Any]]:
    """The records with some of their fields."""
    return [{name: entry[name] for name in ("image_id", "category_id", "score", *names)} for entry in RECORDS]


@pytest.fixture
def annotations(write: Callable[..., Path]) -> Path:
    """The annotation file, without the groups, next to no image."""
    data = dataset()
    for category in data["categories"]:
        del category["frequency"]
    return write(data, name="val.json")


@pytest.fixture
def report(annotations: Path) -> Report:
    """Writes results files, makes their report, and returns the data of its page."""

    def make(*arguments: str, **files: object) -> dict[str, Any]:
        names = []
        for name, content in files.items():
            path = annotations.with_name(f"{name.replace('_', '.')}.json")
            path.write_text(json.dumps(content))
            names.append(str(path))
        page = annotations.with_name("page.html")
        assert main(["report", str(annotations), *names, *arguments, "--out", str(page)]) == 0
        return unpack(page, "data") | {"page": page}

    return make


ULTRALYTICS = [
    {**entry, "image_id": entry["image_id"], "file_name": f"{entry['image_id']}.jpg"} for entry in keep("bbox")
]


@pytest.mark.parametrize(
    ("files", "name", "kind"),
    [
        ({"coco_instances_results": RECORDS}, "coco.instances.results", "segm"),  # detectron2
        ({"torchvision": keep("bbox")}, "torchvision", "bbox"),
        ({"work_bbox": keep("bbox"), "work_segm": RECORDS}, "work", "segm"),  # mmdetection, both with boxes
        ({"boxes": keep("bbox"), "masks": keep("segmentation")}, "boxes", "segm"),
        ({"predictions": ULTRALYTICS}, "predictions", "bbox"),
    ],
    ids=["detectron2", "torchvision", "mmdetection", "boxes and masks", "ultralytics"],
)
def test_the_results_of_a_framework_are_shown_without_photographs(
    files: dict[str, object], name: str, kind: str, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    data = report(**files)
    (model,) = data["runs"]
    assert (model["name"], data["kind"]) == (name, kind)
    assert model["scores"][kind]["AP50"] == pytest.approx((51 / 101 + 1) / 2)
    assert model["outcomes"] == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert data["groups"] == {"all": "all classes"}
    gallery = unpack(data["page"], "gallery-0")
    assert {tuple(picture) for picture in gallery["pictures"]} == {(60, 40, "")}, "empty frames"
    assert all(item[3] or item[4] for item in gallery["items"]), "with outlines"
    (image,) = {item[2] for item in unpack(data["page"], "gallery-images")["items"]} - {"1.jpg"}
    assert image == "2.jpg"
    output = capsys.readouterr().out
    assert ("has the boxes of" in output) == (len(files) == 2)
    assert "note: all photographs are missing, and outlines are drawn on empty frames: image" in output
    assert "Name their folder with --images" in output
    text = data["page"].read_text()
    assert "outlines are drawn on empty frames: image" in text
    assert 'id="settings"' not in text
    assert 'id="training"' not in text


def test_photographs_and_the_training_set_are_shown_where_they_are(
    report: Report, annotations: Path, tmp_path: Path
) -> None:
    from PIL import Image

    photographs = tmp_path / "elsewhere"
    photographs.mkdir()
    for number in (1, 2):
        Image.new("RGB", (60, 40), "gray").save(photographs / f"{number}.jpg")
        Image.new("RGB", (60, 40), "gray").save(annotations.with_name(f"train{number}.jpg"))
    training = json.loads(annotations.read_text())
    for image in training["images"]:
        image["file_name"] = f"train{image['file_name']}"
    training["categories"].append({"id": 1, "name": "ape"})
    train = annotations.with_name("train.json")
    train.write_text(json.dumps(training))

    data = report("--images", str(photographs), "--train", str(train), "--groups", "1", "5", results=RECORDS)

    assert data["classes"]["name"] == ["ape", "ant", "bee", "gnu"]
    assert data["classes"]["images"] == [0, 2, 1, 0]
    assert data["classes"]["group"] == ["n", "c", "r", "n"]
    assert data["bounds"] == [1, 5]
    gallery = unpack(data["page"], "gallery-1")
    assert all(picture[2] for picture in gallery["pictures"])
    assert [item[1] for item in gallery["items"]].count("train") == 2
    assert "missing" not in re.sub("<script.*?</script>", "", data["page"].read_text(), flags=re.DOTALL)


def test_damaged_photographs_are_noted_without_the_folders_of_this_machine(
    report: Report, annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    annotations.with_name("2.jpg").write_bytes(b"no image")
    Image.new("RGB", (30, 20)).save(annotations.with_name("1.jpg"))
    text = report(results=RECORDS)["page"].read_text()
    assert "All photographs cannot be shown, and outlines are drawn on empty frames: image 2.jpg cannot be read" in text
    assert str(annotations.parent) not in text
    assert "note: all photographs cannot be shown" in capsys.readouterr().out
    annotations.with_name("2.jpg").unlink()
    assert "image 2.jpg not found" in report(results=RECORDS)["page"].read_text()
    for folder in ("a", "b"):
        annotations.with_name(folder).mkdir()
        Image.new("RGB", (60, 40)).save(annotations.parent / folder / "2.jpg")
    text = report(results=RECORDS)["page"].read_text()
    assert "image 2.jpg is in more than one folder. Name their folder with --images" in text
    assert str(annotations.parent) not in text


def test_several_models_are_compared_and_a_run_may_be_one(annotations: Path, report: Report, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text(json.dumps(RECORDS[:1]))
    data = report(str(run), first=RECORDS, second=RECORDS[1:])
    assert [model["name"] for model in data["runs"]] == ["first", "second", "results"]
    assert [model["outcomes"][0][2] for model in data["runs"]] == [1, 0, 1]


def test_files_of_one_name_are_told_apart_by_their_folders(report: Report, annotations: Path, tmp_path: Path) -> None:
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "predictions.json")
        paths[-1].write_text(json.dumps(RECORDS))
    data = report(*map(str, paths))
    assert [model["name"] for model in data["runs"]] == ["one/predictions", "two/predictions"]


def test_models_with_and_without_masks_are_compared_by_their_boxes(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    data = report(masks=RECORDS, boxes=keep("bbox"))
    assert data["kind"] == "bbox"
    assert "note: boxes has no masks: the report shows boxes only" in capsys.readouterr().out
    assert report("--only", "bbox", masks=RECORDS)["kind"] == "bbox"


def test_the_page_is_written_next_to_the_results(annotations: Path) -> None:
    results = annotations.with_name("mine.json.gz")
    results.write_bytes(gzip.compress(json.dumps(RECORDS).encode()))
    assert main(["report", str(annotations), str(results)]) == 0
    assert "<title>mine</title>" in annotations.with_name("mine.report.html").read_text()


def test_an_image_without_a_size_gets_a_frame_around_its_boxes(annotations: Path, report: Report) -> None:
    data = json.loads(annotations.read_text())
    for image in data["images"]:
        del image["height"], image["width"]
    annotations.write_text(json.dumps(data))
    page = report(results=keep("bbox"))["page"]
    assert {tuple(picture) for picture in unpack(page, "gallery-images")["pictures"]} == {
        (50, 30, ""),
        (51, 35, ""),
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ANN"], 2, "If it is an annotation file, name a results file too"),
        (["RES"], 2, "is a list, so it is a results file and not the annotation file"),
        (["RES", "ANN"], 2, "name the annotation file first"),
        (["ANN", "ANN"], 2, "Name the annotation file first, then only results files or runs"),
        (["ANN", "missing.json"], 2, "no results in missing.json"),
        (["missing.json", "RES"], 1, "no such file: missing.json"),
        (["FOLDER", "RES"], 2, "name the annotation file first"),
        (["ANN", "RES", "RES"], 2, "a results file is named twice"),
        (["ANN", "RES", "--val", "ANN"], 2, "--val is for runs"),
        (["FOLDER", "--images", "FOLDER"], 2, "--images is for results files"),
        (["ANN", "RES", "--groups", "1", "5"], 2, "name the training set's annotation file with --train"),
        (["ANN", "RES", "--images", "nowhere"], 2, "--images nowhere is not a folder"),
        (["ANN", "RES", "--out", "RES"], 2, "over its own input"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: list[str], code: int, message: str, annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = annotations.with_name("results.json")
    results.write_text(json.dumps(RECORDS))
    places = {"ANN": str(annotations), "RES": str(results), "FOLDER": str(annotations.parent)}
    assert main(["report", *(places.get(argument, argument) for argument in arguments)]) == code
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_the_page_of_another_frameworks_results_works_in_a_browser(browser, report: Report) -> None:
    page, complaints = browser.new_page(viewport={"width": 390, "height": 800}), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report(first=RECORDS, second=RECORDS[1:])["page"].as_uri())
    page.wait_for_selector("#images figure")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page does not scroll sideways"
    assert not page.locator("#groups").is_visible()
    assert page.locator("#images figcaption").all_inner_texts() == [
        "1.jpg\n1 missed, 1 false alarm, 0 found",
        "2.jpg\n1 missed, 1 false alarm, 1 found",
    ]
    page.locator("#image-order").select_option("false")
    page.locator("#images a").first.click()
    page.get_by_role("heading", name="Objects that are not found (1)").wait_for()
    page.locator("#image").get_by_role("link", name="ant").first.click()
    page.locator("#class h2").filter(has_text="ant").wait_for()
    page.locator("#class").get_by_role("link", name="1.jpg").click()
    page.locator("#image h2").filter(has_text="1.jpg").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_selector("#overview:not([hidden])")
    assert page.locator("#splits tbody tr").count() == 2
    page.close()
    assert complaints == []


def test_real_results_have_the_known_ap(shared: Path, tmp_path: Path) -> None:
    data = shared / "data/coco_tail"
    results = shared / "cases/wild/centernet_mbv3_coco_tail_val_results.json"
    page = tmp_path / "page.html"
    content = json.loads((data / "val.json").read_text())
    val = tmp_path / "val.json"  # photographs for a few images: to read them all takes seconds
    val.write_text(json.dumps(content))
    for image in content["images"][:8]:
        (tmp_path / image["file_name"]).symlink_to(data / "images" / image["file_name"])
    assert main(["report", str(val), str(results), "--out", str(page)]) == 0
    (model,) = unpack(page, "data")["runs"]
    assert model["scores"]["bbox"]["AP"] == pytest.approx(0.291, abs=0.0005)
    pictures = [bool(picture[2]) for picture in unpack(page, "gallery-images")["pictures"]]
    assert {True, False} == {*pictures}, "the images that lie next to the file"
