"""Outlines of masks as rings of points: parts and holes of an object, drawn, traced, joined and taken apart.

A ring is a float64 array ``[K, 2]`` of x, y in pixels of the image; its last point is joined to the first. Pixel
``(row, column)`` covers ``x`` in ``column .. column + 1``, as in COCO.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.types import RunLengths

Ring = np.ndarray

MIN_POINTS: Final = 3


def encode_mask(mask: np.ndarray) -> RunLengths:
    """Encodes a mask, bool ``[h, w]``, as COCO run lengths."""
    run_lengths: Any = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in run_lengths["size"]], "counts": run_lengths["counts"].decode()}


def decode_mask(run_lengths: Any) -> np.ndarray:  # noqa: ANN401 - pycocotools' own dictionaries
    """Decodes COCO run lengths, compressed or as a list, to bool ``[h, w]``."""
    if isinstance(run_lengths["counts"], list):
        run_lengths = coco.frPyObjects(run_lengths, *run_lengths["size"])
    return np.asarray(coco.decode(run_lengths), bool)


def draw_rings(rings: Sequence[Ring], height: int, width: int) -> Any:  # noqa: ANN401
    """Draws the union of rings.

    Args:
        rings: the rings.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        pycocotools' run lengths.
    """
    return coco.merge(coco.frPyObjects([ring.ravel().tolist() for ring in rings], height, width))


def encode_rings(parts: Sequence[Ring], holes: Sequence[Ring], height: int, width: int) -> RunLengths:
    """Encodes parts and holes as COCO run lengths.

    Larger rings are drawn first: a hole is cut out of the part around it, and a part in a hole stays.

    Args:
        parts: rings of the object's parts.
        holes: rings that are cut out.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        The run lengths.
    """
    mask = np.zeros((height, width), bool)
    rings = [(ring, True) for ring in parts] + [(ring, False) for ring in holes]
    rings.sort(key=lambda item: -abs(compute_area(item[0])))
    for is_part, group in groupby(rings, key=itemgetter(1)):
        mask[decode_mask(draw_rings([ring for ring, _ in group], height, width))] = is_part
    return encode_mask(mask)


def compute_area(ring: Ring) -> float:
    """The signed area of a ring in pixels: positive if it is clockwise on the screen."""
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def contains(outer: Ring, point: np.ndarray) -> bool:
    """Whether a point is inside a ring, by the even-odd rule."""
    x, y = outer[:, 0], outer[:, 1]
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    crosses = (y > point[1]) != (next_y > point[1])
    slopes = (next_x - x)[crosses] / (next_y - y)[crosses]
    return bool(np.count_nonzero(point[0] < slopes * (point[1] - y[crosses]) + x[crosses]) % 2)


def is_inside(inner: Ring, outer: Ring) -> bool:
    """Whether all points of a ring are inside another ring."""
    return all(contains(outer, point) for point in inner)


def find_holes(rings: Sequence[Ring]) -> tuple[list[Ring], list[Ring]]:
    """Tells parts and holes apart by the even-odd rule: a ring inside an odd number of other rings is a hole.

    Args:
        rings: all rings of an object.

    Returns:
        The parts and the holes.
    """
    if len(rings) == 1:
        return list(rings), []
    low, high = (np.array([side(ring, axis=0) for ring in rings]) for side in (np.min, np.max))
    depths = []
    for number, ring in enumerate(rings):
        around = ((low <= low[number]) & (high >= high[number])).all(axis=1)
        depths.append(sum(is_inside(ring, rings[place]) for place in np.flatnonzero(around) if place != number))
    parts, holes = ([ring for ring, depth in zip(rings, depths, strict=True) if depth % 2 == odd] for odd in (0, 1))
    return parts, holes


def trace_rings(mask: np.ndarray) -> list[Ring]:
    """Traces the edges between the pixels of a mask, bool ``[h, w]``.

    Pixels that touch only at a corner belong to two rings. pycocotools draws the rings as the same pixels again.

    Returns:
        The rings; those of parts have a positive area and those of holes a negative one, see `compute_area`.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    steps = {}
    for (rows, columns), (start, move) in zip(
        (
            np.nonzero(inside & ~padded[:-2, 1:-1]),
            np.nonzero(inside & ~padded[1:-1, 2:]),
            np.nonzero(inside & ~padded[2:, 1:-1]),
            np.nonzero(inside & ~padded[1:-1, :-2]),
        ),
        (((0, 0), (1, 0)), ((1, 0), (0, 1)), ((1, 1), (-1, 0)), ((0, 1), (0, -1))),
        strict=True,
    ):
        for x, y in zip((columns + start[0]).tolist(), (rows + start[1]).tolist(), strict=True):
            steps.setdefault((x, y), []).append(move)
    rings = []
    for first in sorted(steps, key=lambda point: (point[1], point[0])):
        while first in steps:
            rings.append(_follow(steps, first))
    return rings


def _follow(steps: dict[tuple[int, int], list[tuple[int, int]]], first: tuple[int, int]) -> Ring:
    """Follows the edges from a point until it is reached again, and removes them; only corners are returned."""
    corners, (x, y), last = [], first, (0, 0)
    while True:
        moves = steps[x, y]
        right = (-last[1], last[0])
        move = right if len(moves) > 1 and right in moves else moves[0]
        moves.remove(move)
        if not moves:
            del steps[x, y]
        if move != last:
            corners.append((x, y))
        x, y, last = x + move[0], y + move[1], move
        if (x, y) == first:
            return np.array(corners, np.float64)


def join_rings(rings: Sequence[Ring]) -> Ring:
    """Joins rings to one: a line leads from the first ring to each other ring and back.

    By the even-odd rule, which OpenCV's ``fillPoly`` follows, the ring has the parts and the holes of all rings.
    `split_rings` takes it apart again.
    """
    first, *others = rings
    nearest = [int(((first - ring[0]) ** 2).sum(axis=1).argmin()) for ring in others]
    points: list[np.ndarray] = []
    for number, point in enumerate(first):
        points.append(point[None])
        for place, ring in zip(nearest, others, strict=True):
            if place == number:
                points += [ring, ring[:1], point[None]]
    return np.concatenate(points)


def split_rings(ring: Ring) -> list[Ring]:
    """Takes a ring apart at lines that it follows in both directions, as `join_rings` and ultralytics write them."""
    points = list(map(tuple, ring.tolist()))
    if len(set(points)) == len(points):  # such a line comes back to its points
        return [ring]
    rings = _split([*points, points[0]])
    return [np.array(points, np.float64) for points in rings] if len(rings) > 1 else [ring]


def _split(points: list[tuple[float, ...]]) -> list[list[tuple[float, ...]]]:
    rings, left = [], [points]
    while left:  # no recursion: a mask of specks has thousands of parts
        points = left.pop()
        seen: dict[tuple[tuple[float, ...], tuple[float, ...]], int] = {}
        for last in range(len(points) - 1):
            start, end = points[last], points[last + 1]
            first = seen.get((end, start))
            if first is not None and last - first - 1 >= MIN_POINTS:
                inner, outer = points[first + 1 : last], points[: first + 1] + points[last + 2 :]
                if len(set(outer)) >= MIN_POINTS:
                    left += [[*inner, inner[0]], outer]
                    break
            seen.setdefault((start, end), last)
        else:
            while len(points) > 1 and points[-1] == points[0]:
                points = points[:-1]
            rings.append(points)
    return rings


def make_ellipse(center: Sequence[float], radii: Sequence[float], degrees: float = 0) -> Ring:
    """Makes the ring of an ellipse, with enough points for a distance of 1/4 pixel from the curve.

    Args:
        center: x and y.
        radii: along x and along y, before the rotation.
        degrees: rotation, clockwise on the screen.

    Returns:
        The ring.
    """
    largest = max(*radii, 1.0)
    number = max(12, int(np.ceil(np.pi / np.arccos(1 - 0.25 / largest))))
    angles = np.arange(number) * (2 * np.pi / number)
    ring = np.stack([np.cos(angles) * radii[0], np.sin(angles) * radii[1]], axis=1)
    return rotate(ring, degrees) + np.asarray(center, np.float64)


def rotate(points: Ring, degrees: float, center: Sequence[float] = (0.0, 0.0)) -> Ring:
    """Rotates points around a center, clockwise on the screen.

    Args:
        points: x, y of each point.
        degrees: the angle.
        center: x and y of the center.

    Returns:
        The rotated points.
    """
    if not degrees:
        return points
    cos, sin, middle = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), np.asarray(center, np.float64)
    return (points - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle


def make_rectangle(x1: float, y1: float, x2: float, y2: float) -> Ring:
    """Makes the ring of a box, clockwise from the upper left corner.

    Args:
        x1: left edge.
        y1: upper edge.
        x2: right edge.
        y2: lower edge.

    Returns:
        The ring.
    """
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)
