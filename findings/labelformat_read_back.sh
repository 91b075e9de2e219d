#!/usr/bin/env bash
# What labelformat leaves out of a COCO file, evaluators fill in differently: objects are exchanged, or all are small.
#
# Versions: Python 3.11, labelformat 0.1.17, hotcoco 1.3.0, faster-coco-eval 1.8.0.
#
# Guess before the run: labelformat, which reads and writes COCO, writes annotations without id and area. An evaluator
# refuses such a file, or counts the annotations and takes the area from the mask or the box.
#
# Behavior: hotcoco gives every annotation without an id the id 0. The last object then stands in the place of all three
# objects of the image, and a perfect result has AP 0.112; hotcoco prints that ids are doubled, though the file has no
# id. With ids written into the file, hotcoco takes the missing area from the object, so that small, medium and large
# objects have their AP; faster-coco-eval takes 0 for it, so that all objects are small and AP of medium and large
# objects is -1. It says nothing.
#
# Who meets it: whoever converts with Lightly's labelformat (or writes COCO without these keys) and evaluates. One
# evaluator says that a perfect detector finds almost nothing, the other that the data set has no large object.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check labelformat==0.1.17 hotcoco==1.3.0 faster-coco-eval==1.8.0

cat > read_back.py <<'PYTHON'
import contextlib
import io
import json
from pathlib import Path

from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from hotcoco import COCO, COCOeval
from labelformat.formats import COCOInstanceSegmentationInput, COCOInstanceSegmentationOutput


def square(number, left, top, side):
    right, bottom = left + side, top + side
    return {
        "id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": side * side,
        "bbox": [left, top, side, side], "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }


def evaluate(name, index, evaluator):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        truth = index("truth.json")
        evaluation = evaluator(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, small, medium, large = (float(evaluation.stats[n]) for n in (0, 3, 4, 5))
    print(f"  {name}: AP {ap:.3f}, small {small:.3f}, medium {medium:.3f}, large {large:.3f}")


def write(content):
    Path("truth.json").write_text(json.dumps(content))


original = {
    "images": [{"id": 1, "file_name": "1.png", "width": 200, "height": 200}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [square(1, 150, 150, 20), square(2, 130, 10, 50), square(3, 10, 60, 100)],
}
results = [{"image_id": 1, "category_id": 1, "bbox": a["bbox"], "score": 0.9} for a in original["annotations"]]

print("the file before labelformat, with a perfect result")
write(original)
evaluate("hotcoco", COCO, COCOeval)
evaluate("faster-coco-eval", FasterCOCO, COCOeval_faster)

COCOInstanceSegmentationOutput(Path("written.json")).save(COCOInstanceSegmentationInput(Path("truth.json")))
written = json.loads(Path("written.json").read_text())
print("keys that labelformat writes:", sorted(written["annotations"][0]))
write(written)
evaluate("hotcoco", COCO, COCOeval)

print("the same with ids")
for number, annotation in enumerate(written["annotations"], start=1):
    annotation["id"] = number
write(written)
evaluate("hotcoco", COCO, COCOeval)
evaluate("faster-coco-eval", FasterCOCO, COCOeval_faster)
PYTHON

cat > expected <<'TEXT'
the file before labelformat, with a perfect result
  hotcoco: AP 1.000, small 1.000, medium 1.000, large 1.000
  faster-coco-eval: AP 1.000, small 1.000, medium 1.000, large 1.000
keys that labelformat writes: ['bbox', 'category_id', 'image_id', 'iscrowd', 'segmentation']
  hotcoco: AP 0.112, small -1.000, medium -1.000, large 0.337
the same with ids
  hotcoco: AP 1.000, small 1.000, medium 1.000, large 1.000
  faster-coco-eval: AP 1.000, small 1.000, medium -1.000, large -1.000
TEXT

venv/bin/python read_back.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
