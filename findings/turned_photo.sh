#!/usr/bin/env bash
# The same YOLO label of a photo that EXIF turns becomes another box in supervision than in four other readers.
#
# Versions: Python 3.11, supervision 0.31.2, hotcoco 1.3.0, globox 2.9.0, labelformat 0.1.17, pylabel 0.1.55, pandas
# 2.3.3, opencv-python 5.0.0.93, pillow 13.0.0.
#
# Guess before the run: all five multiply YOLO's fractions by the width and height that the image file stores.
#
# Behavior: a photo is stored as 100 x 60 pixels with EXIF orientation 6, as phones held upright write it, so that it is
# shown as 60 x 100. A box drawn on the shown picture is read by supervision in the shown picture (it turns the pixels
# too); hotcoco, globox, labelformat and pylabel multiply by the stored 100 x 60. The two boxes have nothing in common
# (IoU 0), and no reader says that the picture is turned. For a photo without the mark, all five agree.
#
# Who meets it: whoever converts YOLO labels of phone photos to COCO. Annotation tools show pictures turned, and a YOLO
# trainer reads them turned; which converter was used decides whether the boxes lie on the objects. A square photo shows
# no difference in size, and its boxes are wrong all the same where the pixels are not turned.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check supervision==0.31.2 hotcoco==1.3.0 globox==2.9.0 \
    labelformat==0.1.17 pylabel==0.1.55 pandas==2.3.3 opencv-python==5.0.0.93 pillow==13.0.0

cat > try.py <<'PYTHON'
import contextlib
import io
import os
import shutil
from pathlib import Path

from globox import AnnotationSet
from hotcoco import COCO
from labelformat.formats import YOLOv8ObjectDetectionInput
from PIL import Image
from pylabel import importer
from supervision import DetectionDataset


def corner(left, top, width, height):
    return [round(float(value)) for value in (left, top, width, height)]


def read(title, orientation):
    """One photo with one box, as x, y, width and height in pixels, read by five packages."""
    for folder in ("images", "labels"):
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", (100, 60)).save("images/photo.jpg", exif=exif)
    Path("labels/photo.txt").write_text("0 0.25 0.5 0.1 0.2\n")
    Path("data.yaml").write_text("names: [cat]\nnc: 1\ntrain: images\n")
    shutil.copy("data.yaml", "labels/data.yaml")
    print(title)

    data = DetectionDataset.from_yolo("images", "labels", "data.yaml")
    _, pixels, found = data[0]
    left, top, right, bottom = found.xyxy[0]
    print("  supervision:", corner(left, top, right - left, bottom - top), "in", pixels.shape[1], "x", pixels.shape[0])

    coco = COCO.from_yolo("labels", images_dir="images").dataset
    image = coco["images"][0]
    print("  hotcoco:", corner(*coco["annotations"][0]["bbox"]), "in", image["width"], "x", image["height"])

    annotations = AnnotationSet.from_yolo_v5("labels", image_folder="images")
    (annotation,) = [annotation for annotation in annotations if annotation.boxes]
    box = annotation.boxes[0]
    print("  globox:", corner(box.xmin, box.ymin, box.width, box.height), "in {} x {}".format(*annotation.image_size))

    (label,) = YOLOv8ObjectDetectionInput(input_file=Path("data.yaml"), input_split="train").get_labels()
    box, image = label.objects[0].box, label.image
    size = f"{image.width} x {image.height}"
    print("  labelformat:", corner(box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin), "in", size)

    os.remove("labels/data.yaml")
    with contextlib.redirect_stderr(io.StringIO()):
        data = importer.ImportYoloV5("labels", img_ext="jpg", cat_names=["cat"], path_to_images="../images")
    row = data.df.iloc[0]
    box = corner(row.ann_bbox_xmin, row.ann_bbox_ymin, row.ann_bbox_width, row.ann_bbox_height)
    print("  pylabel:", box, "in", row.img_width, "x", row.img_height)


read("not turned", None)
read("turned: stored as 100 x 60, shown as 60 x 100", 6)
PYTHON

cat > expected <<'TEXT'
not turned
  supervision: [20, 24, 10, 12] in 100 x 60
  hotcoco: [20, 24, 10, 12] in 100 x 60
  globox: [20, 24, 10, 12] in 100 x 60
  labelformat: [20, 24, 10, 12] in 100 x 60
  pylabel: [20, 24, 10, 12] in 100 x 60
turned: stored as 100 x 60, shown as 60 x 100
  supervision: [12, 40, 6, 20] in 60 x 100
  hotcoco: [20, 24, 10, 12] in 100 x 60
  globox: [20, 24, 10, 12] in 100 x 60
  labelformat: [20, 24, 10, 12] in 100 x 60
  pylabel: [20, 24, 10, 12] in 100 x 60
TEXT

venv/bin/python try.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
