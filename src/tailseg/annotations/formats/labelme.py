"""LabelMe: a JSON file for each image with ``shapes``.

The definition is labelme's own ``shape_to_mask`` (of 5 and 6) and its example ``labelme2coco.py``: shapes of one label
and one ``group_id`` are one object; a circle has a center and a point of its edge; a mask is a PNG whose upper left
pixel is the first point. ``labels.txt`` next to the files, or in the folder above, gives the order of the classes.
"""

import base64
import binascii
import io
import os
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from tailseg.annotations.formats.builder import (
    Builder,
    Parts,
    find_image,
    group_objects,
    read_label_text,
    read_lines,
    read_pixels,
    read_side_lengths,
    to_ring,
    try_size,
)
from tailseg.annotations.formats.rings import make_ellipse
from tailseg.annotations.json_file import Sections
from tailseg.annotations.problems import DatasetError

NAME: Final = "LabelMe"
NO_CLASSES: Final = ("__ignore__", "_background_")
FIRST_FILES: Final = 10
"""Files that are looked at to recognize a folder."""


def is_labelme(content: object) -> bool:
    """Whether the content of a JSON file is LabelMe's."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def is_folder(path: Path) -> bool:
    """Whether a folder has LabelMe's files: one of its first JSON files has shapes."""
    return any(is_labelme(_read(file, strict=False)) for file in sorted(path.rglob("*.json"))[:FIRST_FILES])


def _read(file: Path, *, strict: bool = True) -> Any:  # noqa: ANN401
    try:
        return msgspec.json.decode(read_label_text(file).encode())
    except (msgspec.MsgspecError, DatasetError, RecursionError) as error:
        if strict:
            raise DatasetError(f"{file} is not JSON: {error}") from error
        return None


def read(path: Path, split: str | None = None) -> Sections:
    """Reads a folder of LabelMe's files, or one file.

    Raises:
        DatasetError: there is no such subfolder, or a file cannot be read.
    """
    root = path if path.is_dir() else path.parent
    folder = path if split is None else path / split
    files = [path] if path.is_file() else sorted(folder.rglob("*.json"))
    names = next((read_lines(place / "labels.txt") for place in (root, root.parent)
                  if (place / "labels.txt").is_file()), [])  # fmt: skip
    builder = Builder(path, [name for name in names if name not in NO_CLASSES])
    contents = [(file, _read(file)) for file in files]
    contents = [(file, content) for file, content in contents if is_labelme(content)]
    if not names:
        for name in sorted({str(s.get("label")) for _, c in contents for s in c["shapes"] if isinstance(s, dict)}):
            builder.add_category(name)
    for file, content in contents:
        _add_file(builder, file, content, root)
    return builder.finish(NAME)


def _add_file(builder: Builder, file: Path, content: dict[str, Any], root: Path) -> None:
    written = str(content["imagePath"]).replace("\\", "/")
    relative = os.path.relpath(file.parent, root)
    name = os.path.normpath(f"{relative}/{written}").replace(os.sep, "/")
    if name.startswith("..") or written.startswith("/") or written[1:2] == ":":
        name = written.rpartition("/")[2]
    size = read_side_lengths(content.get("imageHeight"), content.get("imageWidth"))
    image = builder.add_image(name, size or try_size(find_image(name, [root / Path(name).parent, file.parent, root])))
    parts = []
    for number, shape in enumerate(content["shapes"], start=1):
        where = f"{file}, shape {number}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise DatasetError(f"{where} has no label. Give it a class in LabelMe")
        made = _make_shape(builder, shape, where)
        if made is not None:
            parts.append((shape.get("group_id"), shape["label"], made))
    builder.add_objects(image, group_objects(parts))


def _make_shape(builder: Builder, shape: dict[str, Any], where: str) -> Parts | None:
    kind = shape.get("shape_type") or "polygon"
    points = to_ring(shape.get("points", []), where)
    flags = {key: value for key, value in (shape.get("flags") or {}).items() if value not in (None, False)}
    fields = {name: 1 for name in ("iscrowd", "ignore") if flags.pop(name, False)}
    builder.leave_out("[flag|flags] of shapes", len(flags))
    if kind in ("polygon", "oriented_rectangle"):
        return Parts(rings=[points], fields=fields)
    if kind == "rectangle" and len(points) >= 2:
        low, high = points.min(axis=0), points.max(axis=0)
        return Parts(box=(*low.tolist(), *high.tolist()), fields=fields)
    if kind == "circle" and len(points) == 2:
        radius = float(np.linalg.norm(points[1] - points[0]))
        return Parts(rings=[make_ellipse(points[0].tolist(), (radius, radius))], fields=fields)
    if kind == "mask" and len(points) and isinstance(shape.get("mask"), str):
        x, y = (round(number) for number in points[0].tolist())
        try:
            png = base64.b64decode(shape["mask"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise DatasetError(f"{where}: its mask is not base64: {error}") from error
        return Parts(masks=[(read_pixels(io.BytesIO(png), where).astype(bool), x, y)], fields=fields)
    builder.leave_out(f"[shape|shapes] of type {kind!r:.30}")
    return None
