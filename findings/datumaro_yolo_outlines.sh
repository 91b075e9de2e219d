#!/usr/bin/env bash
# datumaro's YOLO import leaves out each image whose label file begins with an outline, and says nothing.
#
# Versions: Python 3.11, datumaro 1.13.12.
#
# Guess before the run: outlines (class x1 y1 x2 y2 ...) become polygons, or their boxes; or they are refused.
#
# Behavior: an image whose first line is an outline is not in the data set, nor are the boxes in its other lines. An
# image without a label file, which is a background image for YOLO, is left out as well; with an empty label file it is
# there. With an outline in any file the format of the folder is not recognized any more, but an import that names the
# format goes through without a message.
#
# Who meets it: whoever converts a segmentation data set of ultralytics, or one in which some images were outlined and
# some were boxed: the counts of the converted set are those of the boxed images.
#
# Output seen on 2026-11-30: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check datumaro==1.13.12

cat > see.py <<'PYTHON'
import logging
from pathlib import Path

from datumaro import Dataset, Environment
from PIL import Image

logging.basicConfig(level=logging.WARNING, format="log: %(message)s")
BOX, OUTLINE = "0 0.5 0.5 0.2 0.2\n", "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"
LABELS = {"box": BOX, "both": OUTLINE + BOX, "outline": OUTLINE, "empty": "", "nothing": None}


def write(names):
    root = Path("_".join(names))
    for part in ("images", "labels"):
        (root / part / "train").mkdir(parents=True)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/train\nnames:\n  0: ant\n")
    for name in names:
        Image.new("RGB", (100, 80)).save(root / f"images/train/{name}.jpg")
        if LABELS[name] is not None:
            (root / f"labels/train/{name}.txt").write_text(LABELS[name])
    return str(root)


for names in (["box", "nothing"], ["box", "both", "outline", "empty", "nothing"]):
    folder = write(names)
    data = Dataset.import_from(folder, format="yolo")
    print("written:", *names)
    print("  recognized as:", *Environment().detect_dataset(folder))
    print("  read:", *(f"{item.id} ({len(item.annotations)} objects)" for item in sorted(data, key=lambda item: item.id)))
PYTHON
venv/bin/python -W ignore see.py 2>&1 | tee seen.txt

cat > expected.txt <<'expected'
written: box nothing
  recognized as: yolo
  read: box (1 objects)
written: box both outline empty nothing
  recognized as:
  read: box (1 objects) empty (0 objects)
expected
diff expected.txt seen.txt
