"""Folders with COCO files: Roboflow's ``train/_annotations.coco.json``, and ``annotations/instances_train.json``.

CVAT's and COCO's own exports have the folder ``annotations``. Roboflow adds a category 0 that stands for the project
and has no object; it is left out.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from tailseg.annotations.image_files import is_safe_name
from tailseg.annotations.json_file import Sections, decode_record, decompress, read_text, split_sections
from tailseg.annotations.problems import DatasetError

NAME: Final = "COCO in a folder"
ROBOFLOW: Final = "_annotations.coco.json"
SPLITS: Final = {"train": "train", "valid": "val", "val": "val", "test": "test"}


def list_files(path: Path) -> dict[str, Path]:
    """The COCO files of a folder by the name of their split; the training set comes first."""
    if not path.is_dir():
        return {}
    if (path / ROBOFLOW).is_file():
        return {"": path / ROBOFLOW}
    present = [folder for folder in SPLITS if (path / folder / ROBOFLOW).is_file()]
    files = {SPLITS[folder]: path / folder / ROBOFLOW for folder in present}
    if files:
        return files
    candidates = sorted((path / "annotations").glob("instances_*.json"))
    names = {file: file.stem.removeprefix("instances_") for file in candidates}
    order = sorted(candidates, key=lambda file: (not names[file].startswith(("train", "default")), names[file]))
    return {next((s for s in ("train", "val", "test") if names[f].startswith(s)), names[f]): f for f in order}


def read(path: Path, split: str | None = None) -> Sections:
    """Reads the COCO file of a split; the training split unless one is named.

    Raises:
        DatasetError: there is no such split, or the file is not in COCO format.
    """
    files = list_files(path)
    chosen = next(iter(files)) if split is None else SPLITS.get(split, split)
    if chosen not in files:
        raise DatasetError(f"{path} has no split {split!r}: expected one of {', '.join(files)}")
    file = files[chosen]
    sections = split_sections(decompress(read_text(file), file), file)
    folder = file.parent.relative_to(path).as_posix()
    if file.name != ROBOFLOW:
        name = file.stem.removeprefix("instances_")
        folder = next((place for place in (f"images/{name}", name) if (path / place).is_dir()), ".")
    if folder != ".":
        sections = replace(sections, images=[_add_folder(image, folder, path) for image in sections.images])
    sections = _drop_placeholder(sections) if file.name == ROBOFLOW else sections
    return replace(sections, format=f"{NAME}, {file.relative_to(path).as_posix()}")


def _add_folder(image: Any, folder: str, path: Path) -> Any:  # noqa: ANN401 - anything in JSON
    """Adds the folder of the split to the name of an image, unless the name leads to a file without it."""
    name = image.get("file_name") if isinstance(image, dict) else None
    if not isinstance(name, str) or not is_safe_name(name) or (path / name).is_file():
        return image
    return image | {"file_name": f"{folder}/{name}"}


def _drop_placeholder(sections: Sections) -> Sections:
    """Leaves out the category that is the supercategory of all others, if it has no object."""
    categories = [item for item in sections.categories if isinstance(item, dict)]
    names = {item.get("supercategory") for item in categories} - {"none"}
    if len(names) != 1:
        return sections
    holders = [item for item in categories if item.get("supercategory") == "none" and item.get("name") in names]
    if len(holders) != 1 or len(categories) < 2:
        return sections
    number = holders[0].get("id")
    for raw in sections.annotations:
        record = msgspec.json.decode(raw, type=_Category) if isinstance(raw, msgspec.Raw) else decode_record(raw)
        if (record.category_id if isinstance(record, _Category) else record.get("category_id")) == number:
            return sections
    rest = [item for item in sections.categories if item is not holders[0]]
    remark = f"category {number} {holders[0].get('name')!r:.60} stands for the project and has no object: left out"
    return replace(sections, categories=rest, remarks=(remark,))


class _Category(msgspec.Struct):
    category_id: Any = None
