"""Segments.ai: a release file with ``dataset`` and ``samples``, and its COCO export with ``points``.

The definition is Segments.ai's documentation and its SDK: a vector label has annotations of type ``polygon`` or
``bbox`` with ``points``. A bitmap label is a PNG whose red, green and blue are the lowest, the next and the third byte
of an object's id. The SDK saves it as ``SAMPLE_label_ground-truth.png``; it must be in the folder of the release
file, or in a folder in it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.annotations.formats.builder import (
    IMAGE_SUFFIXES,
    Builder,
    Parts,
    find_image,
    read_pixels,
    to_ring,
    try_size,
)
from tailseg.annotations.formats.rings import MIN_POINTS
from tailseg.annotations.json_file import Sections, decode_record
from tailseg.annotations.problems import DatasetError

NAME: Final = "Segments.ai"


def is_release(content: object) -> bool:
    """Whether the content of a JSON file is a release of Segments.ai."""
    dataset = content.get("dataset") if isinstance(content, dict) else None
    return isinstance(dataset, dict) and isinstance(dataset.get("samples"), list)


def read(content: dict[str, Any], path: Path) -> Sections:
    """Reads a release.

    Args:
        content: the content of the JSON file.
        path: the file.

    Raises:
        DatasetError: a label cannot be read; the message names the sample.
    """
    dataset = content["dataset"]
    listed = (dataset.get("task_attributes") or {}).get("categories") or []
    names = {item.get("id"): str(item.get("name")) for item in listed if isinstance(item, dict)}
    builder = Builder(path, names.values())
    for sample in dataset["samples"]:
        where = f"{path}, sample {str(sample.get('name'))!r:.80}"
        image = str(sample.get("name") or "")
        file = _find_file(image, path.parent)
        labels = [label for label in (sample.get("labels") or {}).values() if isinstance(label, dict)]
        builder.leave_out("further [label|labels] of a sample", max(0, len(labels) - 1))
        attributes = (labels[0].get("attributes") or {}) if labels else {}
        bitmap = _read_bitmap(image, path.parent) if "segmentation_bitmap" in attributes else None
        size = try_size(file) or (bitmap.shape if bitmap is not None else None)
        number = builder.add_image(file.name if file else image, size)
        if "segmentation_bitmap" in attributes and bitmap is None:
            raise DatasetError(
                f"{where} has its masks in {Path(image).stem}_label_ground-truth.png, which is not in {path.parent}. "
                "Download the bitmaps with the SDK (SegmentsDataset)"
            )
        for annotation in attributes.get("annotations") or []:
            name = names.get(annotation.get("category_id"))
            if name is None:
                builder.leave_out("[annotation|annotations] without a category")
                continue
            made = _make_shape(builder, annotation, bitmap, where)
            if made is not None:
                builder.add_object(number, name, made)
    return builder.finish(NAME)


def _find_file(name: str, folder: Path) -> Path | None:
    stem = name if name.lower().endswith(IMAGE_SUFFIXES) else None
    names = [stem] if stem else [f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((file for item in names if (file := find_image(item, [folder, folder / "images"]))), None)


def _read_bitmap(name: str, folder: Path) -> np.ndarray | None:
    file = find_image(f"{Path(name).stem}_label_ground-truth.png", [folder, *sorted(folder.glob("*/"))])
    if file is None:
        return None
    pixels = read_pixels(file, str(file)).astype(np.int64)
    return pixels if pixels.ndim == 2 else pixels[..., 0] + pixels[..., 1] * 256 + pixels[..., 2] * 65536


def _make_shape(builder: Builder, annotation: dict[str, Any], bitmap: np.ndarray | None, where: str) -> Parts | None:
    kind = annotation.get("type")
    if bitmap is not None:
        return Parts(masks=[(bitmap == annotation.get("id"), 0, 0)])
    points = to_ring(annotation.get("points") or [], where)
    if kind == "polygon":
        return Parts(rings=[points])
    if kind == "bbox" and len(points) == 2:
        low, high = points.min(axis=0), points.max(axis=0)
        return Parts(box=(*low.tolist(), *high.tolist()))
    builder.leave_out(f"[annotation|annotations] of type {str(kind)!r:.30}")
    return None


def read_coco(sections: Sections) -> Sections:
    """Gives the records of the COCO export, which have ``points``, their segmentations."""
    records = [_add_outline(decode_record(record)) for record in sections.annotations]
    return replace(sections, annotations=records, format=f"{NAME}, COCO with points")


def _add_outline(record: Any) -> Any:  # noqa: ANN401 - anything in JSON
    points = record.get("points") if isinstance(record, dict) else None
    if not isinstance(points, list) or len(points) < MIN_POINTS or record.get("segmentation"):
        return record
    ring = to_ring(points, f"annotation {record.get('id')}")
    return record | {"segmentation": [ring.ravel().tolist()]}
