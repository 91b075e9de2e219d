#!/usr/bin/env bash
# Whether AP of small masks counts a false alarm depends on a key that mask AP does not need: the record's own 'bbox'.
#
# Versions: Python 3.11, pycocotools 2.0.11, faster-coco-eval 1.8.0, hotcoco 1.3.0, lvis 0.5.3.
#
# Guess before the run: for masks, each evaluator takes the size of a detection from its mask, so that a 'bbox' beside
# the mask changes nothing, as for the objects of the truth, whose area is the mask's.
#
# Behavior: where the first record holds a 'bbox', all four take width x height of the box for the area of each
# detection, also for masks, and overlook an 'area' in the record. In the example a thin false alarm of 591 pixels in a
# box of 100 x 100 stands above the right mask of a small object: with boxes beside the masks it is no small detection,
# is left out of the small ones, and AP of small objects is 1.0; the same records without boxes give 0.5. AP over all
# sizes is 0.5 in both.
#
# Who meets it: whoever compares APs, APm and APl of masks of two frameworks. detectron2 writes both keys into one
# record, mmdetection writes masks into a file of their own. Thin, diagonal and ring-shaped detections change their size
# group.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pycocotools==2.0.11 faster-coco-eval==1.8.0 hotcoco==1.3.0 \
    lvis==0.5.3

cat > try.py <<'PYTHON'
import contextlib
import io
import json

import faster_coco_eval
import hotcoco
import numpy
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

numpy.float = float  # lvis 0.5.3 was written for an older NumPy
from lvis import LVIS, LVISEval, LVISResults

SIDE = 400


def run_lengths(polygon):
    encoded = mask.merge(mask.frPyObjects([polygon], SIDE, SIDE))
    encoded["counts"] = encoded["counts"].decode()
    return encoded


square = [10, 10, 30, 10, 30, 30, 10, 30]
corner = [100, 100, 200, 100, 200, 103, 103, 103, 103, 200, 100, 200]
lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
truth = {
    "images": [{"id": 1, "file_name": "1.png", "width": SIDE, "height": SIDE, **lists}],
    "categories": [{"id": 1, "name": "cat", "frequency": "r", "image_count": 1, "instance_count": 1}],
    "annotations": [
        {
            "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 400, "bbox": [10, 10, 20, 20],
            "segmentation": [square],
        }
    ],
}
results = [
    {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": run_lengths(corner), "bbox": [100, 100, 100, 100]},
    {"image_id": 1, "category_id": 1, "score": 0.8, "segmentation": run_lengths(square), "bbox": [10, 10, 20, 20]},
]
with open("truth.json", "w") as file:
    json.dump(truth, file)


def like_coco(index, evaluator):
    loaded = index("truth.json")
    evaluation = evaluator(loaded, loaded.loadRes("results.json"), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[3]


def by_lvis():
    loaded = LVIS("truth.json")
    evaluation = LVISEval(loaded, LVISResults(loaded, "results.json"), "segm")
    evaluation.run()
    return evaluation.results["AP"], evaluation.results["APs"]


def show(title, records):
    with open("results.json", "w") as file:
        json.dump(records, file)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        answers = {
            "pycocotools": like_coco(COCO, COCOeval),
            "faster-coco-eval": like_coco(faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
            "hotcoco": like_coco(hotcoco.COCO, hotcoco.COCOeval),
            "lvis": by_lvis(),
        }
    print(title)
    for name, (ap, small) in answers.items():
        print(f"  {name}: AP {ap:.3f}, small {small:.3f}")


print("pixels of the two masks:", [int(mask.area(record["segmentation"])) for record in results])
show("boxes beside the masks", results)
show("boxes, masks and the masks' areas", [r | {"area": int(mask.area(r["segmentation"]))} for r in results])
show("masks alone", [{key: value for key, value in r.items() if key != "bbox"} for r in results])
PYTHON

cat > expected <<'TEXT'
pixels of the two masks: [591, 400]
boxes beside the masks
  pycocotools: AP 0.500, small 1.000
  faster-coco-eval: AP 0.500, small 1.000
  hotcoco: AP 0.500, small 1.000
  lvis: AP 0.500, small 1.000
boxes, masks and the masks' areas
  pycocotools: AP 0.500, small 1.000
  faster-coco-eval: AP 0.500, small 1.000
  hotcoco: AP 0.500, small 1.000
  lvis: AP 0.500, small 1.000
masks alone
  pycocotools: AP 0.500, small 0.500
  faster-coco-eval: AP 0.500, small 0.500
  hotcoco: AP 0.500, small 0.500
  lvis: AP 0.500, small 0.500
TEXT

venv/bin/python try.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
