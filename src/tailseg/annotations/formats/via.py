"""VGG Image Annotator (VIA): version 2 and 1 as JSON, project or CSV, and projects of version 3.

The definition is VIA's documentation (``_via_img_metadata``, ``shape_attributes``). VIA does not store the size of an
image, so it is read from the image file. The class of a region is one of its attributes: ``class``, ``label``,
``name``, ``type`` or ``category``, or the only one.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from tailseg.annotations.formats.builder import (
    Builder,
    Parts,
    find_image,
    read_label_text,
    read_numbers,
    try_size,
)
from tailseg.annotations.formats.rings import make_ellipse
from tailseg.annotations.json_file import Sections
from tailseg.annotations.problems import DatasetError

NAME: Final = "VIA"
CLASS_ATTRIBUTES: Final = ("class", "label", "name", "type", "category", "object")
UNNAMED: Final = "object"
CSV_HEAD: Final = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
SHAPES_3: Final = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon"}


def is_via(content: object) -> bool:
    """Whether the content of a JSON file is VIA's, of any version."""
    if not isinstance(content, dict) or not content:
        return False
    if "_via_img_metadata" in content or _is_version_3(content):
        return True
    first = next(iter(content.values()))
    return isinstance(first, dict) and "filename" in first and "regions" in first


def is_csv(path: Path) -> bool:
    """Whether a file is a table that VIA wrote."""
    if path.suffix.lower() != ".csv":
        return False
    with path.open("rb") as file:
        return file.read(len(CSV_HEAD) + 3).decode("utf-8", "replace").lstrip("\ufeff#").startswith(CSV_HEAD[:40])


def _is_version_3(content: dict[str, Any]) -> bool:
    return all(isinstance(content.get(key), dict) for key in ("project", "file", "metadata"))


def read(content: dict[str, Any], path: Path) -> Sections:
    """Reads the content of a JSON file.

    Args:
        content: the content.
        path: the file.

    Raises:
        DatasetError: a region cannot be read; the message names it.
    """
    files = list(_list_version_3(content) if _is_version_3(content) else _list_version_2(content, path))
    return _make(files, path)


def read_csv(path: Path) -> Sections:
    """Reads a table of VIA 2.

    Raises:
        DatasetError: a row cannot be read; the message names it.
    """
    files: dict[str, list[Any]] = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(read_label_text(path).lstrip("#"))), start=2):
        try:
            shape, attributes = (
                msgspec.json.decode(row[key] or "{}") for key in ("region_shape_attributes", "region_attributes")
            )
        except (msgspec.MsgspecError, KeyError) as error:
            raise DatasetError(f"{path}, row {number}: its region is not JSON: {error}") from error
        regions = files.setdefault(str(row["filename"]), [])
        if shape:
            regions.append((shape, attributes))
    return _make(list(files.items()), path)


def _list_version_2(content: dict[str, Any], path: Path) -> Iterator[tuple[str, list[Any]]]:
    for key, item in content.get("_via_img_metadata", content).items():
        if not isinstance(item, dict) or not isinstance(item.get("filename"), str):
            raise DatasetError(f"{path}: entry {key!r:.60} has no filename")
        regions = item.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        yield item["filename"], [(r.get("shape_attributes", {}), r.get("region_attributes", {})) for r in regions]


def _list_version_3(content: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    views = {key: [str(fid) for fid in view.get("fid_list", [])] for key, view in content.get("view", {}).items()}
    attributes = content.get("attribute", {})
    files: dict[str, list[Any]] = {str(key): [] for key, item in content["file"].items() if isinstance(item, dict)}
    for item in content["metadata"].values():
        fids = views.get(str(item.get("vid")), [str(item.get("vid"))])
        xy = item.get("xy") or []
        if xy and fids and fids[0] in files:
            values = {
                attributes.get(key, {}).get("aname", key): attributes.get(key, {}).get("options", {}).get(value, value)
                for key, value in (item.get("av") or {}).items()
            }
            files[fids[0]].append((_convert_3(xy), values))
    for fid, regions in files.items():
        item = content["file"][fid]
        yield str(item.get("fname") or item.get("src") or ""), regions


def _convert_3(xy: list[Any]) -> dict[str, Any]:
    kind = SHAPES_3.get(xy[0], str(xy[0]))
    names = {
        "rect": ("x", "y", "width", "height"),
        "circle": ("cx", "cy", "r"),
        "ellipse": ("cx", "cy", "rx", "ry"),
    }.get(kind, ())
    points = {"all_points_x": xy[1::2], "all_points_y": xy[2::2]}
    return {"name": kind, **dict(zip(names, xy[1:], strict=False)), **points}


def _make(files: list[tuple[str, list[Any]]], path: Path) -> Sections:
    builder = Builder(path)
    regions = [attributes for _, items in files for _, attributes in items]
    attribute = _choose_attribute(regions, path)
    for name in sorted({name for attributes in regions if (name := _get_class(attributes, attribute))}):
        builder.add_category(name)
    if attribute is None and regions:
        builder.remarks.append(f"no region has an attribute: all objects have the class {UNNAMED!r}")
    elif regions:
        builder.remarks.append(f"the attribute {attribute!r:.60} of a region is its class")
    for file_name, items in files:
        name = file_name.replace("\\", "/").rpartition("/")[2] if "://" in file_name else file_name
        folders = [path.parent, path.parent / "images", path.parent.parent, path.parent.parent / "images"]
        image = builder.add_image(name, try_size(find_image(name, folders)))
        objects = []
        for number, (shape, attributes) in enumerate(items, start=1):
            label = UNNAMED if attribute is None else _get_class(attributes, attribute)
            if not label:
                builder.leave_out("[region|regions] without a class")
                continue
            made = _make_shape(builder, shape, f"{path}, {name}, region {number}")
            if made is not None:
                objects.append((label, made))
        builder.add_objects(image, objects)
    return builder.finish(NAME)


def _choose_attribute(regions: list[Any], path: Path) -> str | None:
    counts = Counter(key for attributes in regions if isinstance(attributes, dict) for key in attributes)
    if not counts:
        return None
    usual = [key for name in CLASS_ATTRIBUTES for key in counts if key.casefold() == name]
    if len(counts) > 1 and not usual:
        raise DatasetError(
            f"{path}: regions have the attributes {', '.join(map(repr, counts)):.200}. Which one is the class? Rename "
            "it to 'class'"
        )
    return usual[0] if usual else next(iter(counts))


def _get_class(attributes: Any, attribute: str | None) -> str:  # noqa: ANN401 - anything in JSON
    value = attributes.get(attribute) if isinstance(attributes, dict) else None
    if isinstance(value, dict):  # checkboxes
        value = next((key for key, chosen in value.items() if chosen), None)
    return str(value).strip() if value not in (None, "") else ""


def _make_shape(builder: Builder, shape: dict[str, Any], where: str) -> Parts | None:
    def get(*names: str) -> list[float]:
        return read_numbers([shape.get(name) for name in names], len(names), where)

    kind = shape.get("name")
    if kind == "rect":
        x, y, width, height = get("x", "y", "width", "height")
        return Parts(box=(x, y, x + width, y + height))
    if kind == "polygon":
        xs, ys = shape.get("all_points_x") or [], shape.get("all_points_y") or []
        points = [number for pair in zip(xs, ys, strict=False) for number in pair]
        ring = np.array(read_numbers(points, None, where)).reshape(-1, 2)
        closed = len(ring) > 1 and (ring[0] == ring[-1]).all()
        return Parts(rings=[ring[:-1] if closed else ring])
    if kind == "circle":
        cx, cy, radius = get("cx", "cy", "r")
        return Parts(rings=[make_ellipse((cx, cy), (radius, radius))])
    if kind == "ellipse":
        cx, cy, rx, ry = get("cx", "cy", "rx", "ry")
        return Parts(rings=[make_ellipse((cx, cy), (rx, ry), np.degrees(float(shape.get("theta") or 0)))])
    builder.leave_out(f"[shape|shapes] of type {str(kind)!r:.30}")
    return None
