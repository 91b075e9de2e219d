#!/usr/bin/env bash
# V7's VOC and instance mask exports write images of one name in different folders into one file.
#
# Versions: Python 3.11, darwin-py 3.6.3.
#
# Guess before the run: V7 items have a folder (path). The exporters keep it in the names of the label files, or refuse
# names that occur twice.
#
# Behavior: the folder is dropped. a.jpg, day/a.jpg and a.png have one XML file and one series of masks: the last item
# stays, and nothing is said. The table of the masks has a line for every object, also for those whose masks were
# replaced.
#
# Who meets it: whoever keeps frames or sites in folders with the same file names (0001.jpg in each), the usual case for
# cameras, or has a photo as JPEG and as PNG: labels of all but the last are gone, or belong to another image.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check darwin-py==3.6.3

cat > see.py <<'PYTHON'
import contextlib
import io
import json
from pathlib import Path

from darwin.exporter import export_annotations, get_exporter


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
FAR = [(40, 30), (50, 30), (50, 35), (40, 35)]
items = (("a.jpg", "/", SQUARE), ("a.jpg", "/day", FAR), ("a.png", "/", FAR))
files = [write(name, [polygon("dog", ring), box("cat", *ring[0], 4, 4)], folder) for name, folder, ring in items]
for kind in ("pascalvoc", "instance_mask"):
    export(kind, files)
    written = sorted(path for path in Path(kind).rglob("*") if path.suffix in (".xml", ".png"))
    print(f"{kind}: 3 images, labels in", ", ".join(map(str, written)))
table = Path("instance_mask/instance_mask_annotations.csv").read_text().split()
print("the table of the masks:", *table)
PYTHON

cat > expected <<'TEXT'
pascalvoc: 3 images, labels in pascalvoc/a.xml
instance_mask: 3 images, labels in instance_mask/masks/a_00000.png
the table of the masks: image_id,mask_id,class_name a,a_00000,dog a,a_00000,dog a,a_00000,dog
TEXT

venv/bin/python -W ignore see.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
