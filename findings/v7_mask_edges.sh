#!/usr/bin/env bash
# V7's instance masks are a pixel wider and higher than their polygons, and holes are smaller.
#
# Versions: Python 3.11, darwin-py 3.6.3, pycocotools 2.0.11.
#
# Guess before the run: V7's exporter of instance masks fills the polygons: a square from 10 to 30 has 20 x 20 pixels,
# as in its COCO export.
#
# Behavior: the pixels of the edge are drawn, too, on both sides: 20 x 20 become 21 x 21, two objects that share an edge
# share a column of pixels, a strip of 1 x 20 has 42 pixels, and a hole of 5 x 5 has 16. pycocotools draws the same
# polygons as 400, 375 and 20 pixels.
#
# Who meets it: whoever trains on V7's masks and evaluates on its COCO file, or the other way round: a thin object has
# IoU 0.48 with itself, a miss at every threshold, and objects that touch overlap.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check darwin-py==3.6.3 pycocotools==2.0.11

cat > see.py <<'PYTHON'
import contextlib
import io
import json
from pathlib import Path

import numpy as np
from darwin.exporter import export_annotations, get_exporter
from PIL import Image
from pycocotools import mask as coco


def box(name, x, y, width, height):
    return {"id": f"{name} {x} {y}", "name": name, "bounding_box": {"x": x, "y": y, "w": width, "h": height}}


def polygon(name, *rings):
    xs, ys = ([point[axis] for ring in rings for point in ring] for axis in (0, 1))
    return {
        "id": f"{name} {xs[0]} {ys[0]}", "name": name,
        "polygon": {"paths": [[{"x": x, "y": y} for x, y in ring] for ring in rings]},
        "bounding_box": {"x": min(xs), "y": min(ys), "w": max(xs) - min(xs), "h": max(ys) - min(ys)},
    }


def write(name, annotations, folder="/"):
    """An item of V7's own format, Darwin JSON 2.0."""
    slot = {"type": "image", "slot_name": "0", "width": 60, "height": 40, "thumbnail_url": "", "source_files": []}
    owner = {"name": "x", "slug": "x"}
    item = {"name": name, "path": folder, "source_info": {"item_id": name, "dataset": owner, "team": owner}, "slots": [slot]}
    slot["source_files"] = [{"file_name": name, "url": ""}]
    for annotation in annotations:
        annotation |= {"properties": [], "slot_names": ["0"]}
    file = Path(f"{len(list(Path().glob('*.json')))}.json")
    file.write_text(json.dumps({"version": "2.0", "schema_ref": "", "item": item, "annotations": annotations}))
    return file


def export(kind, files):
    """As `darwin convert` does; returns what it prints."""
    Path(kind).mkdir()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        export_annotations(get_exporter(kind), files, Path(kind))
    return said.getvalue()


SQUARE = [(10, 5), (30, 5), (30, 25), (10, 25)]
NEXT = [(30, 5), (50, 5), (50, 25), (30, 25)]
HOLE = [(15, 10), (20, 10), (20, 15), (15, 15)]
STRIP = [(5, 5), (6, 5), (6, 25), (5, 25)]


def count_coco(*rings):
    parts = coco.frPyObjects([[float(number) for point in ring for number in point] for ring in rings], 40, 60)
    outer, *holes = (coco.decode(part).astype(bool) for part in parts)
    for hole in holes:
        outer &= ~hole
    return int(outer.sum())


shapes = {"square": [SQUARE], "its neighbor": [NEXT], "square with a hole": [SQUARE, HOLE], "strip": [STRIP]}
export("instance_mask", [write("a.jpg", [polygon("dog", *rings) for rings in shapes.values()])])
masks = [np.asarray(Image.open(file)) > 0 for file in sorted(Path("instance_mask/masks").glob("*.png"))]
for (name, rings), mask in zip(shapes.items(), masks, strict=True):
    print(f"{name}: {count_coco(*rings)} pixels in COCO's way, {int(mask.sum())} in the mask")
print("pixels that the square and its neighbor share:", int((masks[0] & masks[1]).sum()))
print(f"IoU of the strip's two masks: {count_coco(STRIP) / masks[3].sum():.2f}")
PYTHON

cat > expected <<'TEXT'
square: 400 pixels in COCO's way, 441 in the mask
its neighbor: 400 pixels in COCO's way, 441 in the mask
square with a hole: 375 pixels in COCO's way, 425 in the mask
strip: 20 pixels in COCO's way, 42 in the mask
pixels that the square and its neighbor share: 21
IoU of the strip's two masks: 0.48
TEXT

venv/bin/python -W ignore see.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
