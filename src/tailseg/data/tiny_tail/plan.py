"""The plan of tiny_tail: the presets, their classes, and the classes of each image.

First each class gets its number of images, then each image gets its set of classes. A drawn set therefore has exactly
the planned long tail.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from tailseg.data.tiny_tail.shapes import JUDGE_SHAPES, PRETRAIN_SHAPES, SHAPES
from tailseg.data.tiny_tail.surfaces import JUDGE_SURFACES, PRETRAIN_SURFACES, SURFACES


@dataclass(frozen=True)
class ObjectClass:
    """A class: a shape with a surface, and its number of annotated images in the training and the validation set."""

    shape: str
    surface: str
    train_count: int
    val_count: int

    @property
    def name(self) -> str:
        return f"{self.surface} {self.shape}"


@dataclass(frozen=True)
class Preset:
    """A variant of the data set.

    Attributes:
        shapes, surfaces: their combinations are the classes, in a fixed order, as many as there are counts.
        train_counts: number of training images of each class, the most frequent class first.
        val_counts: the same for the validation set. It is flatter, to measure rare classes.
        train_images, val_images: number of images of the two sets.
    """

    shapes: tuple[str, ...]
    surfaces: tuple[str, ...]
    train_counts: tuple[int, ...]
    val_counts: tuple[int, ...]
    train_images: int
    val_images: int

    def classes(self) -> list[ObjectClass]:
        """Lists the classes in the order of their names, as LVIS does: category ids give no information on frequency.

        The combinations are taken along the diagonals of the table shape x surface. The first diagonals are the
        frequent classes; they have every shape and every surface. A rare class therefore has the shape of one frequent
        class and the surface of another.
        """
        cells = sorted(
            itertools.product(range(len(self.shapes)), range(len(self.surfaces))),
            key=lambda cell: ((cell[1] - 2 * cell[0]) % len(self.surfaces), cell[0]),
        )
        chosen = zip(cells[: len(self.train_counts)], self.train_counts, self.val_counts, strict=True)
        classes = [
            ObjectClass(self.shapes[shape], self.surfaces[surface], train, val)
            for (shape, surface), train, val in chosen
        ]
        return sorted(classes, key=lambda item: item.name)


def _make_long_tail(rare: int, common: int, frequent: int, most: int) -> tuple[int, ...]:
    """Makes image counts like LVIS's: few classes with many images, and a third of the classes with 1 to 10.

    The counts are scattered within the frequent classes, and within the common and rare classes: no shape and no
    surface is more frequent than the others.
    """
    heads = [round(101 * (most / 101) ** (x**1.5)) for x in np.linspace(0, 1, frequent)]
    middle = [round(11 * (100 / 11) ** x) for x in np.linspace(0, 1, common)]
    tails = [round(x) for x in np.linspace(1, 10, rare)]
    return _scatter(heads) + _scatter(middle + tails)


def _scatter(counts: list[int]) -> tuple[int, ...]:
    """Puts counts into a fixed order without a pattern (steps of the golden section)."""
    return tuple(count for _, count in sorted((i * 0.6180339887 % 1, count) for i, count in enumerate(counts)))


def _flatten(train_counts: tuple[int, ...], scale: float) -> tuple[int, ...]:
    """Computes validation counts: scale * max(8, 4 * count^0.3) images."""
    return tuple(round(scale * max(8.0, 4.0 * count**0.3)) for count in train_counts)


_FULL: Final = _make_long_tail(rare=34, common=47, frequent=42, most=380)
_DEMO: Final = _make_long_tail(rare=11, common=15, frequent=14, most=260)
_TEST: Final = (13, 12, 11, 11, 8, 6, 4, 3, 2, 2, 1, 1)
_PRETRAIN: Final = (137,) * (len(PRETRAIN_SHAPES) * len(PRETRAIN_SURFACES))

PRESETS: Final[dict[str, Preset]] = {
    "full": Preset(tuple(SHAPES), tuple(SURFACES), _FULL, _flatten(_FULL, 1.0), 2100, 400),
    "demo": Preset(
        ("star", "cross", "heart", "ring", "arrow", "triangle", "disc", "crescent", "bolt"),
        ("plain", "striped", "checked", "rimmed", "dotted", "halved", "ringed"),
        _DEMO,
        _flatten(_DEMO, 1.0),
        600,
        150,
    ),
    "test": Preset(("star", "cross", "ring", "disc"), ("plain", "striped", "rimmed"), _TEST, (3,) * 12, 16, 8),
    "pretrain": Preset(tuple(PRETRAIN_SHAPES), tuple(PRETRAIN_SURFACES), _PRETRAIN, (9,) * len(_PRETRAIN), 1500, 100),
    "judge": Preset(tuple(JUDGE_SHAPES), tuple(JUDGE_SURFACES), _FULL, _flatten(_FULL, 1.0), 2100, 400),
}
"""The variants of tiny_tail.

- ``full``: 123 classes (34 rare, 47 common, 42 frequent), 2,100 training and 400 validation images.
- ``demo``: 40 classes (11 rare, 15 common, 14 frequent), 600 training and 150 validation images.
- ``test``: 12 classes, 16 and 8 images, for unit tests (too small for frequent classes).
- ``judge``: as many classes and images as ``full``, with the same long tail, but of shapes and surfaces that no other
  preset uses. Settings that were chosen on ``full`` are judged here.
- ``pretrain``: 48 balanced classes of shapes and surfaces that no other preset uses, 1,500 and 100 images.
"""


def draw_class_sets(counts: list[int], num_images: int, rng: np.random.Generator) -> list[list[int]]:
    """Draws the set of classes of each image.

    Every image starts with room for about the same number of classes. A class is drawn into images with probabilities
    in proportion to their remaining room.

    Args:
        counts: number of images of each class.
        num_images: number of images.
        rng: the random generator.

    Returns:
        The labels of each image; label ``c`` is in exactly ``counts[c]`` images.
    """
    mean = sum(counts) / num_images
    room = np.maximum(rng.normal(mean, 0.25 * mean, num_images), 1.0)
    room *= sum(counts) / room.sum()
    sets: list[list[int]] = [[] for _ in range(num_images)]
    for label in sorted(range(len(counts)), key=lambda label: -counts[label]):
        # the largest keys log(weight) + Gumbel noise are a weighted draw without replacement
        keys = np.log(np.maximum(room, 1e-3)) + rng.gumbel(size=num_images)
        for image in np.argsort(-keys, kind="stable")[: counts[label]]:
            sets[image].append(label)
            room[image] -= 1
    return sets


def draw_order(class_set: list[int], rng: np.random.Generator) -> list[tuple[int, bool]]:
    """Draws the objects of an image from back to front: the label, and whether the object is annotated.

    Every class has one annotated object. Some have a second one, and a few have one more that is not annotated, as
    LVIS's not exhaustively annotated classes do.
    """
    objects = [(label, True) for label in class_set]
    objects += [(label, True) for label in class_set if rng.random() < 0.1]
    objects += [(label, False) for label in class_set if rng.random() < 0.03]
    return [objects[i] for i in rng.permutation(len(objects))]


def draw_negatives(absent: list[int], rng: np.random.Generator) -> list[int]:
    """Draws the classes that are listed as absent: a quarter of the absent ones, because LVIS verifies only some."""
    count = math.ceil(len(absent) / 4)
    return sorted(int(label) for label in rng.choice(absent, count, replace=False)) if absent else []
