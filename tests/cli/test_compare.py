"""`tailseg compare`: results files and runs, what is printed and written, and errors that help."""

import csv
import json
import shutil
from dataclasses import replace

import pytest

from tailseg.cli import main
from tailseg.recipes.saved import from_plain, to_plain
from tailseg.training.checkpoint import load, save
from tailseg.training.run_files import choose


@pytest.fixture
def files(tmp_path):
    """Twelve images with an ant each: A finds every second one, B all of them."""
    images = [{"id": i, "height": 50, "width": 50} for i in range(12)]
    box = [10, 10, 20, 20]
    objects = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": box, "area": 400} for i in range(12)]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "ant"}]}
    found = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.5} for i in range(12)]
    for name, data in (("truth", truth), ("a", found[::2]), ("b", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    return tmp_path


def test_a_difference_larger_than_chance_is_called_so(files, capsys):
    out = files / "compared.json"
    arguments = [str(files / name) for name in ("a.json", "b.json", "a.json")]

    annotations = f"--annotations={files / 'truth.json'}"
    assert main(["compare", *arguments, annotations, "--samples=50", "--out", str(out)]) == 0

    printed = capsys.readouterr().out
    assert "better" in printed
    assert "not larger than chance" in printed
    assert "Errors of boxes" in printed
    b = json.loads(out.read_text())["after"][str(files / "b.json")]["bbox"]
    assert b["figures"]["AP"]["before"] == pytest.approx(51 / 101)
    assert b["figures"]["AP"]["after"] == pytest.approx(1)
    assert b["figures"]["AP"]["verdict"] == "better"
    assert b["classes"][0]["name"] == "ant"
    assert b["errors"]["before"]["all"]["counts"]["missed"] == 6
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert [(row["after_run"], row["figure"], row["verdict"]) for row in rows if row["figure"] == "AP"] == [
        (arguments[1], "AP", "better"),
        (arguments[2], "AP", "not larger than chance"),
    ]
    assert float(rows[0]["high"]) <= 1
    page = out.with_suffix(".md").read_text()
    assert f"## A: {arguments[0]}, B: {arguments[1]}" in page
    assert "| AP | 50.5 | 100.0 | +49.5 |" in page


def test_tables_never_replace_the_json_file(files, capsys):
    arguments = [str(files / name) for name in ("a.json", "b.json")]

    assert main(["compare", *arguments, "--out", str(files / "compared.csv")]) == 2
    assert "--out is the JSON file" in capsys.readouterr().err


def test_names_in_brackets_are_printed_as_they_are(files, capsys):
    other, out = files / "b[v2].json", files / "c[v2].json"
    (files / "b.json").rename(other)

    truth = f"--annotations={files / 'truth.json'}"
    assert main(["compare", str(files / "a.json"), str(other), truth, "--samples=2", f"--out={out}"]) == 0

    printed = capsys.readouterr().out.replace("\n", "")
    assert other.name in printed
    assert out.name in printed


def test_a_run_is_compared_on_its_own_validation_set(run, capsys):
    assert main(["test", str(run)]) == 0

    assert main(["compare", str(run), str(run / "results.json"), "--samples=10"]) == 0

    printed = capsys.readouterr().out
    assert "Masks, in percent" in printed
    assert "APr" in printed, "groups come from the run's checkpoint"


def test_runs_with_different_validation_sets_are_not_compared(run, photos, tmp_path, capsys):
    """The same ids stand for other images there."""
    assert main(["test", str(run)]) == 0
    other, val = tmp_path / "other", tmp_path / "val.json"
    shutil.copytree(run, other)
    content = json.loads((photos.parent / "val.json").read_text())
    content["annotations"] = content["annotations"][1:]
    val.write_text(json.dumps(content))
    file = choose(other, "best")
    checkpoint = load(file)
    recipe = from_plain(checkpoint.recipe, source="")
    data = replace(recipe.data, val=str(val), val_images=str(photos))
    save(replace(checkpoint, recipe=to_plain(replace(recipe, data=data))), file)

    assert main(["compare", str(run), str(other), "--samples=2"]) == 2
    assert "which differ: test both on one file" in capsys.readouterr().err

    assert main(["compare", str(run), str(other), "--samples=2", f"--annotations={photos.parent / 'val.json'}"]) == 0


def test_a_run_is_compared_on_what_it_was_told_to_make_of_its_validation_set(run, photos, tmp_path):
    """Of the same objects as crowds, some without a mask, the run takes crowds as objects and leaves those out."""
    assert main(["test", str(run)]) == 0
    other, val, plain = (tmp_path / name for name in ("other", "val.json", "plain.json"))
    shutil.copytree(run, other)
    content = json.loads((photos.parent / "val.json").read_text())
    first, *rest = content["annotations"]
    plain.write_text(json.dumps(content | {"annotations": rest}))
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    del first["segmentation"]
    val.write_text(json.dumps(content))
    file = choose(other, "best")
    checkpoint = load(file)
    recipe = from_plain(checkpoint.recipe, source="")
    data = replace(recipe.data, val=str(val), val_images=str(photos), crowds="objects", on_problem="repair")
    save(replace(checkpoint, recipe=to_plain(replace(recipe, data=data))), file)
    found = {}
    for folder, options in ((other, []), (run, [f"--annotations={plain}"])):
        out = tmp_path / "compared.json"
        results = str(run / "results.json")
        assert main(["compare", str(folder), results, "--samples=2", f"--out={out}", *options]) == 0
        (found[folder],) = json.loads(out.read_text())["after"].values()

    for iou_type in ("bbox", "segm"):
        figures = found[other][iou_type]["figures"]
        assert figures["AR"]["before"] is not None
        assert figures["AR"] == found[run][iou_type]["figures"]["AR"]


def test_the_old_name_of_annotations_is_accepted_with_a_note(files, capsys):
    for truth in (["--truth", str(files / "truth.json")], [f"--truth={files / 'truth.json'}"]):
        assert main(["compare", str(files / "a.json"), str(files / "b.json"), *truth, "--samples=2"]) == 0
        assert "note: --truth is now --annotations" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.json"], "name at least two runs"),
        (["a.json", "b.json"], "name its annotation file with --annotations"),
        (
            ["truth.json", "b.json"],
            "truth.json is not a results file, because it does not hold a list",
        ),
        (["a.json", "truth.json", "--annotations=truth.json"], "truth.json is not a results file"),
        (["a.json", "nowhere.json", "--annotations=truth.json"], "no results in nowhere.json"),
        (["a.json", "b.json", "--annotations=truth.json", "--samples=1"], "--samples is 2 or more"),
        (["a.json", "b.json", "--annotations=truth.json", "--groups", "5", "30"], "training set's annotation file"),
    ],
)
def test_wrong_usage_is_explained(files, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(files)

    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_what_is_read_otherwise_than_written_is_said_once(files, capsys):
    truth = json.loads((files / "truth.json").read_text())
    for image in truth["images"]:
        image["file_name"] = f"{11 - image['id']}.jpg"
    (files / "truth.json").write_text(json.dumps(truth))
    records = [
        record | {"file_name": f"{11 - record['image_id']}.jpg"}
        for record in json.loads((files / "b.json").read_text())
    ]
    (files / "b.json").write_text(json.dumps([record | {"image_id": 3} for record in records]))

    arguments = ["compare", str(files / "b.json"), str(files / "b.json"), "--annotations", str(files / "truth.json")]
    assert main([*arguments, "--samples=2"]) == 0

    assert capsys.readouterr().out.count("file_name is used") == 1
