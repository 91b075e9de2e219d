#!/usr/bin/env bash
# Masks that supervision, SAHI and imantics write as polygons lose a row and a column, and small ones lose everything.
#
# Versions: Python 3.11, supervision 0.31.2, sahi 0.12.8, shapely 2.2.0, imantics 0.1.12, rasterio 1.4.4, pycocotools
# 2.0.11, opencv-python 5.0.0.93, pillow 13.0.0.
#
# Guess before the run: a mask that becomes polygons comes back as it was, but for slanted edges; an object of one pixel
# is kept as a small polygon.
#
# Behavior: all three let OpenCV run along the centers of the outermost pixels. Drawn again by the rules of COCO, a mask
# of 10 x 10 pixels has 81, one of 3 x 3 has 4 and one of 2 x 2 has 1. A mask one pixel wide, whatever its length, has
# no polygon of three points and is left without one. rasterio's shapes, which run along the pixels' edges, give each
# mask back.
#
# Who meets it: whoever turns masks of a model (SAM, Mask R-CNN) into COCO polygons with them. IoU of the polygon with
# its own mask is 0.81 for 10 x 10 pixels, so that AP75 and above are hard to reach, and 0.44 for 3 x 3, a miss at every
# threshold; cracks, wires and distant objects have a box without a mask, or are gone.
#
# Output seen on 2026-11-28: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check supervision==0.31.2 sahi==0.12.8 shapely==2.2.0 \
    imantics==0.1.12 rasterio==1.4.4 pycocotools==2.0.11 opencv-python==5.0.0.93 pillow==13.0.0

cat > try.py <<'PYTHON'
import imantics
import numpy as np
from pycocotools import mask
from rasterio.features import shapes
from sahi.utils.cv import get_coco_segmentation_from_bool_mask
from supervision import mask_to_polygons

HEIGHT, WIDTH = 40, 60


def pixels(polygons):
    """What the rules of COCO draw of the polygons, in pixels; None where there is no polygon."""
    polygons = [np.asarray(polygon, dtype=float).ravel().tolist() for polygon in polygons]
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if not polygons:
        return None
    return int(mask.area(mask.merge(mask.frPyObjects(polygons, HEIGHT, WIDTH))))


for height, width in ((10, 10), (3, 3), (2, 2), (1, 30), (1, 1)):
    picture = np.zeros((HEIGHT, WIDTH), dtype=bool)
    picture[5 : 5 + height, 5 : 5 + width] = True
    rings = [shape["coordinates"] for shape, value in shapes(picture.astype(np.uint8), picture) if value]
    answers = {
        "supervision": pixels(mask_to_polygons(picture)),
        "SAHI": pixels(get_coco_segmentation_from_bool_mask(picture)),
        "imantics": pixels(imantics.Mask(picture).polygons().segmentation),
        "rasterio": pixels(ring for (ring,) in rings),
    }
    print(f"{height} x {width}, {picture.sum()} pixels:", *(f"{name} {count}," for name, count in answers.items()))
PYTHON

cat > expected <<'TEXT'
10 x 10, 100 pixels: supervision 81, SAHI 81, imantics 81, rasterio 100,
3 x 3, 9 pixels: supervision 4, SAHI 4, imantics 4, rasterio 9,
2 x 2, 4 pixels: supervision 1, SAHI 1, imantics 1, rasterio 4,
1 x 30, 30 pixels: supervision None, SAHI None, imantics None, rasterio 30,
1 x 1, 1 pixels: supervision None, SAHI None, imantics None, rasterio 1,
TEXT

venv/bin/python try.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-28, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-28."
