"""Collects the records of a data set in COCO form, and counts what this form cannot keep.

Objects are kept as JSON text, many of them in a temporary file: dictionaries take five times the memory.
"""

import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.formats.rings import MIN_POINTS, Ring, decode_mask, encode_mask, encode_rings
from tailseg.annotations.image_files import ImageError, is_safe_name
from tailseg.annotations.json_file import RecordFile, Sections, decode_record, iterate_records
from tailseg.annotations.pictures import MAX_PIXELS, open_picture, read_size
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.run_lengths import check_run_lengths
from tailseg.words import inflect

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")

DIGITS: Final = 6
"""Decimals of coordinates in pixels: shares of the image's side come back as the numbers that were written."""

MAX_TEXT_BYTES: Final = 1 << 30
"""Largest label file in bytes that is read at once."""


@dataclass
class Parts:
    """The shape of an object: all parts, or those that are known so far.

    Attributes:
        rings: outlines of parts.
        holes: outlines of holes in these parts.
        masks: masks with the x and y of their upper left pixel.
        box: x1, y1, x2, y2 of an object without a mask.
        fields: further fields of the annotation.
    """

    rings: list[Ring] = field(default_factory=list)
    holes: list[Ring] = field(default_factory=list)
    masks: list[tuple[np.ndarray, int, int]] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def add(self, other: "Parts") -> None:
        """Adds the parts of another one."""
        self.rings += other.rings
        self.holes += other.holes
        self.masks += other.masks
        self.fields = other.fields | self.fields
        if self.box is None or other.box is None:
            self.box = self.box or other.box
        else:
            corners = np.array([self.box, other.box])
            self.box = tuple(np.concatenate([corners[:, :2].min(0), corners[:, 2:].max(0)]).tolist())


class Builder:
    """Collects images, classes and objects. Ids count from 1.

    Args:
        path: the file or folder that is read, for messages.
        names: the classes in their order, if the format lists them; further names are added at the end.
    """

    def __init__(self, path: Path, names: Iterable[str] = ()) -> None:
        self.path = path
        self.images: list[dict[str, Any]] = []
        self._records = RecordFile()
        self.category_ids: dict[str, int] = {}
        self.losses: Counter[str] = Counter()
        self.remarks: list[str] = []
        self._fields: dict[str, dict[str, Any]] = {}
        for name in names:
            self.add_category(name)

    def add_category(self, name: str, **fields: Any) -> int:  # noqa: ANN401 - fields of the JSON record
        """Adds a class unless it is there, and returns its id."""
        if name not in self.category_ids:
            self.category_ids[name] = len(self.category_ids) + 1
            self._fields[name] = fields
        return self.category_ids[name]

    def add_image(self, file_name: str, size: tuple[int, int] | None, **fields: Any) -> int:  # noqa: ANN401
        """Adds an image and returns its id.

        Args:
            file_name: relative to the data set's folder.
            size: height and width in pixels; None if unknown, then it is read from the file when it is needed.
            **fields: further fields of the record.

        Returns:
            The id.
        """
        image = {"id": len(self.images) + 1, "file_name": file_name}
        self.images.append(image | ({} if size is None else {"height": size[0], "width": size[1]}) | fields)
        return len(self.images)

    def leave_out(self, what: str, number: int = 1) -> None:
        """Counts what COCO's form cannot keep: ``[polyline|polylines]``."""
        if number:
            self.losses[what] += number

    def add_object(self, image: int, name: str, parts: Parts) -> None:
        """Adds one object, see `add_objects`.

        Args:
            image: id of the image.
            name: the class.
            parts: its shape.
        """
        self.add_objects(image, [(name, parts)])

    def add_objects(self, image: int, objects: Iterable[tuple[str, Parts]]) -> None:
        """Adds objects of an image. Their outlines are drawn together, which takes less time.

        Args:
            image: id of the image.
            objects: the class and the shape of each object.
        """
        outlines: list[list[Ring]] = []
        boxes: list[tuple[float, float, float, float]] = []
        described: list[tuple[str, dict[str, Any], str | dict[str, Any]]] = []
        for name, parts in objects:
            rings = [ring for ring in parts.rings if len(ring) >= MIN_POINTS]
            self.leave_out("[polygon|polygons] with fewer than 3 points", len(parts.rings) - len(rings))
            holes = [hole for hole in parts.holes if len(hole) >= MIN_POINTS] if rings else []
            if rings and not holes and not parts.masks:
                outlines.append(rings)
                described.append((name, parts.fields, "outline"))
                continue
            shape = self._draw_mask(image, rings, holes, parts.masks) if rings or parts.masks else {}
            if shape:
                described.append((name, parts.fields, shape))
            elif parts.box is not None:
                boxes.append(parts.box)
                described.append((name, parts.fields, "box"))
            elif rings or parts.masks:
                self.leave_out("[object has|objects have] a mask without a pixel")
        size = self._get_size(image) if outlines else (None, None)
        made = {"outline": _describe_outlines(outlines, *size), "box": _describe_boxes(boxes)}
        for name, fields, shape in described:
            known = next(made[shape]) if isinstance(shape, str) else shape
            first = {"id": self._records.count + 1, "image_id": image, "category_id": self.add_category(name)}
            self._records.add({**first, "iscrowd": 0, **known, **fields})

    def _get_size(self, image: int) -> tuple[int | None, int | None]:
        record = self.images[image - 1]
        height, width = record.get("height"), record.get("width")
        if height is not None and width is not None and height * width > MAX_PIXELS:
            raise DatasetError(f"{self.path}: an image of {height} x {width} pixels is too large. Cut it into tiles")
        return height, width

    def _draw_mask(
        self, image: int, rings: list[Ring], holes: list[Ring], masks: list[tuple[np.ndarray, int, int]]
    ) -> dict[str, Any]:
        height, width = self._get_size(image)
        if height is None or width is None:
            raise DatasetError(
                f"{self.path}: the size of image {self.images[image - 1]['file_name']!r} is needed to draw its masks. "
                "Put the image file next to the labels"
            )
        mask = decode_mask(encode_rings(rings, holes, height, width)) if rings else np.zeros((height, width), bool)
        for pixels, x, y in masks:
            top, left = max(y, 0), max(x, 0)
            cut = pixels[top - y : height - y, left - x : width - x]
            mask[top : top + cut.shape[0], left : left + cut.shape[1]] |= cut
        return describe_mask(mask)

    def sort_categories(self) -> None:
        """Numbers the classes by name."""
        order = {name: number for number, name in enumerate(sorted(self.category_ids), start=1)}
        new = {old: order[name] for name, old in self.category_ids.items()}
        records, text = self._records.finish()
        self._records = RecordFile()
        for record in map(decode_record, iterate_records(records, text)):
            self._records.add(record | {"category_id": new[record["category_id"]]})
        self.category_ids = order

    def finish(self, format_name: str) -> Sections:
        """Returns the sections of a COCO file.

        Args:
            format_name: the name of the format, for the remark.

        Raises:
            DatasetError: there is no image.
        """
        if not self.images:
            raise DatasetError(f"{self.path} ({format_name}) has no image. Check that the export selected images")
        categories = [{"id": number, "name": name} | self._fields[name] for name, number in self.category_ids.items()]
        annotations, text = self._records.finish()
        notes = tuple(f"{count:,} {inflect(text, count)}" for text, count in self.losses.items())
        return Sections(
            self.images, annotations, categories, format=format_name, losses=notes,
            remarks=tuple(self.remarks), text=text,
        )  # fmt: skip


def describe_mask(mask: np.ndarray) -> dict[str, Any]:
    """The segmentation, the box and the area of a mask, bool ``[h, w]``; empty for a mask without a pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return {}
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    return {"segmentation": encode_mask(mask), "bbox": list(map(float, box)), "area": float(mask.sum())}


def _describe_outlines(
    outlines: Sequence[list[Ring]], height: int | None, width: int | None
) -> Iterator[dict[str, Any]]:
    """The segmentation, the box and the area of objects, each with its outlines; of an image whose size may be unknown.

    The area is that of the mask in pixels, or without the image's size that of the box.
    """
    if not outlines:
        return
    rings = [ring for one in outlines for ring in one]
    points = np.round(np.concatenate(rings, dtype=np.float64), DIGITS)
    ends = np.cumsum([len(ring) for ring in rings])
    numbers = points.ravel().tolist()
    polygons = [numbers[2 * (end - len(ring)) : 2 * end] for ring, end in zip(rings, ends.tolist(), strict=True)]
    lasts = np.cumsum([len(one) for one in outlines])
    starts = np.concatenate([[0], ends[lasts[:-1] - 1]])
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    boxes = np.round(np.concatenate([low, high - low], axis=1), DIGITS).tolist()
    drawn: Any = None if height is None or width is None else coco.frPyObjects(polygons, height, width)
    areas = None if drawn is None else coco.area(drawn).tolist()
    for one, last, box in zip(outlines, lasts.tolist(), boxes, strict=True):
        own = slice(last - len(one), last)
        if areas is None:
            area = box[2] * box[3]
        else:
            area = float(areas[own][0] if len(one) == 1 else coco.area(coco.merge(drawn[own])))
        yield {"segmentation": polygons[own], "bbox": box, "area": area}


def _describe_boxes(boxes: Sequence[tuple[float, float, float, float]]) -> Iterator[dict[str, Any]]:
    """The box and the area of objects without a mask, from their corners."""
    if boxes:
        corners = np.round(np.array(boxes, np.float64), DIGITS)
        sides = np.round(corners[:, 2:] - corners[:, :2], DIGITS)
        for box in np.concatenate([corners[:, :2], sides], axis=1).tolist():
            yield {"bbox": box, "area": box[2] * box[3]}


def group_objects(
    parts: Iterable[tuple[Any, str, Parts]],
) -> Iterator[tuple[str, Parts]]:
    """Joins the parts of one group and one class to one object.

    Args:
        parts: the group (None for an object of its own), the class, and the shape.

    Yields:
        The class and the shape of each object, in the order of the first parts.
    """
    groups: dict[Any, tuple[str, Parts]] = {}
    for number, (group, name, shape) in enumerate(parts):
        key = ("alone", number) if group is None else (group, name)
        if key in groups:
            groups[key][1].add(shape)
        else:
            groups[key] = name, shape
    yield from groups.values()


def list_images(folder: Path, *, deep: bool = False) -> list[Path]:
    """Lists the image files of a folder, and with ``deep`` of all folders in it, by name."""
    if not deep:
        names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
        return [folder / name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    paths = (Path(top) / name for top, _, names in os.walk(folder) for name in names)
    return sorted((path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES), key=lambda path: path.parts)


def find_image(name: str, folders: Sequence[Path]) -> Path | None:
    """Finds an image file by its name, or else by the last part of it, in these folders; None if it is in none."""
    whole = name.replace("\\", "/")
    names = dict.fromkeys((whole, whole.rpartition("/")[2]))
    paths = (folder / part for part in names if part and is_safe_name(part) for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def try_size(path: Path | None) -> tuple[int, int] | None:
    """Height and width of an image file; None without a readable file."""
    try:
        return None if path is None else read_size(path)
    except ImageError:
        return None


def read_pixels(file: Path | io.BytesIO, name: str) -> np.ndarray:
    """Reads an image of labels: ``[h, w]`` palette indices or gray values, or ``[h, w, bands]``.

    Args:
        file: a PNG, TIFF or BMP file.
        name: the name for messages.

    Raises:
        DatasetError: the file is not such an image, or is too large.
    """
    try:
        with open_picture(file, ("PNG", "TIFF", "BMP")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DatasetError(f"{name} has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}")
            return np.asarray(picture)
    except DatasetError:
        raise
    except Exception as error:  # malformed files raise many kinds of exceptions
        raise DatasetError(f"{name} cannot be read as an image of labels: {error}") from error


def require_run_lengths(segmentation: Any, where: str, size: Sequence[int] | None = None) -> dict[str, Any]:  # noqa: ANN401
    """Checks COCO run lengths, compressed or as a list, before pycocotools reads them.

    Args:
        segmentation: what came.
        where: the place, for messages.
        size: height and width that they must have; None accepts any.

    Returns:
        The run lengths.

    Raises:
        DatasetError: they are malformed, or have another size.
    """
    written = segmentation if isinstance(segmentation, dict) else {}
    sides, counts = written.get("size"), written.get("counts")
    lengths = read_side_lengths(*sides) if isinstance(sides, list | tuple) and len(sides) == 2 else None
    if lengths is None or lengths[0] * lengths[1] > MAX_PIXELS or (size is not None and list(lengths) != list(size)):
        expected = "[height, width]" if size is None else f"that of the image, {list(size)}"
        raise DatasetError(f"{where}: the size of its run lengths is {sides!r:.40}, expected {expected}")
    try:
        if isinstance(counts, str):
            check_run_lengths({"size": list(lengths), "counts": counts})
        elif not isinstance(counts, list) or any(type(count) is not int or count < 0 for count in counts):
            raise ValueError("counts must be a string or a list of whole numbers")
        elif sum(counts) != lengths[0] * lengths[1]:
            raise ValueError(f"the sum of counts must be {lengths[0] * lengths[1]:,} pixels, got {sum(counts):,}")
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error
    return {"size": list(lengths), "counts": counts}


def read_side_lengths(height: Any, width: Any) -> tuple[int, int] | None:  # noqa: ANN401 - anything in JSON
    """Height and width in pixels, if both are whole numbers above 0.

    Args:
        height: what came.
        width: what came.

    Returns:
        The size; None if it is missing or invalid.
    """
    valid = all(type(side) in (int, float) and side > 0 and side == int(side) for side in (height, width))
    return (int(height), int(width)) if valid else None


def read_label_text(path: Path) -> str:
    """Reads a text file of labels.

    Raises:
        DatasetError: the file is missing, too large, or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DatasetError(f"{path} has more than {MAX_TEXT_BYTES:,} bytes: is it a label file?")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as text (UTF-8): {error}") from error


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file that are not empty."""
    return [line.strip() for line in read_label_text(path).splitlines() if line.strip()]


def to_relative(path: Path, folder: Path) -> str:
    """The name of a file relative to a folder, with slashes; only its last part if it is not in the folder."""
    whole, above = path.as_posix(), f"{folder.as_posix()}/"
    if whole.startswith(above):  # a tenth of the time of `relative_to`
        return whole[len(above) :]
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.name


def read_numbers(values: Any, length: int | None, where: str) -> list[float]:  # noqa: ANN401 - anything in JSON
    """Reads a list of finite numbers.

    Args:
        values: what came.
        length: the expected number of values; None for any even number.
        where: the place, for messages.

    Returns:
        The numbers.

    Raises:
        DatasetError: it is something else.
    """
    try:
        numbers = list(map(float, values))
    except (TypeError, ValueError):
        numbers = []
    right = len(numbers) == length if length is not None else len(numbers) % 2 == 0 and bool(numbers)
    if not right or not math.isfinite(sum(numbers)):
        expected = f"{length} numbers" if length is not None else "pairs of numbers"
        raise DatasetError(f"{where}: expected {expected}, got {values!r:.80}. Export the labels again")
    return numbers


def parse_numbers(text: str) -> list[Any]:
    """Splits numbers between commas for `read_numbers`; what is no number stays a text.

    The decoder of JSON takes less time than `float`.
    """
    try:
        return msgspec.json.decode(f"[{text}]", type=list[float])
    except (msgspec.MsgspecError, UnicodeEncodeError):  # such as .5, which is no number in JSON
        return text.split(",")


def to_ring(values: Any, where: str) -> Ring:  # noqa: ANN401
    """Reads ``[x1, y1, x2, y2, ...]`` or ``[[x1, y1], [x2, y2], ...]``.

    Args:
        values: what came.
        where: the place, for messages.

    Raises:
        DatasetError: it is something else.
    """
    if isinstance(values, list) and values and isinstance(values[0], list | tuple):
        values = [number for pair in values for number in (pair if isinstance(pair, list | tuple) else [pair])]
    if isinstance(values, list) and not values:
        return np.empty((0, 2))
    return np.array(read_numbers(values, None, where)).reshape(-1, 2)
