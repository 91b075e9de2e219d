"""Writes YOLO labels: ``data.yaml``, ``labels/SPLIT`` and ``images/SPLIT``, as ultralytics reads them.

An outline holds one ring, so parts and holes are joined by lines that lead there and back: OpenCV's even-odd rule, with
which ultralytics draws, gives the parts and the holes again.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tailseg.annotations.formats.rings import join_rings, make_rectangle
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.writers.labels import Labels, Pictures, Shape, get_shape, is_region, place_picture
from tailseg.files import write_text


def write(labels: Labels, out: Path, *, split: str = "train", pictures: Pictures = "link") -> None:
    """Writes a split into a folder; other splits that it has stay.

    Args:
        labels: the data set; it counts what is lost.
        out: the folder.
        split: train, val or test.
        pictures: whether image files are linked, copied or left where they are.

    Raises:
        DatasetError: two classes or two label files have one name, or the folder has splits with other classes.
    """
    labels.require_unique_names()
    names = list(labels.names.values())
    _require_same_names(out / "data.yaml", names)
    numbers = {key: number for number, key in enumerate(labels.names)}
    shapes = {
        image["id"]: [
            (numbers[record["category_id"]], get_shape(record, image["height"], image["width"]))
            for record in labels.objects[image["id"]]
            if not is_region(record)
        ]
        for image in labels.images
    }
    labels.leave_out(
        "crowd or ignore [region|regions]",
        sum(is_region(record) for records in labels.objects.values() for record in records),
    )
    labels.lose_fields()
    labels.lose_measures()
    has_masks = any(shape.has_mask for items in shapes.values() for _, shape in items)
    written: dict[Path, str] = {}
    for image in labels.images:
        name = Path(*[part for part in Path(image["file_name"]).parts if part != "images"])
        file = (out / "labels" / split / name).with_suffix(".txt")
        if file in written:
            raise DatasetError(
                f"{labels.annotations.path}: {written[file]} and {image['file_name']} would have one label file. "
                "Rename one of them"
            )
        written[file] = image["file_name"]
        lines = [_format(labels, number, shape, image, outline=has_masks) for number, shape in shapes[image["id"]]]
        write_text(file, "".join(f"{line}\n" for line in lines))
        place_picture(labels, image, out / "images" / split / name, pictures)
    splits = sorted({folder.name for folder in (out / "labels").iterdir() if folder.is_dir()}, key=_order)
    entries = [f"{name}: images/{name}" for name in splits]
    # JSON is YAML, and its strings need no rules of their own
    classes = [f"  {number}: {json.dumps(name)}" for number, name in enumerate(names)]
    write_text(out / "data.yaml", "\n".join(["path: .", *entries, "names:", *classes, ""]))


def _order(name: str) -> tuple[int, str]:
    return (("train", "val", "test").index(name) if name in ("train", "val", "test") else 3, name)


def _require_same_names(file: Path, names: list[str]) -> None:
    if not file.is_file():
        return
    from tailseg.annotations.formats import yolo

    existing = yolo.read_names(file)
    if existing != names:
        raise DatasetError(
            f"{file} has other classes ({existing!r:.100}). Match them by name (--match-classes), or name a new folder"
        )


def _format(labels: Labels, number: int, shape: Shape, image: dict[str, Any], *, outline: bool) -> str:
    height, width = image["height"], image["width"]
    sides = np.array([width, height], np.float64)
    if not outline:
        x, y, w, h = shape.box
        values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        return " ".join(map(repr, [number, *values]))
    if shape.has_mask:
        rings, traced = shape.list_rings(height, width)
        labels.lose("[object|objects] with overlapping parts: the outline follows their pixels", int(traced))
    else:
        x, y, w, h = shape.box
        rings = [make_rectangle(x, y, x + w, y + h)]
        labels.lose("[object|objects] without a mask: written as the outline of the box")
    points = join_rings(rings)
    inside = np.clip(points, 0, sides)
    labels.lose("[outline|outlines] clipped to the image", int((inside != points).any()))
    return " ".join(map(repr, [number, *(inside / sides).ravel().tolist()]))
