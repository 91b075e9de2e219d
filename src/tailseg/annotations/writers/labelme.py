"""Writes LabelMe's files: polygons and rectangles with groups; masks, which can have holes, as PNG."""

import base64
import io
import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.annotations.formats.labelme import NO_CLASSES
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.writers.labels import Labels, Pictures, get_shape, place_picture
from tailseg.files import write_text

VERSION: Final = "5.5.0"
"""The version of LabelMe whose format is written."""


def write(labels: Labels, out: Path, *, split: str = "train", pictures: Pictures = "link") -> None:  # noqa: ARG001
    """Writes a file for each image into a folder, and ``labels.txt`` with the classes.

    Args:
        labels: the data set; it counts what is lost.
        out: the folder.
        split: not used: a folder is a split.
        pictures: whether image files are linked, copied or left where they are.

    Raises:
        DatasetError: two classes or two files have one name.
    """
    labels.require_unique_names()
    labels.lose_fields()
    labels.lose_measures(regions=True)
    written: dict[Path, str] = {}
    for image in labels.images:
        target = out / image["file_name"]
        file = target.with_suffix(".json")
        if file in written:
            raise DatasetError(f"{labels.annotations.path}: {written[file]} and {image['file_name']} have one name")
        written[file] = image["file_name"]
        place_picture(labels, image, target, pictures)
        if pictures == "none":
            row = int(np.flatnonzero(labels.annotations.image_ids == image["id"])[0])
            target = _find(labels, row) or target
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": [
                shape
                for number, record in enumerate(labels.objects[image["id"]], start=1)
                for shape in _make_shapes(labels, record, image, number)
            ],
            "imagePath": Path(os.path.relpath(target, file.parent)).as_posix(),
            "imageData": None,
            "imageHeight": image["height"],
            "imageWidth": image["width"],
        }
        write_text(file, json.dumps(content, ensure_ascii=False, indent=1))
    write_text(out / "labels.txt", "".join(f"{name}\n" for name in (*NO_CLASSES, *labels.names.values())))


def _find(labels: Labels, row: int) -> Path | None:
    from tailseg.annotations.image_files import ImageError

    try:
        return Path(labels.annotations.get_info(row).file).absolute()
    except ImageError:
        return None


def _make_shapes(labels: Labels, record: dict[str, Any], image: dict[str, Any], number: int) -> list[dict[str, Any]]:
    shape = get_shape(record, image["height"], image["width"])
    base = {
        "label": labels.names[record["category_id"]],
        "group_id": None,
        "description": f"score {record['score']:.3f}" if "score" in record else "",
        "flags": {name: True for name in ("iscrowd", "ignore") if record.get(name)},
        "mask": None,
    }
    if shape.mask is not None:
        rows, columns = np.flatnonzero(shape.mask.any(axis=1)), np.flatnonzero(shape.mask.any(axis=0))
        if not len(rows):
            labels.leave_out("[mask|masks] without a pixel")
            return []
        y1, y2, x1, x2 = (int(value) for value in (rows[0], rows[-1], columns[0], columns[-1]))
        png = _encode(shape.mask[y1 : y2 + 1, x1 : x2 + 1])
        return [base | {"shape_type": "mask", "points": [[x1, y1], [x2, y2]], "mask": png}]
    if not shape.rings:
        x, y, w, h = shape.box
        return [base | {"shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]}]
    group = number if len(shape.rings) > 1 else None  # ids of annotations may be doubled or texts
    return [base | {"shape_type": "polygon", "points": ring.tolist(), "group_id": group} for ring in shape.rings]


def _encode(mask: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
