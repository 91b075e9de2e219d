#!/usr/bin/env bash
# pylabel writes the last object before an image without objects once more, for each such image.
#
# Versions: Python 3.11, pylabel 0.1.55, pandas 2.3.3, pycocotools 2.0.11.
#
# Guess before the run: an image without objects is kept or lost when a COCO file is read and written again; the objects
# of the other images stay as they are.
#
# Behavior: ExportToCoco goes through one row for each object and one row for each image without objects. For the latter
# it writes the annotation that it made for the row before again: the same object, with the same id and image. With two
# objects in one image and four images without objects after it, the new file has six annotations, all of the first
# image. pycocotools counts all six as objects of that image and says nothing.
#
# Who meets it: whoever reads a COCO file in which some images have no objects (negatives, or a split made for some
# classes) with pylabel to split, join, rename or analyze it. The copies cannot be found by any detector: of two objects
# and four copies a perfect result finds two, and AR is 0.333.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pylabel==0.1.55 pandas==2.3.3 pycocotools==2.0.11

cat > again.py <<'PYTHON'
import contextlib
import io
import json

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pylabel import importer


def square(number, image, left):
    return {
        "id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 400, "bbox": [left, 0, 20, 20],
        "segmentation": [[left, 0, left + 20, 0, left + 20, 20, left, 20]],
    }


def evaluate(path):
    """The number of objects, and the AP and AR of a perfect result."""
    results = [{"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9} for a in annotations]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    objects = sum(len(anns) for anns in truth.imgToAnns.values())
    return f"{objects} objects, AP {evaluation.stats[0]:.3f}, AR {evaluation.stats[8]:.3f}"


annotations = [square(1, 1, 10), square(2, 1, 50)]
images = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in range(1, 6)]
categories = [{"id": 1, "name": "cat", "supercategory": "animal"}]
with open("before.json", "w") as file:
    json.dump({"images": images, "categories": categories, "annotations": annotations}, file)
with contextlib.redirect_stderr(io.StringIO()):
    importer.ImportCoco("before.json", path_to_images="", name="set").export.ExportToCoco(output_path="after.json")
with open("after.json") as file:
    after = json.load(file)
for annotation in after["annotations"]:
    annotation["id"] += 1  # pylabel begins at 0, and pycocotools overlooks a match with id 0: another matter
with open("after.json", "w") as file:
    json.dump(after, file)
print("images after:", [image["id"] for image in after["images"]])
print("annotations after (id, image, left edge):")
for annotation in after["annotations"]:
    print(" ", annotation["id"], annotation["image_id"], annotation["bbox"][0])
print("before:", evaluate("before.json"))
print("after:", evaluate("after.json"))
PYTHON

cat > expected <<'TEXT'
images after: [1, 2, 3, 4, 5]
annotations after (id, image, left edge):
  1 1 10.0
  2 1 50.0
  2 1 50.0
  2 1 50.0
  2 1 50.0
  2 1 50.0
before: 2 objects, AP 1.000, AR 1.000
after: 6 objects, AP 0.337, AR 0.333
TEXT

venv/bin/python again.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
