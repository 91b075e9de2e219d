#!/usr/bin/env bash
# MMDetection's CopyPaste deletes small objects of which most is still visible, and keeps covered ones in the corner as
# objects without a pixel.
#
# Versions: Python 3.11, onedl-mmdetection 3.5.1, onedl-mmengine 0.10.12, onedl-mmcv 2.3.6, torch 2.15.0, torchvision
# 0.29.2, pycocotools 2.0.11, opencv-python-headless 5.0.0.93.
#
# Guess before the run: what is pasted is cut from the masks below, a partly covered object gets the box of what is left
# of it, and an object goes if nothing is left.
#
# Behavior: an object stays if more than 300 pixels of it are visible (mask_occluded_thr), or if no side of its box has
# moved by more than 10 pixels (bbox_occluded_thr). Both are counts of pixels, whatever the size of object and image.
# - A pole of 100 x 3 pixels, a fifth of which is covered at one end, has 240 visible pixels and a box 20 pixels
#   shorter: it is deleted. An animal of 28 x 20 pixels, half covered, as well. Both stay in the picture, as background.
# - A bus of which 4 % is visible (400 pixels) stays.
# - A covered object has the box [0, 0, 0, 0]. If it lay within 10 pixels of the upper left corner, no side moved by
#   more than 10, and it stays, with this box and an empty mask.
#
# Who meets it: whoever trains with the usual copy-paste recipe on small or thin objects (signs, birds, poles, bottles):
# objects below 300 pixels, which are a third of COCO's small size, lose their label as soon as something is pasted over
# their end, and are taught as background.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check onedl-mmdetection==3.5.1 onedl-mmengine==0.10.12 \
    onedl-mmcv==2.3.6 torch==2.15.0 torchvision==0.29.2 pycocotools==2.0.11 opencv-python-headless==5.0.0.93

cat > try.py <<'PYTHON'
import contextlib
import io

import numpy as np

with contextlib.redirect_stdout(io.StringIO()):
    from mmdet.datasets.transforms import CopyPaste
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

SIDE = 200


def image_with(left, top, width, height, grey):
    """An image of grey 114 with one rectangle and its label, whose class is the rectangle's grey."""
    mask = np.zeros((1, SIDE, SIDE), np.uint8)
    mask[0, top : top + height, left : left + width] = 1
    return {
        "img": np.where(mask[0][..., None] > 0, grey, np.full((SIDE, SIDE, 3), 114)).astype(np.uint8),
        "img_shape": (SIDE, SIDE), "gt_masks": BitmapMasks(mask, SIDE, SIDE),
        "gt_bboxes": HorizontalBoxes(np.array([[left, top, left + width, top + height]], np.float32)),
        "gt_bboxes_labels": np.array([grey]), "gt_ignore_flags": np.zeros(1, bool),
    }


def show(title, under, over):
    results = image_with(*under, grey=50) | {"mix_results": [image_with(*over, grey=100)]}
    after = CopyPaste(selected=False)(results)
    kept = after["gt_bboxes_labels"] == 50
    boxes = after["gt_bboxes"].tensor.numpy()[kept].astype(int).tolist()
    pixels = after["gt_masks"].masks[kept].sum((1, 2)).tolist()
    visible = int((after["img"][..., 0] == 50).sum())
    print(f"{title}: {under[2] * under[3]} pixels, {visible} visible; labels left: {len(boxes)}")
    for box, count in zip(boxes, pixels, strict=True):
        print(f"  box {box}, mask of {count} pixels")


show("a pole covered at its end", (50, 100, 100, 3), (50, 90, 20, 20))
show("an animal covered by half", (100, 100, 28, 20), (100, 100, 14, 20))
show("a bus covered but for a strip", (50, 50, 100, 100), (50, 50, 96, 100))
show("an object covered in the corner", (2, 2, 7, 7), (0, 0, 20, 20))
show("an object covered elsewhere", (100, 100, 7, 7), (95, 95, 20, 20))
PYTHON

cat > expected <<'TEXT'
a pole covered at its end: 300 pixels, 240 visible; labels left: 0
an animal covered by half: 560 pixels, 280 visible; labels left: 0
a bus covered but for a strip: 10000 pixels, 400 visible; labels left: 1
  box [146, 50, 150, 150], mask of 400 pixels
an object covered in the corner: 49 pixels, 0 visible; labels left: 1
  box [0, 0, 0, 0], mask of 0 pixels
an object covered elsewhere: 49 pixels, 0 visible; labels left: 0
TEXT

venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
