"""Folders of instance masks: ``images`` next to ``masks``, with one PNG for each image or for each object.

There is no common definition. These layouts are read:

    images/a.jpg  masks/a.png              each value above 0 is an object (8 or 16 bits, palette, or colors)
    images/a.jpg  masks/a/cat_1.png ...    one object in each file, above 0; the class is the name without the number
    images/a.jpg  masks/cat/a.png          a folder for each class; each value above 0 is an object
    a/images/a.png  a/masks/*.png          one object in each file (Data Science Bowl 2018)

Without a name of the class in the folder or the file, the class is ``object``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from tailseg.annotations.formats.builder import Builder, Parts, list_images, read_pixels, to_relative, try_size
from tailseg.annotations.json_file import Sections
from tailseg.annotations.problems import DatasetError

NAME: Final = "folder of instance masks"
MASKS: Final = ("masks", "mask", "labels", "instances")
UNNAMED: Final = "object"
_NUMBER: Final = re.compile(r"[\W_]*\d*$")


def find_masks(path: Path) -> Path | None:
    """The folder of masks next to ``images``; None without one."""
    if not path.is_dir() or not (path / "images").is_dir():
        return None
    return next((path / name for name in MASKS if any((path / name).rglob("*.png"))), None)


def is_bowl(path: Path) -> bool:
    """Whether each image has its own folder with ``images`` and ``masks``."""
    first = next((entry for entry in sorted(path.iterdir()) if entry.is_dir()), None) if path.is_dir() else None
    return first is not None and (first / "images").is_dir() and (first / "masks").is_dir()


def read(path: Path, split: str | None = None) -> Sections:
    """Reads all masks.

    Raises:
        DatasetError: a mask has another size than its image, or there is no mask.
    """
    root = path / split if split else path
    builder = Builder(path)
    pairs: list[tuple[Path, list[tuple[str, np.ndarray]]]] = []
    masks = find_masks(root)
    if masks is not None:
        for image in list_images(root / "images"):
            pairs.append((image, list(_list_objects(masks, image.stem))))
        used = {image.stem for image, _ in pairs}
        stems = {file.stem for file in masks.glob("*.png")}
        builder.leave_out("[mask|masks] without an image", len(stems - used))
    else:
        for folder in sorted(entry for entry in root.iterdir() if (entry / "masks").is_dir()):
            found = [mask for file in list_images(folder / "masks") for mask in _read_single(file, UNNAMED)]
            pairs += [(image, found) for image in list_images(folder / "images")[:1]]
    for name in sorted({name for _, found in pairs for name, _ in found}):
        builder.add_category(name)
    for image, found in pairs:
        size = try_size(image)
        number = builder.add_image(to_relative(image, path), size)
        for name, mask in found:
            if size is not None and mask.shape != size:
                raise DatasetError(
                    f"{path}: a mask of {image.name} is {mask.shape[1]} x {mask.shape[0]} pixels, but the image is "
                    f"{size[1]} x {size[0]}"
                )
            builder.add_object(number, name, Parts(masks=[(mask, 0, 0)]))
    return builder.finish(NAME)


def _list_objects(masks: Path, stem: str) -> Iterator[tuple[str, np.ndarray]]:
    if (masks / f"{stem}.png").is_file():
        yield from _read_numbered(masks / f"{stem}.png", UNNAMED)
    if (masks / stem).is_dir():
        for file in list_images(masks / stem):
            yield from _read_single(file, _NUMBER.sub("", file.stem) or UNNAMED)
    for folder in sorted(entry for entry in masks.iterdir() if entry.is_dir() and entry.name != stem):
        if (folder / f"{stem}.png").is_file():
            yield from _read_numbered(folder / f"{stem}.png", folder.name)


def _read_values(file: Path) -> np.ndarray:
    pixels = read_pixels(file, str(file)).astype(np.int64)
    if pixels.ndim == 2:
        return pixels
    bands = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
    return bands @ (256 ** np.arange(bands.shape[2]))


def _read_numbered(file: Path, name: str) -> Iterator[tuple[str, np.ndarray]]:
    values = _read_values(file)
    yield from ((name, values == value) for value in np.unique(values).tolist() if value)


def _read_single(file: Path, name: str) -> Iterator[tuple[str, np.ndarray]]:
    yield name, _read_values(file) > 0
