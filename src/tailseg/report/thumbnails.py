"""Small pictures of objects, and masks as outlines to be drawn over them.

A crop is x1, y1, x2, y2 in whole pixels of its image; outlines are in half pixels of the crop's thumbnail.
"""

import base64
import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tailseg.annotations.run_lengths import check_run_lengths
from tailseg.annotations.types import RunLengths

Crop = tuple[int, int, int, int]
CONTEXT = 2.0
"""A crop is this many times as wide as the longer side of its object: what surrounds an object tells what it is."""
SMALLEST_CROP = 64


def crop_around(box: Sequence[float], *, height: int, width: int) -> Crop:
    """A square around an xyxy box, moved and cut so that it lies in the image.

    Args:
        box: x1, y1, x2, y2.
        height: height of the image.
        width: width of the image.

    Returns:
        x1, y1, x2, y2 of the square.
    """
    x1, y1, x2, y2 = box
    side = max(CONTEXT * max(x2 - x1, y2 - y1), SMALLEST_CROP)
    left, right = _span((x1 + x2) / 2, side, width)
    top, bottom = _span((y1 + y2) / 2, side, height)
    return left, top, right, bottom


def _span(center: float, side: float, limit: int) -> tuple[int, int]:
    length = min(round(side), limit)
    first = min(max(round(center - length / 2), 0), limit - length)
    return first, first + length


def compute_thumbnail_size(crop: Crop, longest: int) -> tuple[int, int]:
    """Width and height of the crop's thumbnail: at most ``longest`` pixels, and never more than the crop has."""
    width, height = crop[2] - crop[0], crop[3] - crop[1]
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode_thumbnail(image: np.ndarray, crop: Crop, longest: int) -> str:
    """The crop of an RGB image as a small WebP file, in base64.

    Args:
        image: uint8 ``[h, w, 3]``.
        crop: x1, y1, x2, y2 in pixels of the image.
        longest: the longest side of the thumbnail in pixels.

    Returns:
        The content of the file in base64.
    """
    x1, y1, x2, y2 = crop
    picture = Image.fromarray(image[y1:y2, x1:x2])
    file = io.BytesIO()
    picture.resize(compute_thumbnail_size(crop, longest), Image.Resampling.LANCZOS).save(
        file, "webp", quality=60, method=4
    )
    return base64.b64encode(file.getvalue()).decode("ascii")


def trace_outline(mask: RunLengths, crop: Crop, longest: int) -> str:
    """A mask's outlines within the crop as an SVG path; empty if nothing of it is there.

    Args:
        mask: the mask of the image.
        crop: x1, y1, x2, y2 in pixels of the image.
        longest: the longest side of the thumbnail in pixels.

    Returns:
        The path, in half pixels of the thumbnail.
    """
    bitmap = coco.decode(check_run_lengths(mask))
    x1, y1, x2, y2 = crop
    width, height = compute_thumbnail_size(crop, longest)
    # twice the thumbnail's size: a path of half pixels follows the mask, not its staircase
    piece = cv2.resize(bitmap[y1:y2, x1:x2].astype(np.float32), (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours((piece > 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    shapes = [cv2.approxPolyDP(contour, 1.3, closed=True).reshape(-1, 2) for contour in contours]
    return "".join(_path(points) for points in shapes if len(points) > 2)


def _path(points: np.ndarray) -> str:
    """A closed polygon, its first point and the steps from there: short, because steps are."""
    (x, y), steps = points[0], np.diff(points, axis=0).tolist()
    return f"M{x} {y}l" + " ".join(f"{dx} {dy}" for dx, dy in steps) + "z"


def trace_box(box: Sequence[float], crop: Crop, longest: int) -> str:
    """An xyxy box within the crop as an SVG path.

    Args:
        box: x1, y1, x2, y2 in pixels of the image.
        crop: x1, y1, x2, y2 in pixels of the image.
        longest: the longest side of the thumbnail in pixels.

    Returns:
        The path, in half pixels of the thumbnail.
    """
    width, _ = compute_thumbnail_size(crop, longest)
    scale = 2 * width / (crop[2] - crop[0])
    x1, y1, x2, y2 = (round((side - crop[i % 2]) * scale) for i, side in enumerate(box))
    return f"M{x1} {y1}H{x2}V{y2}H{x1}z"
