#!/usr/bin/env bash
# The calls getCatIds, getImgIds and getAnnIds have the same names in four packages and other answers.
#
# Versions: Python 3.11, pycocotools 2.0.11, faster-coco-eval 1.8.0, hotcoco 1.3.0, lvis 0.5.3.
#
# Guess before the run: faster-coco-eval and hotcoco say that they can take the place of pycocotools, so they answer
# every call as it does; lvis, which was made from pycocotools, does too.
#
# Behavior: one valid file, whose categories are not sorted by id, and these answers.
# - All categories: pycocotools, faster-coco-eval and lvis give them in the order of the file, hotcoco sorted by id.
# - The images of two classes: pycocotools and faster-coco-eval give the images that hold both, hotcoco those that hold
#   either.
# - A class name given as a string: pycocotools and hotcoco find the class, faster-coco-eval finds none.
# - The objects of no class (an empty list of category ids): all objects of the file in pycocotools, faster-coco-eval
#   and hotcoco, none in lvis. So "the objects of the class 'unicorn'" are all objects, and with faster-coco-eval "the
#   objects of the class 'cat'" too, where the name is given as a string.
# - Objects with an area from 0 to 1024, where one has exactly 1024: in the list of hotcoco, in neither this list nor
#   the next (1024 to 9216) of pycocotools and faster-coco-eval.
# - The objects of the images [2, 1]: in that order in pycocotools and lvis, sorted by id in faster-coco-eval and
#   hotcoco.
#
# Who meets it: whoever exchanges pycocotools for a faster package in a loader or a script. Class numbers made by
# enumerate(getCatIds()) change, and with them what class each output of a trained model is. Subsets made with
# getImgIds have other images. A subset for a rare class that a split does not have is the whole split.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pycocotools==2.0.11 faster-coco-eval==1.8.0 hotcoco==1.3.0 \
    lvis==0.5.3

cat > ask.py <<'PYTHON'
import contextlib
import io
import json

import numpy

numpy.float = float  # lvis 0.5.3 was written for an older NumPy
from faster_coco_eval import COCO as Faster
from hotcoco import COCO as Hotcoco
from lvis import LVIS
from pycocotools.coco import COCO as Pycocotools


def square(number, image, category, left, side):
    right = left + side
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0, "area": side * side,
        "bbox": [left, 0, side, side], "segmentation": [[left, 0, right, 0, right, side, left, side]],
    }


lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
truth = {
    "images": [{"id": n, "width": 100, "height": 80, "file_name": f"{n}.jpg", **lists} for n in (1, 2, 3)],
    "categories": [
        {"id": 3, "name": "cat", "supercategory": "animal", "frequency": "f"},
        {"id": 1, "name": "dog", "supercategory": "animal", "frequency": "f"},
        {"id": 2, "name": "owl", "supercategory": "animal", "frequency": "r"},
    ],
    "annotations": [square(1, 1, 1, 0, 32), square(2, 1, 3, 40, 10), square(3, 2, 1, 0, 50)],
}
with open("truth.json", "w") as file:
    json.dump(truth, file)
with contextlib.redirect_stdout(io.StringIO()):
    likes = {"pycocotools": Pycocotools("truth.json"), "faster-coco-eval": Faster("truth.json")}
    likes["hotcoco"] = Hotcoco("truth.json")
    lvis = LVIS("truth.json")

for name, coco in likes.items():
    print(name)
    print("  all categories:", coco.getCatIds())
    print("  images of the classes 1 and 3:", coco.getImgIds(catIds=[1, 3]))
    print("  the class 'cat':", coco.getCatIds(catNms="cat"))
    print("  objects of the class 'cat':", coco.getAnnIds(catIds=coco.getCatIds(catNms="cat")))
    print("  objects of the class 'unicorn':", coco.getAnnIds(catIds=coco.getCatIds(catNms=["unicorn"])))
    print("  objects of area 0 to 1024:", coco.getAnnIds(areaRng=[0, 1024]))
    print("  objects of area 1024 to 9216:", coco.getAnnIds(areaRng=[1024, 9216]))
    print("  objects of the images 2 and 1:", coco.getAnnIds(imgIds=[2, 1]))
print("lvis")
print("  all categories:", lvis.get_cat_ids())
print("  objects of no class:", lvis.get_ann_ids(cat_ids=[]))
print("  objects of the images 2 and 1:", lvis.get_ann_ids(img_ids=[2, 1]))
PYTHON

cat > expected <<'TEXT'
pycocotools
  all categories: [3, 1, 2]
  images of the classes 1 and 3: [1]
  the class 'cat': [3]
  objects of the class 'cat': [2]
  objects of the class 'unicorn': [1, 2, 3]
  objects of area 0 to 1024: [2]
  objects of area 1024 to 9216: [3]
  objects of the images 2 and 1: [3, 1, 2]
faster-coco-eval
  all categories: [3, 1, 2]
  images of the classes 1 and 3: [1]
  the class 'cat': []
  objects of the class 'cat': [1, 2, 3]
  objects of the class 'unicorn': [1, 2, 3]
  objects of area 0 to 1024: [2]
  objects of area 1024 to 9216: [3]
  objects of the images 2 and 1: [1, 2, 3]
hotcoco
  all categories: [1, 2, 3]
  images of the classes 1 and 3: [1, 2]
  the class 'cat': [3]
  objects of the class 'cat': [2]
  objects of the class 'unicorn': [1, 2, 3]
  objects of area 0 to 1024: [1, 2]
  objects of area 1024 to 9216: [1, 3]
  objects of the images 2 and 1: [1, 2, 3]
lvis
  all categories: [3, 1, 2]
  objects of no class: []
  objects of the images 2 and 1: [3, 1, 2]
TEXT

venv/bin/python ask.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
