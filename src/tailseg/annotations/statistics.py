"""Sizes, positions and co-occurrence of annotated objects, for a whole file at a time. Nothing here imports torch.

Shapes: M objects (crowd and ignore regions count nowhere), C classes, K keys such as classes or frequency groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
from jaxtyping import Float64, Int64

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.summary import QUANTILES
from tailseg.annotations.types import Group

BAND_EDGES: Final = (32, 96)
"""COCO's bounds between small, medium and large objects: side lengths of a square, in pixels."""
MIN_SHARED: Final = 2
"""Images that two classes share at least to be listed as companions beyond chance, unless the class has fewer."""


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """The objects of a file, one row each.

    Attributes:
        labels: int64 ``[M]``.
        images: int64 ``[M]``, positions of the images in the file.
        sides: float64 ``[M]``, the square root of the area of the box, in pixels.
        shares: float64 ``[M]``, ``sides`` divided by the square root of the area of the image, in [0, 1].
        centers: float64 ``[M, 2]``, x and y of the center of the box as shares of the image's width and height.
    """

    labels: Int64[np.ndarray, " M"]
    images: Int64[np.ndarray, " M"]
    sides: Float64[np.ndarray, " M"]
    shares: Float64[np.ndarray, " M"]
    centers: Float64[np.ndarray, "M 2"]


def tabulate_objects(annotations: Annotations) -> ObjectTable:
    """Computes size and position of each object, from its box."""
    objects = annotations.objects
    rows = ~objects.ignored
    images, boxes = objects.images[rows], objects.boxes[rows].astype(np.float64)
    sizes = annotations.sizes[images][:, ::-1].astype(np.float64)  # width, height
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    return ObjectTable(
        labels=objects.labels[rows],
        images=images,
        sides=sides,
        shares=(sides / np.sqrt(np.maximum(sizes.prod(axis=1), 1))).clip(0, 1),
        centers=((boxes[:, 2:] + boxes[:, :2]) / 2 / np.maximum(sizes, 1)).clip(0, 1),
    )


def list_class_groups(annotations: Annotations) -> Int64[np.ndarray, " C"]:
    """The frequency group of each class as a number: rare 0, common 1, frequent 2."""
    order = get_args(Group)
    return np.array([order.index(category.group) for category in annotations.categories], np.int64)


def compute_quantiles(
    values: Float64[np.ndarray, " M"], keys: Int64[np.ndarray, " M"], num_keys: int
) -> Float64[np.ndarray, "K 5"]:
    """Computes `QUANTILES` of the values of each key, interpolated as by numpy.

    Args:
        values: of the objects.
        keys: the key of each object, ``0 .. K-1``.
        num_keys: K.

    Returns:
        The quantiles; NaN for a key without objects.
    """
    ordered = values[np.lexsort((values, keys))]
    counts = np.bincount(keys, minlength=num_keys)
    starts = np.cumsum(counts) - counts
    places = np.array(QUANTILES)[None] * np.maximum(counts - 1, 0)[:, None]
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(counts - 1, 0)[:, None])
    padded = np.append(ordered, np.nan)  # the last keys may be empty
    lows, highs = (padded[np.minimum(starts[:, None] + part, len(ordered))] for part in (low, high))
    quantiles = lows + (highs - lows) * (places - low)
    quantiles[counts == 0] = np.nan
    return quantiles


def count_bands(
    sides: Float64[np.ndarray, " M"], keys: Int64[np.ndarray, " M"], num_keys: int
) -> Int64[np.ndarray, "K 3"]:
    """Counts small (area of the box below 32 x 32 pixels), medium and large (96 x 96 or more) objects of each key.

    Args:
        sides: the square roots of the areas.
        keys: the key of each object.
        num_keys: K.

    Returns:
        The counts.
    """
    bands = np.searchsorted(BAND_EDGES, sides, side="right")
    return np.bincount(keys * 3 + bands, minlength=num_keys * 3).reshape(num_keys, 3)


def count_positions(
    centers: Float64[np.ndarray, "M 2"], keys: Int64[np.ndarray, " M"], num_keys: int, bins: int
) -> Int64[np.ndarray, "K bins bins"]:
    """Counts the centers of boxes in a grid over all images, row by row from the top.

    Args:
        centers: x and y as shares of width and height.
        keys: the key of each object.
        num_keys: K.
        bins: rows and columns of the grid.

    Returns:
        The counts by key, row and column.
    """
    columns, rows = np.minimum((centers * bins).astype(np.int64), bins - 1).T
    cells = (keys * bins + rows) * bins + columns
    return np.bincount(cells, minlength=num_keys * bins * bins).reshape(num_keys, bins, bins)


@dataclass(frozen=True)
class Companion:
    """A class that shares images with another class.

    Attributes:
        label: label of the companion.
        images: number of images with both classes.
        share: share of the images of the other class that have this one, in [0, 1].
        lift: ``share`` divided by the share of all annotated images that have this class; 1 is chance.
    """

    label: int
    images: int
    share: float
    lift: float


@dataclass(frozen=True)
class Companions:
    """The company of a class in its images.

    Attributes:
        label: label of the class.
        images: number of its images.
        alone: number of its images that have no other class.
        frequent: the classes that most of its images have, most images first.
        beyond_chance: the classes with the largest lift above 1, among those that share at least `MIN_SHARED` images
            with it (its only image, if it has one).
    """

    label: int
    images: int
    alone: int
    frequent: tuple[Companion, ...]
    beyond_chance: tuple[Companion, ...]


def list_pairs(table: ObjectTable, num_classes: int) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Lists each image and each label in it once: the images and the labels of the pairs, ordered by image."""
    pairs = sort_distinct(table.images * num_classes + table.labels)
    return pairs // num_classes, pairs % num_classes


def sort_distinct(values: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, " P"]:
    """The distinct values, 0 or more, in ascending order; np.unique takes several times as long for a million."""
    values = np.sort(values)
    return values[np.diff(values, prepend=-1) > 0]


def find_companions(table: ObjectTable, num_classes: int, labels: Sequence[int], limit: int) -> list[Companions]:
    """Finds the classes that share images with some classes.

    Args:
        table: the objects of the file.
        num_classes: C.
        labels: the classes to look at.
        limit: companions of each list.

    Returns:
        The company of each of the classes that has images, in the given order.
    """
    images, pair_labels = list_pairs(table, num_classes)
    counts = np.bincount(pair_labels, minlength=num_classes)
    annotated = max(len(np.unique(images)), 1)
    num_images = int(images.max()) + 1 if len(images) else 0
    by_label = np.argsort(pair_labels, kind="stable")
    ends = np.cumsum(counts)
    found = []
    for label in labels:
        own = images[by_label[ends[label] - counts[label] : ends[label]]]
        if not len(own):
            continue
        member = np.zeros(num_images, bool)
        member[own] = True
        inside = member[images]
        shared = np.bincount(pair_labels[inside], minlength=num_classes)
        shared[label] = 0
        per_image = np.bincount(images[inside], minlength=num_images)[own]
        lifts = shared / len(own) / np.maximum(counts, 1) * annotated
        likely = np.where((shared >= min(MIN_SHARED, len(own))) & (lifts > 1), lifts, 0.0)
        found.append(
            Companions(
                label=label,
                images=len(own),
                alone=int((per_image == 1).sum()),
                frequent=_choose(shared, shared, lifts, len(own), limit),
                beyond_chance=_choose(likely, shared, lifts, len(own), limit),
            )
        )
    return found


def _choose(
    ranks: np.ndarray, shared: np.ndarray, lifts: np.ndarray, num_images: int, limit: int
) -> tuple[Companion, ...]:
    """The companions of the largest ranks, but none of rank 0; of equal ones those that share more images."""
    order = np.lexsort((np.arange(len(ranks)), -shared, -ranks))[:limit].tolist()
    return tuple(
        Companion(label, int(shared[label]), float(shared[label] / num_images), float(lifts[label]))
        for label in order
        if ranks[label] > 0
    )


def count_group_pairs(
    table: ObjectTable, groups: Int64[np.ndarray, " C"]
) -> tuple[Int64[np.ndarray, " 3"], Int64[np.ndarray, "3 3"]]:
    """Counts the images with objects of each group, and of each pair of groups.

    Args:
        table: the objects of the file.
        groups: the group of each class, 0 .. 2.

    Returns:
        The images by group, and by two groups; a pair of a group with itself counts images with two classes of it.
    """
    images, labels = list_pairs(table, len(groups))
    num_images = int(images.max()) + 1 if len(images) else 0
    classes = np.bincount(images * 3 + groups[labels], minlength=num_images * 3).reshape(num_images, 3)
    has = (classes > 0).astype(np.int64)
    pairs = has.T @ has
    np.fill_diagonal(pairs, (classes > 1).sum(axis=0))
    return has.sum(axis=0), pairs
