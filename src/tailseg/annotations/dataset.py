"""A data set's annotations in memory: flat arrays that loader processes share without a copy.

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
from tailseg.annotations.ragged import Ragged, offsets_of
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
    """A class: its id in the annotation file (any integer), its name, its frequency group in the training set."""

    id: int
    name: str
    group: Group


@dataclass(frozen=True, eq=False)
class Record:
    """What the file says about one image.

    Attributes:
        boxes: absolute xyxy, within the image.
        labels: ``0 .. C-1``, in the order of ``Annotations.categories``.
        segmentations: one an object; a rectangle where the file has none (see ``Annotations.has_masks``).
        annotation_ids: the objects' ids in the file.
        ignore_boxes: of crowd and ignore regions.
        negative_ids: ids of the classes that are known to be absent (LVIS).
        not_exhaustive_ids: ids of the classes of which not every object is annotated (LVIS).
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
    """All annotated objects and regions, ordered by image; one row each unless said.

    Attributes:
        boxes: float32 ``[M, 4]`` xyxy, clipped to the image.
        written_boxes: float64 ``[M, 4]`` xywh, as the file has them.
        areas: float64 ``[M]``, as the file has them; NaN where it has none.
        labels: int64 ``[M]``.
        ids: int64 ``[M]``, ids of the annotations.
        ignored: bool ``[M]``: a crowd or ignore region.
        faults: uint32 ``[M]``, see `tailseg.annotations.kinds.BITS`.
        offsets: int64 ``[images + 1]``: image ``i`` has rows ``offsets[i] : offsets[i + 1]``.
        polygons: one row a polygon, float64 ``x, y, x, y ...``, in the order of the file.
        first_polygons, polygon_counts: int64 ``[M]``: object ``m`` has the polygons ``first_polygons[m]`` to
            ``first_polygons[m] + polygon_counts[m] - 1``.
        run_lengths: one row an object, the compressed counts; empty for an object of polygons.
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

    def keep(self, kept: np.ndarray) -> "Objects":
        """The rows ``kept`` (bool ``[M]``) of the same images."""
        if kept.all():
            return self
        rows = np.flatnonzero(kept)
        columns = ("boxes", "written_boxes", "areas", "labels", "ids", "ignored", "faults", "first_polygons")
        per_image = np.bincount(self.images[rows], minlength=len(self.offsets) - 1)
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in (*columns, "polygon_counts")},
            offsets=offsets_of(per_image),
            run_lengths=self.run_lengths.take(rows),
        )

    def marked(self, *kinds: str) -> np.ndarray:
        """Rows with a problem of these kinds, bool ``[M]``."""
        return (self.faults & np.uint32(sum(BITS[kind] for kind in kinds))) > 0

    @property
    def masked(self) -> np.ndarray:
        """Rows with a segmentation, bool ``[M]``."""
        return (self.polygon_counts > 0) | (np.diff(self.run_lengths.offsets) > 0)

    @property
    def trainable(self) -> np.ndarray:
        """Rows to learn from, bool ``[M]``: not ignored, at least a pixel wide and high (as in mmdetection)."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return ~self.ignored & (sides >= 1).all(axis=1)

    @property
    def images(self) -> np.ndarray:
        """Each row's image, as its position in the file, int64 ``[M]``."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True, eq=False)
class Contents:
    """What an annotation file holds, packed, with what is wrong with it; named and shaped as in `Annotations`.

    ``groups`` are those that the categories state, None where not all state one; ``listed_ids`` the ids of the
    categories in the order in which the file lists them; ``spelled`` are the image and the
    category ids that are written as text, as they are written.
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
    spelled: tuple[dict[int, str], dict[int, str]] = ({}, {})


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
    """An annotation file in memory, made by `tailseg.annotations.read.read_dataset`.

    Images are addressed by their position ``0 .. num_images-1`` in the file, classes by labels ``0 .. C-1``: the
    categories ordered by id. All that is large lies in NumPy arrays, mapped from a file where the annotation file is
    large (see `tailseg.annotations.cache`), so that loader processes share it.

    Attributes:
        path: the annotation file.
        key: SHA-256 of the file's content, in hexadecimal: equal where and only where the files are.
        format: ``lvis`` when the images say which classes were checked, else ``coco``.
        categories: in the order of the labels.
        frequency: of the classes in the training set: this file, unless it was read with ``frequency_from``.
        image_ids: int64 ``[num_images]``.
        sizes: int64 ``[num_images, 2]``: height and width.
        objects: the objects of all images.
        negative: category ids a row, one row an image.
        not_exhaustive: category ids a row, one row an image.
        names: names of the images' files, one row an image, separated by line feeds.
        finder: finds those files.
        notes: what was repaired in reading, one sentence each.
        remarks: what is of interest, and nothing was done about.
        problems: all that is wrong with the file, for this and for other uses.
        listed_ids: ids of the categories in the order in which the file lists them.
        spelled: image and category ids that are written as text, as they are written: results keep the spelling.
        states_groups: whether the file states the frequency groups of its categories.
        group_bounds: the bounds by which image counts make frequency groups where the file states none.
        orientation: how pictures are read that EXIF wants turned, where their annotated size allows both.
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
    spelled: tuple[dict[int, str], dict[int, str]] = ({}, {})
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
        """Annotated objects, without crowd and ignore regions."""
        return int((~self.objects.ignored).sum())

    @cached_property
    def has_masks(self) -> bool:
        """Whether every object has a segmentation; a mask head has nothing to learn from otherwise."""
        return bool(self.objects.masked[~self.objects.ignored].all())

    def info(self, index: int) -> ImageInfo:
        """Id, file and size of image ``index``; its name in place of the file if there is a ``source``.

        Raises:
            ImageError: the file is nowhere to be found; says where it looked.
        """
        names = self.names.text(index).split("\n")
        file = self.finder.find(names) if self.source is None else names[0]
        height, width = self.sizes[index]
        return ImageInfo(int(self.image_ids[index]), str(file), int(height), int(width), self.orientation)

    def record(self, index: int) -> Record:
        """What the file says about image ``index``."""
        objects = self.objects
        rows = np.arange(objects.offsets[index], objects.offsets[index + 1])
        kept, ignored = rows[~objects.ignored[rows]], rows[objects.ignored[rows]]
        return Record(
            boxes=objects.boxes[kept],
            labels=objects.labels[kept],
            segmentations=tuple(self.segmentation(row, index) for row in kept.tolist()),
            annotation_ids=objects.ids[kept],
            ignore_boxes=objects.boxes[ignored],
            negative_ids=tuple(self.negative[index].tolist()),
            not_exhaustive_ids=tuple(self.not_exhaustive[index].tolist()),
        )

    def classes_of(self, index: int) -> Int64[np.ndarray, " K"]:
        """Labels of the classes with an object in image ``index``, ascending, each once."""
        rows = slice(self.objects.offsets[index], self.objects.offsets[index + 1])
        return np.unique(self.objects.labels[rows][~self.objects.ignored[rows]])

    def only(self, image_ids: Sequence[int]) -> "Annotations":
        """The images with these ids, in the order of the file."""
        kept = np.isin(self.image_ids, np.array(image_ids, np.int64))
        rows = np.flatnonzero(kept)
        objects = self.objects.keep(kept[self.objects.images])
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

    def segmentation(self, row: int, index: int) -> Segmentation:
        """The mask of object ``row``, which is in image ``index``.

        A rectangle where the file has none; no polygon where the file's has no pixel.
        """
        objects = self.objects
        if objects.faults[row] & BITS["mask_empty"]:
            return ()
        if len(counts := objects.run_lengths[row]):
            return RunLengths(size=self.sizes[index].tolist(), counts=counts.tobytes().decode("ascii"))
        first = objects.first_polygons[row]
        last = first + objects.polygon_counts[row]
        polygons: Polygons = tuple(objects.polygons[i].reshape(-1, 2) for i in range(first, last))
        return polygons or (_rectangle(objects.boxes[row]),)


def _rectangle(box: Float32[np.ndarray, " 4"]) -> np.ndarray:
    x1, y1, x2, y2 = box.astype(np.float64)
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def count_classes(objects: Objects, num_classes: int) -> tuple[Int64[np.ndarray, " C"], Int64[np.ndarray, " C"], int]:
    """Images and objects of each class, and the images with at least one object; crowd and ignore regions left out."""
    kept = ~objects.ignored
    labels, images = objects.labels[kept], objects.images[kept]
    pairs = np.sort(images * num_classes + labels)  # np.unique takes a second for a million
    first = np.diff(pairs, prepend=-1) > 0
    image_counts = np.bincount(pairs[first] % num_classes, minlength=num_classes)
    return image_counts, np.bincount(labels, minlength=num_classes), int(np.count_nonzero(np.bincount(images)))


def with_group_bounds(annotations: Annotations, bounds: GroupBounds) -> Annotations:
    """The annotations with frequency groups by other bounds: rare up to the first number of images, common up to the
    second one, frequent above.

    The images of each class in the training set decide (`Annotations.frequency`); groups that the file states do not.
    """
    groups = tuple(frequency_group(count, bounds) for count in annotations.frequency.image_counts.tolist())
    return replace(
        annotations,
        categories=tuple(replace(c, group=group) for c, group in zip(annotations.categories, groups, strict=True)),
        frequency=replace(annotations.frequency, groups=groups),
        states_groups=False,
        group_bounds=bounds,
    )


def scored_groups(annotations: Annotations) -> dict[int, Group]:
    """Category id -> frequency group, for APr, APc and APf.

    Groups that a file states are taken as they are. Where they follow from counts, a class without an image in the
    training set is in none: it was never learned, and an AP of rare classes says nothing of it.
    """
    categories, counts = annotations.categories, annotations.frequency.image_counts.tolist()
    pairs = list(zip(categories, counts, strict=True))
    stated = annotations.states_groups or any(
        category.group != frequency_group(count, annotations.group_bounds) for category, count in pairs
    )
    return {category.id: category.group for category, count in pairs if stated or count}


def never_shown(train: Annotations, val: Annotations) -> list[str]:
    """Names of the classes of which the validation set, with the classes of the training set, alone has objects."""
    objects = val.objects
    found = np.bincount(objects.labels[~objects.ignored], minlength=len(val.categories)) > 0
    return [
        val.categories[label].name for label in np.flatnonzero(found & (train.frequency.image_counts == 0)).tolist()
    ]


def count_frequency(
    objects: Objects, num_classes: int, groups: tuple[Group, ...] | None, bounds: GroupBounds = LVIS_BOUNDS
) -> ClassCounts:
    """Counts in how many images each class occurs, and how many objects it has.

    Args:
        objects: the objects of a data set.
        num_classes: the number of classes, C.
        groups: the frequency groups that the file states; None derives them from the image counts.
        bounds: the bounds of these groups.

    Returns:
        The counts and groups of the C classes.
    """
    image_counts, instance_counts, num_images = count_classes(objects, num_classes)
    if groups is None:
        groups = tuple(frequency_group(count, bounds) for count in image_counts.tolist())
    return ClassCounts(image_counts, instance_counts, num_images, groups)
