"""`tailseg eval`: results of other frameworks as they are, what is printed and written, and errors that help."""

import csv
import gzip
import json

import pytest

from tailseg.cli import main

SIZE = {"height": 40, "width": 60}


def square(x, y):
    """Run lengths of a square of 10."""
    return {"size": [40, 60], "counts": [x * 40 + y, 10, *([30, 10] * 9), 30 - y + (50 - x) * 40]}


def truth():
    """Two LVIS-style images; class 3 is rare, class 7 frequent."""
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    places = [(1, 3, 5, 5), (2, 3, 20, 10), (2, 7, 40, 25)]
    return {
        "images": [{"id": i, "file_name": f"val/{name}.jpg"} | SIZE | lists for i, name in ((1, "one"), (2, "two"))],
        "categories": [{"id": 3, "name": "ant", "frequency": "r"}, {"id": 7, "name": "bee", "frequency": "f"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": [x, y, 10, 10], "area": 100}
            | {"segmentation": [[x, y, x + 10, y, x + 10, y + 10, x, y + 10]]}
            for i, (image, category, x, y) in enumerate(places, start=1)
        ],
    }


def records(*fields):
    places = [(1, 3, 5, 5), (2, 3, 20, 10), (2, 7, 40, 25)]
    whole = [
        {"image_id": image, "category_id": category, "score": 0.9}
        | {"bbox": [float(x), float(y), 10.0, 10.0], "segmentation": square(x, y)}
        for image, category, x, y in places
    ]
    return [{key: record[key] for key in ("image_id", "category_id", "score", *fields)} for record in whole]


@pytest.fixture
def write(tmp_path):
    def write(data, name="truth.json"):
        path = tmp_path / name
        text = json.dumps(data).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return str(path)

    return write


def scores(folder):
    return json.loads((folder / "metrics.json").read_text())["scores"]


def test_everything_is_printed_and_written(write, tmp_path, capsys):
    results = write(records("bbox", "segmentation"), "coco_instances_results.json")  # as detectron2 writes it

    assert main(["eval", write(truth()), results, "--out", str(tmp_path / "out"), "--classes=1", "--boundary"]) == 0

    printed = capsys.readouterr().out
    for part in ("masks", "fixed", "outline", "Errors of masks", "Do scores mean precision", "lowest AP"):
        assert part in printed
    assert scores(tmp_path / "out")["segm"]["AP"] == pytest.approx(1)
    whole = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert whole["fixed"]["bbox"]["APr"] == pytest.approx(1)
    assert whole["boundary"]["APf"] == pytest.approx(1)
    assert whole["errors"]["segm"]["parts"]["r"]["found"] == 2
    assert whole["reliability"]["segm"]["all"]["bias"] == pytest.approx(-0.1)
    lines = list(csv.DictReader((tmp_path / "out" / "classes.csv").read_text().splitlines()))
    assert [(line["iou_type"], line["name"], round(float(line["AP"]), 9)) for line in lines][:2] == [
        ("bbox", "ant", 1),
        ("bbox", "bee", 1),
    ]


@pytest.mark.parametrize("name", ["[/sign] [stop]", "passenger_car_(part_of_a_train)", "\x1b[2Jcleared"])
def test_whatever_a_class_is_called_its_figures_are_shown(write, capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    data = truth()
    data["categories"][0]["name"] = name
    results = write(records("bbox")[1:], "results.json")

    assert main(["eval", write(data), results, "--classes=2"]) == 0

    listed = capsys.readouterr().out.split("lowest AP")[1]
    first, *others = [line.rstrip() for line in listed.splitlines()[4:] if line.strip()]
    start, *figures = first.rsplit(maxsplit=11)
    assert figures == ["r", "2", "50.5", "50.5", "50.0", "0", "0", "0", "0", "0", "1"]
    assert others[-1].split()[:2] == ["bee", "f"]
    folded = start + "".join(line.strip() for line in others[:-1])
    assert folded.replace(" ", "") == name.replace("\x1b", "\N{REPLACEMENT CHARACTER}").replace(" ", "")


def test_mmdetections_two_files_and_gzip(write, tmp_path):
    boxes = write(records("bbox"), "work.bbox.json.gz")
    masks = write(records("segmentation"), "work.segm.json")

    assert main(["eval", write(truth()), boxes, masks, "--out", str(tmp_path / "out")]) == 0

    assert scores(tmp_path / "out").keys() == {"bbox", "segm"}
    assert scores(tmp_path / "out")["bbox"]["AP"] == scores(tmp_path / "out")["segm"]["AP"] == pytest.approx(1)


def test_ultralytics_names_images_by_their_files(write, tmp_path):
    found = [record | {"image_id": {1: "one", 2: "two"}[record["image_id"]]} for record in records("bbox")]

    assert main(["eval", write(truth()), write(found, "predictions.json"), "--out", str(tmp_path / "out")]) == 0

    assert scores(tmp_path / "out")["bbox"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("engine", ["hotcoco", "lvis-api"])
def test_other_engines_agree(write, tmp_path, engine):
    file, results = write(truth()), write(records("bbox", "segmentation")[1:], "results.json")

    for name in ("tailseg", engine):
        assert main(["eval", file, results, f"--engine={name}", "--out", str(tmp_path / name)]) == 0

    assert scores(tmp_path / engine) == scores(tmp_path / "tailseg")
    assert scores(tmp_path / engine)["bbox"]["APr"] == pytest.approx(51 / 101)


@pytest.mark.parametrize("mark", ["iscrowd", "ignore"])
@pytest.mark.parametrize("engine", ["hotcoco", "lvis-api"])
def test_other_engines_agree_on_crowds(write, tmp_path, engine, mark):
    """lvis-api by itself would ask for a crowd: a note says so."""
    data = truth()
    data["annotations"][0][mark] = 1
    file, results = write(data), write(records("bbox", "segmentation"), "results.json")

    for name in ("tailseg", engine):
        assert main(["eval", file, results, f"--engine={name}", "--out", str(tmp_path / name)]) == 0

    assert scores(tmp_path / engine) == scores(tmp_path / "tailseg")
    assert scores(tmp_path / engine)["bbox"]["AP"] == pytest.approx(1)
    notes = json.loads((tmp_path / engine / "metrics.json").read_text())["notes"]
    assert any(note.startswith("lvis-api has no crowds: tailseg gives it the 1 crowd of") for note in notes) == (
        engine == "lvis-api"
    )


@pytest.mark.parametrize("empty", [[], None])
def test_results_whose_segmentations_are_empty_are_scored_as_boxes(write, tmp_path, empty):
    data = truth()
    for annotation in data["annotations"]:
        annotation["segmentation"] = []
    results = write([record | {"segmentation": empty} for record in records("bbox")], "results.json")

    assert main(["eval", write(data), results, "--out", str(tmp_path / "out")]) == 0

    assert scores(tmp_path / "out").keys() == {"bbox"}


def test_a_class_that_only_the_training_file_knows_plays_no_part(write, tmp_path):
    train = truth()
    train["categories"].append({"id": 9, "name": "gnu", "frequency": "c"})
    train["annotations"].append(train["annotations"][0] | {"id": 9, "category_id": 9})
    for category in train["categories"]:
        del category["frequency"]
    files = [write(truth()), write(records("bbox"), "results.json"), "--train", write(train, "train.json")]

    assert main(["eval", *files, "--out", str(tmp_path / "out")]) == 0

    assert scores(tmp_path / "out")["bbox"]["APr"] == pytest.approx(1)
    notes = json.loads((tmp_path / "out" / "metrics.json").read_text())["notes"]
    assert [note.startswith("1 class of ") and note.endswith("and not scored (9)") for note in notes] == [True]


def test_the_training_file_is_counted_without_its_pictures(write, tmp_path):
    """Its boxes have no size to be clipped to, which does not matter here."""
    annotations, train = truth(), truth()
    for category in annotations["categories"]:
        del category["frequency"]
    for image in train["images"]:
        del image["width"]
    del train["categories"][0]["frequency"], train["categories"][1]["frequency"]
    files = [write(annotations), write(records("bbox"), "results.json"), "--train", write(train, "train.json")]

    assert main(["eval", *files, "--out", str(tmp_path)]) == 0

    found = json.loads((tmp_path / "metrics.json").read_text())
    assert [entry["group"] for entry in found["per_class"]["bbox"]] == ["r", "r"]


@pytest.mark.parametrize("engine", ["hotcoco", "lvis-api"])
@pytest.mark.parametrize(("images", "classes"), [(2**53, 2**62), (-50, -5)])
def test_engines_agree_on_ids_that_a_float_cannot_hold_and_on_negative_ones(write, tmp_path, engine, images, classes):
    data, found = truth(), records("bbox", "segmentation")
    for image in data["images"]:
        image["id"] += images
        image["neg_category_ids"] = [7 + classes]
    for category in data["categories"]:
        category["id"] += classes
    for record in [*data["annotations"], *found]:
        record["image_id"] += images
        record["category_id"] += classes

    results = write(found, "results.json")
    assert main(["eval", write(data), results, f"--engine={engine}", "--out", str(tmp_path / "out")]) == 0

    assert scores(tmp_path / "out")["segm"]["APf"] == pytest.approx(1)
    assert scores(tmp_path / "out")["bbox"]["APr"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("results", "arguments", "code", "message"),
    [
        ([], [], 0, "no detections at all"),
        (records("bbox"), ["--only=segm"], 2, "--only segm needs records with a 'segmentation'"),
        (records("bbox"), ["--max-detections=0"], 2, "--max-detections is 1 or more"),
        (records("bbox")[:1] + [{"image_id": 1}], [], 1, "'category_id' of record 1 should be"),
        ([records("bbox")[0] | {"image_id": "three"}], [], 1, "'image_id' of record 0 should be a whole number"),
        ([records("bbox")[0] | {"score": float("nan")}], [], 1, "it holds the value NaN"),
        ({"no": "list"}, [], 1, "expected a list of result records"),
    ],
)
def test_errors_say_what_to_do(write, capsys, results, arguments, code, message):
    assert main(["eval", write(truth()), write(results, "results.json"), *arguments]) == code

    printed = capsys.readouterr()
    assert message in " ".join((printed.out + printed.err).split())


def test_a_file_that_adds_nothing_is_not_passed_over_in_silence(write, capsys):
    one, two = (write(records("bbox", "segmentation"), name) for name in ("a.json", "b.json"))

    assert main(["eval", write(truth()), one, two]) == 2
    assert "b.json would not be used" in capsys.readouterr().err


def test_a_third_file_is_too_many(write, capsys):
    results = write(records("bbox"), "results.json")

    assert main(["eval", write(truth()), results, results, results]) == 2
    assert "one of boxes and one of masks; got 3" in capsys.readouterr().err


def test_figures_by_field_are_printed_and_written(write, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    data = truth()
    for image in data["images"]:
        image["site"] = {"name": f"pond[{image['id']}]"}
    arguments = ["--by=site.name", "--by", "file_name:^[^/]+", "--samples=3", "--out", str(tmp_path / "out")]

    assert main(["eval", write(data), write(records("bbox"), "results.json"), *arguments]) == 0

    printed = capsys.readouterr().out
    for part in ("Boxes by site.name, in percent", "pond[1]", "Boxes by file_name:^[^/]+", "slices.csv"):
        assert part in printed
    whole = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [entry["value"] for entry in whole["slices"]["bbox"]] == ["pond[1]", "pond[2]", "val"]
    lines = list(csv.DictReader((tmp_path / "out" / "slices.csv").read_text().splitlines()))
    assert [(line["value"], line["num_images"], line["AP_verdict"]) for line in lines] == [
        ("pond[1]", "1", "unknown"),
        ("pond[2]", "1", "unknown"),
        ("val", "2", "unknown"),
    ]
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "| pond\\[1\\] | 1 | 1 | 100.0 |" in tables
    scores = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert [(line["iou_type"], round(float(line["APr"]), 9)) for line in scores] == [("bbox", 1)]


def test_a_field_that_no_image_has_is_an_error(write, capsys):
    assert main(["eval", write(truth()), write(records("bbox"), "results.json"), "--by=night"]) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "has a value of the field 'night'. The records have file_name (2 of 2 images), height" in printed


def test_groups_that_nothing_states_are_noted(write, capsys):
    """Without them APr, APc and APf are "-", and the user should know how to get them."""
    data, results = truth(), write(records("bbox"), "results.json")
    note = "does not state which classes are rare, so there is no APr, APc and APf: name the annotation file of the"
    assert main(["eval", write(data), results]) == 0
    assert note not in capsys.readouterr().out
    for category in data["categories"]:
        del category["frequency"]
    assert main(["eval", write(data), results]) == 0
    assert note in capsys.readouterr().out
    assert main(["eval", write(data), results, "--train", write(data, "train.json")]) == 0
    assert note not in capsys.readouterr().out
