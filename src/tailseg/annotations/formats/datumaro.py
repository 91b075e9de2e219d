"""Datumaro: ``annotations/SUBSET.json`` with ``categories`` and ``items``.

The definition is Datumaro's documentation of its own format. Annotations of one label and one ``group`` other than 0
are one object; the attribute ``is_crowd`` marks a crowd region.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from tailseg.annotations.formats.builder import (
    Builder,
    Parts,
    group_objects,
    read_label_text,
    read_numbers,
    read_side_lengths,
    require_run_lengths,
    to_ring,
)
from tailseg.annotations.formats.rings import decode_mask, make_ellipse
from tailseg.annotations.json_file import Sections
from tailseg.annotations.problems import DatasetError

NAME: Final = "Datumaro"


def is_datumaro(content: object) -> bool:
    """Whether the content of a JSON file is Datumaro's."""
    return isinstance(content, dict) and isinstance(content.get("items"), list) and "categories" in content


def list_files(path: Path) -> dict[str, Path]:
    """Datumaro's files of a folder by their subset; the training set comes first."""
    files = sorted((path / "annotations").glob("*.json")) if path.is_dir() else []
    files = [file for file in files if is_datumaro(_read(file))]
    return {file.stem: file for file in sorted(files, key=lambda file: not file.stem.startswith("train"))}


def _read(file: Path) -> Any:  # noqa: ANN401
    try:
        return msgspec.json.decode(read_label_text(file).encode())
    except (msgspec.MsgspecError, RecursionError, DatasetError):
        return None


def read_folder(path: Path, split: str | None = None) -> Sections:
    """Reads a subset; the training set, or the first one, unless one is named.

    Raises:
        DatasetError: there is no such subset, or an item cannot be read.
    """
    files = list_files(path)
    chosen = next(iter(files)) if split is None else split
    if chosen not in files:
        raise DatasetError(f"{path} has no subset {split!r}: expected one of {', '.join(files)}")
    return read(_read(files[chosen]), files[chosen])


def read(content: dict[str, Any], path: Path) -> Sections:
    """Reads the content of a JSON file.

    Args:
        content: the content.
        path: the file.

    Raises:
        DatasetError: an item cannot be read; the message names it.
    """
    try:
        names = [str(label["name"]) for label in content["categories"]["label"]["labels"]]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path} has no categories.label.labels: its annotations have no classes") from error
    builder = Builder(path, names)
    for number, item in enumerate(content["items"], start=1):
        image = item.get("image") if isinstance(item, dict) else None
        where = f"{path}, item {item.get('id', number) if isinstance(item, dict) else number!r}"
        if not isinstance(image, dict):
            builder.leave_out("[item|items] without an image")
            continue
        sides = read_side_lengths(*(image.get("size") or (None, None)))
        key = builder.add_image(str(image.get("path") or f"{item.get('id')}.jpg"), sides)
        parts = []
        for annotation in item.get("annotations") or []:
            label = annotation.get("label_id")
            if not isinstance(label, int) or not 0 <= label < len(names):
                builder.leave_out("[annotation|annotations] without a label")
                continue
            made = _make_shape(builder, annotation, where)
            if made is not None:
                parts.append((annotation.get("group") or None, names[label], made))
        builder.add_objects(key, group_objects(parts))
    return builder.finish(NAME)


def _make_shape(builder: Builder, annotation: dict[str, Any], where: str) -> Parts | None:
    kind, attributes = annotation.get("type"), annotation.get("attributes") or {}
    fields: dict[str, Any] = {"attributes": attributes} if attributes else {}
    if attributes.get("is_crowd"):
        fields["iscrowd"] = 1
    if kind == "bbox":
        x, y, width, height = read_numbers(annotation.get("bbox"), 4, where)
        return Parts(box=(x, y, x + width, y + height), fields=fields)
    if kind == "polygon":
        return Parts(rings=[to_ring(annotation.get("points"), where)], fields=fields)
    if kind == "ellipse":
        x1, y1, x2, y2 = read_numbers(annotation.get("points"), 4, where)
        return Parts(rings=[make_ellipse(((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2))])
    if kind == "mask":
        rle = annotation.get("rle")
        return Parts(masks=[(decode_mask(require_run_lengths(rle, where)), 0, 0)], fields=fields)
    builder.leave_out(f"[annotation|annotations] of type {str(kind)!r:.30}")
    return None
