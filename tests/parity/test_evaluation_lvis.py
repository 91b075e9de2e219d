"""LVIS AP equals lvis-api's, box and mask, on 100 images of LVIS v0.5 val."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hotcoco import COCO
from hotcoco import mask as run_lengths

from tailseg.evaluation import evaluate
from tailseg.evaluation.detections import read_detections, select_best_of_each_image
from tailseg.evaluation.engines import ENGINES
from tailseg.evaluation.ground_truth import read_ground_truth

# The two engines add the same numbers in another order: a few units in the last place of float64.
TOLERANCE = 1e-9
NAMES = {"AR": "AR@300", "ARs": "ARs@300", "ARm": "ARm@300", "ARl": "ARl@300"}

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")


@pytest.fixture
def lvis(monkeypatch):
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis-api was written for an older NumPy
    return pytest.importorskip("lvis")


@pytest.fixture(scope="module")
def path(shared):
    return shared / "data" / "lvis" / "lvis_v0.5_val_100.json"


@pytest.fixture(scope="module")
def truth(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def results(path, truth):
    """Each object found at a slightly wrong place, some as a neighboring class; and false positives."""
    rng, coco = np.random.default_rng(0), COCO(str(path))
    found = [perturbed(annotation, coco, rng) for annotation in truth["annotations"]]
    return found + false_positives(truth, rng, an_image=12)


@pytest.fixture(scope="module")
def small(truth, results, tmp_path_factory):
    """Every fifth image, with the classes that its lists or objects name (lvis-api takes its time for each)."""
    images = truth["images"][::5]
    kept = {image["id"] for image in images}
    annotations = [annotation for annotation in truth["annotations"] if annotation["image_id"] in kept]
    records = [record for record in results if record["image_id"] in kept]
    classes = {record["category_id"] for record in annotations + records}
    classes |= {c for i in images for c in i["neg_category_ids"] + i["not_exhaustive_category_ids"]}
    categories = [category for category in truth["categories"] if category["id"] in classes]
    path = tmp_path_factory.mktemp("small") / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, records


def perturbed(annotation, coco, rng):
    # A mask moved by whole pixels, and a box moved by the same and a little more.
    shift = rng.integers(-4, 5, size=2)
    mask = np.roll(coco.ann_to_mask(annotation), shift[::-1], axis=(0, 1))
    x, y, width, height = annotation["bbox"]
    width, height = np.maximum([width, height] + rng.normal(size=2), 0.5)
    return {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"] + int(rng.random() < 0.1 and annotation["category_id"] < 1200),
        "bbox": [x + float(shift[0]), y + float(shift[1]), float(width), float(height)],
        "score": round(float(rng.beta(4, 2)), 2),  # two digits: ties are decided alike
        "segmentation": text(run_lengths.encode(np.asfortranarray(mask))),
    }


def false_positives(truth, rng, *, an_image):
    """Boxes anywhere, of classes that the image has, lacks for certain, was not searched for, and others."""
    present = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        present[annotation["image_id"]].append(annotation["category_id"])
    found = []
    for image in truth["images"]:
        checked = present[image["id"]] + image["neg_category_ids"] + image["not_exhaustive_category_ids"]
        others = rng.choice([category["id"] for category in truth["categories"]], size=5).tolist()
        for category in rng.choice([*checked, *others], size=an_image).tolist():
            x, y = rng.uniform(0, 0.7, 2) * (image["width"], image["height"])
            width, height = rng.uniform(0.05, 0.3, 2) * (image["width"], image["height"])
            box = [float(x), float(y), float(width), float(height)]
            mask = run_lengths.frPyObjects([box], image["height"], image["width"])[0]
            score = round(float(rng.beta(2, 3)), 2)
            found.append(
                {"image_id": image["id"], "category_id": category, "bbox": box, "score": score}
                | {"segmentation": text(mask)}
            )
    return found


def text(mask):
    return {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}


def reference(lvis, path: Path, results, iou_type, max_detections):
    """lvis-api's figures; masks are given without boxes, so that their areas are those of the masks."""
    key = {"bbox": "segmentation", "segm": "bbox"}[iou_type]
    records = [{name: value for name, value in record.items() if name != key} for record in copy.deepcopy(results)]
    truth = lvis.LVIS(str(path))
    engine = lvis.LVISEval(truth, lvis.LVISResults(truth, records, max_dets=max_detections), iou_type)
    engine.run()
    return engine.get_results()


def assert_equal(metrics, lvis, path, results, max_detections=300):
    for iou_type in metrics.scores:
        expected = reference(lvis, path, results, iou_type, max_detections)
        ours = {
            NAMES.get(name, name): -1 if value is None else value  # lvis-api's figure of nothing at all
            for name, value in metrics[iou_type].items()
            if name != "AP50f"
        }
        assert ours == pytest.approx(expected, rel=0, abs=TOLERANCE), iou_type


def test_equals_lvis_api_in_every_figure(lvis, path, results):
    metrics = evaluate(path, results)

    assert metrics.protocol == "lvis"
    assert 0.1 < metrics["segm"]["AP"] < 0.9, "a test on perfect or hopeless results would show little"
    assert_equal(metrics, lvis, path, results)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equals_lvis_api_in_every_number_of_precision_and_recall(lvis, path, results, iou_type):
    truth = read_ground_truth(path, masks=True)
    found = read_detections(results, truth, ("bbox", "segm"))
    rows = select_best_of_each_image(found, truth, 300)

    for ours, theirs in zip(
        *(ENGINES[name](truth, found, rows, iou_type) for name in ("tailseg", "lvis-api")), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_beyond_300_detections_the_best_of_an_image_count_whatever_their_class(lvis, small):
    path, records = small
    more = records + false_positives(json.loads(path.read_text()), np.random.default_rng(1), an_image=420)

    metrics, uncapped = evaluate(path, more), evaluate(path, more, max_detections=1000)

    assert metrics["bbox"]["AR"] < uncapped["bbox"]["AR"], "the cap should matter here"
    assert_equal(metrics, lvis, path, more)
    assert_equal(uncapped, lvis, path, more, max_detections=1000)


def test_detections_and_objects_without_area_are_dropped_after_the_cap(lvis, tmp_path, small):
    path, records = small
    truth = json.loads(path.read_text())
    odd = [degenerate(record) if index % 9 == 0 else record for index, record in enumerate(records)]
    objects = [a | {"area": 0} if index % 11 == 0 else a for index, a in enumerate(truth["annotations"])]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth | {"annotations": objects}))

    # Cap 12 cuts most images, so dropping before it would let others in.
    metrics = evaluate(path, odd, max_detections=12)

    count = len(range(0, len(records), 9))
    assert metrics.notes == (
        f"{len(range(0, len(objects), 11))} objects of zero area are left out, as in lvis-api",
        f"{count} boxes without area: dropped, as lvis-api does",
        f"{count} masks without a pixel: dropped, as lvis-api does",
    )
    assert_equal(metrics, lvis, path, odd, max_detections=12)


def degenerate(record):
    nothing = run_lengths.encode(np.zeros(record["segmentation"]["size"], np.uint8, order="F"))
    return record | {"bbox": [*record["bbox"][:2], 0.0, 5.0], "segmentation": text(nothing), "score": 0.99}


def test_class_scores_average_to_the_whole_and_to_the_groups(path, results):
    metrics = evaluate(path, results, iou_types=("segm",))
    scored = [entry for entry in metrics.per_class["segm"] if entry.AP is not None]

    assert len(scored) == 190
    assert sum(entry.num_objects for entry in metrics.per_class["segm"]) == 977
    assert np.mean([entry.AP for entry in scored]) == pytest.approx(metrics["segm"]["AP"], abs=TOLERANCE)
    for group in "rcf":
        members = [entry.AP for entry in scored if entry.group == group]
        assert np.mean(members) == pytest.approx(metrics["segm"][f"AP{group}"], abs=TOLERANCE)
    frequent = [entry.AP50 for entry in scored if entry.group == "f"]
    assert np.mean(frequent) == pytest.approx(metrics["segm"]["AP50f"], abs=TOLERANCE)
