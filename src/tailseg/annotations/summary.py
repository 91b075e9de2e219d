"""The content of a data set in numbers."""

from dataclasses import dataclass
from typing import Final, get_args

import numpy as np

from tailseg.annotations.dataset import Annotations, Category, count_classes
from tailseg.annotations.types import Group

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ClassCount:
    """Numbers of images and objects of a class in the file."""

    category: Category
    images: int
    objects: int


@dataclass(frozen=True)
class GroupCount:
    """A frequency group: its number of classes, of classes that occur in the file, and of objects."""

    classes: int
    present: int
    objects: int


@dataclass(frozen=True)
class Summary:
    """The content of a file. Crowd and ignore regions are counted separately.

    Attributes:
        images: number of images.
        annotated_images: number of images with at least one object.
        objects: number of objects.
        ignored: number of crowd and ignore regions.
        with_masks: whether every object has a segmentation.
        groups: counts by frequency group: r, c, f.
        objects_per_image: `QUANTILES` of the number of objects in an annotated image.
        object_sizes: `QUANTILES` of the square root of the box area, in pixels.
        image_sizes: the most frequent ``(width, height)`` and its share of the images.
        counts: all classes, the most frequent (by images, then objects) first.
        notes: the notes of the reader.
    """

    images: int
    annotated_images: int
    objects: int
    ignored: int
    with_masks: bool
    groups: dict[Group, GroupCount]
    objects_per_image: tuple[float, ...]
    object_sizes: tuple[float, ...]
    image_sizes: tuple[tuple[int, int], float]
    counts: tuple[ClassCount, ...]
    notes: tuple[str, ...]

    def most_frequent(self, number: int = 10) -> tuple[ClassCount, ...]:
        """The classes with the most images."""
        return self.counts[:number]

    def least_frequent(self, number: int = 10) -> tuple[ClassCount, ...]:
        """The classes with the fewest images, but at least one; the rarest first."""
        present = [count for count in self.counts if count.images]
        return tuple(reversed(present[-number:]))


def summarize(annotations: Annotations) -> Summary:
    """Counts the content of an annotation file."""
    objects, categories = annotations.objects, annotations.categories
    image_counts, object_counts, annotated = count_classes(objects, len(categories))
    counts = [
        ClassCount(category, int(image_counts[label]), int(object_counts[label]))
        for label, category in enumerate(categories)
    ]
    annotated_rows = ~objects.ignored
    per_image = np.bincount(objects.images[annotated_rows], minlength=annotations.num_images)
    sides = objects.boxes[annotated_rows, 2:] - objects.boxes[annotated_rows, :2]
    sizes, frequency = np.unique(annotations.sizes, axis=0, return_counts=True)
    height, width = sizes[frequency.argmax()].tolist()
    return Summary(
        images=annotations.num_images,
        annotated_images=annotated,
        objects=int(annotated_rows.sum()),
        ignored=int((~annotated_rows).sum()),
        with_masks=annotations.has_masks,
        groups={group: _count_group(group, counts) for group in get_args(Group)},
        objects_per_image=_compute_quantiles(per_image[per_image > 0]),
        object_sizes=_compute_quantiles(np.sqrt(sides.prod(axis=1))),
        image_sizes=((width, height), float(frequency.max() / annotations.num_images)),
        counts=tuple(sorted(counts, key=lambda count: (-count.images, -count.objects, count.category.id))),
        notes=annotations.notes,
    )


def _count_group(group: Group, counts: list[ClassCount]) -> GroupCount:
    members = [count for count in counts if count.category.group == group]
    return GroupCount(len(members), sum(count.images > 0 for count in members), sum(count.objects for count in members))


def _compute_quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else (0.0,) * len(QUANTILES)
