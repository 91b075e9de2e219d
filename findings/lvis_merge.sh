#!/usr/bin/env bash
# hotcoco and SAHI merge LVIS files by class name, but leave the class ids in the lists of the images as they were.
#
# Versions: Python 3.11, hotcoco 1.3.0, sahi 0.12.8, lvis 0.5.3, pycocotools 2.0.11.
#
# Guess before the run: two files that have the same classes under other ids are merged by name, and the ids in
# neg_category_ids and not_exhaustive_category_ids (which LVIS has for each image) go with them, or the lists are gone.
#
# Behavior: both packages match the classes by name and give the objects of the second file the ids of the first. The
# two lists of its images keep the old ids, which now mean other classes. In the example annotators said of the second
# image "there is no cat"; the merged files say "there is no dog", and the image has a dog. The sums image_count and
# instance_count of the classes stay those of the first file.
#
# Who meets it: whoever joins two data sets in the LVIS format (own exports, annotation in rounds) that do not number
# the classes alike. LVIS counts a detection of a class as false only where the image is known not to have it: the
# false cat is not counted, and AP is 1.0 where it is 0.833. A federated loss is taught wrong negatives.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check hotcoco==1.3.0 sahi==0.12.8 lvis==0.5.3 \
    pycocotools==2.0.11

cat > merge.py <<'PYTHON'
import contextlib
import copy
import io
import json
import logging

import numpy

numpy.float = float  # lvis 0.5.3 was written for an older NumPy
from hotcoco import COCO
from lvis import LVIS, LVISEval, LVISResults
from sahi.utils.coco import merge as sahi_merge

logging.disable()


def square(number, category, left):
    return {
        "id": number, "image_id": 1, "category_id": category, "bbox": [left, 5, 20, 20], "area": 400,
        "segmentation": [[left, 5, left + 20, 5, left + 20, 25, left, 25]],
    }


def data_set(path, names, objects, absent):
    """One image with two objects of the named classes, and one class that is known not to be in it."""
    number = {name: index for index, name in enumerate(names, start=1)}
    image = {"id": 1, "width": 100, "height": 80, "file_name": path.replace("json", "jpg")}
    lists = {"neg_category_ids": [number[absent]], "not_exhaustive_category_ids": []}
    content = {
        "images": [image | lists],
        "categories": [
            {"id": number[name], "name": name, "frequency": "r", "image_count": 1, "instance_count": 1}
            for name in names
        ],
        "annotations": [square(1, number[objects[0]], 10), square(2, number[objects[1]], 40)],
    }
    with open(path, "w") as file:
        json.dump(content, file)
    return content


def show(title, merged):
    names = {category["id"]: category["name"] for category in merged["categories"]}
    second = merged["images"][1]
    objects = [a for a in merged["annotations"] if a["image_id"] == second["id"]]
    print(title)
    print("  in the second image:", sorted(names[a["category_id"]] for a in objects))
    print("  known not to be in it:", [names[number] for number in second["neg_category_ids"]])
    print("  images said to show a dog:", [c["image_count"] for c in merged["categories"] if c["name"] == "dog"])
    cat = next(number for number, name in names.items() if name == "cat")
    # All four objects, and a cat in the second image, where there is none.
    results = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.5} for a in merged["annotations"]]
    results.append({"image_id": second["id"], "category_id": cat, "bbox": [70, 40, 20, 20], "score": 0.9})
    with open("merged.json", "w") as file:
        json.dump(merged, file)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = LVIS("merged.json")
        evaluation = LVISEval(truth, LVISResults(truth, results), "bbox")
        evaluation.run()
    print(f"  AP of lvis-api: {evaluation.results['AP']:.3f}")


one = data_set("one.json", ["cat", "dog", "owl"], ["cat", "dog"], "owl")
two = data_set("two.json", ["owl", "cat", "dog"], ["owl", "dog"], "cat")

to_one = {1: 3, 2: 1, 3: 2}
right = copy.deepcopy(one)
right["images"].append(two["images"][0] | {"id": 2, "neg_category_ids": [to_one[2]]})
for annotation in two["annotations"]:
    moved = {"id": annotation["id"] + 2, "image_id": 2, "category_id": to_one[annotation["category_id"]]}
    right["annotations"].append(annotation | moved)
for category in right["categories"]:
    category["image_count"] = {"cat": 1, "dog": 2, "owl": 1}[category["name"]]
show("by hand", right)

COCO.merge([COCO("one.json"), COCO("two.json")]).save("hotcoco.json")
with open("hotcoco.json") as file:
    show("hotcoco", json.load(file))

merged = sahi_merge(copy.deepcopy(one), copy.deepcopy(two))
show("SAHI", json.loads(json.dumps(merged, default=int)))
PYTHON

cat > expected <<'TEXT'
by hand
  in the second image: ['dog', 'owl']
  known not to be in it: ['cat']
  images said to show a dog: [2]
  AP of lvis-api: 0.833
hotcoco
  in the second image: ['dog', 'owl']
  known not to be in it: ['dog']
  images said to show a dog: [1]
  AP of lvis-api: 1.000
SAHI
  in the second image: ['dog', 'owl']
  known not to be in it: ['dog']
  images said to show a dog: [1]
  AP of lvis-api: 1.000
TEXT

venv/bin/python merge.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
