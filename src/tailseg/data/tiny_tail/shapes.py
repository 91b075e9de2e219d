"""Outlines of tiny_tail's shapes, and the pose of an outline in an image.

An outline is a tuple of closed contours ``[K, 2]`` in local coordinates ``u, v``, each within ``[-1, 1]``: the outer
one first, then holes. Straight edges have additional points, to stay smooth when the outline is bent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Field = NDArray[np.float32]
Outline = tuple[Points, ...]

_EDGE = 0.16  # longest edge in local units: about three pixels for an object of medium size


def _make_polygon(*corners: tuple[int | float, int | float]) -> Points:
    """Makes a closed polygon with additional points on its edges."""
    points = np.array(corners, dtype=np.float64)
    pieces = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        steps = max(1, math.ceil(float(np.linalg.norm(end - start)) / _EDGE))
        pieces.append(start + (end - start) * (np.arange(steps) / steps)[:, None])
    return np.concatenate(pieces)


def _make_polar(radii: Callable[[Points], Points], count: int = 48) -> Points:
    angles = np.linspace(0, 2 * math.pi, count, endpoint=False)
    radius = radii(angles)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _make_arc(radius: int | float, start: int | float, end: float, center: float = 0.0, count: int = 24) -> Points:
    angles = np.linspace(start, end, count)
    return np.stack([center + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _make_spiked(*radii: int | float, spikes: int) -> Points:
    """Makes corners with the given radii in turn, once for each spike."""
    angles = np.linspace(0, 2 * math.pi, spikes * len(radii), endpoint=False)
    corners = np.tile(radii, spikes)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _make_polygon(*map(tuple, corners.tolist()))


def _join(*pieces: Points | list[tuple[float, float]]) -> Points:
    """Joins arcs and corners to one closed polygon with additional points on its straight edges."""
    return _make_polygon(*map(tuple, np.concatenate(pieces).tolist()))


def _disc() -> Outline:
    return (_make_polar(np.ones_like, 36),)


def _square() -> Outline:
    return (_make_polygon((-1, -1), (1, -1), (1, 1), (-1, 1)),)


def _triangle() -> Outline:
    return (_make_spiked(1, spikes=3),)


def _star() -> Outline:
    return (_make_spiked(1, 0.42, spikes=5),)


def _cross() -> Outline:
    a = 0.33
    quarter = np.array([(a, a), (a, 1), (-a, 1)])
    turns = [quarter, quarter[:, ::-1] * (-1, 1), -quarter, quarter[:, ::-1] * (1, -1)]
    return (_make_polygon(*map(tuple, np.concatenate(turns).tolist())),)


def _heart() -> Outline:
    t = np.linspace(0, 2 * math.pi, 44, endpoint=False)
    v = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return (np.stack([16 * np.sin(t) ** 3, v], axis=1),)


def _crescent() -> Outline:
    distance, radius = 0.55, 0.8  # the disc that is cut out
    u = (distance**2 + 1 - radius**2) / (2 * distance)
    outer, inner = math.acos(u), math.atan2(math.sqrt(1 - u * u), u - distance)
    bite = _make_arc(radius, 2 * math.pi - inner, inner, center=distance)
    return (np.concatenate([_make_arc(1, outer, 2 * math.pi - outer, count=32), bite[1:-1]]),)


def _ring() -> Outline:
    disc = _make_polar(np.ones_like, 36)
    return disc, disc * 0.5


def _arrow() -> Outline:
    return (_make_polygon((1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3), (-1, -0.3), (0.1, -0.3), (0.1, -0.8)),)


def _hexagon() -> Outline:
    return (_make_spiked(1, spikes=6),)


def _drop() -> Outline:
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    return (np.stack([np.cos(t), 0.85 * np.sin(t) * np.sin(t / 2) ** 1.6], axis=1),)


def _gear() -> Outline:
    return (_make_spiked(1, 1, 0.68, 0.68, spikes=8),)


def _bolt() -> Outline:
    return (_make_polygon((0.1, 1), (-0.6, -0.1), (-0.05, -0.1), (-0.3, -1), (0.6, 0.25), (0.1, 0.25), (0.5, 1)),)


def _leaf() -> Outline:
    u = np.linspace(-1, 1, 20)
    half = 0.48 * (1 - u * u)
    lower = np.stack([u, -half], axis=1)
    return (np.concatenate([lower, np.stack([u, half], axis=1)[-2:0:-1]]),)


def _mushroom() -> Outline:
    cap = _make_arc(1, 0, math.pi, count=26)
    stem = _make_polygon((-1, 0), (-0.3, 0), (-0.35, -0.9), (0.35, -0.9), (0.3, 0), (1, 0))
    return (np.concatenate([cap, stem[1 : np.flatnonzero((stem == (1, 0)).all(axis=1))[0]]]),)


def _tee() -> Outline:
    return (_make_polygon((-1, 1), (-1, 0.4), (-0.32, 0.4), (-0.32, -1), (0.32, -1), (0.32, 0.4), (1, 0.4), (1, 1)),)


def _ell() -> Outline:
    return (_make_polygon((-0.8, 1), (-0.8, -1), (0.8, -1), (0.8, -0.35), (-0.15, -0.35), (-0.15, 1)),)


def _hourglass() -> Outline:
    return (_make_polygon((-0.8, 1), (-0.15, 0), (-0.8, -1), (0.8, -1), (0.15, 0), (0.8, 1)),)


def _clover() -> Outline:
    return (_make_polar(lambda angle: 0.65 + 0.35 * np.cos(3 * angle), 56),)


def _pacman() -> Outline:
    arc = _make_arc(1, 0.6, 2 * math.pi - 0.6, count=32)
    return (np.concatenate([arc, [[0.4, -0.25], [-0.05, 0.0], [0.4, 0.25]]]),)


def _comb() -> Outline:
    a = 0.22  # half the width of a tooth
    teeth = [
        (x, y) for tip in (a - 1, 0.0, 1 - a) for x, y in ((tip - a, 0), (tip - a, -1), (tip + a, -1), (tip + a, 0))
    ]
    return (_make_polygon((1, 0.6), (-1, 0.6), *teeth),)


def _frame() -> Outline:
    square = _make_polygon((-1, -1), (1, -1), (1, 1), (-1, 1))
    return square, square * 0.55


def _key() -> Outline:
    bow = _make_arc(0.42, 0.34, 2 * math.pi - 0.34, center=-0.55)
    shaft = [(0.45, -0.14), (0.45, -0.45), (0.62, -0.45), (0.62, -0.14), (0.8, -0.14), (0.8, -0.45), (1, -0.45)]
    return _join(bow, [*shaft, (1, 0.14)]), _make_arc(0.2, 0, 5.9, center=-0.55, count=16)


def _house() -> Outline:
    return (_make_polygon((-0.7, -1), (0.7, -1), (0.7, 0), (1, 0), (0, 1), (-1, 0), (-0.7, 0)),)


def _bone() -> Outline:
    lower = _make_arc(0.3, 3.01, 7.21, center=0.7, count=16) - (0, 0.24)
    upper = _make_arc(0.3, -0.93, 3.27, center=0.7, count=16) + (0, 0.24)
    return (_join(lower, upper, -lower, -upper),)


def _fish() -> Outline:
    t = np.linspace(0.3 - math.pi, math.pi - 0.3, 32)
    body = np.stack([0.2 + 0.8 * np.cos(t), 0.45 * np.sin(t)], axis=1)
    return (_join(body, [(-1, 0.5), (-0.8, 0), (-1, -0.5)]),)


def _spiral() -> Outline:
    t = np.linspace(0, 1, 40)[:, None]
    ray = np.concatenate([np.cos(2.5 * math.pi * t), np.sin(2.5 * math.pi * t)], axis=1)
    radius = 0.15 + 0.7 * t
    return (_join((radius + 0.15) * ray, ((radius - 0.15) * ray)[::-1]),)


def _quarter() -> Outline:
    return (_join([(0, 0)], _make_arc(1, 0, math.pi / 2)),)


def _stairs() -> Outline:
    a = 0.33
    return (_make_polygon((-1, -1), (1, -1), (1, 1), (a, 1), (a, a), (-a, a), (-a, -a), (-1, -a)),)


def _zed() -> Outline:
    half = [(-0.8, 1), (0.8, 1), (0.8, 0.5), (-0.15, -0.5), (0.8, -0.5)]
    return (_make_polygon(*half, *[(-x, -y) for x, y in half]),)


def _arch() -> Outline:
    outer, inner = _make_arc(1, 0, math.pi), _make_arc(0.5, math.pi, 0)
    return (_join([(1, -1)], outer, [(-1, -1), (-0.5, -1)], inner, [(0.5, -1)]),)


def _chevron() -> Outline:
    return (_make_polygon((-1, -0.7), (0, 0.1), (1, -0.7), (1, -0.1), (0, 0.75), (-1, -0.1)),)


def _cloud() -> Outline:
    left = _make_arc(0.4, 1.8, 4.2, center=-0.6, count=16)
    top = _make_arc(0.55, 0.5, 2.5, count=16) + (0, 0.2)
    right = _make_arc(0.35, -1.5, 1.2, center=0.65, count=16)
    return (_join(left, right, top),)


def _bottle() -> Outline:
    side = [(0.45, -1), (0.45, 0.1), (0.16, 0.45), (0.16, 1)]
    return (_make_polygon(*side, *[(-x, y) for x, y in reversed(side)]),)


def _eight() -> Outline:
    lobe, hole = _make_arc(0.54, -2.59, 2.59, center=0.46, count=32), _make_arc(0.26, 0, 5.9, center=0.46, count=16)
    return _join(lobe, -lobe), hole, -hole


def _pinwheel() -> Outline:
    return (_make_polar(lambda angle: 0.4 + 0.6 * (angle * 2.5 / math.pi % 1), 80),)


SHAPES: Final[dict[str, Callable[[], Outline]]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "ring": _ring,
    "arrow": _arrow,
    "hexagon": _hexagon,
    "drop": _drop,
    "gear": _gear,
    "bolt": _bolt,
    "leaf": _leaf,
}
"""The shapes of tiny_tail's classes."""

PRETRAIN_SHAPES: Final[dict[str, Callable[[], Outline]]] = {
    "mushroom": _mushroom,
    "tee": _tee,
    "ell": _ell,
    "hourglass": _hourglass,
    "clover": _clover,
    "pacman": _pacman,
    "comb": _comb,
    "frame": _frame,
}
"""The shapes that only the preset ``pretrain`` uses."""

JUDGE_SHAPES: Final[dict[str, Callable[[], Outline]]] = {
    "key": _key,
    "house": _house,
    "bone": _bone,
    "fish": _fish,
    "spiral": _spiral,
    "quarter": _quarter,
    "stairs": _stairs,
    "zed": _zed,
    "arch": _arch,
    "chevron": _chevron,
    "cloud": _cloud,
    "bottle": _bottle,
    "eight": _eight,
    "pinwheel": _pinwheel,
}
"""The shapes that only the preset ``judge`` uses."""


@cache
def get_outline(shape: str) -> Outline:
    """The outline of a shape. Its bounding box has its center at the origin and a longer side of 2."""
    contours = (SHAPES | PRETRAIN_SHAPES | JUDGE_SHAPES)[shape]()
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    return tuple((contour - (low + high) / 2) / ((high - low).max() / 2) for contour in contours)


def draw_blob(rng: np.random.Generator) -> Outline:
    """Draws a lumpy outline for the background; it is similar to no shape."""
    waves, phases = np.array([2, 3, 4, 5]), rng.uniform(0, 2 * math.pi, 4)
    heights = rng.uniform(0.1, 0.3, 4)
    return (_make_polar(lambda angle: 0.7 + 0.5 * (heights * np.cos(np.outer(angle, waves) + phases)).sum(axis=1), 40),)


@dataclass(frozen=True)
class Pose:
    """Position, rotation, stretch and bend of an object: an invertible map of ``u, v`` to pixels."""

    center: tuple[float, float]
    matrix: NDArray[np.float64]
    """``[2, 2]``: rotation, mirroring, aspect ratio, and scale in pixels per local unit."""
    taper: float
    bend: float
    wave: float
    phase: float

    @property
    def scale(self) -> float:
        """Pixels per local unit (the geometric mean of both directions)."""
        return math.sqrt(abs(float(np.linalg.det(self.matrix))))

    def to_image(self, points: Points) -> Points:
        """Maps local coordinates ``[K, 2]`` to pixels ``[K, 2]``."""
        u, v = points[:, 0], points[:, 1]
        u = u * (1 + self.taper * v)
        v = v + self.bend * (u * u - 0.4)
        u = u + self.wave * np.sin(2.5 * v + self.phase)
        return np.stack([u, v], axis=1) @ self.matrix.T + self.center

    def to_local(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Maps pixels to local ``u, v``: the inverse of ``to_image``, step by step."""
        (a, b), (c, d) = np.linalg.inv(self.matrix).astype(np.float32)
        x, y = x - np.float32(self.center[0]), y - np.float32(self.center[1])
        u, v = a * x + b * y, c * x + d * y
        u = u - self.wave * np.sin(2.5 * v + self.phase)
        v = v - self.bend * (u * u - 0.4)
        return u / (1 + self.taper * v), v


def draw_pose(rng: np.random.Generator, contours: Outline, size: float) -> Pose:
    """Draws a random pose at the origin.

    Args:
        rng: the random generator.
        contours: the outline.
        size: longer side of the posed outline in pixels.

    Returns:
        The pose.
    """
    angle, ratio = rng.uniform(0, 2 * math.pi), math.exp(rng.uniform(-0.15, 0.15))
    mirror = rng.choice([-1.0, 1.0])
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = rotation @ np.diag([mirror * ratio, 1 / ratio])
    taper, bend, wave = rng.uniform(-0.22, 0.22), rng.uniform(-0.28, 0.28), rng.uniform(0, 0.09)
    phase = rng.uniform(0, 2 * math.pi)
    extent = np.ptp(Pose((0.0, 0.0), matrix, taper, bend, wave, phase).to_image(contours[0]), axis=0).max()
    return Pose((0.0, 0.0), matrix * (size / float(extent)), taper, bend, wave, phase)
