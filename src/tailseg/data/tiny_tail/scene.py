"""Draws one image of tiny_tail: a cluttered background, objects, and the exact mask of each visible part."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from tailseg.annotations.types import RunLengths
from tailseg.data.tiny_tail.shapes import Outline, Points, Pose, draw_blob, draw_pose, get_outline
from tailseg.data.tiny_tail.surfaces import JUDGE_SURFACES, PRETRAIN_SURFACES, SURFACES, Field, Grid

_SUPERSAMPLING: Final = 2
_SIDES: Final = (128, 177)  # sides of an image in pixels
_SIZES: Final = (22.0, 75.0)  # longer side of an object, in pixels
_LEAST_VISIBLE: Final = 0.4  # least visible share of an object
_ALL_SURFACES: Final = SURFACES | PRETRAIN_SURFACES | JUDGE_SURFACES

_LUMINANCE: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Bitmap = NDArray[np.bool_]
Color = NDArray[np.float32]


@dataclass(frozen=True)
class Figure:
    """A surface within contours; they are in pixels, rounded as in the annotation file."""

    surface: str
    contours: tuple[Points, ...]
    pose: Pose


@dataclass(frozen=True)
class PlacedObject:
    """An object at its position in the image.

    Attributes:
        figure: the figure to draw.
        covered: the pixels that the object covers.
        visible: the pixels that no other object in front covers.
        full_area: area of the outline in pixels, with the parts beyond the border.
    """

    figure: Figure
    covered: Bitmap
    visible: Bitmap
    full_area: float


def draw_scene(
    objects: list[tuple[str, str]], surfaces: tuple[str, ...], rng: np.random.Generator
) -> tuple[Image.Image, list[PlacedObject]]:
    """Draws an image.

    Args:
        objects: shape and surface of each object, from back to front.
        surfaces: surfaces that blobs of the background may have.
        rng: the random generator.

    Returns:
        The image, and the placed objects.
    """
    height, width = (int(side) for side in rng.integers(*_SIDES, size=2))
    placed = _place_objects(objects, height, width, rng)
    canvas = _draw_background(height, width, surfaces, rng)
    for item in placed:
        _paint(canvas, item.figure, rng)
    return _expose(canvas, rng), placed


def encode_segmentation(item: PlacedObject) -> list[list[float]] | RunLengths:
    """Encodes the visible mask as LVIS does: a polygon if a simple outline is fully visible, otherwise run lengths."""
    height, width = item.visible.shape
    outside, *holes = item.figure.contours
    within = bool((outside >= 0).all() and (outside <= (width, height)).all())
    if within and not holes and item.visible.sum() == item.covered.sum():
        return [outside.ravel().tolist()]
    encoded = coco_mask.encode(np.asfortranarray(item.visible, dtype=np.uint8))
    return RunLengths(size=[height, width], counts=encoded["counts"].decode("ascii"))


# ---- positions


def _place_objects(
    objects: list[tuple[str, str]], height: int, width: int, rng: np.random.Generator
) -> list[PlacedObject]:
    """Places all objects. The sizes shrink slowly until all objects fit."""
    placed: list[PlacedObject] = []
    largest = _SIZES[1]
    while len(placed) < len(objects):
        shape, surface = objects[len(placed)]
        contours = get_outline(shape)
        size = math.exp(rng.uniform(math.log(_SIZES[0]), math.log(largest)))
        pose = draw_pose(rng, contours, size)
        moved = replace(pose, center=_draw_center(size, width, height, rng))
        item = _cover(_make_figure(surface, contours, moved), height, width)
        behind = [replace(other, visible=other.visible & ~item.covered) for other in placed]
        if all(map(_is_visible_enough, [*behind, item])):
            placed = [*behind, item]
        else:
            largest = max(_SIZES[0] * 1.2, largest * 0.98)
    return placed


def _draw_center(size: float, width: int, height: int, rng: np.random.Generator) -> tuple[float, float]:
    """Draws a center for an object of this size. A small part of the object may be outside the image."""
    margin = 0.38 * size
    return float(rng.uniform(margin, width - margin)), float(rng.uniform(margin, height - margin))


def _make_figure(surface: str, contours: Outline, pose: Pose) -> Figure:
    return Figure(surface, tuple(np.round(pose.to_image(contour), 2) for contour in contours), pose)


def _cover(figure: Figure, height: int, width: int) -> PlacedObject:
    covered = _rasterize(figure.contours, height, width)
    area = _compute_area(figure.contours[0]) - sum(_compute_area(hole) for hole in figure.contours[1:])
    return PlacedObject(figure, covered, covered, area)


def _rasterize(contours: Sequence[Points], height: int, width: int) -> Bitmap:
    """The pixels inside the first contour and outside the others, as readers of the polygons compute them."""
    runs = coco_mask.frPyObjects([contour.ravel().tolist() for contour in contours], height, width)
    outside, *holes = np.moveaxis(coco_mask.decode(runs).astype(bool), 2, 0)
    return outside & ~np.logical_or.reduce(holes) if holes else outside


def _is_visible_enough(item: PlacedObject) -> bool:
    return float(item.visible.sum()) >= max(60.0, _LEAST_VISIBLE * item.full_area)


def _compute_area(points: Points) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


# ---- drawing


def _paint(canvas: Field, figure: Figure, rng: np.random.Generator, *, opacity: float = 1.0) -> None:
    """Paints a figure into the canvas ``[h, w, 3]`` (0..1), its edge and pattern anti-aliased by supersampling."""
    height, width = canvas.shape[:2]
    low = np.maximum(np.floor(figure.contours[0].min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(figure.contours[0].max(axis=0)).astype(int) + 1, (width, height))
    if (high <= low).any():
        return
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    u, v = figure.pose.to_local(_make_centers(left, right)[None, :], _make_centers(top, bottom)[:, None])
    fine, scale = [(contour - low) * _SUPERSAMPLING for contour in figure.contours], figure.pose.scale

    def rim(band: float) -> Field:
        return _draw_lines(fine, *u.shape, width=band * 2 * scale * _SUPERSAMPLING)  # half of the line is outside

    pitch = max(0.42 * rng.uniform(0.85, 1.2), 5.5 / scale)
    mix = _ALL_SURFACES[figure.surface](Grid(u, v, pitch, 1 / scale, rim), rng)
    under = canvas[top:bottom, left:right]
    first, second = _draw_two_colors(rng, rimmed=figure.surface == "rimmed", avoid=under.mean(axis=(0, 1)))
    alpha = _rasterize(fine, *u.shape).astype(np.float32) * opacity
    weight, share = _shrink(alpha), _shrink(alpha * mix)
    light = 1 + rng.uniform(-0.18, 0.18) * _shrink(u) + rng.uniform(-0.18, 0.18) * _shrink(v)
    under *= (1 - weight)[..., None]
    under += (light * (weight - share))[..., None] * first + (light * share)[..., None] * second


def _make_centers(low: int, high: int) -> Field:
    """Computes the centers of the sub-pixels between two pixel borders."""
    half = 0.5 / _SUPERSAMPLING
    return np.linspace(low + half, high - half, (high - low) * _SUPERSAMPLING, dtype=np.float32)


def _shrink(fine: Field) -> Field:
    """Averages the sub-pixels of each pixel."""
    total = np.zeros((fine.shape[0] // _SUPERSAMPLING, fine.shape[1] // _SUPERSAMPLING), dtype=np.float32)
    for i in range(_SUPERSAMPLING):
        for j in range(_SUPERSAMPLING):
            total += fine[i::_SUPERSAMPLING, j::_SUPERSAMPLING]
    total /= _SUPERSAMPLING**2
    return total


def _draw_lines(contours: Sequence[Points], rows: int, columns: int, *, width: float) -> Field:
    image = Image.new("L", (columns, rows))
    pen = ImageDraw.Draw(image)
    for contour in contours:
        closed = np.floor(np.concatenate([contour, contour[:2]]))  # in Pillow, whole numbers are pixel centers
        pen.line(closed.ravel().tolist(), fill=255, width=max(1, round(width)), joint="curve")
    return _to_unit_range(image)


def _to_unit_range(image: Image.Image) -> Field:
    """Converts an image to values from 0 to 1."""
    values = np.array(image, dtype=np.float32)
    values /= 255
    return values


def _draw_colors(rng: np.random.Generator, count: int) -> Color:
    """Draws colors ``[count, 3]`` of any hue and lightness, 0 to 1."""
    hue = (rng.random((count, 1)) + np.array([0.0, 1 / 3, 2 / 3])) % 1.0
    vivid = np.clip(np.abs(hue * 6 - 3) - 1, 0, 1)
    saturation, value = rng.uniform(0.1, 0.9, (count, 1)), rng.uniform(0.15, 1.0, (count, 1))
    return ((1 - saturation * (1 - vivid)) * value).astype(np.float32)


def _draw_two_colors(rng: np.random.Generator, *, rimmed: bool, avoid: Color) -> tuple[Color, Color]:
    """Draws two different colors. The first one (of plain objects) also differs from the color to avoid; rims are
    dark.
    """
    while True:
        first, second = _draw_colors(rng, 16), _draw_colors(rng, 16) * np.float32(0.2 if rimmed else 1.0)
        apart = np.abs((first - second) @ _LUMINANCE) > 0.35
        good = np.flatnonzero(apart & (np.abs(first - avoid).max(axis=1) > 0.22))
        if len(good):
            return first[good[0]], second[good[0]]


def _draw_background(height: int, width: int, surfaces: tuple[str, ...], rng: np.random.Generator) -> Field:
    """Draws a gradient with stains, lumps (some with a class's surface) and lines."""
    tone, other = _draw_colors(rng, 2)
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j].astype(np.float32)
    ramp = 0.5 + 0.6 * (math.cos(angle) * x + math.sin(angle) * y) * rng.uniform(0, 1)
    for cells in (4, 9, 30):
        ramp = ramp + rng.uniform(0.05, 0.35) * _draw_stains(cells, height, width, rng)
    ramp = np.clip(ramp, 0, 1)[..., None]
    canvas = (1 - ramp) * tone + ramp * (0.5 * tone + 0.5 * other)
    for _ in range(int(rng.integers(1, 5))):
        contours = draw_blob(rng)
        pose = draw_pose(rng, contours, rng.uniform(20, 90))
        pose = replace(pose, center=(float(rng.uniform(0, width)), float(rng.uniform(0, height))))
        surface = str(rng.choice(surfaces)) if rng.random() < 0.35 else "plain"
        _paint(canvas, _make_figure(surface, contours, pose), rng, opacity=rng.uniform(0.35, 0.9))
    return _scribble(canvas, rng)


def _scribble(canvas: Field, rng: np.random.Generator) -> Field:
    height, width = canvas.shape[:2]
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 6))):
        start, end = rng.uniform(-0.1, 1.1, 2), rng.uniform(-0.1, 1.1, 2)
        middle = (start + end) / 2 + rng.uniform(-0.3, 0.3, 2)
        t = np.linspace(0, 1, 12)[:, None]
        curve = ((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end) * (width, height)
        color = tuple(int(value * 255) for value in _draw_colors(rng, 1)[0])
        pen.line(curve.ravel().tolist(), fill=color, width=int(rng.integers(1, 5)), joint="curve")
    return _to_unit_range(image)


def _draw_stains(cells: int, height: int, width: int, rng: np.random.Generator) -> Field:
    """Draws smooth noise with about ``cells`` x ``cells`` spots and mean 0."""
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _expose(canvas: Field, rng: np.random.Generator) -> Image.Image:
    """Applies light, the blur of a lens, and the noise of a sensor."""
    canvas = (canvas - 0.5) * rng.uniform(0.75, 1.1) + 0.5 + rng.uniform(-0.08, 0.08)
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8))))
    noise = rng.uniform(1, 7) * rng.standard_normal((*canvas.shape[:2], 1), dtype=np.float32)
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) + noise, 0, 255).astype(np.uint8))
