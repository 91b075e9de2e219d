"""Figures by fields of the image records: equal to those of a file of these images alone, and not fooled by chance."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tailseg.evaluation import analyze, evaluate
from tailseg.evaluation.bootstrap import resample
from tailseg.evaluation.detections import match_results, read_detections, select_best_of_each_image
from tailseg.evaluation.ground_truth import read_ground_truth
from tailseg.evaluation.image_fields import MAX_VALUES, read_fields, sort_values
from tailseg.evaluation.slices import evaluate_parts
from tailseg.evaluation.sources import open_annotations
from tailseg.evaluation.tables import SLICE_NOTES


def make(num_images=40, **fields):
    """Images with an ant each and, every fourth, a bee; the detector finds the ants of images that are not at night."""
    box = [10, 10, 20, 20]
    images = [
        {"id": i, "height": 50, "width": 50, "file_name": f"cam{i % 3}/img_{i:03}.jpg", "night": i % 2 == 0}
        | {name: value(i) for name, value in fields.items()}
        for i in range(num_images)
    ]
    pairs = [(i, 1) for i in range(num_images)] + [(i, 2) for i in range(0, num_images, 4)]
    objects = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": 400}
        for n, (image, category) in enumerate(pairs, start=1)
    ]
    categories = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}]
    results = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.5} for i in range(num_images) if i % 2]
    results += [{"image_id": i, "category_id": 2, "bbox": box, "score": 0.4} for i in range(0, num_images, 4)]
    return {"images": images, "annotations": objects, "categories": categories}, results


@pytest.fixture(scope="module")
def small(synthetic, tmp_path_factory):
    """LVIS-style files ``truth`` and ``results``: 100 images, 60 detections each, 60 classes."""
    return synthetic.write(tmp_path_factory.mktemp("small"), images=100, detections=60, num_classes=60)


@pytest.mark.parametrize("protocol", ["coco", "lvis"])
def test_a_slice_is_a_file_of_its_images_to_the_bit(small, shared, protocol):
    """By LVIS's rules made images; by COCO's the photographs of coco_tail with real detections and crowds."""
    if protocol == "lvis":
        data, records = (json.loads(path.read_text()) for path in (small.truth, small.results))
        data["images"] = data["images"][:30]
        for image in data["images"]:
            image["site"] = ["a", "b", None][image["id"] % 3]
        known = {image["id"] for image in data["images"]}
        data["annotations"] = [record for record in data["annotations"] if record["image_id"] in known]
        records = [{**record, "segmentation": None} for record in records if record["image_id"] in known]
        by, wanted = "site", {"a", "b", None}
    else:
        data = json.loads((shared / "data/coco_tail/val.json").read_text())
        records = json.loads((shared / "cases/wild/centernet_mbv3_coco_tail_val_results.json").read_text())
        by, wanted = "license", {image["license"] for image in data["images"]}

    analysis = analyze(data, records, by=by, samples=2)

    assert len(analysis.slices["bbox"]) == len(wanted)
    for found in analysis.slices["bbox"]:
        images = [image for image in data["images"] if str(image[by] or "(none)") == found.value]
        ids = {image["id"] for image in images}
        part = data | {"images": images, "annotations": [a for a in data["annotations"] if a["image_id"] in ids]}
        expected = evaluate(part, [r for r in records if r["image_id"] in ids])
        assert found.num_images == len(images)
        for iou_type, scores in expected.scores.items():
            (same,) = (other for other in analysis.slices[iou_type] if other.value == found.value)
            assert {name: figure.value for name, figure in same.figures.items()} == {
                name: scores[name] for name in same.figures
            }


def test_resampled_ap_is_ap_where_detections_are_partly_in_crowds(shared):
    """Such a detection is left alone at low thresholds, and false at high ones."""
    truth = read_ground_truth(shared / "data/coco_tail/val.json", masks=False)
    results = shared / "cases/wild/centernet_mbv3_coco_tail_val_results.json"
    found = read_detections(results, truth, ("bbox",))
    matches = match_results(truth, found, select_best_of_each_image(found, truth, 100), "bbox")

    (figures,) = evaluate_parts(matches, np.zeros(50, np.int64), truth.class_groups, samples=5)["AP"]

    expected = evaluate(truth.annotations, results)["bbox"]["AP"]
    whole = resample(matches, np.ones((50, 1), dtype=np.float32)).figures(truth.class_groups)
    assert whole["AP"][0] == pytest.approx(expected, abs=1e-12)
    assert figures.after == pytest.approx(expected, abs=1e-12)


def test_night_is_worse_than_chance_and_a_camera_is_not():
    data, results = make()

    slices = analyze(data, results, by=("night", "file_name:^[^/]+"), samples=60).slices

    verdicts = {(entry.field, entry.value): entry["AP"].difference.verdict for entry in slices["bbox"]}
    assert verdicts == {
        ("night", "false"): "better",
        ("night", "true"): "worse",
        ("file_name:^[^/]+", "cam0"): "not larger than chance",
        ("file_name:^[^/]+", "cam1"): "not larger than chance",
        ("file_name:^[^/]+", "cam2"): "not larger than chance",
    }
    day, night, *_ = slices["bbox"]
    assert (day.num_images, day.num_objects, day.num_classes) == (20, 20, 1)
    assert (night.num_images, night.num_objects, night.num_classes) == (20, 30, 2)
    assert night["AP"].value == pytest.approx(0.5), "no ant, all bees"
    assert night["AP"].expected == pytest.approx(0.75, abs=0.03), "half of the ants, all bees"
    assert day["AP"].expected == pytest.approx(0.5, abs=0.03), "of ants alone: the day has no bee"
    assert 0 <= night["AP"].low < night["AP"].value < night["AP"].high <= 1


def test_slices_of_equal_images_rarely_differ(small):
    """Also where they have few images, and the rest has many: AP of few images is not compared with AP of many."""
    truth = read_ground_truth(small.truth, masks=False)
    found = read_detections(small.results, truth, ("bbox",))
    matches = match_results(truth, found, select_best_of_each_image(found, truth, 300), "bbox")
    rng = np.random.default_rng(0)

    entries = []
    for seed in range(3):
        parts = rng.permutation(np.repeat(np.arange(6), [6, 8, 10, 16, 20, 40]))
        entries += evaluate_parts(matches, parts, truth.class_groups, samples=40, seed=seed)["AP"]

    outside = [abs(entry.after - entry.before) > 1.96 * entry.chance for entry in entries]
    assert sum(outside) <= 4, "of 18 slices, 1 in 20 by chance"


def test_few_images_have_figures_and_no_interval():
    data, results = make(site=lambda i: "small" if i < 3 else "large")

    analysis = analyze(data, results, by="site", samples=20)

    large, small = analysis.slices["bbox"]
    assert (small.value, small.num_images) == ("small", 3)
    for entry in (small, large):
        assert entry["AP"].value is not None
        assert entry["AP"].low is None
        assert entry["AP"].difference.verdict == "unknown"
    assert "2 of 2 values of the field 'site' have no interval: fewer than 5 images" in analysis.slices.notes[0]


def test_one_value_is_the_whole_and_a_note_says_so():
    data, results = make(site=lambda _: "pond")

    analysis = analyze(data, results, by="site", samples=5)

    (whole,) = analysis.slices["bbox"]
    assert whole["AP"].value == analysis["bbox"]["AP"]
    assert analysis.slices.notes == ("all images have the value 'pond' of the field 'site': nothing differs",)


def test_equal_slices_do_not_differ_by_rounding():
    data, results = make()
    results = [record for record in results if record["category_id"] == 2]

    slices = analyze(data, results, by={"half": {i: i % 8 < 4 for i in range(40)}}, samples=30).slices

    assert [entry["AP"].difference.verdict for entry in slices["bbox"]] == ["not larger than chance"] * 2


def test_slices_are_shown_and_written():
    data, results = make(site=lambda i: "a|b" if i < 20 else "c")
    for record in results:
        record["segmentation"] = {"size": [50, 50], "counts": [510, *[20, 30] * 19, 20, 1020]}
    for annotation in data["annotations"]:
        annotation["segmentation"] = [[10, 10, 30, 10, 30, 30, 10, 30]]

    analysis = analyze(data, results, by=("site", "night"), samples=10)

    text, page, rows = repr(analysis.slices), analysis.to_markdown(), analysis.slices.to_csv().splitlines()
    assert "Masks by site, in percent" in text
    assert text.count("interval: of AP, 95 %.") == 1
    assert "a|b" in text
    assert "| a\\|b | 20 |" in page
    assert f"- {SLICE_NOTES}" in page
    assert rows[0].startswith("iou_type,field,value,num_images,num_objects,num_classes,AP,AP_low,AP_high,AP50,")
    assert [row.split(",")[:4] for row in rows[1:5]] == [
        ["bbox", "site", "a|b", "20"],
        ["bbox", "site", "c", "20"],
        ["bbox", "night", "false", "20"],
        ["bbox", "night", "true", "20"],
    ]
    assert len(rows) == 9
    whole = json.loads(analysis.to_json())["slices"]
    assert whole["segm"][3]["figures"]["AP"]["difference"]["verdict"] in {"worse", "not larger than chance"}
    assert "slices" not in replace(analysis, slices=None).to_dict()


def fields(by, records):
    """The values of the images with these records."""
    data, _ = make(len(records))
    for image, record in zip(data["images"], records, strict=True):
        image |= record
    return {name: values.tolist() for name, values in read_fields(data, open_annotations(data), by).items()}


@pytest.mark.parametrize(
    ("by", "records", "expected"),
    [
        ("site", [{"site": 1}, {"site": 2.0}, {"site": "2"}, {"site": True}], ["1", "2", "2", "true"]),
        ("site", [{"site": None}, {}, {"site": ""}, {"site": "x"}], ["(none)", "(none)", "(none)", "x"]),
        ("meta.camera", [{"meta": {"camera": "a"}}, {"meta": None}, {}], ["a", "(none)", "(none)"]),
        ("meta.camera", [{"meta.camera": "b"}, {"meta": {"camera": "a"}}], ["b", "(none)"]),
        ("exif:Model", [{"exif:Model": "x1"}, {"exif": "Model"}], ["x1", "(none)"]),
        ("file_name:cam(\\d)", [{}, {}], ["0", "1"]),
        ("site:^..", [{"site": 2024}, {"site": "x"}], ["20", "(none)"]),
    ],
)
def test_values_of_a_field(by, records, expected):
    assert fields(by, records) == {by: expected}


def test_values_can_be_given_by_image_id():
    assert fields({"site": {0: "x", 2: np.int64(3)}}, [{}, {}, {}]) == {"site": ["x", "(none)", "3"]}


def test_records_of_files_are_read_by_their_ids(tmp_path):
    """Ids may be texts, and the file may be in another order than the ids."""
    data, _ = make(3, site=lambda i: f"s{i}")
    data["images"] = [image | {"id": str(image["id"])} for image in reversed(data["images"])]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(data))

    for source in (path, open_annotations(path)):
        assert read_fields(source, open_annotations(path), "site")["site"].tolist() == ["s0", "s1", "s2"]


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        (
            "sight",
            ValueError,
            r"no image record of .* has a value of the field 'sight'\. The records have .*night \(4 of",
        ),
        ("tags", ValueError, "holds a list .* name another field"),
        ("meta", ValueError, r"holds an object .* name a part of it, such as meta\.camera"),
        ("night:(", ValueError, "'\\(' of the field 'night' is no regular expression"),
        ("night:x", ValueError, "the pattern 'x' fits no value of the field 'night', such as True"),
        (7, TypeError, "by should be the name of a field"),
        ({"site": "x"}, TypeError, r"by\['site'\] should be a dict with the value of each image id"),
    ],
)
def test_a_field_that_cannot_be_used_is_refused(by, error, message):
    with pytest.raises(error, match=message):
        fields(by, [{"tags": ["x"], "meta": {"camera": 1}}] * 4)


def test_too_many_values_are_refused():
    with pytest.raises(ValueError, match=r"'time' has 101 different values in 101 images \(0, 1, 2 "):
        fields("time", [{"time": i} for i in range(MAX_VALUES + 1)])


def test_values_are_sorted_as_people_do():
    values = ["10", "9", "-1.5", "(none)", "9.5"]
    assert sort_values(np.array(values, object)) == ["-1.5", "9", "9.5", "10", "(none)"]
    values = ["site10", "Site9", "site9", "(none)", "7"]
    assert sort_values(np.array(values, object)) == ["7", "Site9", "site9", "site10", "(none)"]
