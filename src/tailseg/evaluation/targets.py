"""Objects that come batch by batch, as torchvision's targets, and the annotation file that they make."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailseg.evaluation.in_memory import encode_masks, read_boxes, read_labels, to_array
from tailseg.evaluation.labels import LabelTable
from tailseg.evaluation.records import compute_mask_areas


@dataclass(frozen=True)
class ImageObjects:
    """The objects of one image, as JSON: they are many, and few bytes each.

    Attributes:
        image: the record of the image.
        objects: the records of its objects, without ``id``.
        size: height and width; None if it is not known.
    """

    image: bytes
    objects: tuple[bytes, ...]
    size: tuple[int, int] | None


def read_target(target: Mapping[str, Any], image_id: int, table: LabelTable) -> ImageObjects:
    """Reads the target of one image.

    Args:
        target: ``boxes`` ``[N, 4]``, x1, y1, x2, y2 in pixels; ``labels`` ``[N]``; optionally ``masks`` ``[N, h, w]``,
            ``iscrowd`` ``[N]`` and ``area`` ``[N]``, which decides about small, medium and large. Without it the area
            is that of the mask, or of the box.
        image_id: the id of the image.
        table: the category ids of the labels.

    Returns:
        The objects.

    Raises:
        ValueError: a part is missing or cannot be used.
    """
    where = f"the target of image {image_id}"
    if missing := [key for key in ("boxes", "labels") if key not in target]:
        raise ValueError(
            f"{where}: expected boxes (x1, y1, x2, y2 in pixels) and labels, {' and '.join(missing)} missing: it has "
            f"{', '.join(map(str, target))}"
        )
    boxes = read_boxes(target["boxes"], where)
    rows, category_ids = table.convert(read_labels(target["labels"], where), where)
    masks, size = encode_masks(target["masks"], where) if "masks" in target else (None, None)
    areas = boxes[:, 2] * boxes[:, 3] if masks is None else compute_mask_areas(masks).astype(np.float64)
    if "area" in target:
        areas = to_array(target["area"]).astype(np.float64).reshape(-1)
    crowds = to_array(target["iscrowd"]).reshape(-1) if "iscrowd" in target else np.zeros(len(boxes))
    parts = {"labels": target["labels"], "masks": masks, "area": areas, "iscrowd": crowds}
    if wrong := [
        f"{len(values)} {key}" for key, values in parts.items() if values is not None and len(values) != len(boxes)
    ]:
        raise ValueError(f"{where}: {len(boxes)} boxes and {' and '.join(wrong)}: give as many of each")
    objects = []
    for row, category_id in zip(rows.tolist(), category_ids.tolist(), strict=True):
        record: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": boxes[row].tolist(),
            "area": float(areas[row]),
            "iscrowd": int(crowds[row]),
        }
        if masks is not None:
            record["segmentation"] = {"size": list(masks[row]["size"]), "counts": masks[row]["counts"].decode("ascii")}
        objects.append(json.dumps(record).encode())
    image = {"id": image_id} | ({} if size is None else {"height": size[0], "width": size[1]})
    return ImageObjects(json.dumps(image).encode(), tuple(objects), size)


def write_annotations(images: Sequence[ImageObjects], classes: Mapping[int, str]) -> bytes:
    """Writes the objects of all images as an annotation file.

    Args:
        images: the images.
        classes: the names by category id.

    Returns:
        JSON in COCO's format.
    """
    categories = json.dumps([{"id": key, "name": name} for key, name in sorted(classes.items())]).encode()
    objects = [entry for image in images for entry in image.objects]
    numbered = b",".join(b'{"id":%d,%b' % (number, entry[1:]) for number, entry in enumerate(objects, start=1))
    listed = b",".join(image.image for image in images)
    return b'{"images":[%b],"categories":%b,"annotations":[%b]}' % (listed, categories, numbered)
