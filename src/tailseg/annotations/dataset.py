"""The annotations of a data set in memory: flat arrays that loader processes share without a copy.

Shapes: N objects and K crowd regions of one image, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from tailseg.annotations.image_files import ImageFinder
from tailseg.annotations.kinds import BITS
from tailseg.annotations.problems import Problem
from tailseg.annotations.ragged import Ragged, compute_offsets
from tailseg.annotations.types import (
    LVIS_BOUNDS,
    ClassCounts,
    Group,
    GroupBounds,
    ImageInfo,
    Orientation,
    Polygons,
    RunLengths,
    Segmentation,
    frequency_group,
)


@dataclass(frozen=True)
class Category:
    """A category of the annotation file: its id (any integer), its name, and its frequency group in the training "
    "set.
    """

    id: int
    name: str
    group: Group


@dataclass(frozen=True, eq=False)
class Record:
    """The annotations of one image.

    Attributes:
        boxes: absolute xyxy, within the image.
        labels: ``0 .. C-1``, in the order of ``Annotations.categories``.
        segmentations: one per object; a rectangle if the file has none (see ``Annotations.has_masks``).
        annotation_ids: the objects' ids in the file.
        ignore_boxes: the boxes of crowd and ignore regions.
        negative_ids: ids of the categories that are known to be absent (LVIS).
        not_exhaustive_ids: ids of the categories with objects that are not annotated (LVIS).
    """

    boxes: Float32[np.ndarray, "N 4"]
    labels: Int64[np.ndarray, " N"]
    segmentations: tuple[Segmentation, ...]
    annotation_ids: Int64[np.ndarray, " N"]
    ignore_boxes: Float32[np.ndarray, "K 4"]
    negative_ids: tuple[int, ...]
    not_exhaustive_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False)
class Objects:
    """All annotated objects and regions, ordered by image; one row per object unless noted.

    Attributes:
        boxes: float32 ``[M, 4]`` xyxy, clipped to the image.
        written_boxes: float64 ``[M, 4]`` xywh, as written in the file.
        areas: float64 ``[M]``, as written in the file; NaN where missing.
        labels: int64 ``[M]``.
        ids: int64 ``[M]``, ids of the annotations.
        ignored: bool ``[M]``: crowd and ignore regions.
        faults: uint32 ``[M]``: the problems, as bits of `tailseg.annotations.kinds.BITS`.
        offsets: int64 ``[images + 1]``: image ``i`` has rows ``offsets[i] : offsets[i + 1]``.
        polygons: one row per polygon, float64 ``x, y, x, y ...``, in the order of the file.
        first_polygons, polygon_counts: int64 ``[M]``: object ``m`` has the polygons ``first_polygons[m]`` to
            ``first_polygons[m] + polygon_counts[m] - 1``.
        run_lengths: one row per object, the compressed counts; empty for an object with polygons.
    """

    boxes: np.ndarray
    written_boxes: np.ndarray
    areas: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    ignored: np.ndarray
    faults: np.ndarray
    offsets: np.ndarray
    polygons: Ragged
    first_polygons: np.ndarray
    polygon_counts: np.ndarray
    run_lengths: Ragged

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, selected: np.ndarray) -> "Objects":
        """The selected objects (bool ``[M]``) of the same images."""
        if selected.all():
            return self
        rows = np.flatnonzero(selected)
        columns = ("boxes", "written_boxes", "areas", "labels", "ids", "ignored", "faults", "first_polygons")
        per_image = np.bincount(self.images[rows], minlength=len(self.offsets) - 1)
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in (*columns, "polygon_counts")},
            offsets=compute_offsets(per_image),
            run_lengths=self.run_lengths.take(rows),
        )

    def is_marked(self, *kinds: str) -> np.ndarray:
        """Whether each object has a problem of these kinds, bool ``[M]``."""
        return (self.faults & np.uint32(sum(BITS[kind] for kind in kinds))) > 0

    @property
    def masked(self) -> np.ndarray:
        """Whether each object has a segmentation, bool ``[M]``."""
        return (self.polygon_counts > 0) | (np.diff(self.run_lengths.offsets) > 0)

    @property
    def trainable(self) -> np.ndarray:
        """Whether training uses each object, bool ``[M]``: not ignored, and at least one pixel wide and high.

        mmdetection has the same rule.
        """
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return ~self.ignored & (sides >= 1).all(axis=1)

    @property
    def images(self) -> np.ndarray:
        """The image of each object, as its position in the file, int64 ``[M]``."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True, eq=False)
class Contents:
    """The packed content of an annotation file and its problems. Names and shapes are those of `Annotations`.

    Attributes:
        groups: the groups that the categories state; None unless all categories state one.
        listed_ids: ids of the categories in the order of the file.
        text_ids: the image and the category ids that are written as text, with that text.
    """

    key: str
    format: Literal["lvis", "coco"]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    groups: tuple[Group, ...] | None
    image_ids: np.ndarray
    sizes: np.ndarray
    objects: Objects
    negative: Ragged
    not_exhaustive: Ragged
    names: Ragged
    problems: tuple[Problem, ...]
    listed_ids: tuple[int, ...]
    text_ids: tuple[dict[int, str], dict[int, str]] = ({}, {})


@runtime_checkable
class ImageSource(Protocol):
    """What gives images that lie in no files."""

    def read(self, info: ImageInfo, /) -> Any:  # noqa: ANN401 - a tensor, which this package does not know
        """The image as RGB, uint8 ``[3, h, w]``.

        Raises:
            ImageError: there is none, or it has another size.
        """


@dataclass(frozen=True, eq=False)
class Annotations:
    """An annotation file in memory, read by `tailseg.annotations.read_dataset`.

    The index of an image is its position ``0 .. num_images-1`` in the file. The label of a class is ``0 .. C-1``, in
    the order of the category ids. Large data is in NumPy arrays. For a large annotation file, these arrays are mapped
    from a cache file (`tailseg.annotations.cache`) that loader processes share.

    Attributes:
        path: the annotation file.
        key: SHA-256 of the file's content, in hexadecimal.
        format: ``lvis`` if the images list the classes that were checked, otherwise ``coco``.
        categories: in the order of the labels.
        frequency: frequencies of the classes in the training set: this file, unless ``frequency_from`` named another
            one.
        image_ids: int64 ``[num_images]``.
        sizes: int64 ``[num_images, 2]``: height and width.
        objects: the objects of all images.
        negative: ids of the absent categories, one row per image.
        not_exhaustive: ids of the categories that are not exhaustively annotated, one row per image.
        names: possible names of the image files, one row per image, separated by line feeds.
        finder: finds the image files.
        notes: what the reader repaired or left out, one sentence each.
        remarks: information that needs no action, one sentence each.
        problems: all problems of the file, for this and for other uses.
        listed_ids: ids of the categories in the order of the file.
        text_ids: the image and the category ids that are written as text, with that text: results keep it.
        states_groups: whether the file states the frequency groups of its categories.
        group_bounds: bounds by which image counts give frequency groups, if the file states none.
        orientation: how images with an EXIF orientation are read, if their annotated size allows both ways.
        source: gives the images in place of files, see `tailseg.data.source`.
    """

    path: Path
    key: str
    format: Literal["lvis", "coco"]
    categories: tuple[Category, ...]
    frequency: ClassCounts
    image_ids: np.ndarray
    sizes: np.ndarray
    objects: Objects
    negative: Ragged
    not_exhaustive: Ragged
    names: Ragged
    finder: ImageFinder
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    listed_ids: tuple[int, ...] = ()
    text_ids: tuple[dict[int, str], dict[int, str]] = ({}, {})
    states_groups: bool = False
    group_bounds: GroupBounds = LVIS_BOUNDS
    orientation: Orientation = "shown"
    source: ImageSource | None = None

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        return len(self.categories)

    @property
    def num_objects(self) -> int:
        """Number of annotated objects, without crowd and ignore regions."""
        return int((~self.objects.ignored).sum())

    @cached_property
    def has_masks(self) -> bool:
        """Whether every object has a segmentation. A mask head needs them."""
        return bool(self.objects.masked[~self.objects.ignored].all())

    def get_info(self, index: int) -> ImageInfo:
        """Id, file and size of image ``index``; its name in place of the file if there is a ``source``.

        Raises:
            ImageError: the file is not found; the message names the folders.
        """
        names = self.names.text(index).split("\n")
        file = self.finder.find(names) if self.source is None else names[0]
        height, width = self.sizes[index]
        return ImageInfo(int(self.image_ids[index]), str(file), int(height), int(width), self.orientation)

    def get_record(self, index: int) -> Record:
        """The annotations of image ``index``."""
        objects = self.objects
        rows = np.arange(objects.offsets[index], objects.offsets[index + 1])
        annotated, ignored = rows[~objects.ignored[rows]], rows[objects.ignored[rows]]
        return Record(
            boxes=objects.boxes[annotated],
            labels=objects.labels[annotated],
            segmentations=tuple(self.get_segmentation(row, index) for row in annotated.tolist()),
            annotation_ids=objects.ids[annotated],
            ignore_boxes=objects.boxes[ignored],
            negative_ids=tuple(self.negative[index].tolist()),
            not_exhaustive_ids=tuple(self.not_exhaustive[index].tolist()),
        )

    def get_labels(self, index: int) -> Int64[np.ndarray, " K"]:
        """Labels of the classes that have an object in image ``index``, ascending."""
        rows = slice(self.objects.offsets[index], self.objects.offsets[index + 1])
        return np.unique(self.objects.labels[rows][~self.objects.ignored[rows]])

    def select_images(self, image_ids: Sequence[int]) -> "Annotations":
        """The annotations of the images with these ids, in the order of the file."""
        selected = np.isin(self.image_ids, np.array(image_ids, np.int64))
        rows = np.flatnonzero(selected)
        objects = self.objects.select(selected[self.objects.images])
        offsets = np.append(objects.offsets[:-1][rows], len(objects))
        return replace(
            self,
            image_ids=self.image_ids[rows],
            sizes=self.sizes[rows],
            objects=replace(objects, offsets=offsets),
            negative=self.negative.take(rows),
            not_exhaustive=self.not_exhaustive.take(rows),
            names=self.names.take(rows),
        )

    def get_segmentation(self, row: int, index: int) -> Segmentation:
        """The mask of object ``row``, which is in image ``index``.

        The box as a rectangle if the file has no mask; no polygon if the mask has no pixel.
        """
        objects = self.objects
        if objects.faults[row] & BITS["mask_empty"]:
            return ()
        if len(counts := objects.run_lengths[row]):
            return RunLengths(size=self.sizes[index].tolist(), counts=counts.tobytes().decode("ascii"))
        first = objects.first_polygons[row]
        last = first + objects.polygon_counts[row]
        polygons: Polygons = tuple(objects.polygons[number].reshape(-1, 2) for number in range(first, last))
        return polygons or (_make_rectangle(objects.boxes[row]),)


def _make_rectangle(box: Float32[np.ndarray, " 4"]) -> np.ndarray:
    x1, y1, x2, y2 = box.astype(np.float64)
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def count_classes(objects: Objects, num_classes: int) -> tuple[Int64[np.ndarray, " C"], Int64[np.ndarray, " C"], int]:
    """Counts images and objects of each class, and images with at least one object.

    Crowd and ignore regions are not counted.

    Returns:
        The number of images and the number of objects of each class, and the number of images with an object.
    """
    annotated = ~objects.ignored
    labels, images = objects.labels[annotated], objects.images[annotated]
    pairs = np.sort(images * num_classes + labels)  # np.unique takes a second for a million
    first = np.diff(pairs, prepend=-1) > 0
    image_counts = np.bincount(pairs[first] % num_classes, minlength=num_classes)
    return image_counts, np.bincount(labels, minlength=num_classes), int(np.count_nonzero(np.bincount(images)))


def with_group_bounds(annotations: Annotations, bounds: GroupBounds) -> Annotations:
    """Gives the annotations frequency groups with other bounds.

    Args:
        annotations: a data set.
        bounds: the most training images of a rare and of a common class.

    Returns:
        The data set with groups from the image counts of the training set. Groups that the file states are replaced.
    """
    groups = tuple(frequency_group(count, bounds) for count in annotations.frequency.image_counts.tolist())
    return replace(
        annotations,
        categories=tuple(replace(c, group=group) for c, group in zip(annotations.categories, groups, strict=True)),
        frequency=replace(annotations.frequency, groups=groups),
        states_groups=False,
        group_bounds=bounds,
    )


def get_scored_groups(annotations: Annotations) -> dict[int, Group]:
    """The frequency group of each category id, for APr, APc and APf.

    Groups that the file states are used unchanged. If the groups follow from counts, a class without a training image
    has no group: the model was not trained on it, and APr should not depend on it.
    """
    categories, counts = annotations.categories, annotations.frequency.image_counts.tolist()
    pairs = list(zip(categories, counts, strict=True))
    stated = annotations.states_groups or any(
        category.group != frequency_group(count, annotations.group_bounds) for category, count in pairs
    )
    return {category.id: category.group for category, count in pairs if stated or count}


def find_untrained_classes(train: Annotations, val: Annotations) -> list[str]:
    """Names of the classes that have objects in the validation set, but none in the training set.

    Args:
        train: the training set.
        val: the validation set, with the classes of the training set.
    """
    objects = val.objects
    has_objects = np.bincount(objects.labels[~objects.ignored], minlength=len(val.categories)) > 0
    return [
        val.categories[label].name
        for label in np.flatnonzero(has_objects & (train.frequency.image_counts == 0)).tolist()
    ]


def count_frequency(
    objects: Objects, num_classes: int, groups: tuple[Group, ...] | None, bounds: GroupBounds = LVIS_BOUNDS
) -> ClassCounts:
    """Counts the images and the objects of each class.

    Args:
        objects: all objects of a data set.
        num_classes: the number of classes, C.
        groups: the frequency groups that the file states; computed from the image counts if None.
        bounds: the bounds of these groups.

    Returns:
        The counts and groups of the C classes.
    """
    image_counts, instance_counts, num_images = count_classes(objects, num_classes)
    if groups is None:
        groups = tuple(frequency_group(count, bounds) for count in image_counts.tolist())
    return ClassCounts(image_counts, instance_counts, num_images, groups)
