"""Surfaces of tiny_tail's classes: patterns of two colors.

A surface maps every point of an object to ``[0, 1]``: 0 is the first color, 1 the second. It is drawn in the object's
coordinates and turns and bends with the outline. The colors give no information on the class.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailseg.data.tiny_tail.shapes import Field


@dataclass(frozen=True)
class Grid:
    """The points of an object to paint.

    Attributes:
        u, v: local coordinates; the object is within about ``[-1, 1]``.
        pitch: period of a pattern in local units: about a fifth of the object, and wide enough to be visible.
        pixel: side of a pixel in local units.
        rim: draws a band of the given width (local units) along the outline, 1 inside the band.
    """

    u: Field
    v: Field
    pitch: float
    pixel: float
    rim: Callable[[float], Field]

    def rotate(self, rng: np.random.Generator) -> tuple[Field, Field]:
        """The coordinates in a random direction and from a random origin, in periods."""
        angle, shift = rng.uniform(0, 2 * math.pi), rng.random(2).tolist()
        x, y = math.cos(angle) * self.u + math.sin(angle) * self.v, math.cos(angle) * self.v - math.sin(angle) * self.u
        return x / self.pitch + shift[0], y / self.pitch + shift[1]

    def project(self, rng: np.random.Generator) -> Field:
        """The coordinate along a random direction through the middle, about -1 to 1."""
        angle = rng.uniform(0, 2 * math.pi)
        return math.cos(angle) * self.u + math.sin(angle) * self.v


Surface = Callable[[Grid, np.random.Generator], Field]


def _to_field(condition: NDArray[np.bool_]) -> Field:
    return condition.astype(np.float32)


def _triangle_wave(x: Field) -> Field:
    return np.abs(2 * (x - np.floor(x)) - 1)


def _plain(grid: Grid, rng: np.random.Generator) -> Field:
    del rng  # all surfaces have the same signature; this one is not random
    return np.zeros_like(grid.u)


def _striped(grid: Grid, rng: np.random.Generator) -> Field:
    x, _ = grid.rotate(rng)
    return _to_field(x - np.floor(x) < 0.5)


def _dotted(grid: Grid, rng: np.random.Generator) -> Field:
    x, y = grid.rotate(rng)
    x, y = x - np.floor(x) - 0.5, y - np.floor(y) - 0.5
    return _to_field(x * x + y * y < 0.33**2)


def _checked(grid: Grid, rng: np.random.Generator) -> Field:
    x, y = grid.rotate(rng)
    return _to_field((np.floor(x * 1.6) + np.floor(y * 1.6)) % 2 == 0)


def _shaded(grid: Grid, rng: np.random.Generator) -> Field:
    return np.clip(0.5 + 0.65 * grid.project(rng), 0, 1)


def _rimmed(grid: Grid, rng: np.random.Generator) -> Field:
    return grid.rim(max(rng.uniform(0.15, 0.22), 2.2 * grid.pixel))


def _zigzag(grid: Grid, rng: np.random.Generator) -> Field:
    x, y = grid.rotate(rng)
    x = x + 1.1 * _triangle_wave(y * 0.6)
    return _to_field(x - np.floor(x) < 0.5)


def _grainy(grid: Grid, rng: np.random.Generator) -> Field:
    cell, grains = max(0.11, 2.0 * grid.pixel), rng.random((64, 64), dtype=np.float32)
    column, row = (np.floor(axis / cell).astype(np.int64) % 64 for axis in (grid.u, grid.v))
    return grains[row, column]


def _ringed(grid: Grid, rng: np.random.Generator) -> Field:
    radius = np.hypot(grid.u, grid.v) / grid.pitch + rng.uniform(0, 1)
    return _to_field(radius - np.floor(radius) < 0.5)


def _hatched(grid: Grid, rng: np.random.Generator) -> Field:
    x, y = grid.rotate(rng)
    return _to_field((x - np.floor(x) < 0.3) | (y - np.floor(y) < 0.3))


def _halved(grid: Grid, rng: np.random.Generator) -> Field:
    return _to_field(grid.project(rng) > rng.uniform(-0.12, 0.12))


def _scalloped(grid: Grid, rng: np.random.Generator) -> Field:
    x, y = grid.rotate(rng)
    x, y = x * 0.75, y * 1.4
    x = x + 0.5 * (np.floor(y) % 2)
    return _to_field(np.hypot(x - np.floor(x) - 0.5, 0.55 * (y - np.floor(y))) < 0.42)


def _spoked(grid: Grid, rng: np.random.Generator) -> Field:
    spokes = int(rng.integers(4, 7))
    return _to_field(np.sin(spokes * np.arctan2(grid.v, grid.u) + rng.uniform(0, 2 * math.pi)) > 0)


def _marbled(grid: Grid, rng: np.random.Generator) -> Field:
    total = np.zeros_like(grid.u)
    for _ in range(4):
        x, _ = grid.rotate(rng)
        total += np.sin(2 * math.pi * rng.uniform(0.35, 0.7) * x)
    return _to_field(total > 0)


def _bricked(grid: Grid, rng: np.random.Generator) -> Field:
    x, y = grid.rotate(rng)
    row = np.floor(y * 1.1)
    x = x * 0.6 + 0.5 * (row % 2)
    return _to_field((y * 1.1 - row < 0.28) | (x - np.floor(x) < 0.17))


def _faceted(grid: Grid, rng: np.random.Generator) -> Field:
    x, y = grid.rotate(rng)
    x, y = x * 0.9, y * 0.9
    return _to_field((np.floor(x) + np.floor(0.866 * y - 0.5 * x) + np.floor(-0.866 * y - 0.5 * x)) % 2 == 0)


def _belted(grid: Grid, rng: np.random.Generator) -> Field:
    return _to_field(np.abs(grid.project(rng) + rng.uniform(-0.1, 0.1)) < rng.uniform(0.2, 0.3))


def _crossed(grid: Grid, rng: np.random.Generator) -> Field:
    angle, half = rng.uniform(0, 2 * math.pi), rng.uniform(0.12, 0.18)
    x, y = math.cos(angle) * grid.u + math.sin(angle) * grid.v, math.cos(angle) * grid.v - math.sin(angle) * grid.u
    return _to_field((np.abs(x) < half) | (np.abs(y) < half))


def _cored(grid: Grid, rng: np.random.Generator) -> Field:
    return _to_field(np.hypot(grid.u, grid.v) < rng.uniform(0.4, 0.55))


def _spiraled(grid: Grid, rng: np.random.Generator) -> Field:
    turn = np.arctan2(grid.v, grid.u) / (2 * math.pi) * rng.choice([-2.0, 2.0])
    phase = 0.7 * np.hypot(grid.u, grid.v) / grid.pitch + turn + rng.uniform(0, 1)
    return _to_field(phase - np.floor(phase) < 0.5)


def _cracked(grid: Grid, rng: np.random.Generator) -> Field:
    """The borders of the cells around random points (a Voronoi diagram)."""
    points = rng.uniform(-1, 1, (12, 2)).astype(np.float32)
    distances = np.hypot(grid.u[..., None] - points[:, 0], grid.v[..., None] - points[:, 1])
    nearest, second = np.moveaxis(np.partition(distances, 1, axis=2)[..., :2], 2, 0)
    return _to_field(second - nearest < max(0.12, 2 * grid.pixel))


def _graded(grid: Grid, rng: np.random.Generator) -> Field:
    """Stripes that become wider along their length."""
    x, _ = grid.rotate(rng)
    return _to_field(x - np.floor(x) < np.clip(0.5 + 0.55 * grid.project(rng), 0, 1))


def _dashed(grid: Grid, rng: np.random.Generator) -> Field:
    x, y = grid.rotate(rng)
    row = np.floor(y)
    x = 0.45 * x + 0.5 * (row % 2)
    return _to_field((y - row < 0.45) & (x - np.floor(x) < 0.55))


def _nested(grid: Grid, rng: np.random.Generator) -> Field:
    angle = rng.uniform(0, 2 * math.pi)
    x, y = math.cos(angle) * grid.u + math.sin(angle) * grid.v, math.cos(angle) * grid.v - math.sin(angle) * grid.u
    side = np.maximum(np.abs(x), np.abs(y)) / grid.pitch + rng.uniform(0, 1)
    return _to_field(side - np.floor(side) < 0.5)


def _domed(grid: Grid, rng: np.random.Generator) -> Field:
    return np.clip(rng.uniform(0.9, 1.2) * np.hypot(grid.u, grid.v), 0, 1)


def _woven(grid: Grid, rng: np.random.Generator) -> Field:
    """Squares with stripes that go across in one square and along in the next."""
    x, y = grid.rotate(rng)
    along = (np.floor(0.5 * x) + np.floor(0.5 * y)) % 2 == 0
    across = np.where(along, x, y)
    return _to_field(across - np.floor(across) < 0.5)


def _speckled(grid: Grid, rng: np.random.Generator) -> Field:
    cell, spots = max(0.16, 2.5 * grid.pixel), rng.random((64, 64)) < 0.22
    column, row = (np.floor(axis / cell).astype(np.int64) % 64 for axis in (grid.u, grid.v))
    return _to_field(spots[row, column])


def _inlaid(grid: Grid, rng: np.random.Generator) -> Field:
    width = max(rng.uniform(0.12, 0.16), 2 * grid.pixel)
    return grid.rim(2.2 * width) * (1 - grid.rim(width))


SURFACES: Final[dict[str, Surface]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "shaded": _shaded,
    "rimmed": _rimmed,
    "zigzag": _zigzag,
    "grainy": _grainy,
    "ringed": _ringed,
    "hatched": _hatched,
    "halved": _halved,
}
"""The surfaces of tiny_tail's classes."""

PRETRAIN_SURFACES: Final[dict[str, Surface]] = {
    "scalloped": _scalloped,
    "spoked": _spoked,
    "marbled": _marbled,
    "bricked": _bricked,
    "faceted": _faceted,
    "belted": _belted,
}
"""The surfaces that only the preset ``pretrain`` uses."""

JUDGE_SURFACES: Final[dict[str, Surface]] = {
    "crossed": _crossed,
    "cored": _cored,
    "spiraled": _spiraled,
    "cracked": _cracked,
    "graded": _graded,
    "dashed": _dashed,
    "nested": _nested,
    "domed": _domed,
    "woven": _woven,
    "speckled": _speckled,
    "inlaid": _inlaid,
}
"""The surfaces that only the preset ``judge`` uses."""
