"""Small pictures of objects, and masks as outlines to be drawn over them.

A crop is x1, y1, x2, y2 in whole pixels of its image; outlines are in half pixels of the crop's thumbnail.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tailseg.annotations.run_lengths import check_run_lengths
from tailseg.annotations.types import RunLengths
from tailseg.lazy import needs_extra

with needs_extra("train"):
    from contourpy import contour_generator

Crop = tuple[int, int, int, int]
CONTEXT = 2.0
"""A crop is this many times as wide as the longer side of its object: what surrounds an object tells what it is."""
SMALLEST_CROP = 64
MAX_ASPECT = 3
"""The most that a crop of an example is as long as it is wide."""
TOLERANCE = 1.3
"""An outline is at most this many half pixels of the thumbnail away from the mask's edge."""


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


def limit_aspect(crop: Crop, box: Sequence[float]) -> Crop:
    """Shortens the longer side of a crop to `MAX_ASPECT` times the shorter one: of a strip, nothing could be seen.

    Args:
        crop: x1, y1, x2, y2.
        box: x1, y1, x2, y2 of the object; the crop shows its middle.

    Returns:
        The crop.
    """
    x1, y1, x2, y2 = crop
    longest = MAX_ASPECT * min(x2 - x1, y2 - y1)
    left, right = _span((box[0] + box[2]) / 2 - x1, longest, x2 - x1)
    top, bottom = _span((box[1] + box[3]) / 2 - y1, longest, y2 - y1)
    return x1 + left, y1 + top, x1 + right, y1 + bottom


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
    inside = Image.fromarray(bitmap[y1:y2, x1:x2].astype(np.float32))
    piece = np.pad(np.asarray(inside.resize((2 * width, 2 * height), Image.Resampling.BILINEAR)), 1)
    lines = contour_generator(z=piece).lines(0.5)  # between pixel centers, and with a border of one pixel
    shapes = [np.rint(_simplify(np.asarray(line) - 0.5, TOLERANCE)).astype(int) for line in lines]
    return "".join(_path(points) for points in shapes if len(points) > 2)


def _simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """The corners of a closed line, by Douglas and Peucker: no point of it is further from the sides between them.

    Args:
        ring: float ``[n, 2]``; the last point is the first one again.
        tolerance: the largest distance.

    Returns:
        Float ``[m, 2]`` without the repeated point.
    """
    corners = np.zeros(len(ring), dtype=bool)
    corners[0] = True
    parts = [(0, len(ring) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        (dx, dy), steps = ring[last] - ring[first], ring[first + 1 : last] - ring[first]
        length = np.hypot(dx, dy)
        distances = abs(dx * steps[:, 1] - dy * steps[:, 0]) / length if length else np.hypot(*steps.T)
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = first + 1 + farthest
            corners[middle] = True
            parts += [(first, middle), (middle, last)]
    return ring[corners]


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
