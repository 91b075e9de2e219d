"""Pascal VOC: an XML file with boxes for each image, and class and instance masks as PNG.

The definition is the development kit of 2012. Its corners are pixels, counted from 1, and the last one is included.
Most tools write edges counted from 0 instead, as in COCO. Files whose ``<source><annotation>`` begins with ``PASCAL
VOC`` are read by the definition; others as written. In ``SegmentationObject`` a value is the number of an object, in
``SegmentationClass`` that of its class; 0 is background and 255 void. ``labelmap.txt`` (CVAT, Datumaro) or the 20
classes of Pascal VOC give the names. Evaluation by the kit leaves out objects marked ``difficult``: they become
``ignore`` regions.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tailseg.annotations.formats.builder import (
    Builder,
    Parts,
    find_image,
    list_images,
    read_lines,
    read_numbers,
    read_pixels,
    to_relative,
    try_size,
)
from tailseg.annotations.formats.parsers import get_text, iterate_xml, read_root
from tailseg.annotations.json_file import Sections
from tailseg.annotations.problems import DatasetError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

NAME: Final = "Pascal VOC"
PASCAL: Final = "PASCAL VOC"
VOID: Final = 255
MIN_IOU: Final = 0.5
"""Least overlap of a box in the XML file and the box of a mask of the same class that belong together."""

VOC_CLASSES: Final = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def is_voc(path: Path) -> bool:
    """Whether a path is a folder with Pascal VOC's XML files, or one such file."""
    if path.is_file():
        return path.suffix.lower() == ".xml" and read_root(path) == "annotation"
    first = next(iter(_list_files(path)), None)
    return (path / "SegmentationObject").is_dir() or (first is not None and read_root(first) == "annotation")


def _list_files(path: Path) -> list[Path]:
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    return sorted(folder.rglob("*.xml"))


def list_splits(path: Path) -> list[str]:
    """The names of the lists of images in ``ImageSets``."""
    lists = (
        file for folder in ("Main", "Segmentation") for file in sorted((path / "ImageSets" / folder).glob("*.txt"))
    )
    return list(dict.fromkeys(file.stem for file in lists if "_" not in file.stem))  # car_train: of one class


def read(path: Path, split: str | None = None) -> Sections:
    """Reads all images of a folder, or those of one list in ``ImageSets``.

    Raises:
        DatasetError: there is no such list, or a file cannot be read; the message names it.
    """
    root = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else _list_files(path)
    objects = root / "SegmentationObject"
    stems = {file.stem: file for file in files}
    listed = [] if path.is_file() else sorted({*_list_masks(objects), *_list_names(path)} - stems.keys())
    wanted = _read_list(path, split)
    names = [name for name in (*stems, *listed) if wanted is None or name in wanted]
    builder = Builder(path, _read_classes(root))
    colors = _read_colors(root)
    read_as_written = False
    for name in names:
        parsed = _parse(stems[name]) if name in stems else _Parsed(f"{name}.jpg", None, [], PASCAL)
        read_as_written |= not parsed.pascal and bool(parsed.objects)
        image = find_image(parsed.file_name, [root / "JPEGImages", root, root / "images"])
        image = image or next(
            (file for folder in ("JPEGImages", ".", "images") for file in (root / folder).glob(f"{name}.*")
             if file.suffix.lower() not in (".xml", ".txt")), None
        )  # fmt: skip
        mask = objects / f"{name}.png"
        masks = _read_masks(root, name, colors, builder) if path.is_dir() and mask.is_file() else []
        size = parsed.size or (masks[0][2].shape if masks else None) or try_size(image)
        number = builder.add_image(to_relative(image, root) if image else parsed.file_name, size)
        _add_objects(builder, number, parsed, masks)
    if not (root / "labelmap.txt").is_file() and not (root / "labels.txt").is_file():
        builder.sort_categories()  # the order of the files says nothing
    if read_as_written:
        builder.remarks.append(
            "corners of boxes are read as edges counted from 0, as most tools write them; only files marked PASCAL VOC "
            "count pixels from 1"
        )
    return builder.finish(NAME)


def _list_masks(folder: Path) -> list[str]:
    return [file.stem for file in list_images(folder)]


def _list_names(path: Path) -> list[str]:
    """The names in the lists of images that have an image file: an image without an XML file has no object."""
    names = {name for split in list_splits(path) for name in _read_list(path, split) or ()}
    stems = {file.stem for file in list_images(path / "JPEGImages")}
    return sorted(names & stems)


def _read_list(path: Path, split: str | None) -> set[str] | None:
    if split is None:
        return None
    files = [path / "ImageSets" / folder / f"{split}.txt" for folder in ("Main", "Segmentation")]
    lines = [line for file in files if file.is_file() for line in read_lines(file)]
    if not lines:
        raise DatasetError(f"{path} has no list {split!r} in ImageSets: expected one of {', '.join(list_splits(path))}")
    return {line.split()[0] for line in lines}


def _read_classes(root: Path) -> list[str]:
    if (root / "labelmap.txt").is_file():
        names = [line.split(":")[0] for line in read_lines(root / "labelmap.txt") if not line.startswith("#")]
        return [name for name in names if name != "background"]
    return read_lines(root / "labels.txt") if (root / "labels.txt").is_file() else []


def _read_colors(root: Path) -> dict[tuple[int, ...], str]:
    """The classes by their color in ``SegmentationClass``."""
    if (root / "labelmap.txt").is_file():
        lines = [line.split(":") for line in read_lines(root / "labelmap.txt") if not line.startswith("#")]
        try:  # Datumaro leaves the colors out; then they are those of Pascal VOC's palette
            return {
                tuple(map(int, line[1].split(","))) if line[1] else make_color(number): line[0]
                for number, line in enumerate(lines)
            }
        except (IndexError, ValueError) as error:
            raise DatasetError(f"{root / 'labelmap.txt'}: expected lines such as cat:64,0,0::") from error
    return {make_color(number): name for number, name in enumerate(("background", *VOC_CLASSES))}


def make_color(number: int) -> tuple[int, ...]:
    """The color of a number in Pascal VOC's palette."""
    color = [0, 0, 0]
    for place in range(8):
        for band in range(3):
            color[band] |= (number >> (3 * place + band) & 1) << (7 - place)
    return tuple(color)


class _Parsed:
    def __init__(self, file_name: str, size: tuple[int, int] | None, objects: list[Any], source: str) -> None:
        self.file_name, self.size, self.objects = file_name, size, objects
        self.pascal = source.startswith(PASCAL)


def _parse(file: Path) -> _Parsed:
    """Reads an XML file; boxes are x1, y1, x2, y2, edges counted from 0."""
    name, size, source, found = f"{file.stem}.jpg", None, "", []
    for depth, element in iterate_xml(file):
        if depth == 0:
            if element.tag != "annotation":
                raise DatasetError(f"{file} is not a file of Pascal VOC: its root is {element.tag!r:.60}")
        elif element.tag == "filename" and element.text:
            name = element.text.strip()
        elif element.tag == "size":
            size = _read_size(element)
        elif element.tag == "source":
            source = get_text(element, "annotation")
        elif element.tag == "object":
            found.append(_parse_object(element, file, len(found) + 1))
    parsed = _Parsed(name, size, found, source)
    if parsed.pascal:
        for item in found:
            x1, y1, x2, y2 = item["box"]
            item["box"] = (x1 - 1, y1 - 1, x2, y2)
    return parsed


def _read_size(element: "Element") -> tuple[int, int] | None:
    try:
        height, width = (int(float(get_text(element, side, "0"))) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _parse_object(element: "Element", file: Path, number: int) -> dict[str, Any]:
    box = element.find("bndbox")
    where = f"{file}, object {number}"
    if box is None:
        raise DatasetError(f"{where} has no bndbox. Export the labels again")
    corners = read_numbers([get_text(box, key) for key in ("xmin", "ymin", "xmax", "ymax")], 4, where)
    item = {"name": get_text(element, "name"), "box": tuple(corners), "fields": {}}
    if not item["name"]:
        raise DatasetError(f"{where} has no name. Give it a class")
    if get_text(element, "difficult", "0") == "1":
        item["fields"] = {"ignore": 1}
    known = {"name", "bndbox", "difficult"}
    item["extra"] = [child.tag for child in element if child.tag not in known]
    return item


def _add_objects(builder: Builder, image: int, parsed: _Parsed, masks: list[tuple[int, str, np.ndarray]]) -> None:
    left = dict(enumerate(parsed.objects, start=1))
    for number, name, mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        item = left.pop(_match(left, number, name, box), {"box": None, "fields": {}})
        x1, y1, x2, y2 = item["box"] or box
        fields = item["fields"] | {"bbox": [float(number) for number in (x1, y1, x2 - x1, y2 - y1)]}
        builder.add_object(image, name, Parts(masks=[(mask, 0, 0)], fields=fields))
    builder.add_objects(
        image, [(item["name"], Parts(box=item["box"], fields=item["fields"])) for item in left.values()]
    )
    for item in parsed.objects:
        for tag in item["extra"]:
            if tag in ("pose", "truncated", "occluded"):
                continue  # filled in by all tools, mostly with nothing
            builder.leave_out(f"[field|fields] {tag!r:.30} of objects")


def _match(left: dict[int, Any], number: int, name: str, box: Any) -> int:  # noqa: ANN401
    """The object of the XML file that a mask belongs to; 0 for none.

    It is the one with the mask's number, if it has the class and its box holds the mask; otherwise the one of the class
    whose box overlaps most.
    """
    item = left.get(number)
    if item is not None and item["name"] == name:
        outer = item["box"]
        if all(outer[axis] - 2 <= box[axis] and box[axis + 2] <= outer[axis + 2] + 2 for axis in (0, 1)):
            return number
    overlaps = {key: _compute_iou(box, item["box"]) for key, item in left.items() if item["name"] == name}
    best = max(overlaps, key=lambda key: overlaps[key], default=0)
    return best if overlaps.get(best, 0) >= MIN_IOU else 0


def _compute_iou(one: Any, other: Any) -> float:  # noqa: ANN401
    (a, b, c, d), (e, f, g, h) = one, other
    shared = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    union = (c - a) * (d - b) + (g - e) * (h - f) - shared
    return shared / union if union > 0 else 0.0


def _read_masks(
    root: Path, name: str, colors: dict[tuple[int, ...], str], builder: Builder
) -> list[tuple[int, str, np.ndarray]]:
    """The number, the class and the mask of each object of an image, from its two masks."""
    file = root / "SegmentationObject" / f"{name}.png"
    instances = _read_palette(file)
    kinds_file = root / "SegmentationClass" / f"{name}.png"
    if not kinds_file.is_file():
        raise DatasetError(f"{file} has no class mask next to it, {kinds_file}: the classes of its objects are unknown")
    kinds = _read_palette(kinds_file)
    if kinds.shape != instances.shape:
        raise DatasetError(f"{kinds_file} is {kinds.shape} pixels, but {file.name} is {instances.shape}")
    by_number = {_to_number(color): label for color, label in colors.items()}
    by_index = dict(enumerate(colors.values()))
    numbers = {_to_number(make_color(number)): number for number in range(256)}
    masks = []
    for value in sorted(np.unique(instances).tolist(), key=abs):
        if value in (0, _to_number(make_color(VOID)), -1 - VOID):
            continue
        mask = instances == value
        values, counts = np.unique(kinds[mask], return_counts=True)
        kind = int(values[counts.argmax()])
        label = by_index.get(-1 - kind) if kind < 0 else by_number.get(kind)
        if label is None or label == "background":
            builder.leave_out("[mask|masks] whose class is not in labelmap.txt")
        else:
            masks.append((-1 - value if value < 0 else numbers.get(value, 0), label, mask))
    return masks


def _read_palette(file: Path) -> np.ndarray:
    """The color of each pixel as one number; palette indices without a palette as ``-1 - index``."""
    pixels = read_pixels(file, str(file)).astype(np.int64)
    if pixels.ndim == 2:
        return np.where(pixels == 0, 0, -1 - pixels)
    return pixels[..., 0] * 65536 + pixels[..., 1] * 256 + pixels[..., 2]


def _to_number(color: tuple[int, ...]) -> int:
    return color[0] * 65536 + color[1] * 256 + color[2] if len(color) == 3 else -1
