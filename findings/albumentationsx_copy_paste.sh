#!/usr/bin/env bash
# AlbumentationsX's CopyAndPaste cuts the masks of the image's own objects, and nothing else: boxes stay as large as
# before, and an object that was pasted keeps its whole label when the next one is pasted over it.
#
# Versions: Python 3.11, albumentationsx 2.5.1, torch 2.15.0 (which it imports), opencv-python-headless 5.0.0.93.
#
# Guess before the run: what lies below a pasted object is cut from its mask, its box becomes that of what is left, and
# what has vanished is gone (min_visibility_after_paste=0.05); that holds for objects pasted before as well.
#
# Behavior:
# - An object of 60 x 60 pixels of which 30 x 20 stay visible has the right mask and the old box: its IoU with the box
#   of the visible part is 0.17.
# - Of two pasted objects, the later one covers the earlier one completely: the image shows 0 of its pixels, and its
#   mask has 10,000 and its box the whole image. min_visibility_after_paste is asked of the image's own objects alone.
# - Without masks (boxes alone) an object that is covered completely keeps its box, although the donor has a mask.
#
# Who meets it: whoever pastes several cut-outs of rare classes into an image: the more there are, the more labels
# without an object are taught, and just those of the rare classes. Detectors are taught boxes of hidden parts, while
# COCO's evaluation asks for the visible part.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check albumentationsx==2.5.1 torch==2.15.0 \
    opencv-python-headless==5.0.0.93

cat > try.py <<'PYTHON'
import albumentations as A
import numpy as np

SIDE = 100
WHOLE = np.ones((SIDE, SIDE), np.uint8)  # a donor of the image's size has one place only
WINDOW = WHOLE.copy()
WINDOW[40:60, 20:50] = 0
OWN = np.zeros((SIDE, SIDE), np.uint8)
OWN[20:80, 20:80] = 1
IMAGE = np.repeat((OWN * 50)[..., None], 3, axis=2)


def donor(mask, grey):
    return {
        "image": np.full((SIDE, SIDE, 3), grey, np.uint8), "mask": mask, "bbox_labels": {"labels": grey},
    }


def show(title, donors, with_masks=True):
    paste = A.Compose(
        [A.CopyAndPaste(p=1.0)], bbox_params=A.BboxParams(coord_format="pascal_voc", label_fields=["labels"])
    )
    masks = {"masks": OWN[None]} if with_masks else {}
    boxes = np.array([[20, 20, 80, 80]], np.float32)
    after = paste(image=IMAGE, bboxes=boxes, labels=[50], copy_paste_metadata=donors, **masks)
    print(title)
    for place, (grey, box) in enumerate(zip(after["labels"], after["bboxes"], strict=True)):
        line = f"  object of grey {int(grey)}: box {[int(v) for v in box]}"
        if with_masks:
            mask = np.squeeze(after["masks"][place]) > 0
            rows, columns = np.nonzero(mask)
            around = [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
            line += f", mask in {around}, {mask.sum()} pixels"
        print(f"{line}, {int((after['image'][..., 0] == grey).sum())} seen")


show("one object is pasted and leaves a window", [donor(WINDOW, 100)])
show("two are pasted, the second over the first", [donor(WHOLE, 100), donor(WHOLE, 150)])
show("boxes without masks", [donor(WHOLE, 100)], with_masks=False)
PYTHON

cat > expected <<'TEXT'
one object is pasted and leaves a window
  object of grey 50: box [20, 20, 80, 80], mask in [20, 40, 50, 60], 600 pixels, 600 seen
  object of grey 100: box [0, 0, 100, 100], mask in [0, 0, 100, 100], 9400 pixels, 9400 seen
two are pasted, the second over the first
  object of grey 100: box [0, 0, 100, 100], mask in [0, 0, 100, 100], 10000 pixels, 0 seen
  object of grey 150: box [0, 0, 100, 100], mask in [0, 0, 100, 100], 10000 pixels, 10000 seen
boxes without masks
  object of grey 50: box [20, 20, 80, 80], 0 seen
  object of grey 100: box [0, 0, 100, 100], 10000 seen
TEXT

NO_ALBUMENTATIONS_UPDATE=1 venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
