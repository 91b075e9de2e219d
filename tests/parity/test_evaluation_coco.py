"""COCO AP equals pycocotools', box and mask, crowds included, on photographs of COCO 2017."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tailseg.evaluation import evaluate

# The two engines add the same numbers in another order: a few units in the last place of float64.
TOLERANCE = 1e-9
ORDER = ("AP", "AP50", "AP75", "APs", "APm", "APl", None, None, "AR", "ARs", "ARm", "ARl")


@pytest.fixture(scope="module")
def path(shared):
    return shared / "data" / "coco_tail" / "val.json"


@pytest.fixture(scope="module")
def coco(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.fixture(scope="module")
def results(coco):
    """Objects, crowds too, found at a slightly wrong place, some twice or as the next class; ties in the scores."""
    rng = np.random.default_rng(0)
    found = []
    for annotation in list(coco.anns.values()) + list(coco.anns.values())[::3]:
        shift = rng.integers(-4, 5, size=2)
        mask = np.roll(coco.annToMask(annotation), shift[::-1], axis=(0, 1))
        x, y, width, height = annotation["bbox"]
        width, height = np.maximum([width, height] + 3 * rng.normal(size=2), 0.5)
        rle = mask_api.encode(np.asfortranarray(mask))
        found.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"] if rng.random() < 0.9 else 1,
                "bbox": [x + float(shift[0]), y + float(shift[1]), float(width), float(height)],
                "score": round(float(rng.random()), 2),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
        )
    return found


def reference(coco, results, iou_type):
    """pycocotools' figures; masks are given without boxes, so that their areas are those of the masks."""
    key = {"bbox": "segmentation", "segm": "bbox"}[iou_type]
    records = [{name: value for name, value in record.items() if name != key} for record in copy.deepcopy(results)]
    with contextlib.redirect_stdout(io.StringIO()):
        engine = COCOeval(coco, coco.loadRes(records), iou_type)
        engine.evaluate()
        engine.accumulate()
        engine.summarize()
    return engine


def test_equals_pycocotools_in_every_figure(path, coco, results):
    assert sum(annotation["iscrowd"] for annotation in coco.anns.values()) == 5, "crowds are part of the test"
    metrics = evaluate(path, results)

    assert metrics.protocol == "coco"
    for iou_type in ("bbox", "segm"):
        stats = reference(coco, results, iou_type).stats
        assert 0.2 < stats[0] < 0.9, "a test on perfect or hopeless results would show little"
        for name, expected in zip(ORDER, stats, strict=True):
            if name is not None:
                assert metrics[iou_type][name] == pytest.approx(expected, rel=0, abs=TOLERANCE), (iou_type, name)


@pytest.mark.parametrize("max_detections", [1, 3])
def test_the_cap_is_on_each_class_of_an_image(path, coco, results, max_detections):
    engine = reference(coco, results, "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        engine.params.maxDets = [max_detections]
        engine.evaluate()
        engine.accumulate()
    precision = engine.eval["precision"][:, :, :, 0, 0]

    ours = evaluate(path, results, iou_types=("bbox",), max_detections=max_detections)["bbox"]["AP"]

    assert ours == pytest.approx(precision[precision > -1].mean(), rel=0, abs=TOLERANCE)
    assert ours != evaluate(path, results, iou_types=("bbox",))["bbox"]["AP"]


def test_masks_without_a_pixel_count_as_false_positives_and_are_mentioned(path, coco, results):
    odd = [
        record | {"segmentation": {"size": size, "counts": empty(size)}, "score": 0.995} if index % 7 == 0 else record
        for index, record in enumerate(results)
        for size in [record["segmentation"]["size"]]
    ]

    metrics = evaluate(path, odd, iou_types=("segm",))

    assert (
        f"{len(range(0, len(results), 7))} masks without a pixel: counted as false, as pycocotools does"
        in metrics.notes
    )
    assert metrics["segm"]["AP"] == pytest.approx(reference(coco, odd, "segm").stats[0], rel=0, abs=TOLERANCE)


def empty(size):
    return mask_api.encode(np.zeros(size, np.uint8, order="F"))["counts"].decode("ascii")


def test_groups_are_means_over_their_classes(path, coco, results):
    groups = {category: "rcf"[category % 3] for category in coco.cats}

    metrics = evaluate(path, results, groups=groups)

    for iou_type in ("bbox", "segm"):
        engine = reference(coco, results, iou_type)
        for group in "rcf":
            members = [index for index, category in enumerate(engine.params.catIds) if groups[category] == group]
            precision = engine.eval["precision"][:, :, members, 0, -1]
            expected = precision[precision > -1].mean()
            assert metrics[iou_type][f"AP{group}"] == pytest.approx(expected, rel=0, abs=TOLERANCE)


def test_the_file_as_it_comes_has_no_groups(path, results):
    scores = evaluate(path, results, iou_types=("bbox",))["bbox"]

    assert scores["APr"] is scores["APc"] is scores["APf"] is None
    assert json.loads(path.read_text())["categories"][0].get("frequency") is None
