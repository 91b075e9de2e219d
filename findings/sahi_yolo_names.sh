#!/usr/bin/env bash
# SAHI's COCO to YOLO writes category ids as class numbers and lists the names by their place in the file.
#
# Versions: Python 3.11, sahi 0.12.8, supervision 0.31.2, hotcoco 1.3.0, opencv-python 5.0.0.93.
#
# Guess before the run: `sahi coco yolo` gives the classes the numbers 0, 1, .. in the order of data.yml, as YOLO does.
#
# Behavior: the number in a label file is the category id of the COCO file, and data.yml has the names in the order of
# the file's categories. With ids from 1, as COCO has them, every object has the name of the class after its own. Where
# the file lists ids 0 to 2 in another order, names are exchanged. supervision and hotcoco read both without a word as
# long as no number is too large, so in each split that has no object of the last class. hotcoco's own to_yolo gives
# numbers and names that fit.
#
# Who meets it: whoever converts a COCO file with `sahi coco yolo` or Coco.export_as_yolo, often after slicing, and
# trains or reads YOLO. In long-tailed data the last class is easily absent in a split, and nothing is refused. The
# scores look right, as training and validation are wrong alike; every cat is called a dog.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check sahi==0.12.8 supervision==0.31.2 hotcoco==1.3.0 \
    opencv-python==5.0.0.93

cat > names.py <<'PYTHON'
import json
import os
import shutil
import subprocess

import yaml
from hotcoco import COCO
from PIL import Image
from supervision import DetectionDataset


def read(title, folder, yaml_file):
    """The names that two readers give the objects, from left to right."""
    data = DetectionDataset.from_yolo("images", folder, yaml_file)
    _, _, found = data[0]
    print(f"  {title}, read by supervision:", [str(data.classes[n]) for n in found.class_id])
    if yaml_file != f"{folder}/data.yaml":
        shutil.copy(yaml_file, f"{folder}/data.yaml")
    coco = COCO.from_yolo(folder, images_dir="images")
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    print(f"  {title}, read by hotcoco:", [names[a["category_id"]] for a in coco.dataset["annotations"]])


def convert(title, categories, objects):
    """A COCO file with one image, turned to YOLO by SAHI and by hotcoco."""
    number = {name: index for index, name in categories}
    annotations = [
        {
            "id": n, "image_id": 1, "category_id": number[name], "iscrowd": 0, "area": 400, "bbox": [25 * n, 5, 20, 20],
            "segmentation": [[25 * n, 5, 25 * n + 20, 5, 25 * n + 20, 25, 25 * n, 25]],
        }
        for n, name in enumerate(objects, start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 100, "height": 80}],
        "categories": [{"id": index, "name": name, "supercategory": "animal"} for index, name in categories],
        "annotations": annotations,
    }
    with open("truth.json", "w") as file:
        json.dump(content, file)
    print(title)
    print("  objects:", objects)
    folder = f"sahi_{len(objects)}"
    command = ["venv/bin/sahi", "coco", "yolo", "images", "truth.json", "--train_split", "1", "--disable_symlink"]
    subprocess.run([*command, "--project", folder], check=True, capture_output=True)
    with open(f"{folder}/exp/data.yml") as file:
        names = yaml.safe_load(file)["names"]
    with open(f"{folder}/exp/train/1.txt") as file:
        print("  SAHI: names", names, "numbers", [int(line.split()[0]) for line in file])
    read("SAHI", f"{folder}/exp/train", f"{folder}/exp/data.yml")
    COCO("truth.json").to_yolo(f"hotcoco_{len(objects)}")
    read("hotcoco", f"hotcoco_{len(objects)}", f"hotcoco_{len(objects)}/data.yaml")


os.mkdir("images")
Image.new("RGB", (100, 80)).save("images/1.png")
convert("ids from 1, and no owl in this split", [(1, "cat"), (2, "dog"), (3, "owl")], ["cat", "dog"])
convert("ids from 0, listed in another order", [(2, "owl"), (0, "cat"), (1, "dog")], ["cat", "dog", "owl"])
PYTHON

cat > expected <<'TEXT'
ids from 1, and no owl in this split
  objects: ['cat', 'dog']
  SAHI: names ['cat', 'dog', 'owl'] numbers [1, 2]
  SAHI, read by supervision: ['dog', 'owl']
  SAHI, read by hotcoco: ['dog', 'owl']
  hotcoco, read by supervision: ['cat', 'dog']
  hotcoco, read by hotcoco: ['cat', 'dog']
ids from 0, listed in another order
  objects: ['cat', 'dog', 'owl']
  SAHI: names ['owl', 'cat', 'dog'] numbers [0, 1, 2]
  SAHI, read by supervision: ['owl', 'cat', 'dog']
  SAHI, read by hotcoco: ['owl', 'cat', 'dog']
  hotcoco, read by supervision: ['cat', 'dog', 'owl']
  hotcoco, read by hotcoco: ['cat', 'dog', 'owl']
TEXT

venv/bin/python names.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
