"""Files that other packages wrote, against pycocotools; the files are beside the repository, not part of it."""

import contextlib
import io
import json

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tailseg.cli import main
from tailseg.evaluation import evaluate

from .conftest import needs_new_hotcoco

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@pytest.fixture
def folder(shared):
    return shared / "cases"


def reference(truth, results, iou_type):
    """pycocotools' first six figures."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(str(truth))
        engine = COCOeval(annotations, annotations.loadRes(str(results)), iou_type)
        engine.evaluate()
        engine.accumulate()
        engine.summarize()
    return dict(zip(NAMES, engine.stats[:6], strict=True))


@pytest.mark.parametrize(
    ("truth", "results", "iou_type", "AP"),
    [
        ("wild/coco_val2014_100", "wild/coco_fakebbox100_results", "bbox", 0.505),
        ("wild/coco_val2014_100", "wild/coco_fakesegm100_results", "segm", 0.320),
        ("wild/fce_gt_dataset", "wild/fce_dt_dataset_results", "bbox", 0.695),
        ("wild/fce_gt_dataset", "wild/fce_dt_dataset_results", "segm", 0.695),
        ("wild/sahi_visdrone_gt", "wild/sahi_visdrone_results", "bbox", 0.072),
        ("crossed/sahi_gt", "crossed/sahi_result", "segm", 0.9),
        ("../data/coco_tail/val", "wild/centernet_mbv3_coco_tail_val_results", "bbox", 0.291),
        ("../data/coco_tail/train", "wild/centernet_mbv3_coco_tail_train_results", "bbox", 0.314),
    ],
)
def test_real_results_score_as_pycocotools_says(folder, truth, results, iou_type, AP):
    files = folder / f"{truth}.json", folder / f"{results}.json"

    scores = evaluate(*files, iou_types=(iou_type,))[iou_type]

    assert scores["AP"] == pytest.approx(AP, abs=5e-4)
    expected = reference(*files, iou_type)
    if iou_type == "segm" and "bbox" in json.loads(files[1].read_text())[0]:
        expected = {name: expected[name] for name in NAMES[:3]}  # its masks have the areas of their boxes
    expected = {name: None if value < 0 else pytest.approx(value, abs=1e-12) for name, value in expected.items()}
    assert {name: scores[name] for name in expected} == expected


def test_a_truth_whose_ids_are_texts_scores_as_if_they_were_numbers(folder, tmp_path):
    truth, results = (folder / f"wild/fce_{name}.json" for name in ("gt_ignore", "dt_ignore_results"))
    data = json.loads(truth.read_text())
    for image in data["images"]:
        image["id"] = int(image["id"])
    for annotation in data["annotations"]:
        annotation["image_id"] = int(annotation["image_id"])
    (tmp_path / "numbers.json").write_text(json.dumps(data))

    metrics = evaluate(truth, results, iou_types=("bbox",))

    assert "written as text" in metrics.notes[0]
    assert metrics["bbox"]["AP"] == pytest.approx(
        reference(tmp_path / "numbers.json", results, "bbox")["AP"], abs=1e-12
    )
    assert metrics["bbox"]["AP"] == pytest.approx(0.710, abs=5e-4)


def test_lists_that_name_a_class_which_a_subset_left_out_are_passed_over(folder):
    metrics = evaluate(folder / "crossed/hot_filter.json", folder / "crossed/hot_filter_res.json")

    assert metrics["segm"]["AP"] == pytest.approx(0.1658, abs=5e-5)
    assert "2 images list an unknown category" in metrics.notes[0]


def test_results_with_empty_segmentations_are_scored_as_boxes(folder, tmp_path, capsys):
    files = [str(folder / f"wild/sahi_visdrone_{name}.json") for name in ("gt", "results")]

    assert main(["eval", *files, "--out", str(tmp_path)]) == 0

    assert [*json.loads((tmp_path / "metrics.json").read_text())["scores"]] == ["bbox"]


@needs_new_hotcoco
def test_a_crowd_under_lvis_rules_gives_one_number(folder, tmp_path):
    files = [str(folder / f"crossed/lvis_crowd_{name}.json") for name in ("gt", "dt")]
    found = {}
    for engine in ("tailseg", "hotcoco", "lvis-api"):
        assert main(["eval", *files, "--engine", engine, "--out", str(tmp_path / engine)]) == 0
        found[engine] = json.loads((tmp_path / engine / "metrics.json").read_text())

    scores = {engine: one["scores"]["bbox"]["AP"] for engine, one in found.items()}
    assert scores == dict.fromkeys(found, scores["tailseg"])
    assert scores["tailseg"] == pytest.approx(1)
    assert "lvis-api has no crowds" in found["lvis-api"]["notes"][0]


def test_a_class_that_only_the_training_file_knows_plays_no_part(folder, tmp_path):
    case = folder / "crossed/train-knows-a-class-more"
    files = [str(case / f"{name}.json") for name in ("val", "results")]

    assert main(["eval", *files, "--only=bbox", "--train", str(case / "train.json"), "--out", str(tmp_path)]) == 0

    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["scores"]["bbox"]["APr"] == pytest.approx(1)
    assert "1 class of " in found["notes"][0]
