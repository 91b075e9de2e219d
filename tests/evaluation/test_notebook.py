"""Evaluation from Python: annotations and results in several forms, groups by a training set, tables, messages."""

import json
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tailseg.annotations.read import open_file
from tailseg.evaluation import analyze, compare, evaluate
from tailseg.evaluation.notebook import escape_markdown
from tailseg.evaluation.sources import check_bounds, check_iou_types, check_source, get_sources, open_annotations


def coco(images=12):
    """Twelve images with an ant each; the first one has a bee too."""
    box = [10, 10, 20, 20]
    mask = [[10, 10, 30, 10, 30, 30, 10, 30]]
    places = [(i, 1) for i in range(images)] + [(0, 2)]
    return {
        "images": [{"id": i, "height": 50, "width": 50, "file_name": f"{i}.jpg"} for i in range(images)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": 400, "segmentation": mask, "iscrowd": 0}
            for n, (i, c) in enumerate(places, start=1)
        ],
        "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
    }


def find(places, score=0.5):
    return [{"image_id": i, "category_id": c, "bbox": [10, 10, 20, 20], "score": score} for i, c in places]


ANTS = find([(i, 1) for i in range(12)])


@pytest.fixture
def write(tmp_path):
    def write(content, name="annotations.json"):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write


def test_annotations_and_results_come_as_paths_dicts_records_and_annotations(write):
    path, results = write(coco()), write(ANTS, "results.json")
    expected = evaluate(path, results)["bbox"]
    for annotations in (coco(), str(path), open_file(path)):
        for found in (ANTS, str(results), {"bbox": ANTS}, {"bbox": results}):
            assert evaluate(annotations, found)["bbox"] == expected


def test_records_and_bounds_may_hold_numpys_numbers():
    content = coco()
    records = [{**record, "bbox": np.array(record["bbox"]), "score": np.float32(0.5)} for record in ANTS]
    assert evaluate(content, records)["bbox"] == evaluate(content, ANTS)["bbox"]
    bounds = (np.int64(1), np.int64(5))
    assert check_bounds(bounds) == (1, 5)


def test_a_dict_may_hold_numpys_numbers_and_bytes(write):
    content = coco()
    for annotation in content["annotations"]:
        annotation["bbox"] = np.array(annotation["bbox"])
        annotation["id"] = np.int64(annotation["id"])
        annotation["segmentation"] = {"size": [50, 50], "counts": b"X9Z1FZO0"}
    assert open_annotations(content).objects.ids.tolist()[-1] == 12


def test_what_the_records_have_is_scored():
    assert list(evaluate(coco(), ANTS).scores) == ["bbox"]
    masked = [record | {"segmentation": coco()["annotations"][0]["segmentation"]} for record in ANTS]
    assert list(evaluate(coco(), masked).scores) == ["bbox", "segm"]
    assert list(evaluate(coco(), masked, iou_types=["segm"]).scores) == ["segm"]
    assert list(evaluate(coco(), []).scores) == ["bbox", "segm"]


def test_groups_follow_the_training_set_and_its_bounds(write):
    """The ant is in 12 training images, the bee in 1."""
    groups = {
        bounds: [entry.group for entry in evaluate(coco(), ANTS, train=write(coco()), groups=bounds).per_class["bbox"]]
        for bounds in (None, (10, 100), (1, 5), (12, 30))
    }
    assert groups == {None: ["c", "r"], (10, 100): ["c", "r"], (1, 5): ["f", "r"], (12, 30): ["r", "r"]}
    assert evaluate(coco(), ANTS, train=coco(), groups=(1, 5))["bbox"]["APf"] == pytest.approx(1)
    assert evaluate(coco(), ANTS, groups={1: "f", 2: "r"})["bbox"]["APf"] == pytest.approx(1)


def test_stated_groups_are_used_unless_bounds_are_given():
    stated = coco()
    stated["categories"][0]["frequency"], stated["categories"][1]["frequency"] = "r", "f"
    for image in stated["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])

    def groups(**options):
        return [entry.group for entry in evaluate(stated, ANTS, **options).per_class["bbox"]]

    assert groups() == groups(train=coco()) == ["r", "f"]
    assert groups(train=coco(), groups=(1, 5)) == ["f", "r"]


def test_analyze_and_compare_take_the_same():
    analysis = analyze(coco(), ANTS, train=coco(), groups=(1, 5))
    assert analysis["bbox"]["APf"] == pytest.approx(1)
    assert set(analysis.errors["bbox"].parts) == {"all", "r", "f"}

    comparison = compare(coco(), ANTS[::2], ANTS, train=coco(), groups=(1, 5), samples=50)
    assert comparison["bbox"].figures["APf"].verdict == "better"
    assert comparison.to_dict()["bbox"]["classes"][0]["name"] == "ant"
    assert "segm" not in comparison
    with pytest.raises(KeyError, match="no comparison of 'segm', only of bbox"):
        comparison["segm"]


@pytest.mark.parametrize("function", [evaluate, analyze])
def test_a_notebook_shows_tables(function):
    shown = function(coco(), ANTS)
    assert "boxes" in repr(shown)
    assert "APr" in repr(shown)
    assert "COCO AP in percent" in repr(shown)
    assert "<pre>" in shown._repr_html_()
    assert json.loads(json.dumps(shown.to_dict()))["scores"]["bbox"] == shown["bbox"]


def test_a_notebook_shows_a_comparison():
    comparison = compare(coco(), ANTS[::2], ANTS, samples=20)
    assert "Boxes, in percent, with 95 % intervals" in repr(comparison)
    assert "<pre>" in comparison._repr_html_()


class _Frame:
    """What is asked of pandas."""

    def __init__(self, rows: Any, columns: Any = None) -> None:
        self.rows = [dict(zip(columns, row, strict=True)) for row in rows] if columns else rows

    @classmethod
    def from_dict(cls, data: Any, orient: str, dtype: type) -> "_Frame":
        return cls([{"index": key, **row} for key, row in data.items()])

    def rename_axis(self, name: str) -> "_Frame":
        return self


def test_to_pandas_takes_pandas_where_it_is(monkeypatch):
    pandas = ModuleType("pandas")
    pandas.__dict__["DataFrame"] = _Frame
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    metrics, analysis = evaluate(coco(), ANTS), analyze(coco(), ANTS)
    assert metrics.to_pandas().rows[0]["AP"] == metrics["bbox"]["AP"]
    assert [row["name"] for row in metrics.to_pandas(per_class=True).rows] == ["ant", "bee"]
    assert [row["missed"] for row in analysis.to_pandas().rows] == [0, 1]
    assert compare(coco(), ANTS, ANTS, samples=2).to_pandas().rows[0]["figure"] == "AP"


def test_to_pandas_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        evaluate(coco(), ANTS).to_pandas()


def test_an_old_name_of_an_argument_is_accepted(write):
    with pytest.warns(FutureWarning, match="annotations_json"):
        metrics = evaluate(annotations_json=write(coco()), results=ANTS)  # ty: ignore[missing-argument]
    assert metrics["bbox"]["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: open_annotations(3), TypeError, "annotations should be the path .* got an object of type int"),
        (lambda: open_annotations(None), TypeError, "got None"),
        (lambda: open_annotations([]), TypeError, "got an object of type list"),
        (lambda: open_annotations({"images": {1, 2}}), TypeError, "annotations hold an object of type set"),
        (lambda: open_annotations({"images": []}, "train"), ValueError, "train is not in COCO format"),
        (lambda: check_source(5), TypeError, "results should be the path .* got an object of type int"),
        (lambda: get_sources(coco(), None, open_annotations(coco())), TypeError, "results is the content of an annot"),
        (lambda: get_sources({"boxes": ANTS}, None, open_annotations(coco())), ValueError, "the keys 'bbox', 'segm'"),
        (lambda: get_sources({"bbox": 3}, None, open_annotations(coco())), TypeError, r"results\['bbox'\] should be"),
        (lambda: check_bounds((30, 5)), ValueError, r"in ascending order, such as \(10, 100\).* got \(30, 5\)"),
        (lambda: check_bounds(("5", 30)), ValueError, "two numbers of training images"),
        (lambda: evaluate(coco(), ANTS, groups=(5, 30)), ValueError, "name the training set with train="),
        (lambda: evaluate(coco(), ANTS, train=coco(), groups={1: "r"}), ValueError, "give one of the two"),
        (lambda: evaluate(coco(), {"bbox": ANTS}, iou_types=["segm"]), ValueError, "iou_types names 'segm'"),
        (lambda: compare(coco(), ANTS, ANTS, samples=1), ValueError, "samples should be at least 2"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_user_without_run_time_checks_gets_the_same_message():
    done = subprocess.run(
        [sys.executable, "-c", "from tailseg.evaluation import evaluate; evaluate('a.json'.encode(), [])"],
        capture_output=True,
        text=True,
    )
    assert "TypeError: annotations should be the path of an annotation file" in done.stderr


@pytest.mark.parametrize("iou_types", ["bbox", 3, ("boxes",), ()])
def test_iou_types_are_a_tuple_of_names(iou_types):
    with pytest.raises(ValueError, match=r"iou_types is a tuple that names 'bbox', 'segm' or both, got "):
        check_iou_types(iou_types)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a|b", "a\\|b"),
        ("<b>", "\\<b>"),
        ("__background__", "\\_\\_background\\_\\_"),
        ("cell_phone", "cell_phone"),
        ("~~x~~ $y$ &lt;", "\\~\\~x\\~\\~ \\$y\\$ \\&lt;"),
    ],
)
def test_names_are_no_markup_in_markdown(name, escaped):
    assert escape_markdown(name) == escaped
