#!/usr/bin/env bash
# A COCO file that is only read and written again has other image ids (SAHI, supervision) and class ids (supervision).
#
# Versions: Python 3.11, supervision 0.31.2, sahi 0.12.8, shapely 2.2.0, hotcoco 1.3.0, globox 2.9.0, labelformat
# 0.1.17, pycocotools 2.0.11, opencv-python 5.0.0.93, pillow 13.0.0.
#
# Guess before the run: a file that is read and written again keeps the ids of its images and categories, so that a
# results file made for it still fits.
#
# Behavior: the images of the file are not sorted by id (3, 1, 2), and the category ids have gaps (7, 3, 5). hotcoco,
# globox and labelformat keep both kinds of id. SAHI's Coco numbers the images 1, 2, 3 in the order of the file and
# keeps the categories; supervision numbers the images so and the categories 1, 2, 3 by rising id. pycocotools takes the
# results of a detector that finds everything, written for the first file, for those of other images and classes (it
# overlooks a class id that a file lacks): AP is 0 for SAHI's file and for supervision's, without a word.
#
# Who meets it: whoever filters, splits or corrects a file with one of them and evaluates older results on it, or joins
# it with a file that another tool wrote. COCO's own files are not sorted by image id.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check supervision==0.31.2 sahi==0.12.8 shapely==2.2.0 \
    hotcoco==1.3.0 globox==2.9.0 labelformat==0.1.17 pycocotools==2.0.11 opencv-python==5.0.0.93 pillow==13.0.0

cat > try.py <<'PYTHON'
import contextlib
import io
import json
import logging
from pathlib import Path

from globox import AnnotationSet
from hotcoco import COCO as Hotcoco
from labelformat.formats import COCOInstanceSegmentationInput, COCOInstanceSegmentationOutput
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sahi.utils.coco import Coco
from supervision import DetectionDataset


def square(number, image, category, left):
    right = left + 20
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0, "area": 400,
        "bbox": [left, 5, 20, 20], "segmentation": [[left, 5, right, 5, right, 25, left, 25]],
    }


def show(title, path):
    """The ids of images and categories, and the AP of the results that were written for the first file."""
    content = json.loads(Path(path).read_text())
    print(title)
    print("  images:", {image["file_name"]: image["id"] for image in content["images"]})
    print("  categories:", {category["name"]: category["id"] for category in content["categories"]})
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number  # labelformat writes none, and globox begins at 0: other matters
        annotation.setdefault("area", 400)
    Path(path).write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    print(f"  AP: {evaluation.stats[0]:.3f}")


first = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 60} for n in (3, 1, 2)],
    "categories": [
        {"id": n, "name": name, "supercategory": "animal"} for n, name in ((7, "owl"), (3, "cat"), (5, "dog"))
    ],
    "annotations": [square(1, 1, 3, 10), square(2, 2, 7, 40), square(3, 3, 5, 70)],
}
results = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in first["annotations"]]
for n in (1, 2, 3):
    Image.new("RGB", (100, 60)).save(f"{n}.png")
Path("first.json").write_text(json.dumps(first))
logging.disable()
show("the first file", "first.json")
Hotcoco("first.json").save("hotcoco.json")
show("hotcoco", "hotcoco.json")
AnnotationSet.from_coco("first.json").save_coco("globox.json")
show("globox", "globox.json")
COCOInstanceSegmentationOutput(Path("labelformat.json")).save(COCOInstanceSegmentationInput(Path("first.json")))
show("labelformat", "labelformat.json")
with contextlib.redirect_stderr(io.StringIO()):
    Path("sahi.json").write_text(json.dumps(Coco.from_coco_dict_or_path("first.json").json, default=int))
show("SAHI", "sahi.json")
DetectionDataset.from_coco(".", "first.json").as_coco(annotations_path="supervision.json")
show("supervision", "supervision.json")
PYTHON

cat > expected <<'TEXT'
the first file
  images: {'3.png': 3, '1.png': 1, '2.png': 2}
  categories: {'owl': 7, 'cat': 3, 'dog': 5}
  AP: 1.000
hotcoco
  images: {'3.png': 3, '1.png': 1, '2.png': 2}
  categories: {'owl': 7, 'cat': 3, 'dog': 5}
  AP: 1.000
globox
  images: {'3.png': 3, '1.png': 1, '2.png': 2}
  categories: {'owl': 7, 'cat': 3, 'dog': 5}
  AP: 1.000
labelformat
  images: {'3.png': 3, '1.png': 1, '2.png': 2}
  categories: {'owl': 7, 'cat': 3, 'dog': 5}
  AP: 1.000
SAHI
  images: {'3.png': 1, '1.png': 2, '2.png': 3}
  categories: {'owl': 7, 'cat': 3, 'dog': 5}
  AP: 0.000
supervision
  images: {'3.png': 1, '1.png': 2, '2.png': 3}
  categories: {'cat': 1, 'dog': 2, 'owl': 3}
  AP: 0.000
TEXT

venv/bin/python try.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
