#!/usr/bin/env bash
# MMDetection's CachedMixUp loses the masks of objects that it enlarges, and puts those of upright images beside the
# objects.
#
# Versions: Python 3.11, onedl-mmdetection 3.5.1, onedl-mmengine 0.10.12, onedl-mmcv 2.3.6, torch 2.15.0, torchvision
# 0.29.2, pycocotools 2.0.11, opencv-python-headless 5.0.0.93.
#
# Guess before the run: CachedMixUp, which RTMDet-Ins trains with, moves masks and boxes alike: a mask that fills its box
# before fills it afterwards, to a pixel.
#
# Behavior: the second image is scaled (ratio_range, 0.5 to 1.5 by default), flipped, cropped and mixed in. Its boxes are
# right. Its masks are not:
# - Masks of an enlarged image are cut to the size of the first image before they are moved, from the upper left corner:
#   what is visible of the right and the lower part of the image has no mask. At a scale of 1.5 the masks fill 0.58 of
#   their boxes, and 14 % of the objects have no pixel; at 2.0 it is 0.24 and 39 %.
# - An upright image stands at the left of a square canvas, and its boxes are flipped with the canvas, its masks without
#   it: they lie beside the object. Wide images are right.
# - flip_ratio is the share that is not flipped.
# There is no warning. The published configurations of RTMDet-Ins do not meet the first two: they set ratio_range to 1 and
# pad every image to a square before.
#
# Who meets it: whoever takes the transform with its defaults, leaves out the padding, or has photographs in portrait
# format: parts of objects are taught as background of their own box, with the right class.
#
# Output seen on 2026-12-01: the lines between "expected" below.
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
    from mmdet.datasets.transforms import CachedMixUp
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

SIDE = 200


def image_with_object(generator, height, width):
    """An image with one rectangle, whose mask fills its box."""
    left, right = sorted(generator.choice(width - 1, 2, replace=False).tolist())
    top, bottom = sorted(generator.choice(height - 1, 2, replace=False).tolist())
    mask = np.zeros((1, height, width), np.uint8)
    mask[0, top : bottom + 1, left : right + 1] = 1
    return {
        "img": np.full((height, width, 3), 114, np.uint8), "img_shape": (height, width),
        "gt_masks": BitmapMasks(mask, height, width),
        "gt_bboxes": HorizontalBoxes(np.array([[left, top, right + 1, bottom + 1]], np.float32)),
        "gt_bboxes_labels": np.zeros(1, int), "gt_ignore_flags": np.zeros(1, bool),
    }


def show(what, height=SIDE, width=SIDE, count=400, **settings):
    """Mixes pairs of images, and prints how much of the second object's box its mask fills."""
    generator = np.random.default_rng(0)
    np.random.seed(0)
    filled = []
    for _ in range(count):
        mix = CachedMixUp(img_scale=(SIDE, SIDE), prob=1.0, **settings)
        mix.results_cache.append(image_with_object(generator, height, width))
        mix.get_indexes = lambda cache: 0  # the other image, not this one
        after = mix.transform(image_with_object(generator, SIDE, SIDE))
        for box, mask in list(zip(after["gt_bboxes"].tensor.numpy(), after["gt_masks"].masks))[1:]:
            left, top, right, bottom = box.round().astype(int)
            if (right - left) * (bottom - top) >= 16:
                filled.append(mask[top:bottom, left:right].mean())
    filled = np.array(filled)
    print(f"{what}: {len(filled)} objects, their masks fill {filled.mean():.2f} of their boxes, "
          f"without a pixel in the box {(filled == 0).mean():.2f}")


for ratio in (0.5, 1.0, 1.5, 2.0):
    show(f"scaled by {ratio}", ratio_range=(ratio, ratio), flip_ratio=1.0)
show("scaled by 0.5 to 1.5, the default")
show("a square image, flipped", ratio_range=(1.0, 1.0), flip_ratio=0.0)
show("a wide image of 150 x 200, flipped", 150, ratio_range=(1.0, 1.0), flip_ratio=0.0)
show("an upright image of 200 x 150, not flipped", width=150, ratio_range=(1.0, 1.0), flip_ratio=1.0)
show("an upright image of 200 x 150, flipped", width=150, ratio_range=(1.0, 1.0), flip_ratio=0.0)
show("the same with flip_ratio 0.9: a tenth is flipped", width=150, ratio_range=(1.0, 1.0), flip_ratio=0.9)
PYTHON
cat > expected <<'TEXT'
scaled by 0.5: 392 objects, their masks fill 0.97 of their boxes, without a pixel in the box 0.00
scaled by 1.0: 398 objects, their masks fill 1.00 of their boxes, without a pixel in the box 0.00
scaled by 1.5: 338 objects, their masks fill 0.58 of their boxes, without a pixel in the box 0.14
scaled by 2.0: 269 objects, their masks fill 0.24 of their boxes, without a pixel in the box 0.39
scaled by 0.5 to 1.5, the default: 381 objects, their masks fill 0.87 of their boxes, without a pixel in the box 0.03
a square image, flipped: 398 objects, their masks fill 1.00 of their boxes, without a pixel in the box 0.00
a wide image of 150 x 200, flipped: 397 objects, their masks fill 1.00 of their boxes, without a pixel in the box 0.00
an upright image of 200 x 150, not flipped: 398 objects, their masks fill 1.00 of their boxes, without a pixel in the box 0.00
an upright image of 200 x 150, flipped: 398 objects, their masks fill 0.17 of their boxes, without a pixel in the box 0.51
the same with flip_ratio 0.9: a tenth is flipped: 398 objects, their masks fill 0.91 of their boxes, without a pixel in the box 0.05
TEXT
venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-12-01, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-12-01."
