#!/usr/bin/env bash
# After a crop or a rotation, torchvision, AlbumentationsX and kornia give a box that is made from the old box, not from
# the mask beside it: an object that is cropped away stays as a box of the whole crop with an empty mask.
#
# Versions: Python 3.11, torch 2.15.0, torchvision 0.29.2, albumentationsx 2.5.1, kornia 0.9.0, opencv-python-headless
# 5.0.0.93.
#
# Guess before the run: given masks and boxes of the same objects, each transform gives boxes that lie around the masks,
# and what removes degenerate objects (SanitizeBoundingBoxes, min_visibility) removes those whose mask is empty.
#
# Behavior: four objects: a disc, a diagonal bar, an object in two parts (opposite corners), an L along two edges.
# - The middle 60 x 60 pixels hold no pixel of the two last, but a part of their boxes. torchvision (with
#   SanitizeBoundingBoxes) and AlbumentationsX (with min_visibility=0.05) keep both, each with a box of the whole crop
#   and an empty mask. Only AlbumentationsX's instance_binding drops them. kornia's boxes even reach beyond the crop, to
#   -60 and 120.
# - Turned by 45 degrees, all give a box around the turned box. The disc's has twice its area; the bar, then level and 8
#   pixels high, has a box 175 pixels high: IoU 0.05 with its mask's. instance_binding does not change this.
#   Two rotations add up: turned back, the disc's box is 160 pixels wide instead of 80.
#
# Who meets it: whoever augments instance segmentation with crops or rotations: objects behind others (two parts), long
# and diagonal ones teach boxes that hold something else and masks without a pixel. Both are gone where the box is made
# from the mask again (torchvision.ops.masks_to_boxes, empty masks taken out).
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 albumentationsx==2.5.1 \
    kornia==0.9.0 opencv-python-headless==5.0.0.93

cat > try.py <<'PYTHON'
import albumentations as A
import kornia.augmentation as K
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

SIDE = 200
rows, columns = np.mgrid[:SIDE, :SIDE]
parts = np.zeros((SIDE, SIDE), bool)
parts[20:60, 20:60] = parts[140:180, 140:180] = True
edges = np.zeros((SIDE, SIDE), bool)
edges[10:190, 10:20] = edges[180:190, 10:190] = True
MASKS = {
    "disc": (columns - 99.5) ** 2 + (rows - 99.5) ** 2 <= 40**2,
    "bar": (np.abs(columns - rows) <= 4) & (columns >= 40) & (columns < 160), "two parts": parts, "L": edges,
}
STACK = np.stack(list(MASKS.values())).astype(np.uint8)


def around(mask):
    """The box of a mask: left, top, right, bottom."""
    ys, xs = np.nonzero(np.squeeze(np.asarray(mask)) > 0)
    return [int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)] if len(xs) else None


BOXES = np.array([around(mask) for mask in STACK], np.float32)


def by_torchvision(*transforms):
    target = {
        "image": tv_tensors.Image(torch.zeros(3, SIDE, SIDE)), "masks": tv_tensors.Mask(torch.from_numpy(STACK)),
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=(SIDE, SIDE)),
        "labels": torch.arange(len(STACK)),
    }
    after = v2.Compose([*transforms, v2.SanitizeBoundingBoxes()])(target)
    return list(zip(after["labels"].tolist(), after["boxes"].tolist(), after["masks"].numpy(), strict=True))


def by_albumentations(*transforms):
    boxes = A.BboxParams(coord_format="pascal_voc", label_fields=["labels"], min_visibility=0.05)
    after = A.Compose(list(transforms), bbox_params=boxes)(
        image=np.zeros((SIDE, SIDE, 3), np.uint8), masks=STACK, bboxes=BOXES, labels=np.arange(len(STACK))
    )
    numbers = [int(number) for number in after["labels"]]
    return [(n, box, after["masks"][n]) for n, box in zip(numbers, after["bboxes"].tolist(), strict=True)]


def by_binding(*transforms):
    boxes = A.BboxParams(coord_format="pascal_voc", label_fields=["labels"], min_visibility=0.05)
    compose = A.Compose(list(transforms), bbox_params=boxes, instance_binding=["masks", "bboxes"])
    objects = [
        {"mask": mask, "bbox": box.tolist(), "bbox_labels": {"labels": number}}
        for number, (mask, box) in enumerate(zip(STACK, BOXES, strict=True))
    ]
    after = compose(image=np.zeros((SIDE, SIDE, 3), np.uint8), instances=objects)
    return [(int(o["bbox_labels"]["labels"]), list(o["bbox"]), o["mask"]) for o in after["instances"]]


def by_kornia(*transforms):
    masks, boxes = torch.from_numpy(STACK)[None].float(), torch.from_numpy(BOXES)[None]
    sequence = K.AugmentationSequential(*transforms, data_keys=["input", "mask", "bbox_xyxy"])
    _, masks, boxes = sequence(torch.zeros(1, 3, SIDE, SIDE), masks, boxes)
    return list(zip(range(len(STACK)), boxes[0].tolist(), masks[0].numpy() > 0.5, strict=True))


def show(title, answers):
    print(title)
    for number, box, mask in answers:
        near = around(mask)
        print(f"  {list(MASKS)[number]}: box {[round(v) for v in box]}, mask {near or 'without a pixel'}")


show("torchvision, crop", by_torchvision(v2.CenterCrop(60)))
show("AlbumentationsX, crop", by_albumentations(A.CenterCrop(60, 60)))
show("AlbumentationsX with instance_binding, crop", by_binding(A.CenterCrop(60, 60)))
show("kornia, crop", by_kornia(K.CenterCrop((60, 60), p=1.0)))
show("torchvision, turned", by_torchvision(v2.RandomRotation((45, 45))))
show("AlbumentationsX, turned", by_albumentations(A.Rotate((45, 45), p=1.0)))
show("AlbumentationsX with instance_binding, turned", by_binding(A.Rotate((45, 45), p=1.0)))
show("kornia, turned", by_kornia(K.RandomRotation((45.0, 45.0), p=1.0)))
show("torchvision, turned and back", by_torchvision(v2.RandomRotation((45, 45)), v2.RandomRotation((-45, -45))))
PYTHON

cat > expected <<'TEXT'
torchvision, crop
  disc: box [0, 0, 60, 60], mask [0, 0, 60, 60]
  bar: box [0, 0, 60, 60], mask [0, 0, 60, 60]
  two parts: box [0, 0, 60, 60], mask without a pixel
  L: box [0, 0, 60, 60], mask without a pixel
AlbumentationsX, crop
  disc: box [0, 0, 60, 60], mask [0, 0, 60, 60]
  bar: box [0, 0, 60, 60], mask [0, 0, 60, 60]
  two parts: box [0, 0, 60, 60], mask without a pixel
  L: box [0, 0, 60, 60], mask without a pixel
AlbumentationsX with instance_binding, crop
  disc: box [0, 0, 60, 60], mask [0, 0, 60, 60]
  bar: box [0, 0, 60, 60], mask [0, 0, 60, 60]
kornia, crop
  disc: box [-10, -10, 70, 70], mask [0, 0, 60, 60]
  bar: box [-30, -34, 90, 94], mask [0, 0, 60, 60]
  two parts: box [-50, -50, 110, 110], mask without a pixel
  L: box [-60, -60, 120, 120], mask without a pixel
torchvision, turned
  disc: box [43, 43, 157, 157], mask [60, 60, 140, 140]
  bar: box [12, 12, 188, 188], mask [13, 96, 187, 104]
  two parts: box [0, 0, 200, 200], mask [0, 72, 200, 128]
  L: box [0, 0, 200, 200], mask [0, 114, 200, 200]
AlbumentationsX, turned
  disc: box [43, 43, 157, 157], mask [60, 60, 140, 140]
  bar: box [12, 12, 188, 188], mask [13, 96, 187, 104]
  two parts: box [0, 0, 200, 200], mask [0, 72, 200, 128]
  L: box [0, 0, 200, 200], mask [0, 114, 200, 200]
AlbumentationsX with instance_binding, turned
  disc: box [43, 43, 157, 157], mask [60, 60, 140, 140]
  bar: box [12, 12, 188, 188], mask [13, 96, 187, 104]
  two parts: box [0, 0, 200, 200], mask [0, 72, 200, 128]
  L: box [0, 0, 200, 200], mask [0, 114, 200, 200]
kornia, turned
  disc: box [44, 43, 157, 156], mask [60, 60, 140, 140]
  bar: box [13, 12, 188, 187], mask [13, 96, 187, 104]
  two parts: box [-13, -14, 213, 213], mask [0, 72, 200, 128]
  L: box [-27, -28, 227, 227], mask [0, 114, 200, 200]
torchvision, turned and back
  disc: box [20, 20, 180, 180], mask [60, 60, 140, 140]
  bar: box [0, 0, 200, 200], mask [40, 36, 160, 164]
  two parts: box [0, 0, 200, 200], mask [19, 19, 181, 181]
  L: box [0, 0, 200, 200], mask [9, 39, 161, 191]
TEXT

NO_ALBUMENTATIONS_UPDATE=1 venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
