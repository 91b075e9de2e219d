"""CVAT for images 1.1: one XML file with boxes, polygons, masks and ellipses.

The definition is CVAT's documentation of the format. A mask has run lengths row by row, first of pixels outside, within
``left``, ``top``, ``width`` and ``height``. A box may be rotated around its center, in degrees, clockwise. Shapes of
one label and one ``group_id`` other than 0 are one object.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tailseg.annotations.formats.builder import Builder, Parts, group_objects, parse_numbers, read_numbers
from tailseg.annotations.formats.parsers import get_text, iterate_xml, read_root
from tailseg.annotations.formats.rings import make_ellipse, make_rectangle, rotate
from tailseg.annotations.json_file import Sections
from tailseg.annotations.pictures import MAX_PIXELS
from tailseg.annotations.problems import DatasetError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

NAME: Final = "CVAT"


def find_file(path: Path) -> Path | None:
    """The XML file: the only one of a folder, or the named one; None if there is none."""
    files = sorted(path.glob("*.xml")) if path.is_dir() else [path]
    is_xml = len(files) == 1 and files[0].is_file() and files[0].suffix.lower() == ".xml"
    return files[0] if is_xml and read_root(files[0]) == "annotations" else None


def read(path: Path, split: str | None = None) -> Sections:
    """Reads the images of an XML file; those of one subset if ``split`` names it.

    Raises:
        DatasetError: the file cannot be read, or has tracks of a video.
    """
    file = find_file(path)
    if file is None:
        raise DatasetError(f"{path} is not a file of CVAT: expected annotations.xml with the root <annotations>")
    builder = Builder(path)
    for depth, element in iterate_xml(file):
        if depth == 1 and element.tag == "meta":
            for label in element.iter("label"):
                if label.find("parent") is None and get_text(label, "name"):
                    builder.add_category(get_text(label, "name"))
        elif depth == 1 and element.tag == "track":
            raise DatasetError(
                f"{file} has tracks (CVAT for video), which do not name their images. Export as 'CVAT for images 1.1'"
            )
        elif depth == 1 and element.tag == "image" and split in (None, element.get("subset")):
            _add_image(builder, element, file)
    return builder.finish(NAME)


def _add_image(builder: Builder, element: "Element", file: Path) -> None:
    name = element.get("name") or ""
    where = f"{file}, image {name!r:.80}"
    height, width = (int(number) for number in read_numbers([element.get("height"), element.get("width")], 2, where))
    image = builder.add_image(name, (height, width))
    parts = []
    for shape in element:
        label = shape.get("label")
        if label is None:
            continue
        made = _make_shape(builder, shape, where)
        if made is None:
            continue
        attributes = {str(item.get("name")): item.text for item in shape.iter("attribute")}
        made.fields = {"attributes": attributes} if attributes else {}
        group = shape.get("group_id")
        parts.append((None if group in (None, "", "0") else group, label, made))
    builder.add_objects(image, group_objects(parts))


def _make_shape(builder: Builder, shape: "Element", where: str) -> Parts | None:
    def get(*names: str) -> list[float]:
        return read_numbers([shape.get(name) for name in names], len(names), f"{where}, {shape.tag}")

    degrees = get("rotation")[0] if shape.get("rotation") else 0.0
    if shape.tag == "box":
        x1, y1, x2, y2 = get("xtl", "ytl", "xbr", "ybr")
        if not degrees:
            return Parts(box=(x1, y1, x2, y2))
        return Parts(rings=[rotate(make_rectangle(x1, y1, x2, y2), degrees, ((x1 + x2) / 2, (y1 + y2) / 2))])
    if shape.tag == "polygon":
        points = parse_numbers((shape.get("points") or "").replace(";", ","))
        numbers = read_numbers(points, None, f"{where}, polygon")
        return Parts(rings=[np.array(numbers).reshape(-1, 2)])
    if shape.tag == "ellipse":
        cx, cy, rx, ry = get("cx", "cy", "rx", "ry")
        return Parts(rings=[make_ellipse((cx, cy), (rx, ry), degrees)])
    if shape.tag == "mask":
        return Parts(masks=[_read_mask(shape, f"{where}, mask")])
    if shape.tag != "tag":
        builder.leave_out(f"[shape|shapes] of type {shape.tag!r:.30}")
    else:
        builder.leave_out("[tag|tags] of images")
    return None


def _read_mask(shape: "Element", where: str) -> tuple[np.ndarray, int, int]:
    names = ("left", "top", "width", "height")
    left, top, width, height = map(int, read_numbers([shape.get(name) for name in names], 4, where))
    words = [word for word in (shape.get("rle") or "").split(",") if word.strip()]
    runs = np.array(read_numbers(words, len(words), where), np.int64)
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS or (runs < 0).any() or runs.sum() > width * height:
        raise DatasetError(f"{where}: its run lengths do not fit its size of {width} x {height} pixels")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = np.zeros(width * height, bool)
    mask[: len(values)] = values
    return mask.reshape(height, width), left, top
