#!/usr/bin/env bash
# Small and thin objects have no location in torchvision's FCOS: they are not learned, but taught as background. Its
# RetinaNet gives every object an anchor.
#
# Versions: Python 3.11, torch 2.15.0, torchvision 0.29.2.
#
# Guess before the run: every object has at least one location that learns it, as RetinaNet keeps the best anchor of an
# object whatever its overlap is; objects below the stride of 8 pixels share one.
#
# Behavior (objects on whole pixels at random places of a 256 x 256 image, sizes after the image was resized):
# - FCOS: a location must lie inside the object, and the finest ones are 8 pixels apart. 88 of 100 objects of 4 x 4
#   pixels have none, 62 of 6 x 6, 22 of 8 x 8; and 68 of 100 thin ones of 4 x 40 pixels. All locations around such an
#   object learn that there is nothing. The loss is computed without a word.
# - RetinaNet: none is without an anchor.
#
# Who meets it: whoever trains torchvision's FCOS on small or thin objects (poles, people from above, cells), or lowers
# min_size to save time: a class of such objects can be half background. More training does not help; a larger min_size
# does.
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


class Head(nn.Module):
    """In place of the head: keeps which object each location or anchor has, and computes nothing."""

    def compute_loss(self, targets, outputs, anchors, matched):
        self.matched = matched


def count_locations(model, boxes):
    """The number of locations or anchors of each object, alone in its image."""
    maps = [torch.zeros(1, 32, SIDE // stride, SIDE // stride) for stride in STRIDES]
    anchors = model.anchor_generator(ImageList(torch.zeros(1, 3, SIDE, SIDE), [(SIDE, SIDE)]), maps)
    levels = [] if isinstance(model, RetinaNet) else [[map.shape[2] * map.shape[3] for map in maps]]
    targets = [{"boxes": box[None], "labels": torch.tensor([0])} for box in boxes]
    model.head = Head()
    model.compute_loss(targets, {}, anchors * len(boxes), *levels)
    return torch.stack([(matched >= 0).sum() for matched in model.head.matched])


for kind in (FCOS, RetinaNet):
    torch.manual_seed(0)
    model = kind(Backbone(), 1)
    print(f"{kind.__name__}, objects without a location or an anchor, of 400")
    for width, height in ((4, 4), (6, 6), (8, 8), (12, 12), (4, 40), (8, 40)):
        x, y = (torch.randint(0, SIDE - side + 1, (400,)).float() for side in (width, height))
        counts = count_locations(model, torch.stack([x, y, x + width, y + height], dim=1))
        print(f"  {width} x {height}: {int((counts == 0).sum())}")
PYTHON
venv/bin/python -W ignore try.py | tee seen

cat > expected <<'EXPECTED'
FCOS, objects without a location or an anchor, of 400
  4 x 4: 350
  6 x 6: 247
  8 x 8: 87
  12 x 12: 0
  4 x 40: 270
  8 x 40: 49
RetinaNet, objects without a location or an anchor, of 400
  4 x 4: 0
  6 x 6: 0
  8 x 8: 0
  12 x 12: 0
  4 x 40: 0
  8 x 40: 0
EXPECTED
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
