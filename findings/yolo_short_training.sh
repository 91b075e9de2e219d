#!/usr/bin/env bash
# A training with ultralytics of 10 epochs or fewer has no mosaic and no copy-paste, whatever was asked for.
#
# Versions: Python 3.11, ultralytics 8.4.190, torch 2.15.0, torchvision 0.29.2, opencv-python 5.0.0.93.
#
# Guess before the run: copy_paste=1.0 pastes in every epoch; "close_mosaic" (10 epochs by default) turns the mosaic off
# at the end of a long training, and leaves copy-paste, which is another setting, alone.
#
# Behavior: from epoch `epochs - close_mosaic` on, mosaic, copy_paste, mixup and cutmix are all set to 0. With the
# default of 10, a training of 5 or 10 epochs never pastes an object, one of 12 does so in 2 epochs. The log says
# "Closing dataloader mosaic" and nothing of the others. Only close_mosaic=0 keeps them.
#
# Who meets it: whoever tries an augmentation in a few epochs to see whether it helps rare classes, or fine-tunes for 10
# epochs: both trainings are the same, and the augmentation "has no effect".
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
import collections
import logging
import pathlib

import cv2
import numpy as np
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.utils import LOGGER

LOGGER.setLevel(logging.ERROR)
SIDE = 64
for part in ("images", "labels"):
    pathlib.Path("data", part).mkdir(parents=True)
corners = " ".join(str(value / SIDE) for value in (4, 4, 24, 4, 24, 24, 4, 24))
for place in range(4):
    image = np.full((SIDE, SIDE, 3), 114, np.uint8)
    image[4:24, 4:24] = 50
    cv2.imwrite(f"data/images/{place}.png", image)
    pathlib.Path(f"data/labels/{place}.txt").write_text(f"0 {corners}\n")
folder = pathlib.Path("data").resolve()
pathlib.Path("data/data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {{0: cat}}\n")


class Trainer(SegmentationTrainer):
    def preprocess_batch(self, batch):
        objects[self.epoch] += len(batch["cls"])
        return super().preprocess_batch(batch)


print("objects in the 4 images of each epoch, of which each has 1 without and 2 with copy-paste")
mosaic = {"mosaic": 1.0, "copy_paste": 0.0}  # four images in one: more than one object in most of them
for more in (
    {"epochs": 5}, {"epochs": 10}, {"epochs": 12}, {"epochs": 3, "close_mosaic": 0}, {"epochs": 2} | mosaic,
    {"epochs": 2, "close_mosaic": 0} | mosaic,
):
    objects = collections.Counter()
    quiet = {"plots": False, "val": False, "save": False, "verbose": False, "amp": False, "project": folder.as_posix()}
    plain = {"mosaic": 0.0, "fliplr": 0.0, "translate": 0.0, "scale": 0.0}
    small = {"model": "yolo11n-seg.yaml", "imgsz": SIDE, "batch": 4, "workers": 0, "device": "cpu"}
    settings = quiet | plain | small | {"data": "data/data.yaml", "pretrained": False, "copy_paste": 1.0} | more
    Trainer(overrides=settings).train()
    print(f"{more}: {[objects[epoch] for epoch in range(more['epochs'])]}")
PYTHON

cat > expected <<'TEXT'
objects in the 4 images of each epoch, of which each has 1 without and 2 with copy-paste
{'epochs': 5}: [4, 4, 4, 4, 4]
{'epochs': 10}: [4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
{'epochs': 12}: [8, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
{'epochs': 3, 'close_mosaic': 0}: [8, 8, 8]
{'epochs': 2, 'mosaic': 1.0, 'copy_paste': 0.0}: [4, 4]
{'epochs': 2, 'close_mosaic': 0, 'mosaic': 1.0, 'copy_paste': 0.0}: [5, 9]
TEXT

export YOLO_CONFIG_DIR="$folder" YOLO_OFFLINE=true
venv/bin/python -c "import ultralytics" > /dev/null # writes its settings
venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
