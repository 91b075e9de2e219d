"""Supervisely: ``meta.json`` with the classes, and for each data set the folders ``img`` and ``ann``.

The definition is Supervisely's documentation of its JSON format. Points are pixels: a rectangle includes its last one.
A polygon has ``exterior`` and ``interior`` rings, a bitmap is a PNG (zlib, base64) with the origin of its upper left
pixel; its alpha or its only band is the mask.
"""

import base64
import binascii
import io
import zlib
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from tailseg.annotations.formats.builder import Builder, Parts, read_label_text, read_pixels, to_relative, to_ring
from tailseg.annotations.json_file import Sections
from tailseg.annotations.pictures import MAX_PIXELS
from tailseg.annotations.problems import DatasetError

NAME: Final = "Supervisely"


def find_meta(path: Path) -> Path | None:
    """The file ``meta.json`` of a project: in the folder, or the named file; None without one."""
    file = path / "meta.json" if path.is_dir() else path
    if not file.is_file() or file.name != "meta.json":
        return None
    try:
        content = _read(file)
    except DatasetError:
        return None
    return file if isinstance(content, dict) and isinstance(content.get("classes"), list) else None


def _read(file: Path) -> Any:  # noqa: ANN401
    try:
        return msgspec.json.decode(read_label_text(file).encode())
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DatasetError(f"{file} is not JSON: {error}") from error


def list_splits(path: Path) -> list[str]:
    """The names of the project's data sets, if it has several."""
    root = path if path.is_dir() else path.parent
    return sorted(folder.parent.relative_to(root).as_posix() for folder in root.rglob("ann") if folder.parent != root)


def read(path: Path, split: str | None = None) -> Sections:
    """Reads all data sets of a project, or one of them.

    Raises:
        DatasetError: a file cannot be read; the message names it.
    """
    meta = find_meta(path)
    if meta is None:
        raise DatasetError(f"{path} is not a project of Supervisely: expected meta.json with classes")
    root = meta.parent
    builder = Builder(path)
    for item in _read(meta)["classes"]:
        builder.add_category(str(item.get("title") if isinstance(item, dict) else item))
    folders = [root / split] if split else [root, *(root / name for name in list_splits(path))]
    for folder in folders:
        for file in sorted((folder / "ann").glob("*.json")):
            _add_file(builder, file, folder, root)
    return builder.finish(NAME)


def _add_file(builder: Builder, file: Path, folder: Path, root: Path) -> None:
    content = _read(file)
    size = content.get("size") if isinstance(content, dict) else None
    if not isinstance(size, dict) or not isinstance(content.get("objects"), list):
        raise DatasetError(f"{file} is not an annotation of Supervisely: expected size and objects")
    try:
        sides = int(size["height"]), int(size["width"])
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{file}: size must have height and width, got {size!r:.60}") from error
    name = to_relative(folder / "img" / file.name.removesuffix(".json"), root)
    image = builder.add_image(name, sides)
    builder.leave_out("[tag|tags] of images", len(content.get("tags") or []))
    objects = []
    for number, item in enumerate(content["objects"], start=1):
        where = f"{file}, object {number}"
        if not isinstance(item, dict) or not isinstance(item.get("classTitle"), str):
            raise DatasetError(f"{where} has no classTitle")
        made = _make_shape(builder, item, where)
        if made is not None:
            builder.leave_out("[tag|tags] of objects", len(item.get("tags") or []))
            objects.append((item["classTitle"], made))
    builder.add_objects(image, objects)


def _make_shape(builder: Builder, item: dict[str, Any], where: str) -> Parts | None:
    kind = item.get("geometryType") or ("bitmap" if item.get("bitmap") else "polygon")
    points = item.get("points") or {}
    if kind == "bitmap":
        return Parts(masks=[_read_bitmap(item.get("bitmap"), where)])
    exterior = to_ring(points.get("exterior", []), where)
    if kind == "polygon":
        interior = points.get("interior") or []
        return Parts(rings=[exterior], holes=[to_ring(ring, where) for ring in interior])
    if kind == "rectangle" and len(exterior) == 2:
        low, high = exterior.min(axis=0), exterior.max(axis=0) + 1
        return Parts(box=(*low.tolist(), *high.tolist()))
    builder.leave_out(f"[shape|shapes] of type {str(kind)!r:.30}")
    return None


def _read_bitmap(bitmap: Any, where: str) -> tuple[np.ndarray, int, int]:  # noqa: ANN401 - anything in JSON
    try:
        x, y = map(int, bitmap["origin"])
        packed = zlib.decompressobj()
        png = packed.decompress(base64.b64decode(bitmap["data"]), MAX_PIXELS)
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise DatasetError(f"{where}: its bitmap needs origin and data (zlib, base64): {error}") from error
    pixels = read_pixels(io.BytesIO(png), where)
    return (pixels if pixels.ndim == 2 else pixels[..., -1]).astype(bool), x, y
