"""AP equals pycocotools' and lvis-api's on random small data sets, box and mask.

They hold what real ones seldom do: ties of scores, crowds over everything, classes whose lists are at odds with the
objects, boxes without width, areas that are not the mask's, ids of any size and order, images without objects.
"""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tailseg.evaluation import evaluate

# The engines add the same numbers in another order: a few units in the last place of float64.
TOLERANCE = 1e-9
CASES = range(60)
BOXLESS = {"bbox": "segmentation", "segm": "bbox"}
"""What is taken from the records: masks without boxes have the areas of the masks, in the references too."""
COCO_ORDER = ("AP", "AP50", "AP75", "APs", "APm", "APl", None, None, "AR", "ARs", "ARm", "ARl")

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")


def mask(height, width, box):
    """The pixels that a box begins in, as run lengths."""
    left, top, right, bottom = (max(int(v), 0) for v in (*box[:2], box[0] + box[2], box[1] + box[3]))
    pixels = np.zeros((height, width), np.uint8, order="F")
    pixels[top:bottom, left:right] = 1
    encoded = run_lengths.encode(pixels)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def random_case(rng, *, lvis):
    """Ground truth and results."""
    height, width = rng.integers(20, 160, size=2).tolist()
    ids = rng.choice(2**40, size=rng.integers(1, 6), replace=False).tolist()
    classes = rng.choice(10**6, size=rng.integers(1, 5), replace=False).tolist()
    images = [{"id": i, "file_name": f"{i}.jpg", "height": height, "width": width} for i in ids]
    categories = [{"id": c, "name": str(c)} | ({"frequency": rng.choice([*"rcf"])} if lvis else {}) for c in classes]
    annotations, results = [], []
    for image in images:
        mine = [random_object(rng, image, classes, crowds=not lvis) for _ in range(rng.integers(0, 7))]
        annotations += mine
        results += [random_detection(rng, image, classes, mine) for _ in range(rng.integers(0, 15))]
        if lvis:
            present = {annotation["category_id"] for annotation in mine}
            image["neg_category_ids"] = [c for c in classes if c not in present and rng.random() < 0.4]
            image["not_exhaustive_category_ids"] = [c for c in classes if rng.random() < 0.3]
    numbers = rng.permutation(3 * len(annotations)).tolist()
    annotations = [{"id": 1 + number} | each for number, each in zip(numbers, annotations, strict=False)]
    rng.shuffle(results)
    truth = {"images": images, "annotations": annotations, "categories": categories}
    # The references want an object and a detection.
    return (truth, results) if annotations and results else random_case(rng, lvis=lvis)


def random_object(rng, image, classes, *, crowds):
    size = np.maximum(rng.uniform(0, 0.8, 2) * (image["width"], image["height"]), 1)
    x, y = (rng.uniform(size=2) * ((image["width"], image["height"]) - size)).tolist()
    w, h = size.tolist()
    crowd = crowds and rng.random() < 0.2
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "image_id": image["id"],
        "category_id": int(rng.choice(classes)),
        "bbox": [x, y, w, h],
        "area": w * h if rng.random() < 0.8 else float(rng.uniform(0, 20_000)),
        "iscrowd": int(crowd),
        "segmentation": mask(image["height"], image["width"], [x, y, w, h]) if crowd else outline,
    }


def random_detection(rng, image, classes, objects):
    """An object's box, often exactly, or one anywhere."""
    if objects and rng.random() < 0.7:
        found = objects[rng.integers(len(objects))]
        moved = rng.normal(size=4) * 2 * (rng.random() < 0.5)
        box = np.maximum(np.add(found["bbox"], moved), [-9, -9, 0, 0]).tolist()
        category = found["category_id"]
    else:
        box = (rng.uniform(size=4) * ([image["width"], image["height"]] * 2)).tolist()
        category = int(rng.choice(classes))
    if rng.random() < 0.1:
        box[2] = 0.0
    return {
        "image_id": image["id"],
        "category_id": category,
        "bbox": box,
        "score": round(float(rng.random()), 1),
        "segmentation": mask(image["height"], image["width"], box),
    }


def of_type(results, iou_type):
    dropped = BOXLESS[iou_type]
    return [{key: value for key, value in record.items() if key != dropped} for record in copy.deepcopy(results)]


@pytest.mark.parametrize("seed", CASES)
def test_equals_pycocotools(seed, tmp_path):
    truth, results = random_case(np.random.default_rng(seed), lvis=False)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))

    ours = evaluate(path, results)

    for iou_type in ours.scores:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
            engine = COCOeval(coco, coco.loadRes(of_type(results, iou_type)), iou_type)
            engine.evaluate()
            engine.accumulate()
            engine.summarize()
        for name, expected in zip(COCO_ORDER, engine.stats, strict=True):
            if name is not None:
                found = ours[iou_type][name]
                assert (-1 if found is None else found) == pytest.approx(expected, rel=0, abs=TOLERANCE), name


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("cap", [3, 300])
def test_equals_lvis_api(seed, cap, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis-api was written for an older NumPy
    lvis = pytest.importorskip("lvis")
    truth, results = random_case(np.random.default_rng(seed), lvis=True)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))

    ours = evaluate(path, results, max_detections=cap)

    for iou_type in ours.scores:
        reference = lvis.LVIS(str(path))
        found = lvis.LVISResults(reference, of_type(results, iou_type), max_dets=cap)
        engine = lvis.LVISEval(reference, found, iou_type)
        engine.params.max_dets = cap
        engine.run()
        expected = engine.get_results()
        for name, value in ours[iou_type].items():
            if name != "AP50f":
                theirs = expected[f"{name}@{cap}" if name.startswith("AR") else name]
                assert (-1 if value is None else value) == pytest.approx(theirs, rel=0, abs=TOLERANCE), name
