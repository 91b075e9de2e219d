"""YOLO: a text file for each image with a line for each object, and ``data.yaml`` with the classes and the folders.

A line is ``class x y width height`` (center and size) or ``class x1 y1 x2 y2 ...`` (an outline), all numbers as shares
of the image's width and height. The definition is what ultralytics reads: ``path``, ``train``, ``val`` and ``test``
name folders, lists of folders, or text files with image names; the labels are where ``images`` in the path of an image
is replaced by ``labels``. Darknet's ``obj.data`` and folders with ``classes.txt`` are read, too. The size of an image
is the one that viewers show, as for ultralytics. OpenCV's even-odd rule gives an outline with bridges its parts and
holes.
"""

import math
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from tailseg.annotations.formats.builder import (
    DIGITS,
    IMAGE_SUFFIXES,
    Builder,
    Parts,
    list_images,
    read_label_text,
    read_lines,
    to_relative,
)
from tailseg.annotations.formats.parsers import read_yaml
from tailseg.annotations.formats.rings import MIN_POINTS, find_holes, split_rings
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.json_file import Sections
from tailseg.annotations.pictures import read_size
from tailseg.annotations.problems import DatasetError

NAME: Final = "YOLO"
YAML_NAMES: Final = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
CLASS_FILES: Final = ("classes.txt", "obj.names", "labels/classes.txt")
SPLITS: Final = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def find_file(path: Path) -> Path | None:
    """The file that describes the data set: ``data.yaml``, ``obj.data`` or a list of classes; None without one."""
    if path.is_dir():
        names = (*YAML_NAMES, "obj.data", *CLASS_FILES)
        return next((path / name for name in names if (path / name).is_file() and _describes(path / name)), None)
    return path if path.suffix.lower() in (".yaml", ".yml", ".data") and _describes(path) else None


def _describes(path: Path) -> bool:
    if path.suffix.lower() == ".data":
        return "names" in _read_darknet(path)
    if path.suffix == ".txt" or path.name == "obj.names":
        return True
    try:
        content = read_yaml(path)
    except DatasetError:
        return False
    return isinstance(content, dict) and ("names" in content or "nc" in content)


def _read_darknet(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in read_lines(path) if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def get_folder(path: Path) -> Path:
    """The folder of the data set: ``path`` of data.yaml if there is such a folder, otherwise the file's own."""
    file = find_file(path)
    if file is None or file.suffix.lower() not in (".yaml", ".yml"):
        return path if path.is_dir() else path.parent
    written = (read_yaml(file) or {}).get("path")
    if isinstance(written, str) and (file.parent / written).is_dir():
        return Path(os.path.normpath(file.parent / written))
    return file.parent


def list_splits(path: Path) -> list[str]:
    """The names of the splits that the data set has: train, val, test."""
    file = find_file(path)
    if file is None or file.suffix.lower() not in (".yaml", ".yml", ".data"):
        return []
    content = _read_content(file)
    return [split for split, keys in SPLITS.items() if any(content.get(key) for key in keys)]


def _read_content(file: Path) -> dict[str, Any]:
    if file.suffix.lower() == ".data":
        content: Any = _read_darknet(file)
        names = file.parent / Path(content["names"].replace("\\", "/")).name
        return content | {"names": read_lines(names) if names.is_file() else []}
    if file.suffix.lower() in (".txt", ".names"):
        return {"names": read_lines(file), "train": "."}
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise DatasetError(f"{file} is not a data.yaml: expected names, train and val, got {reprlib.repr(content)}")
    # supervision writes no split
    return content if any(content.get(key) for keys in SPLITS.values() for key in keys) else content | {"train": "."}


def read(path: Path, split: str | None = None) -> Sections:
    """Reads a split; the training split unless one is named.

    Raises:
        DatasetError: there is no such split or folder, or a label cannot be read; the message names the line.
        ImageError: an image cannot be read; its size is needed.
    """
    file = find_file(path)
    if file is None:
        raise DatasetError(f"{path} is not a YOLO data set: expected data.yaml with names, train and val")
    content, root = _read_content(file), get_folder(path)
    names = _read_names(content, file)
    builder = Builder(path, names)
    pose = isinstance(content.get("kpt_shape"), list)
    for image in _list_split(content, split, root, file):
        try:
            height, width = read_size(image)
        except ImageError as error:
            raise DatasetError(f"{path}: {error}. Its size is needed, because the labels are shares of it") from error
        number = builder.add_image(to_relative(image, root), (height, width))
        label = find_label(image, root)
        if label is not None:
            lines = _read_lines(label)
            builder.add_objects(
                number, [_read_object(builder, height, width, *line, names, pose=pose) for line in lines]
            )
    return builder.finish(NAME)


def read_names(file: Path) -> list[str]:
    """The names of the classes in ``data.yaml``, in their order."""
    return _read_names(_read_content(file), file)


def _read_names(content: Mapping[str, Any], file: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        try:
            numbers = {int(number): name for number, name in names.items()}
        except (TypeError, ValueError):
            numbers = {}
        if sorted(numbers) != list(range(len(numbers))):
            raise DatasetError(f"{file}: the keys of names must be 0, 1, 2, ..., got {reprlib.repr(list(names))}")
        names = [numbers[number] for number in range(len(numbers))]
    if names is None and isinstance(content.get("nc"), int):
        names = [f"class {number}" for number in range(content["nc"])]
    # aliases of YAML can make a small file a list without end: only texts and numbers are written out
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        raise DatasetError(f"{file}: expected the list names with the classes, got {reprlib.repr(names)}")
    names = list(map(str, names))
    if repeated := {name for name in names if names.count(name) > 1}:
        raise DatasetError(
            f"{file}: {', '.join(sorted(repeated)):.80} is the name of several classes. Give each class its own name"
        )
    return names


def _list_split(content: Mapping[str, Any], split: str | None, root: Path, file: Path) -> list[Path]:
    """The image files of a split."""
    present = {name: next((content[k] for k in keys if content.get(k)), None) for name, keys in SPLITS.items()}
    present = {name: value for name, value in present.items() if value}
    chosen = next((name for name, keys in SPLITS.items() if split in keys), split) if split else next(iter(present), "")
    if chosen not in present:
        raise DatasetError(
            f"{file} has no split {split or 'train'!r}: expected one of {', '.join(present) or 'train, val, test'}"
        )
    entries = present[chosen]
    if not all(isinstance(entry, str) for entry in (entries if isinstance(entries, list) else [entries])):
        raise DatasetError(f"{file}: {chosen} must name folders or files, got {reprlib.repr(entries)}")
    images = [
        image
        for entry in (entries if isinstance(entries, list) else [entries])
        for image in _list_entry(entry, root, file)
    ]
    if not images:
        raise DatasetError(f"{file}: {chosen} names {reprlib.repr(entries)}, which has no image in {root}")
    return list(dict.fromkeys(images))


def _list_entry(entry: str, root: Path, file: Path) -> list[Path]:
    """The images of a folder, of a text file with names, or of a pattern; all inside the data set's folder."""
    place = _locate(entry, root, file)
    if place is None:
        is_pattern = "*" in entry and ".." not in entry and not Path(entry).is_absolute()
        return [file for file in sorted(root.glob(entry)) if _is_image(file)] if is_pattern else []
    if place.is_dir():
        return list_images(place, deep=True)
    images = []
    for line in read_lines(place):
        located = _locate(line, place.parent, file) or _locate(line, root, file)
        if located is None:
            located = next(iter(_find_by_name(line, root)), None)
        if located is None:
            raise DatasetError(f"{place}: image {line!r:.120} is not in {root}. Write names relative to the data set")
        images.append(located)
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _find_by_name(line: str, root: Path) -> list[Path]:
    last = line.replace("\\", "/").rpartition("/")[2]
    return [path for path in list_images(root, deep=True) if path.name == last][:1]


def _locate(entry: str, root: Path, file: Path) -> Path | None:
    """The file or folder that an entry names, if it is in the data set's folder.

    Roboflow writes ``../train/images`` for ``train/images``; Darknet writes ``data/obj_train_data``.
    """
    entry = entry.replace("\\", "/")
    parts = [part for part in entry.split("/") if part not in ("", ".")]
    plain = [part for part in parts if part != ".."]
    bases = (root, file.parent)
    candidates = [*(base / entry for base in bases), *(base.joinpath(*plain) for base in bases)]
    candidates += [base.joinpath(*plain[1:]) for base in bases if plain[:1] in (["data"], ["datasets"])]
    for candidate in candidates:
        if not candidate.exists():
            continue
        whole = os.path.normpath(candidate.absolute())
        if any(Path(whole).is_relative_to(os.path.normpath(base.absolute())) for base in bases):
            return Path(os.path.normpath(candidate))
    return None


def find_label(image: Path, root: Path) -> Path | None:
    """The label file of an image: ``images`` in its path is replaced by ``labels``, or it is next to the image.

    Args:
        image: the image file.
        root: the folder of the data set; folders above it are not replaced.

    Returns:
        The file; None for an image without objects.
    """
    stem = to_relative(image, root).removesuffix(image.suffix)
    before, found, after = f"/{stem}".rpartition("/images/")
    candidates = [root / f"{before}/labels/{after}.txt"[1:]] if found else []
    candidates.append(image.with_suffix(".txt"))
    return next((label for label in candidates if label.is_file() and label.name != "classes.txt"), None)


def _read_lines(label: Path) -> Iterator[tuple[str, list[float]]]:
    lines = read_label_text(label).splitlines()
    name = str(label)
    for number, (line, words) in enumerate(zip(lines, _split_lines(lines), strict=True), start=1):
        if not words:
            continue
        where = f"{name}, line {number}"
        try:
            values = list(map(float, words))
        except ValueError:
            values = []
        if not values or not math.isfinite(sum(values)) or not float(values[0]).is_integer():
            raise DatasetError(f"{where}: expected a class number and coordinates, got {line!r:.80}")
        yield where, values


def _split_lines(lines: Sequence[str]) -> Sequence[Sequence[str | float]]:
    """Splits each line at its spaces. The decoder of JSON, which reads most files, takes less time than `float`."""
    with suppress(msgspec.MsgspecError, UnicodeEncodeError):
        rows = msgspec.json.decode(f"[[{'],['.join(lines).replace(' ', ',')}]]", type=list[list[float]])
        if len(rows) == len(lines):
            return rows
    return [line.split() for line in lines]


def _read_object(
    builder: Builder, height: int, width: int, where: str, values: Sequence[float], names: Sequence[str], *, pose: bool
) -> tuple[str, Parts]:
    label, coordinates = int(values[0]), list(values[1:])
    if not 0 <= label < len(names):
        raise DatasetError(f"{where}: class {label}, but the data set has the classes 0 to {len(names) - 1}")
    if pose and len(coordinates) > 4:
        builder.leave_out("[object's|objects'] keypoints", 1)
        coordinates = coordinates[:4]
    elif len(coordinates) % 2 and len(coordinates) >= 5:
        builder.leave_out("[score|scores] at the end of a line", 1)
        coordinates = coordinates[:-1]
    name = names[label]
    if len(coordinates) == 4:
        x, y, w, h = coordinates
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        return name, Parts(box=box)
    if len(coordinates) < 2 * MIN_POINTS or len(coordinates) % 2:
        raise DatasetError(
            f"{where}: expected a class and 4 numbers (a box) or 6 and more (an outline), got {len(values)} numbers"
        )
    ring = np.array(coordinates).reshape(-1, 2)
    parts, holes = find_holes([np.round(part * (width, height), DIGITS) for part in split_rings(ring)])
    return name, Parts(rings=parts, holes=holes)
