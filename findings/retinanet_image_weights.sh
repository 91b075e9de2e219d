#!/usr/bin/env bash
# torchvision's RetinaNet divides the loss of each image by the positive anchors of that image, and of an image without
# objects by 1. Its FCOS divides the loss of the batch by the positives of the batch.
#
# Versions: Python 3.11, torch 2.15.0, torchvision 0.29.2.
#
# Guess before the run: the batch is divided by the positives of the batch, as in the paper of the focal loss and in FCOS:
# a background anchor counts the same in every image, and so does an object.
#
# Behavior (untrained classifier, p = 0.01 everywhere, 256 x 256 pixels):
# - RetinaNet: a background anchor of an image without objects counts 22, 176 and 1,408 times as much as one of an
#   image with 1, 8 and 64 objects in the same batch: as many times as that image has anchors with an object. In FCOS they count the same.
# - RetinaNet: an object that is alone in its image pulls as much as all 64 objects of another image together. In FCOS
#   each object pulls the same.
#
# Who meets it: whoever trains torchvision's RetinaNet with images without objects (negatives against false alarms,
# frames of videos), or on crowded images: the push on the background comes from the empty images, and objects in
# crowded images hardly count. Rare classes that live in crowded scenes are learned last.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2

cat > try.py <<'PYTHON'
import torch
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList

SIDE, STRIDES = 256, (8, 16, 32, 64, 128)


class Backbone(nn.Module):
    out_channels = 32


def compute_gradients(model, numbers_of_objects):
    """By image: the push of the classification loss on a background anchor, and the pull on all anchors of objects."""
    spots = [(x, y) for y in range(0, SIDE, 32) for x in range(0, SIDE, 32)]
    targets = []
    for number in numbers_of_objects:
        boxes = torch.tensor([[x, y, x + 32, y + 32] for x, y in spots[:number]], dtype=torch.float32).reshape(-1, 4)
        targets.append({"boxes": boxes, "labels": torch.zeros(number, dtype=torch.int64)})
    count = len(targets)
    maps = [torch.zeros(count, 32, SIDE // stride, SIDE // stride) for stride in STRIDES]
    anchors = model.anchor_generator(ImageList(torch.zeros(count, 3, SIDE, SIDE), [(SIDE, SIDE)] * count), maps)
    logits = torch.full((count, len(anchors[0]), 1), -4.595, requires_grad=True)  # p = 0.01, as both begin
    outputs = {
        "cls_logits": logits,
        "bbox_regression": torch.ones(count, len(anchors[0]), 4),
        "bbox_ctrness": torch.zeros(count, len(anchors[0]), 1),
    }
    levels = [] if isinstance(model, RetinaNet) else [[map.shape[2] * map.shape[3] for map in maps]]
    model.compute_loss(targets, outputs, anchors, *levels)["classification"].backward()
    gradient = logits.grad[..., 0]
    return gradient.amax(1), (-gradient.clamp(max=0)).sum(1)


for kind in (RetinaNet, FCOS):
    torch.manual_seed(0)
    model = kind(Backbone(), 1)
    print(kind.__name__)
    for number in (1, 8, 64):
        push, _ = compute_gradients(model, [number, 0])
        print(f"  a background anchor beside no object counts {float(push[1] / push[0]):.0f} times that beside {number}")
    _, pull = compute_gradients(model, [1, 64])
    print(f"  an object alone in its image pulls {float(pull[0] / (pull[1] / 64)):.0f} times as much as one of 64")
PYTHON
venv/bin/python -W ignore try.py | tee seen

cat > expected <<'EXPECTED'
RetinaNet
  a background anchor beside no object counts 22 times that beside 1
  a background anchor beside no object counts 176 times that beside 8
  a background anchor beside no object counts 1408 times that beside 64
  an object alone in its image pulls 64 times as much as one of 64
FCOS
  a background anchor beside no object counts 1 times that beside 1
  a background anchor beside no object counts 1 times that beside 8
  a background anchor beside no object counts 1 times that beside 64
  an object alone in its image pulls 1 times as much as one of 64
EXPECTED
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
