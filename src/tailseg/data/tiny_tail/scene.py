"""One image of tiny_tail: a cluttered background, objects on it, and the exact mask of what is seen of each."""

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
from tailseg.data.tiny_tail.surfaces import PRETRAIN_SURFACES, SURFACES, Field, Grid

_SUPERSAMPLING: Final = 2
_SIDES: Final = (128, 177)  # of an image, in pixels
_SIZES: Final = (22.0, 75.0)  # longer side of an object, in pixels
_LEAST_VISIBLE: Final = 0.4  # share of an object that others and the image's border must leave
_ALL_SURFACES: Final = SURFACES | PRETRAIN_SURFACES

_LUMINANCE: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Bitmap = NDArray[np.bool_]
Color = NDArray[np.float32]


@dataclass(frozen=True)
class Figure:
    """What is drawn: a surface within contours (in pixels, rounded as the annotation file has them)."""

    surface: str
    contours: tuple[Points, ...]
    pose: Pose


@dataclass(frozen=True)
class PlacedObject:
    """An object in its place.

    Attributes:
        figure: what is drawn.
        covered: the image's pixels that it covers.
        visible: those that no object before it covers.
        full_area: of the outline in pixels, parts beyond the border included.
    """

    figure: Figure
    covered: Bitmap
    visible: Bitmap
    full_area: float


def draw_scene(
    objects: list[tuple[str, str]], surfaces: tuple[str, ...], rng: np.random.Generator
) -> tuple[Image.Image, list[PlacedObject]]:
    """An image with the given objects (shape, surface), from back to front, and where they are.

    ``surfaces`` are those that the background's blobs may have.
    """
    height, width = (int(side) for side in rng.integers(*_SIDES, size=2))
    things = _place_objects(objects, height, width, rng)
    canvas = _draw_background(height, width, surfaces, rng)
    for thing in things:
        _paint(canvas, thing.figure, rng)
    return _expose(canvas, rng), things


def encode_segmentation(thing: PlacedObject) -> list[list[float]] | RunLengths:
    """The visible mask as LVIS stores it: a polygon when all of a simple outline is seen, else run lengths."""
    height, width = thing.visible.shape
    outside, *holes = thing.figure.contours
    within = bool((outside >= 0).all() and (outside <= (width, height)).all())
    if within and not holes and thing.visible.sum() == thing.covered.sum():
        return [outside.ravel().tolist()]
    encoded = coco_mask.encode(np.asfortranarray(thing.visible, dtype=np.uint8))
    return RunLengths(size=[height, width], counts=encoded["counts"].decode("ascii"))


# ---- where things are


def _place_objects(
    objects: list[tuple[str, str]], height: int, width: int, rng: np.random.Generator
) -> list[PlacedObject]:
    """Positions for all objects; sizes shrink little by little while they do not fit."""
    things: list[PlacedObject] = []
    largest = _SIZES[1]
    while len(things) < len(objects):
        shape, surface = objects[len(things)]
        contours = get_outline(shape)
        size = math.exp(rng.uniform(math.log(_SIZES[0]), math.log(largest)))
        pose = draw_pose(rng, contours, size)
        moved = replace(pose, center=_draw_center(size, width, height, rng))
        thing = _cover(_make_figure(surface, contours, moved), height, width)
        behind = [replace(other, visible=other.visible & ~thing.covered) for other in things]
        if all(_is_visible_enough(each) for each in [*behind, thing]):
            things = [*behind, thing]
        else:
            largest = max(_SIZES[0] * 1.2, largest * 0.98)
    return things


def _draw_center(size: float, width: int, height: int, rng: np.random.Generator) -> tuple[float, float]:
    """A center for an object of that size: a small part of it may lie beyond the border."""
    margin = 0.38 * size
    return float(rng.uniform(margin, width - margin)), float(rng.uniform(margin, height - margin))


def _make_figure(surface: str, contours: Outline, pose: Pose) -> Figure:
    return Figure(surface, tuple(np.round(pose.to_image(contour), 2) for contour in contours), pose)


def _cover(figure: Figure, height: int, width: int) -> PlacedObject:
    covered = _rasterize(figure.contours, height, width)
    area = _compute_area(figure.contours[0]) - sum(_compute_area(hole) for hole in figure.contours[1:])
    return PlacedObject(figure, covered, covered, area)


def _rasterize(contours: Sequence[Points], height: int, width: int) -> Bitmap:
    """The pixels inside the first contour and outside the others, as every reader of the polygons gets them."""
    runs = coco_mask.frPyObjects([contour.ravel().tolist() for contour in contours], height, width)
    outside, *holes = np.moveaxis(coco_mask.decode(runs).astype(bool), 2, 0)
    return outside & ~np.logical_or.reduce(holes) if holes else outside


def _is_visible_enough(thing: PlacedObject) -> bool:
    return float(thing.visible.sum()) >= max(60.0, _LEAST_VISIBLE * thing.full_area)


def _compute_area(points: Points) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


# ---- how they look


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
        return _draw_lines(fine, *u.shape, width=band * 2 * scale * _SUPERSAMPLING)  # half of the line lies outside

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
    """Centers of the sub-pixels between two pixel borders."""
    half = 0.5 / _SUPERSAMPLING
    return np.linspace(low + half, high - half, (high - low) * _SUPERSAMPLING, dtype=np.float32)


def _shrink(fine: Field) -> Field:
    """The mean over each pixel's sub-pixels."""
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
        closed = np.floor(np.concatenate([contour, contour[:2]]))  # for Pillow, whole numbers are pixel centers
        pen.line(closed.ravel().tolist(), fill=255, width=max(1, round(width)), joint="curve")
    return _to_unit_range(image)


def _to_unit_range(image: Image.Image) -> Field:
    """Its values from 0 to 1."""
    values = np.array(image, dtype=np.float32)
    values /= 255
    return values


def _draw_colors(rng: np.random.Generator, count: int) -> Color:
    """Colors ``[count, 3]`` of any hue and any lightness, 0 to 1."""
    hue = (rng.random((count, 1)) + np.array([0.0, 1 / 3, 2 / 3])) % 1.0
    vivid = np.clip(np.abs(hue * 6 - 3) - 1, 0, 1)
    saturation, value = rng.uniform(0.1, 0.9, (count, 1)), rng.uniform(0.15, 1.0, (count, 1))
    return ((1 - saturation * (1 - vivid)) * value).astype(np.float32)


def _draw_two_colors(rng: np.random.Generator, *, rimmed: bool, avoid: Color) -> tuple[Color, Color]:
    """Two colors that can be told apart, the first (a plain object's) also from what lies below; a rim is dark."""
    while True:
        first, second = _draw_colors(rng, 16), _draw_colors(rng, 16) * np.float32(0.2 if rimmed else 1.0)
        apart = np.abs((first - second) @ _LUMINANCE) > 0.35
        good = np.flatnonzero(apart & (np.abs(first - avoid).max(axis=1) > 0.22))
        if len(good):
            return first[good[0]], second[good[0]]


def _draw_background(height: int, width: int, surfaces: tuple[str, ...], rng: np.random.Generator) -> Field:
    """A gradient with stains and grain, and on it lumps (some with a class's surface) and lines."""
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
    """Smooth noise of about ``cells`` x ``cells`` spots, mean 0."""
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _expose(canvas: Field, rng: np.random.Generator) -> Image.Image:
    """Overall light, blur of the lens, and grain of the sensor."""
    canvas = (canvas - 0.5) * rng.uniform(0.75, 1.1) + 0.5 + rng.uniform(-0.08, 0.08)
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8))))
    noise = rng.uniform(1, 7) * rng.standard_normal((*canvas.shape[:2], 1), dtype=np.float32)
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) + noise, 0, 255).astype(np.uint8))
