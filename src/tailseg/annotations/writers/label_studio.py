"""Writes tasks of Label Studio: detections as predictions, annotations as annotations.

Label Studio has no groups: an object in several parts, or with holes, is a brush region.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from tailseg.annotations.formats.label_studio import encode_brush
from tailseg.annotations.writers.labels import Labels, Pictures, Shape, get_shape, is_region, place_picture
from tailseg.files import write_text


def write(labels: Labels, out: Path, *, split: str = "train", pictures: Pictures = "link") -> None:  # noqa: ARG001
    """Writes ``tasks.json`` into a folder.

    Args:
        labels: the data set; it counts what is lost.
        out: the folder.
        split: not used: a file is a project.
        pictures: whether image files are linked, copied or left where they are.

    Raises:
        DatasetError: two classes have one name.
    """
    labels.require_unique_names()
    labels.lose_fields()
    labels.lose_measures()
    labels.lose("[class|classes] without an object", len(labels.names.keys() - _list_used(labels)))
    tasks = []
    for image in labels.images:
        regions, scores = [], []
        for record in labels.objects[image["id"]]:
            if is_region(record):
                labels.leave_out("crowd or ignore [region|regions]")
                continue
            regions.append(_make_region(labels, record, image, len(regions) + 1))
            scores.append(float(record.get("score", 1)))
        kind = "predictions" if labels.are_results else "annotations"
        result: dict[str, Any] = {"result": regions}
        if kind == "predictions":
            result |= {"model_version": "tailseg", "score": float(np.mean(scores)) if scores else 0.0}
        tasks.append({"id": len(tasks) + 1, "data": {"image": quote(image["file_name"])}, kind: [result]})
        place_picture(labels, image, out / image["file_name"], pictures)
    write_text(out / "tasks.json", json.dumps(tasks, ensure_ascii=False))


def _list_used(labels: Labels) -> set[int]:
    return {record["category_id"] for records in labels.objects.values() for record in records}


def _make_region(labels: Labels, record: dict[str, Any], image: dict[str, Any], number: int) -> dict[str, Any]:
    height, width = image["height"], image["width"]
    shape, name = get_shape(record, height, width), labels.names[record["category_id"]]
    kind, value = _make_value(labels, shape, height, width)
    region = {
        "id": f"{number}",  # ids of annotations may be doubled
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, kind: [name]},
    }
    return region | ({"score": float(record["score"])} if "score" in record else {})


def _make_value(labels: Labels, shape: Shape, height: int, width: int) -> tuple[str, dict[str, Any]]:
    scale = np.array([100 / width, 100 / height])
    if shape.mask is None and len(shape.rings) == 1:
        return "polygonlabels", {"points": (shape.rings[0] * scale).tolist(), "closed": True}
    if shape.has_mask:
        labels.lose(
            "[polygon object|polygon objects] in several parts: written as a brush region", int(bool(shape.rings))
        )
        return "brushlabels", {"format": "rle", "rle": encode_brush(shape.draw(height, width))}
    x, y, w, h = shape.box
    sizes = dict(
        zip(("x", "y", "width", "height"), [x * scale[0], y * scale[1], w * scale[0], h * scale[1]], strict=True)
    )
    return "rectanglelabels", {key: float(value) for key, value in sizes.items()} | {"rotation": 0}
