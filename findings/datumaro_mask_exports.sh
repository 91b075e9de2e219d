#!/usr/bin/env bash
# datumaro's exports to mask formats leave out all polygons, and say nothing.
#
# Versions: Python 3.11, datumaro 1.13.12.
#
# Guess before the run: polygons of a COCO file are drawn into the masks of Pascal VOC, Cityscapes, CamVid, KITTI, Open
# Images and COCO panoptic, as their boxes are written into the XML files of VOC.
#
# Behavior: no mask is written. The list of VOC segmentation then has only the images without objects; for Cityscapes,
# CamVid, KITTI and COCO panoptic all images are there, without an object. VOC and Open Images keep the boxes. With
# `transform("polygons_to_masks")` before the export every mask is written.
#
# Who meets it: whoever converts COCO, LVIS, CVAT or LabelMe polygons with `datum convert` for a segmentation network:
# the training starts, with images of background only, or with boxes.
#
# Output seen on 2026-11-30: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check datumaro==1.13.12

cat > see.py <<'PYTHON'
import json
import logging
from pathlib import Path

from datumaro import Dataset
from PIL import Image

logging.basicConfig(level=logging.ERROR)  # a warning comes with the masks only
FORMATS = {
    "voc_segmentation": "Segmentation*/*.png",
    "voc": "Segmentation*/*.png",
    "cityscapes": "gtFine/*/*.png",
    "camvid": "trainannot/*.png",
    "kitti_segmentation": "*/instance/*.png",
    "open_images": "masks/*/*.png",
    "coco_panoptic": "annotations/*/*.png",
}

(Path("coco") / "annotations").mkdir(parents=True)
(Path("coco") / "images/train").mkdir(parents=True)
for name in ("objects", "empty"):
    Image.new("RGB", (60, 40)).save(f"coco/images/train/{name}.png")
images = [{"id": n, "file_name": f"{name}.png", "width": 60, "height": 40} for n, name in ((1, "objects"), (2, "empty"))]
square = [10, 10, 30, 10, 30, 30, 10, 30]
annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square], "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
content = {"images": images, "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
Path("coco/annotations/instances_train.json").write_text(json.dumps(content))

for draw in (False, True):
    print("after polygons_to_masks:" if draw else "as read from COCO:")
    for kind, masks in FORMATS.items():
        data = Dataset.import_from("coco", "coco_instances")
        if draw:
            data.transform("polygons_to_masks")
        out = Path(f"{kind}_{draw}")
        data.export(str(out), kind, save_media=True)
        back = sorted(Dataset.import_from(str(out), kind), key=lambda item: item.id)
        found = [f"{item.id}: {'+'.join(sorted({one.type.name for one in item.annotations})) or 'no object'}" for item in back]
        print(f"  {kind:18} {'masks' if list(out.glob(masks)) else 'no mask file'}; read again: {', '.join(found)}")
PYTHON
venv/bin/python -W ignore see.py | tee seen.txt

cat > expected.txt <<'expected'
as read from COCO:
  voc_segmentation   no mask file; read again: empty: no object
  voc                no mask file; read again: empty: no object, objects: bbox
  cityscapes         no mask file; read again: empty: no object, objects: no object
  camvid             no mask file; read again: empty: no object, objects: no object
  kitti_segmentation no mask file; read again: empty: no object, objects: no object
  open_images        no mask file; read again: empty: no object, objects: bbox
  coco_panoptic      no mask file; read again: empty: no object, objects: no object
after polygons_to_masks:
  voc_segmentation   masks; read again: empty: no object, objects: mask
  voc                masks; read again: empty: no object, objects: bbox+mask
  cityscapes         masks; read again: empty: no object, objects: mask
  camvid             masks; read again: empty: no object, objects: mask
  kitti_segmentation masks; read again: empty: no object, objects: mask
  open_images        masks; read again: empty: no object, objects: bbox+mask
  coco_panoptic      masks; read again: empty: no object, objects: mask
expected
if ! diff expected.txt seen.txt; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-30, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-30."
