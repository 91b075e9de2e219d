#!/usr/bin/env bash
# webdataset takes files whose names are equal up to the first dot for one sample.
#
# Versions: Python 3.11, webdataset 1.0.2.
#
# Guess before the run: a sample is the files with one name and several endings, so IMG.01.jpg and IMG.02.jpg are two.
#
# Behavior: the key ends at the first dot of the file name, not at the last one. Of the four images below, two samples are
# made: IMG.01.jpg and IMG.02.jpg become one, with the fields "01.jpg" and "02.jpg", and so do b.left.jpg and b.right.jpg.
# A field "jpg" exists in neither, so that a pipeline of jpg and cls has no image for them. And a sample ends where the
# next key begins: the label of d, which comes after e, is a sample of its own.
#
# Who meets it: whoever packs photographs with dots in their names (dates, versions, exports of Roboflow with ".rf.") or
# adds the labels to a tar file after the images: several images are one sample, or image and label are two.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check webdataset==1.0.2

cat > keys.py <<'PYTHON'
import io
import tarfile

import webdataset

NAMES = ["IMG.01.jpg", "IMG.02.jpg", "b.left.jpg", "b.right.jpg", "c.jpg", "c.cls", "d.jpg", "e.jpg", "e.cls", "d.cls"]
with tarfile.open("shard.tar", "w") as shard:
    for name in NAMES:
        info = tarfile.TarInfo(name)
        info.size = 1
        shard.addfile(info, io.BytesIO(b"0"))
for sample in webdataset.WebDataset("shard.tar", shardshuffle=False):
    fields = [name for name in sample if not name.startswith("__")]
    print(f"{sample['__key__']}: {', '.join(fields)}")
PYTHON

cat > expected <<'TEXT'
IMG: 01.jpg, 02.jpg
b: left.jpg, right.jpg
c: jpg, cls
d: jpg
e: jpg, cls
d: cls
TEXT

venv/bin/python keys.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
