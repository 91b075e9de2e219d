"""Category ids of another numbering score near zero; a note, or the error, says which one fits and what it gives."""

import json
from types import SimpleNamespace

import pytest

from tailseg.evaluation import analyze, evaluate


@pytest.fixture(scope="module")
def whole(case):
    """A COCO truth, its ids from 0, with right results of 60 images; and their AP50."""
    data = json.loads(case.truth.read_text())
    images = [{key: image[key] for key in ("id", "file_name", "height", "width")} for image in data["images"][:60]]
    data = {
        "images": images,
        "categories": [{"id": c["id"] - 1, "name": f"{997 * c['id'] % 120:03d}"} for c in data["categories"]],
        "annotations": [a | {"category_id": a["category_id"] - 1} for a in data["annotations"] if a["image_id"] <= 60],
    }
    results = [
        {"image_id": r["image_id"], "category_id": r["category_id"] - 1}
        | {key: r[key] for key in ("bbox", "score", "segmentation")}
        for r in json.loads(case.results.read_text())
        if r["image_id"] <= 60
    ]
    return SimpleNamespace(data=data, results=results)


@pytest.fixture
def score(tmp_path):
    """Notes and AP50 of some results."""

    def score_of(data, results, iou_types=("bbox",)):
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(data))
        metrics = evaluate(path, results, iou_types=iou_types)
        return metrics.notes, metrics[iou_types[0]]["AP50"]

    return score_of


def renumbered(results, meaning):
    return [record | {"category_id": meaning[record["category_id"]]} for record in results]


@pytest.mark.parametrize("lvis", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("iou_types", [("bbox",), ("segm",)])
@pytest.mark.parametrize(("shift", "words"), [(1, "1 is subtracted from each"), (-1, "1 is added to each")])
def test_ids_shifted_by_one_are_told_with_the_ap50_that_they_should_have(whole, score, shift, words, iou_types, lvis):
    """The last class was never predicted, so that every id is known."""
    data = whole.data
    if lvis:
        lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        data = data | {"images": [image | lists for image in data["images"]]}
        data["categories"] = [category | {"frequency": "f"} for category in data["categories"]]
    kept = [record for record in whole.results if 0 <= record["category_id"] + shift <= 119]
    notes, right = score(data, kept, iou_types)
    assert right > 0.3
    assert notes == ()

    shifted = [record | {"category_id": record["category_id"] + shift} for record in kept]
    (note,), wrong = score(data, shifted, iou_types)

    assert wrong < 0.05
    assert f"is {100 * wrong:.1f}, but {100 * right:.1f} if {words} category id" in note


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (lambda data: [c["id"] for c in data["categories"]][::-1], "categories as the file lists them, from 0"),
        (
            lambda data: [c["id"] for c in sorted(data["categories"], key=lambda c: c["name"])],
            "categories in order of name, from 0",
        ),
    ],
)
def test_places_in_another_order_are_told(whole, score, key, words):
    order = key(whole.data)
    data = whole.data | {"categories": sorted(whole.data["categories"], key=lambda c: -c["id"])}

    (note,), _ = score(data, renumbered(whole.results, {category: place for place, category in enumerate(order)}))

    assert words in note


def test_names_in_the_results_are_followed(whole, score):
    names = {category["id"]: category["name"] for category in whole.data["categories"]}
    results = [
        record | {"category_id": 7 * record["category_id"] % 120 + 0, "category_name": names[record["category_id"]]}
        for record in whole.results
        if record["category_id"] % 7 == 3
    ]
    (note,), _ = score(whole.data, results)

    assert "if category_name is used" in note


def test_the_error_about_unknown_ids_says_which_numbering_fits(whole, score):
    _, right = score(whole.data, whole.results)
    shifted = [record | {"category_id": record["category_id"] + 1} for record in whole.results]

    with pytest.raises(
        ValueError,
        match=rf"category_id of .* records is not in .*; every id fits if 1 is subtracted .* is then {100 * right:.1f}",
    ):
        score(whole.data, shifted)


def test_a_bad_detector_is_not_suspected(whole, score):
    results = [record | {"category_id": 11 * record["category_id"] % 120} for record in whole.results]

    notes, wrong = score(whole.data, [record for record in results if record["category_id"] % 5])

    assert wrong < 0.05
    assert notes == ()


def test_the_note_is_in_the_analysis_too(whole, tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(whole.data))
    shifted = [record | {"category_id": (record["category_id"] + 1) % 120} for record in whole.results]
    kept = [record for record in shifted if record["category_id"]]

    notes = analyze(path, {"bbox": kept, "segm": kept}).metrics.notes

    assert len([note for note in notes if "1 is subtracted from" in note]) == 1
