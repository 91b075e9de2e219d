#!/usr/bin/env bash
# SAHI and imantics cut out what two polygons of one object share; COCO adds them up.
#
# Versions: Python 3.11, sahi 0.12.8, shapely 2.2.0, imantics 0.1.12, supervision 0.31.2, hotcoco 1.3.0,
# pycocotools 2.0.11, opencv-python 5.0.0.93.
#
# Guess before the run: an object of two polygons that overlap is their union in each package, but for the pixels at the
# edge; SAHI writes the union as one polygon.
#
# Behavior: two rectangles of 30 x 20 pixels share 15 x 15 pixels, so their union has 975 pixels (pycocotools, hotcoco;
# supervision adds its usual row and column of pixels). SAHI's slice_coco takes the shared part out of both: its
# polygons and its area have 750. imantics takes it out of its mask and its area, all but an outline. A polygon inside
# another one is a hole for imantics; SAHI writes the outer polygon alone, without a hole, and the area of a ring.
#
# Who meets it: whoever slices images with SAHI for training, or makes masks with imantics, where annotators drew an
# object in parts that overlap. The place that was drawn twice, in the middle of the object, is taught as background,
# and a perfect mask of the example has IoU 0.77 with what SAHI wrote.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check sahi==0.12.8 shapely==2.2.0 imantics==0.1.12 \
    supervision==0.31.2 hotcoco==1.3.0 pycocotools==2.0.11 opencv-python==5.0.0.93

cat > parts.py <<'PYTHON'
import contextlib
import io
import json
import logging

from hotcoco import COCO as Hotcoco
from imantics import Dataset
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO
from sahi.slicing import slice_coco
from supervision import DetectionDataset

HEIGHT, WIDTH = 80, 100


def rectangle(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def pixels(polygons):
    return int(mask.area(mask.merge(mask.frPyObjects(polygons, HEIGHT, WIDTH))))


def annotation(number, polygons, bbox):
    return {
        "id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": bbox, "area": pixels(polygons),
        "segmentation": polygons,
    }


truth = {
    "images": [{"id": 1, "file_name": "1.png", "width": WIDTH, "height": HEIGHT}],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}],
    "annotations": [
        annotation(1, [rectangle(10, 10, 30, 20), rectangle(25, 15, 30, 20)], [10, 10, 45, 25]),
        annotation(2, [rectangle(10, 50, 20, 20), rectangle(15, 55, 10, 10)], [10, 50, 20, 20]),
    ],
}
with open("truth.json", "w") as file:
    json.dump(truth, file)
Image.new("RGB", (WIDTH, HEIGHT)).save("1.png")
logging.disable()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    plain, fast = COCO("truth.json"), Hotcoco("truth.json")
    _, supervision, found = DetectionDataset.from_coco(".", "truth.json", force_masks=True)[0]
    sliced, _ = slice_coco("truth.json", ".", "sliced", output_dir="slices", slice_height=HEIGHT, slice_width=WIDTH)
    read = list(Dataset.from_coco(truth).iter_annotations())
for index, title in enumerate(["two parts that overlap", "a part inside a part"]):
    print(title)
    print("  pycocotools:", int(plain.annToMask(plain.anns[index + 1]).sum()))
    print("  hotcoco:", int(fast.annToMask(fast.anns[index + 1]).sum()))
    print("  supervision:", int(found.mask[index].sum()))
    print("  imantics: mask", int(read[index].mask.array.sum()), "area", int(read[index].area))
    written = sliced["annotations"][index]
    print("  SAHI: area", written["area"], "pixels of its polygons", pixels(written["segmentation"]))
PYTHON

cat > expected <<'TEXT'
two parts that overlap
  pycocotools: 975
  hotcoco: 975
  supervision: 1046
  imantics: mask 850 area 850
  SAHI: area 750 pixels of its polygons 750
a part inside a part
  pycocotools: 400
  hotcoco: 400
  supervision: 441
  imantics: mask 360 area 360
  SAHI: area 300 pixels of its polygons 400
TEXT

venv/bin/python parts.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
