"""What a data set contains, in numbers."""

from dataclasses import dataclass
from typing import Final, get_args

import numpy as np

from tailseg.annotations.dataset import Annotations, Category, count_classes
from tailseg.annotations.types import Group

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs in the file."""

    category: Category
    images: int
    objects: int


@dataclass(frozen=True)
class GroupCount:
    """A frequency group: its classes, those of them that occur in the file, and their objects."""

    classes: int
    present: int
    objects: int


@dataclass(frozen=True)
class Summary:
    """What a file contains; crowd and ignore regions are counted apart.

    Attributes:
        images: all images.
        annotated_images: images with at least one object.
        objects: objects.
        ignored: crowd and ignore regions.
        with_masks: whether every object has a segmentation.
        groups: counts by frequency group: r, c, f.
        objects_per_image: QUANTILES over the annotated images.
        object_sizes: QUANTILES of the square root of the box area, in pixels.
        image_sizes: most frequent ``(width, height)`` and its share of the images.
        counts: all classes, most frequent (by images, then objects) first.
        notes: what was repaired in reading.
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
        """The classes in most images."""
        return self.counts[:number]

    def least_frequent(self, number: int = 10) -> tuple[ClassCount, ...]:
        """The classes in fewest images that occur at all, rarest first."""
        present = [count for count in self.counts if count.images]
        return tuple(reversed(present[-number:]))


def summarize(annotations: Annotations) -> Summary:
    """Count what the annotation file contains."""
    objects, categories = annotations.objects, annotations.categories
    image_counts, object_counts, annotated = count_classes(objects, len(categories))
    counts = [
        ClassCount(category, int(image_counts[label]), int(object_counts[label]))
        for label, category in enumerate(categories)
    ]
    kept = ~objects.ignored
    per_image = np.bincount(objects.images[kept], minlength=annotations.num_images)
    sides = objects.boxes[kept, 2:] - objects.boxes[kept, :2]
    sizes, frequency = np.unique(annotations.sizes, axis=0, return_counts=True)
    height, width = sizes[frequency.argmax()].tolist()
    return Summary(
        images=annotations.num_images,
        annotated_images=annotated,
        objects=int(kept.sum()),
        ignored=int((~kept).sum()),
        with_masks=annotations.has_masks,
        groups={group: _count_group(group, counts) for group in get_args(Group)},
        objects_per_image=_compute_quantiles(per_image[per_image > 0]),
        object_sizes=_compute_quantiles(np.sqrt(sides.prod(axis=1))),
        image_sizes=((width, height), float(frequency.max() / annotations.num_images)),
        counts=tuple(sorted(counts, key=lambda count: (-count.images, -count.objects, count.category.id))),
        notes=annotations.notes,
    )


def _count_group(group: Group, counts: list[ClassCount]) -> GroupCount:
    mine = [count for count in counts if count.category.group == group]
    return GroupCount(len(mine), sum(count.images > 0 for count in mine), sum(count.objects for count in mine))


def _compute_quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else (0.0,) * len(QUANTILES)
