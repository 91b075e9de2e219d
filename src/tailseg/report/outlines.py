"""Boxes and outlines of objects and detections, in a part of their image."""

import math
from typing import Any, cast

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.types import RunLengths
from tailseg.report.evidence import Evidence
from tailseg.report.thumbnails import Crop, trace_box, trace_outline


def get_image_size(evidence: Evidence, image: int) -> tuple[int, int]:
    """Height and width of an image; of the area with boxes, if the annotation file has no size of it."""
    height, width = evidence.truth.image_sizes[image].tolist()
    if height > 0 and width > 0:
        return height, width
    boxes = evidence.truth.objects.boxes[evidence.truth.objects.images == image]
    if evidence.found.boxes is not None:
        boxes = np.concatenate([boxes, evidence.found.boxes[evidence.images == image]])
    x, y = (boxes[:, :2] + boxes[:, 2:]).max(0, initial=1).tolist()
    return max(1, math.ceil(y)), max(1, math.ceil(x))


def get_object_box(evidence: Evidence, row: int) -> list[float]:
    """The xyxy box of an object."""
    return _to_corners(evidence.truth.objects.boxes[row])


def get_detection_box(evidence: Evidence, detection: int) -> list[float]:
    """The xyxy box of a detection: the one in the results, or the one around its mask."""
    if evidence.found.boxes is not None:
        return _to_corners(evidence.found.boxes[detection])
    return _to_corners(evidence.found.mask_boxes(np.array([detection]))[0])


def trace_object(evidence: Evidence, row: int, crop: Crop, longest: int) -> str:
    """The outline of an object as an SVG path: of its mask, or of its box if boxes are evaluated.

    Args:
        evidence: the detections next to the objects.
        row: the object.
        crop: x1, y1, x2, y2 in pixels of the image.
        longest: the longest side of the thumbnail in pixels.

    Returns:
        The path, in half pixels of the thumbnail.
    """
    if evidence.kind == "bbox":
        return trace_box(get_object_box(evidence, row), crop, longest)
    return trace_outline(_compress(evidence.truth.object_masks[row]), crop, longest)


def trace_detection(evidence: Evidence, detection: int, crop: Crop, longest: int) -> str:
    """The outline of a detection as an SVG path: of its mask, or of its box if boxes are evaluated.

    Args:
        evidence: the detections next to the objects.
        detection: the detection.
        crop: x1, y1, x2, y2 in pixels of the image.
        longest: the longest side of the thumbnail in pixels.

    Returns:
        The path, in half pixels of the thumbnail.
    """
    if evidence.kind == "bbox":
        return trace_box(get_detection_box(evidence, detection), crop, longest)
    (mask,) = evidence.found.masks(np.array([detection]))
    return trace_outline(_compress(mask), crop, longest)


def _compress(mask: dict[str, Any]) -> RunLengths:
    """A record may list its counts."""
    return cast("RunLengths", coco.frPyObjects(mask, *mask["size"]) if isinstance(mask["counts"], list) else mask)


def _to_corners(box: np.ndarray) -> list[float]:
    x, y, width, height = box.tolist()
    return [x, y, x + width, y + height]
