#!/usr/bin/env bash
# V7's CVAT export writes boxes alone: polygons and their classes are missing.
#
# Versions: Python 3.11, darwin-py 3.6.3.
#
# Guess before the run: V7 Darwin's exporter for CVAT writes a box as <box> and a polygon as <polygon>, which CVAT's XML
# has.
#
# Behavior: polygons are left out, with a line on the terminal for each. Classes that have no box are not in the list of
# labels. An image that has only polygons stays in the file as an image without objects.
#
# Who meets it: whoever moves labels from V7 to CVAT with `darwin convert`, or reads this file into a trainer: images
# that are full of objects are negatives, and rare classes that were drawn as polygons do not exist.
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
files = [
    write("both.jpg", [box("cat", 32, 4, 8, 6), polygon("dog", SQUARE)]),
    write("polygons.jpg", [polygon("dog", SQUARE), polygon("owl", SQUARE)]),
]
said = export("cvat", files)
print("lines with a warning:", said.count("[warning] skipping polygon"))
text = Path("cvat/output.xml").read_text()
for tag in ("<name>cat</name>", "<name>dog</name>", "<name>owl</name>", "<image ", "<box ", "<polygon "):
    print(f"{tag}: {text.count(tag)} times")
PYTHON

cat > expected <<'TEXT'
lines with a warning: 3
<name>cat</name>: 1 times
<name>dog</name>: 0 times
<name>owl</name>: 0 times
<image : 2 times
<box : 1 times
<polygon : 0 times
TEXT

venv/bin/python -W ignore see.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
