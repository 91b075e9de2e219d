#!/usr/bin/env bash
# supervision writes a mask in two parts, or with a hole, as a crowd region, unless it came from a COCO file.
#
# Versions: Python 3.11, supervision 0.31.2, pycocotools 2.0.11, opencv-python 5.0.0.93, pillow 13.0.0.
#
# Guess before the run: DetectionDataset.as_coco writes each mask as the polygons of its parts with iscrowd 0, as it
# does for objects that it read from a COCO file.
#
# Behavior: where the detections carry no 'iscrowd' of their own (masks made in memory, or a COCO file read with
# use_iscrowd=False), as_coco looks at the shape: a mask in one piece is a polygon with iscrowd 0; a mask in two parts
# or with a hole is a run-length list with iscrowd 1. The same object, read from a COCO file in the usual way, is
# written with iscrowd 0. Evaluators do not ask for crowd regions, and trainers leave them out.
#
# Who meets it: whoever labels with SAM or another model and saves the masks through supervision. Objects behind a pole
# and ring-shaped objects are no longer there: of the three objects of the example a result that finds the plain one
# alone has AR 1.0, and a class whose objects all have holes has no object left.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check supervision==0.31.2 pycocotools==2.0.11 \
    opencv-python==5.0.0.93 pillow==13.0.0

cat > try.py <<'PYTHON'
import contextlib
import io
import json

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from supervision import DetectionDataset, Detections, mask_to_xyxy

masks = np.zeros((3, 60, 100), dtype=bool)
masks[0, 5:25, 5:25] = True
masks[1, 30:50, 5:25] = masks[1, 30:40, 40:50] = True  # two parts
masks[2, 5:25, 50:70] = True
masks[2, 10:20, 55:65] = False  # a hole
Image.new("RGB", (100, 60)).save("1.png")


def written(title, data):
    """The iscrowd flags that as_coco writes, and the AR of a result that finds the plain object alone."""
    data.as_coco(annotations_path="written.json")
    with open("written.json") as file:
        content = json.load(file)
    flags = [(a["iscrowd"], type(a["segmentation"]).__name__) for a in content["annotations"]]
    results = [{"image_id": 1, "category_id": 1, "bbox": content["annotations"][0]["bbox"], "score": 0.9}]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("written.json")
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    print(title)
    print("  iscrowd and kind of segmentation:", flags)
    print(f"  AR of a result that finds the first object alone: {evaluation.stats[8]:.3f}")


objects = Detections(xyxy=mask_to_xyxy(masks).astype(float), mask=masks, class_id=np.zeros(3, dtype=int))
written("masks in memory", DetectionDataset(classes=["cat"], images=["1.png"], annotations={"1.png": objects}))

lists = {
    "images": [{"id": 1, "file_name": "1.png", "width": 100, "height": 60}],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}],
    "annotations": [],
}
for number, mask in enumerate(masks, start=1):
    column = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(column)) + 1
    counts = np.diff([0, *changes, column.size]).tolist()  # none of the masks holds the first pixel
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    lists["annotations"].append(
        {
            "id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": int(mask.sum()),
            "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
            "segmentation": {"size": [60, 100], "counts": counts},
        }
    )
with open("truth.json", "w") as file:
    json.dump(lists, file)
written("the same from a COCO file", DetectionDataset.from_coco(".", "truth.json", force_masks=True))
written(
    "the same with use_iscrowd=False",
    DetectionDataset.from_coco(".", "truth.json", force_masks=True, use_iscrowd=False),
)
PYTHON

cat > expected <<'TEXT'
masks in memory
  iscrowd and kind of segmentation: [(0, 'list'), (1, 'dict'), (1, 'dict')]
  AR of a result that finds the first object alone: 1.000
the same from a COCO file
  iscrowd and kind of segmentation: [(0, 'list'), (0, 'list'), (0, 'list')]
  AR of a result that finds the first object alone: 0.333
the same with use_iscrowd=False
  iscrowd and kind of segmentation: [(0, 'list'), (1, 'dict'), (1, 'dict')]
  AR of a result that finds the first object alone: 1.000
TEXT

venv/bin/python try.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
