#!/usr/bin/env bash
# Pascal VOC's 'difficult' objects are crowd regions for hotcoco and objects like any other for four other readers.
#
# Versions: Python 3.11, supervision 0.31.2, hotcoco 1.3.0, globox 2.9.0, labelformat 0.1.17, pylabel 0.1.55, pandas
# 2.3.3, pycocotools 2.0.11, opencv-python 5.0.0.93, pillow 13.0.0.
#
# Guess before the run: no reader looks at <difficult>, so each object becomes an ordinary one; the classes have the
# same ids in the files of two splits, as all readers sort the names.
#
# Behavior: hotcoco writes an object marked difficult with iscrowd 1 (and a crowd region as difficult, the other way
# round); supervision, globox, labelformat and pylabel overlook the mark. In VOC's own evaluation, a difficult object
# need not be found. The same result, which finds all but the difficult object, has AP 1.000 or 0.505. The classes are
# numbered by the names that occur: sorted from 1 by hotcoco, sorted from 0 by globox, from 1 in the order of the images
# that show them first by supervision. So a class has another id in a split that lacks one.
#
# Who meets it: whoever brings VOC files to a COCO evaluation: AP depends on the converter. Whoever converts train and
# val one after the other has two numberings in all three.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check supervision==0.31.2 hotcoco==1.3.0 globox==2.9.0 \
    labelformat==0.1.17 pylabel==0.1.55 pandas==2.3.3 pycocotools==2.0.11 opencv-python==5.0.0.93 pillow==13.0.0

cat > try.py <<'PYTHON'
import contextlib
import io
import json
import os
from pathlib import Path

from globox import AnnotationSet
from hotcoco import COCO as Hotcoco
from labelformat.formats import COCOObjectDetectionOutput, PascalVOCObjectDetectionInput
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pylabel import importer
from supervision import DetectionDataset


def voc(folder, images):
    """A folder of VOC files: for each image the objects from left to right, with the difficult flag."""
    os.makedirs(f"{folder}/images")
    os.makedirs(f"{folder}/xml")
    for name, objects in images.items():
        Image.new("RGB", (100, 60)).save(f"{folder}/images/{name}.jpg")
        lines = [
            f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{difficult}</difficult><bndbox><xmin>{10 + 30 * n}</xmin><ymin>5</ymin>"
            f"<xmax>{30 + 30 * n}</xmax><ymax>30</ymax></bndbox></object>"
            for n, (label, difficult) in enumerate(objects)
        ]
        Path(f"{folder}/xml/{name}.xml").write_text(
            f"<annotation><folder>images</folder><filename>{name}.jpg</filename><size><width>100</width>"
            f"<height>60</height><depth>3</depth></size><segmented>0</segmented>{''.join(lines)}</annotation>"
        )


def converted(folder):
    """The COCO files that five packages make of the folder."""
    out = {name: f"{folder}/{name}.json" for name in ("hotcoco", "supervision", "globox", "labelformat", "pylabel")}
    Hotcoco.from_voc(f"{folder}/xml").save(out["hotcoco"])
    DetectionDataset.from_pascal_voc(f"{folder}/images", f"{folder}/xml").as_coco(annotations_path=out["supervision"])
    AnnotationSet.from_pascal_voc(f"{folder}/xml").save_coco(out["globox"], auto_ids=True)
    labels = PascalVOCObjectDetectionInput(input_folder=Path(folder, "xml"), category_names="cat,dog,owl")
    COCOObjectDetectionOutput(output_file=Path(out["labelformat"])).save(labels)
    data = importer.ImportVOC(path=f"{folder}/xml", path_to_images="../images")
    data.export.ExportToCoco(output_path=out["pylabel"])
    return {name: json.loads(Path(path).read_text()) for name, path in out.items()}


def average_precision(content):
    """AP of a result that finds all objects but the second of the first image."""
    (image,) = [image["id"] for image in content["images"] if image["file_name"].startswith("a.")]
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number
    hard = [a for a in content["annotations"] if a["image_id"] == image and a["bbox"][0] > 30]
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", 500)
    results = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in content["annotations"]
        if a not in hard
    ]
    flags = [int(a["iscrowd"]) for a in hard]
    Path("truth.json").write_text(json.dumps(content))
    truth = COCO("truth.json")
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return flags[0], float(evaluation.stats[0])


voc("one", {"a": [("cat", 0), ("cat", 1)]})
voc("train", {"a": [("dog", 0)], "b": [("cat", 0), ("owl", 0)]})
voc("val", {"c": [("owl", 0), ("dog", 0)]})
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    found = {name: average_precision(content) for name, content in converted("one").items()}
    numbers = {
        folder: {
            name: {category["name"]: category["id"] for category in content["categories"]}
            for name, content in converted(folder).items()
        }
        for folder in ("train", "val")
    }
print("iscrowd of the difficult object, and AP of a result without it")
for name, (flag, ap) in found.items():
    print(f"  {name}: {flag}, {ap:.3f}")
print("ids of the classes in two splits")
for name in ("hotcoco", "globox", "supervision"):
    print(f"  {name}:", *(numbers[folder][name] for folder in numbers))
PYTHON

cat > expected <<'TEXT'
iscrowd of the difficult object, and AP of a result without it
  hotcoco: 1, 1.000
  supervision: 0, 0.505
  globox: 0, 0.505
  labelformat: 0, 0.505
  pylabel: 0, 0.505
ids of the classes in two splits
  hotcoco: {'cat': 1, 'dog': 2, 'owl': 3} {'dog': 1, 'owl': 2}
  globox: {'cat': 0, 'dog': 1, 'owl': 2} {'dog': 0, 'owl': 1}
  supervision: {'dog': 1, 'cat': 2, 'owl': 3} {'dog': 1, 'owl': 2}
TEXT

venv/bin/python try.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
