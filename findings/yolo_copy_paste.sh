#!/usr/bin/env bash
# ultralytics' copy_paste is a share that is rounded, not a chance: at 0.5 and below, an image with one object never
# pastes it and never gives it away. What is pasted is the same in every epoch, and covered objects keep their labels.
#
# Versions: Python 3.11, ultralytics 8.4.190, torch 2.15.0, torchvision 0.29.2, opencv-python 5.0.0.93.
#
# Guess before the run: copy_paste=0.5 pastes every object with a chance of one half, another choice in each epoch; what
# is covered is cut from the masks of the objects below; copy_paste_mode=mixup pastes objects of another image with the
# same chance.
#
# Behavior:
# - Mode "flip" (the default) pastes mirrored objects of the same image. Their number is round(copy_paste x count), and
#   round(0.5) is 0: of one object none is pasted at 0.5 and one at 0.51, of three objects two. At 0.1 five objects are
#   too few. The first ones in the file are taken, every time: 20 epochs show the same picture.
# - An object in the middle of the image is never pasted, at 1.0 neither, since its mirror image covers it.
# - A pasted object may cover up to 30 % of another one's box. The other one's mask is not cut: of the covered object's
#   1581 pixels, 341 show the pasted one. (Masks are drawn one pixel wider.)
# - Mode "mixup" takes the setting twice, as the chance and as the share: from an image with one object nothing is
#   pasted at 0.5 in 400 tries, and at 0.8 in 0.8 x 1 / 2 of them (in the other half the image meets itself).
#
# Who meets it: whoever sets copy_paste to 0.1, 0.3 or 0.5 to see rare classes more often. Images with one object, which
# hold many of the rare ones, take no part (with mosaic four images count as one). Crowded images of frequent classes
# do.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check ultralytics==8.4.190 torch==2.15.0 torchvision==0.29.2 \
    opencv-python==5.0.0.93

cat > try.py <<'PYTHON'
import logging
import pathlib
import random
import shutil

import cv2
import numpy as np
from ultralytics.cfg import get_cfg
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import LOGGER

LOGGER.setLevel(logging.ERROR)
SIDE = 200
OFF = {
    name: 0.0 for name in ("mosaic", "degrees", "translate", "scale", "fliplr", "hsv_h", "hsv_s", "hsv_v", "erasing")
}


def dataset(images, copy_paste, mode="flip"):
    """Images of grey 114 with objects (left, top, width, height) in grey 50, 60, 70, all of class 0."""
    shutil.rmtree("data", ignore_errors=True)
    for part in ("images", "labels"):
        pathlib.Path("data", part).mkdir(parents=True)
    for place, objects in enumerate(images):
        image = np.full((SIDE, SIDE, 3), 114, np.uint8)
        lines = []
        for number, (left, top, width, height) in enumerate(objects):
            image[top : top + height, left : left + width] = 50 + 10 * number
            right, bottom = left + width, top + height
            corners = [left, top, right, top, right, bottom, left, bottom]
            lines.append("0 " + " ".join(str(value / SIDE) for value in corners))
        cv2.imwrite(f"data/images/{place}.png", image)
        pathlib.Path(f"data/labels/{place}.txt").write_text("\n".join(lines) + "\n")
    settings = get_cfg(
        overrides=OFF | {"task": "segment", "copy_paste": copy_paste, "copy_paste_mode": mode, "mask_ratio": 1}
    )
    names = {"names": {0: "cat"}, "nc": 1, "channels": 3}
    return YOLODataset(img_path="data/images", imgsz=SIDE, augment=True, hyp=settings, data=names, task="segment")


random.seed(0)
np.random.seed(0)
left_side = [(10, 10 + 50 * number, 30, 30) for number in range(3)]
for title, objects in (
    ("one object", left_side[:1]), ("two objects", left_side[:2]), ("three objects", left_side),
    ("one object in the middle", [(85, 85, 30, 30)]),
):
    print(title)
    for copy_paste in (0.1, 0.5, 0.51, 1.0):
        data = dataset([objects], copy_paste)
        samples = [data[0] for _ in range(20)]
        pasted = sorted({len(sample["cls"]) - len(objects) for sample in samples})
        pictures = len({sample["img"].numpy().tobytes() for sample in samples})
        print(f"  copy_paste {copy_paste}: {pasted} pasted in 20 epochs, {pictures} picture(s)")

print("an object that a pasted one covers in part")
sample = dataset([[(10, 10, 60, 60), (90, 20, 50, 30)]], 1.0)[0]
picture, masks = sample["img"].numpy()[0], sample["masks"].numpy()[0]
for number in range(1, int(masks.max()) + 1):
    seen = picture[masks == number]
    print(f"  mask {number}: {seen.size} pixels, {(seen == 50).sum()} show object 1, {(seen == 60).sum()} object 2")

print("mode mixup, two images with one object each, 400 tries")
for copy_paste in (0.5, 0.8, 1.0):
    data = dataset([[(10, 10, 30, 30)], [(10, 110, 30, 30)]], copy_paste, mode="mixup")
    pasted = sum(len(data[0]["cls"]) - 1 for _ in range(400))
    print(f"  copy_paste {copy_paste}: {pasted / 400:.1f} objects pasted a time")
PYTHON

cat > expected <<'TEXT'
one object
  copy_paste 0.1: [0] pasted in 20 epochs, 1 picture(s)
  copy_paste 0.5: [0] pasted in 20 epochs, 1 picture(s)
  copy_paste 0.51: [1] pasted in 20 epochs, 1 picture(s)
  copy_paste 1.0: [1] pasted in 20 epochs, 1 picture(s)
two objects
  copy_paste 0.1: [0] pasted in 20 epochs, 1 picture(s)
  copy_paste 0.5: [1] pasted in 20 epochs, 1 picture(s)
  copy_paste 0.51: [1] pasted in 20 epochs, 1 picture(s)
  copy_paste 1.0: [2] pasted in 20 epochs, 1 picture(s)
three objects
  copy_paste 0.1: [0] pasted in 20 epochs, 1 picture(s)
  copy_paste 0.5: [2] pasted in 20 epochs, 1 picture(s)
  copy_paste 0.51: [2] pasted in 20 epochs, 1 picture(s)
  copy_paste 1.0: [3] pasted in 20 epochs, 1 picture(s)
one object in the middle
  copy_paste 0.1: [0] pasted in 20 epochs, 1 picture(s)
  copy_paste 0.5: [0] pasted in 20 epochs, 1 picture(s)
  copy_paste 0.51: [0] pasted in 20 epochs, 1 picture(s)
  copy_paste 1.0: [0] pasted in 20 epochs, 1 picture(s)
an object that a pasted one covers in part
  mask 1: 3721 pixels, 3600 show object 1, 0 object 2
  mask 2: 3380 pixels, 3259 show object 1, 0 object 2
  mask 3: 1581 pixels, 341 show object 1, 1200 object 2
mode mixup, two images with one object each, 400 tries
  copy_paste 0.5: 0.0 objects pasted a time
  copy_paste 0.8: 0.4 objects pasted a time
  copy_paste 1.0: 0.5 objects pasted a time
TEXT

export YOLO_CONFIG_DIR="$folder"
venv/bin/python -c "import ultralytics" > /dev/null # writes its settings
venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
