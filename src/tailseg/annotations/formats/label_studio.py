"""Label Studio: a list of tasks (JSON), or the shorter JSON_MIN.

The definition is Label Studio's documentation of its units: x, y, width, height, radii and points are percent of the
image; a rectangle is rotated around its upper left corner, in degrees, clockwise. Brush regions are run lengths over
red, green, blue and alpha of each pixel, in the bits that label-studio-sdk's ``converter/brush.py`` writes; alpha is
the mask. A task's annotation is the one marked as ground truth, or the first that was not cancelled.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from tailseg.annotations.formats.builder import (
    IMAGE_SUFFIXES,
    Builder,
    Parts,
    find_image,
    group_objects,
    read_numbers,
    read_side_lengths,
    to_ring,
    try_size,
)
from tailseg.annotations.formats.rings import make_ellipse, make_rectangle, rotate
from tailseg.annotations.image_files import is_safe_name
from tailseg.annotations.json_file import Sections
from tailseg.annotations.pictures import MAX_PIXELS
from tailseg.annotations.problems import DatasetError

NAME: Final = "Label Studio"
SHAPES: Final = ("rectangle", "polygon", "brush", "ellipse")


def is_label_studio(content: object) -> bool:
    """Whether the content of a JSON file is a list of tasks, in the long or in the short form."""
    first = content[0] if isinstance(content, list) and content else None
    if not isinstance(first, dict):
        return False
    if isinstance(first.get("data"), dict) and ("annotations" in first or "predictions" in first):
        return True
    return "annotator" in first or any("original_width" in region for region in _list_short(first))


def _list_short(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The regions of a task in the short form."""
    for value in task.values():
        yield from (region for region in (value if isinstance(value, list) else []) if isinstance(region, dict))


def read(content: list[Any], path: Path) -> Sections:
    """Reads tasks.

    Args:
        content: the content of the JSON file.
        path: the file.

    Raises:
        DatasetError: a task or a region cannot be read; the message names it.
    """
    builder = Builder(path)
    tasks = [task for task in content if isinstance(task, dict)]
    regions = [list(_list_regions(builder, task)) for task in tasks]
    for name in sorted({name for shapes in regions for region in shapes for name in _get_labels(region)[:1]}):
        builder.add_category(name)
    addresses: dict[str, str] = {}
    for number, (task, shapes) in enumerate(zip(tasks, regions, strict=True), start=1):
        _add_task(builder, task, shapes, f"{path}, task {task.get('id', number)}", addresses)
    return builder.finish(NAME)


def _list_regions(builder: Builder, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The regions of a task: results that share an id, such as a shape and its label, are one region."""
    if "data" not in task:
        yield from ({"value": region, **region, "type": _guess_type(region)} for region in _list_short(task))
        return
    written = [item for item in task.get("annotations") or [] if isinstance(item, dict)]
    valid = [item for item in written if not item.get("was_cancelled")]
    truth = [item for item in valid if item.get("ground_truth")]
    builder.leave_out("further [annotation|annotations] of a task", max(0, len(valid) - 1))
    builder.leave_out("[prediction|predictions] of tasks", len(task.get("predictions") or []))
    regions: dict[Any, dict[str, Any]] = {}
    for number, result in enumerate((truth or valid or [{}])[0].get("result") or []):
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
            continue
        key = result.get("id", ("alone", number))
        if key in regions:
            regions[key]["value"] = regions[key]["value"] | result["value"]
            if not _is_shape(regions[key]) and _is_shape(result):
                regions[key]["type"] = result["type"]
        else:
            regions[key] = dict(result)
    yield from regions.values()


def _guess_type(region: dict[str, Any]) -> str:
    return next((str(key) for key in region if str(key).endswith("labels")), "")


def _is_shape(region: dict[str, Any]) -> bool:
    return str(region.get("type", "")).startswith(SHAPES)


def _get_labels(region: dict[str, Any]) -> list[str]:
    value = region["value"]
    keys = [key for key in value if key.endswith("labels")] if _is_shape(region) else []
    return [str(label) for key in keys for label in (value[key] if isinstance(value[key], list) else [])]


def find_address(task: dict[str, Any]) -> tuple[str, str]:
    """The address of a task's image, and the name of the file; two empty texts without one.

    The name is the last part of the address, or all of an address that is a path without a leading slash.
    """
    data = task.get("data", task)
    texts = [str(value) for value in data.values() if isinstance(value, str)]
    for text in (*texts, str(task.get("file_upload") or "")):
        address = urlsplit(text)
        local = parse_qs(address.query).get("d", [""])[0]
        path = (local or unquote(address.path)).replace("\\", "/")
        is_relative = not local and not address.scheme and is_safe_name(path)
        name = path if is_relative else path.rpartition("/")[2]
        if name.lower().endswith(IMAGE_SUFFIXES):
            return text, name
    return "", ""


def _add_task(
    builder: Builder, task: dict[str, Any], regions: list[dict[str, Any]], where: str, addresses: dict[str, str]
) -> None:
    address, name = find_address(task)
    if not name:
        raise DatasetError(f"{where} names no image file ({', '.join(IMAGE_SUFFIXES)}) in its data")
    if addresses.setdefault(name, address) != address:
        raise DatasetError(
            f"{where}: {address!r:.80} and {addresses[name]!r:.80} have the same last part, which names the image. "
            "Write addresses relative to the folder of the images, such as camera1/a.jpg"
        )
    sides = (read_side_lengths(region.get("original_height"), region.get("original_width")) for region in regions)
    size = next(filter(None, sides), None)
    folder = builder.path.parent
    if size is None:
        size = try_size(find_image(name, [folder, folder / "images"]))
    image = builder.add_image(name, size)
    parts = []
    for number, region in enumerate(regions, start=1):
        if not _is_shape(region):
            builder.leave_out(f"[region|regions] of type {str(region.get('type'))!r:.30}")
            continue
        labels = _get_labels(region)
        if not labels:
            builder.leave_out("[region|regions] without a label")
            continue
        builder.leave_out("further [label|labels] of a region", len(labels) - 1)
        if size is None:
            raise DatasetError(f"{where}: the size of {name} is unknown. Put the image file next to {builder.path}")
        parts.append((None, labels[0], _make_shape(region, size, f"{where}, region {number}")))
    builder.add_objects(image, group_objects(parts))


def _make_shape(region: dict[str, Any], size: tuple[int, int], where: str) -> Parts:
    value, (height, width) = region["value"], size
    scale = np.array([width / 100, height / 100])
    kind = str(region["type"])
    degrees = float(value.get("rotation") or 0)
    if kind.startswith("rectangle"):
        x, y, w, h = read_numbers([value.get(key) for key in ("x", "y", "width", "height")], 4, where)
        (x, y), (w, h) = np.array([x, y]) * scale, np.array([w, h]) * scale
        if not degrees:
            return Parts(box=(float(x), float(y), float(x + w), float(y + h)))
        return Parts(rings=[rotate(make_rectangle(x, y, x + w, y + h), degrees, (x, y))])
    if kind.startswith("polygon"):
        return Parts(rings=[to_ring(value.get("points", []), where) * scale])
    if kind.startswith("ellipse"):
        x, y, rx, ry = read_numbers([value.get(key) for key in ("x", "y", "radiusX", "radiusY")], 4, where)
        center, radii = np.array([x, y]) * scale, np.array([rx, ry]) * scale
        return Parts(rings=[make_ellipse(center.tolist(), radii.tolist(), degrees)])
    return Parts(masks=[(decode_brush(value.get("rle"), height, width, where), 0, 0)])


def decode_brush(numbers: Any, height: int, width: int, where: str) -> np.ndarray:  # noqa: ANN401 - anything in JSON
    """Decodes the run lengths of a brush region.

    Bits: 32 for the number of values, 5 for the word size - 1, four times 4 for the sizes - 1 of run lengths. Then for
    each block: 1 bit (whether all values are equal), 2 bits (which of the four sizes), the length - 1, and the values:
    one or as many as the length.

    Args:
        numbers: bytes as a list of numbers.
        height: of the image.
        width: of the image.
        where: the place, for messages.

    Returns:
        The mask, bool ``[height, width]``.

    Raises:
        DatasetError: the numbers are not such run lengths of an image of this size.
    """
    try:
        bits = np.unpackbits(np.array(numbers, np.uint8))
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{where}: rle must be a list of bytes, got {numbers!r:.60}") from error
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        if position > len(bits):
            raise DatasetError(f"{where}: rle ends too early")
        return int("".join(map(str, bits[position - count : position].tolist())) or "0", 2)

    total, word, sizes = take(32), take(5) + 1, [take(4) + 1 for _ in range(4)]
    if total != height * width * 4 or height * width > MAX_PIXELS:
        raise DatasetError(f"{where}: rle has {total:,} values, expected {height} x {width} x 4")
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        repeated, length = take(1), take(sizes[take(2)]) + 1
        stop = min(done + length, total)
        if repeated:
            values[done:stop] = take(word) & 255
        else:
            stop_bits = position + length * word
            if stop_bits > len(bits):
                raise DatasetError(f"{where}: rle ends too early")
            block = bits[position:stop_bits].reshape(length, word)[:, -8:]
            values[done:stop] = np.packbits(block, axis=1)[: stop - done, 0] if word >= 8 else 1
            position = stop_bits
        done = stop
    return values.reshape(height, width, 4)[..., 3] > 0


def encode_brush(mask: np.ndarray) -> list[int]:
    """Encodes a mask, bool ``[h, w]``, as `decode_brush` reads it, in blocks of equal values.

    Returns:
        The bytes as a list of numbers.
    """
    values = np.repeat(mask.ravel(), 4)
    edges = np.flatnonzero(np.diff(values)) + 1
    starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(values)]])
    texts = [f"{len(values):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))]
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        value = 255 if values[start] else 0
        for first in range(start, stop, 1 << 16):
            length = min(1 << 16, stop - first) - 1
            place, size = next((n, bits) for n, bits in enumerate((3, 4, 8, 16)) if length < 1 << bits)
            texts.append(f"1{place:02b}{length:0{size}b}{value:08b}")
    text = "".join(texts)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]
