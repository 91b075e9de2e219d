"""Reading LVIS v1, LVIS v0.5 and any COCO-format file of instance annotations.

What is accepted: polygons, run lengths (a list or compressed), no segmentation (boxes only), crowd and ignore regions,
category ids with gaps. What is repaired, with a warning that counts it: boxes that reach up to ``BOX_TOLERANCE`` pixels
beyond the image are clipped; objects below one pixel in width or height are kept but not trained on. Everything else is
an error that names the records: training would go wrong silently, or stop hours later.

A large file is parsed once: see `tailseg.annotations.cache`.
"""

import hashlib
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.annotations.cache import cached
from tailseg.annotations.dataset import Annotations, Category, Contents, Objects, count_frequency
from tailseg.annotations.image_files import MAX_PIXELS, ImageFinder, candidate_names, is_safe_name, is_text
from tailseg.annotations.lvis import class_lists, is_lvis, stated_groups
from tailseg.annotations.problems import DatasetError, Problems
from tailseg.annotations.ragged import Ragged, offsets_of
from tailseg.annotations.raw import RawAnnotation, RawAnnotations, split
from tailseg.annotations.segmentations import SegmentationPacker
from tailseg.annotations.types import ClassCounts

BOX_TOLERANCE: Final = 2.0
"""Pixels by which a box may leave its image: annotation tools round outwards."""

FLAGS: Final = (None, 0, 1)
"""What ``iscrowd`` and ``ignore`` may be, false and true among them."""

RawRecord = dict[str, Any]


def read_dataset(
    annotation_file: str | Path, *, images: str | Path | None = None, frequency_from: Annotations | None = None
) -> Annotations:
    """Read and check an annotation file.

    Args:
        annotation_file: LVIS v1, LVIS v0.5 or COCO format (JSON).
        images: folder of the images. None looks beside the annotation file, in its ``images`` folder, in the folder
            above, and where ``$TAILSEG_DATA`` and ``$DETECTRON2_DATASETS/coco`` say. Files are looked for when they are
            wanted, by ``file_name`` and by the tail of ``coco_url``.
        frequency_from: the training set that this file validates: its class frequencies, and its frequency groups
            where the file states none.

    Raises:
        DatasetError: no such file, not JSON, not COCO, empty, or malformed records; a ``ValueError`` that names the
            file, the first records of each kind, and the remedy.
    """
    path = Path(annotation_file)
    if not path.is_file():
        other = "is a folder, not a file" if path.is_dir() else "is a pipe or a device, not a file"
        kind = other if path.exists() else "does not exist"
        raise DatasetError(f"{path} {kind}. Expected an annotation file in LVIS or COCO format (.json)")
    contents = cached(path, parse)
    for note in contents.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    categories, frequency = _categories(contents, frequency_from, path)
    return Annotations(
        path=path,
        key=contents.key,
        format=contents.format,
        categories=categories,
        frequency=frequency,
        image_ids=contents.image_ids,
        sizes=contents.sizes,
        objects=contents.objects,
        negative=contents.negative,
        not_exhaustive=contents.not_exhaustive,
        names=contents.names,
        finder=ImageFinder(path, Path(images) if images is not None else None),
        notes=contents.notes,
    )


def parse(path: Path) -> Contents:
    """Read, check and pack an annotation file.

    Raises:
        DatasetError: as `read_dataset`.
    """
    content = path.read_bytes()
    key = hashlib.sha256(content).hexdigest()
    raw_images, annotations, raw_categories = split(content, path)
    problems = Problems(path)
    images = _identified("image", raw_images, problems)
    categories = sorted(_identified("category", raw_categories, problems), key=lambda category: category["id"])
    problems.add(
        "categories without a name",
        [category["id"] for category in categories if not is_text(category.get("name"))],
        "Add the key name",
        name=lambda category_id: f"category {category_id}",
    )
    sizes = _sizes(images, problems)
    names = _names(images, problems)
    problems.stop_if_any()
    ids = [category["id"] for category in categories]
    groups = stated_groups(categories, problems)
    negative, not_exhaustive = class_lists(images, ids, problems)
    image_ids = [image["id"] for image in images]
    image_of, objects, notes = _objects(annotations, image_ids, ids, sizes, problems)
    del content, annotations  # a gigabyte, before as much is moved
    return Contents(
        key=key,
        format="lvis" if is_lvis(images) else "coco",
        category_ids=tuple(ids),
        category_names=tuple(category["name"] for category in categories),
        groups=groups,
        image_ids=np.array(image_ids, np.int64),
        sizes=sizes,
        objects=objects.take(np.argsort(image_of, kind="stable")),
        negative=negative,
        not_exhaustive=not_exhaustive,
        names=names,
        notes=notes,
    )


def is_integer(value: object) -> bool:
    """Whether a value is an integer (not true or false) that int64 can hold."""
    return type(value) is int and -(2**63) <= value < 2**63


def _identified(kind: str, records: Sequence[Any], problems: Problems) -> list[RawRecord]:
    """The records that have an id of their own; the others are problems."""
    right = [isinstance(record, dict) and is_integer(record.get("id")) for record in records]
    _check_ids(
        kind,
        [i for i, identified in enumerate(right) if not identified],
        [record["id"] for record, identified in zip(records, right, strict=True) if identified],
        problems,
    )
    return [record for record, identified in zip(records, right, strict=True) if identified]


def _check_ids(kind: str, nameless: Sequence[int], ids: Sequence[int], problems: Problems) -> None:
    problems.add(
        f"{kind} records without an integer id",
        nameless,
        "Give each an id of its own",
        name=lambda position: f"number {position}",
    )
    if len(set(ids)) < len(ids):
        problems.add(
            f"{kind} ids occur more than once",
            [(i, count) for i, count in Counter(ids).items() if count > 1],
            "Number them anew",
            name=lambda double: f"{kind} {double[0]} ({double[1]} times)",
        )


def _categories(
    contents: Contents, training: Annotations | None, path: Path
) -> tuple[tuple[Category, ...], ClassCounts]:
    """The classes with their groups (as stated, as in the training set, or as counted), and their frequencies."""
    mine = dict(zip(contents.category_ids, contents.category_names, strict=True))
    if training is None:
        frequency = count_frequency(contents.objects, len(mine), contents.groups)
    else:
        theirs = {c.id: c.name for c in training.categories}
        problems = Problems(path)
        problems.add(
            f"categories differ from those of the training set {training.path} ({len(mine)} and {len(theirs)} in all)",
            sorted(mine.items() ^ theirs.items()),
            "Both files need the same ids and names",
            name=lambda it: (
                f"{it[0]} {it[1]!r:.60}, only in the {'one' if mine.get(it[0]) == it[1] else 'training set'}"
            ),
        )
        problems.stop_if_any()
        frequency = training.frequency
    groups = contents.groups or frequency.groups
    return tuple(Category(*item, group) for item, group in zip(mine.items(), groups, strict=True)), frequency


def _sizes(images: Sequence[RawRecord], problems: Problems) -> np.ndarray:
    """Height and width of each image, int64 ``[images, 2]``."""

    def name(image: RawRecord) -> str:
        return f"image {image['id']} has height {image.get('height')!r:.60} and width {image.get('width')!r:.60}"

    sides = [(image.get("height"), image.get("width")) for image in images]
    pixels = [_pixels(*side) for side in sides]
    problems.add(
        "images without a size in pixels",
        [image for image, number in zip(images, pixels, strict=True) if not number],
        "Give each a height and a width, integers above 0",
        name=name,
    )
    problems.add(
        f"images have more than {MAX_PIXELS:,} pixels",
        [image for image, number in zip(images, pixels, strict=True) if number > MAX_PIXELS],
        "Cut them into tiles",
        name=name,
    )
    right = all(0 < number <= MAX_PIXELS for number in pixels)
    return np.array(sides if right else [(1, 1)] * len(sides), np.int64).reshape(-1, 2)


def _pixels(height: object, width: object) -> int:
    """Their product, 0 if they are no lengths."""
    if not (isinstance(height, int) and isinstance(width, int)) or bool in (type(height), type(width)):
        return 0
    return height * width if height > 0 and width > 0 else 0


def _names(images: Sequence[RawRecord], problems: Problems) -> Ragged:
    """The names under which each image may be found."""
    rows, nameless, unsafe = [], [], []
    for image in images:
        given = [image.get("file_name"), image.get("coco_url")]
        names = candidate_names(*(name if isinstance(name, str) else None for name in given))
        nameless += [image["id"]] * (not names)
        unsafe += [(image["id"], name) for name in names if not is_safe_name(name)]
        rows.append("\n".join(names))
    problems.add(
        "images without a file_name or a coco_url", nameless, "Add one of them", name=lambda image: f"image {image}"
    )
    problems.add(
        "file names are none that a file can have, are absolute or lead out of the image folder",
        unsafe,
        "Write them relative to the folder that holds all images, and name that folder",
        name=lambda found: f"image {found[0]} has {found[1][:100]!r}",
    )
    problems.stop_if_any()
    return Ragged.pack_text(rows)


class _Columns:
    """The annotations' fields, a column each: eight bytes a number."""

    def __init__(self, image_ids: Sequence[int], category_ids: Sequence[int], sizes: np.ndarray) -> None:
        self.nameless: list[int] = []
        self.ids, self.image_of, self.labels = array("q"), array("q"), array("q")
        self.boxes = array("d")
        self.unreadable: list[int] = []
        self.ignored = bytearray()
        self.undecided: list[int] = []
        self.segmentations = SegmentationPacker()
        self._images = {image_id: i for i, image_id in enumerate(image_ids)}
        self._categories = {category_id: i for i, category_id in enumerate(category_ids)}
        self._sizes = sizes.tolist()

    def add(self, number: int, record: RawAnnotation | None) -> None:
        """The file's annotation ``number``."""
        if record is None or not is_integer(record.id):
            self.nameless.append(number)
            return
        image = self._images.get(record.image_id, -1) if type(record.image_id) is int else -1
        self.labels.append(self._categories.get(record.category_id, -1) if type(record.category_id) is int else -1)
        self.image_of.append(image)
        self.ids.append(record.id)
        self.ignored.append(bool(record.iscrowd or record.ignore))
        if record.iscrowd not in FLAGS or record.ignore not in FLAGS:
            self.undecided.append(len(self.ids) - 1)
        if not self._add_box(record.bbox):
            self.boxes.fromlist([0.0] * 4)
            self.unreadable.append(len(self.ids) - 1)
        if image >= 0:  # without its image the file is refused anyway
            self.segmentations.add(record.segmentation, self._sizes[image])

    def _add_box(self, box: Any) -> bool:  # noqa: ANN401 - whatever the file has
        if not isinstance(box, list) or len(box) != 4:
            return False
        try:
            self.boxes.fromlist(box)
        except (TypeError, OverflowError):
            return False
        return True


def _objects(
    annotations: RawAnnotations,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    sizes: np.ndarray,
    problems: Problems,
) -> tuple[np.ndarray, Objects, tuple[str, ...]]:
    """Each annotation's image, the annotations packed in the file's order, and what was repaired."""
    columns = _Columns(image_ids, category_ids, sizes)
    for number, record in enumerate(annotations):
        columns.add(number, record)
    _check_ids("annotation", columns.nameless, columns.ids.tolist(), problems)
    problems.stop_if_any()  # from here on, row i is the file's annotation i
    ids, image_of, labels = (np.frombuffer(c, np.int64) for c in (columns.ids, columns.image_of, columns.labels))
    for found, key in ((image_of, "image_id"), (labels, "category_id")):
        kind = key.removesuffix("_id")
        problems.add(
            f"annotations of an unknown {kind}",
            np.flatnonzero(found < 0),
            f"Add the {kind}, or remove the annotations",
            name=lambda row, key=key: f"annotation {ids[row]} has {key} {annotations.field(row, key)!r:.60}",
        )
    problems.stop_if_any()

    def name(row: int) -> str:
        return f"annotation {ids[row]} (image {image_ids[image_of[row]]})"

    size = sizes[image_of]
    boxes = _check_boxes(
        columns, size, lambda row: f"{name(row)} has {annotations.field(row, 'bbox')!r:.100}", problems
    )
    problems.add(
        "annotations have an iscrowd or an ignore that is neither 0 nor 1",
        columns.undecided,
        "Write 1 for a region to be left alone, 0 or nothing for an object",
        name=lambda row: (
            f"{name(row)} has {annotations.field(row, 'iscrowd')!r:.60} and {annotations.field(row, 'ignore')!r:.60}"
        ),
    )
    polygons, polygon_offsets, run_lengths = columns.segmentations.pack(
        size, name, lambda row: annotations.field(row, "segmentation"), problems
    )
    problems.stop_if_any()

    clipped = np.clip(boxes, 0, np.tile(size[:, ::-1], 2))
    objects = Objects(
        boxes=clipped.astype(np.float32),
        labels=labels,
        ids=ids,
        ignored=np.frombuffer(columns.ignored, bool),
        offsets=offsets_of(np.bincount(image_of, minlength=len(sizes))),
        polygons=polygons,
        polygon_offsets=polygon_offsets,
        run_lengths=run_lengths,
    )
    return image_of, objects, _notes(objects, np.abs(clipped - boxes).max(axis=1))


def _notes(objects: Objects, overshoot: np.ndarray) -> tuple[str, ...]:
    """What was repaired, one sentence a kind."""
    moved = int((overshoot > 1e-3).sum())  # not the rounding of x + width
    small = int((~objects.ignored & ~objects.trainable).sum())
    return (
        *[f"{moved} boxes reach up to {overshoot.max():.2g} pixels beyond their image: clipped"] * (moved > 0),
        *[f"{small} objects are below one pixel in width or height: not trained on"] * (small > 0),
    )


def _check_boxes(columns: _Columns, sizes: np.ndarray, name: Callable[[int], str], problems: Problems) -> np.ndarray:
    """Boxes as xyxy, float64 ``[M, 4]``, after the checks."""
    corner, sides = np.split(np.frombuffer(columns.boxes, np.float64).reshape(-1, 4), 2, axis=1)
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite numbers
        boxes = np.concatenate([corner, corner + sides], axis=1)
        beyond = np.maximum(-corner, boxes[:, 2:] - sizes[:, ::-1]).max(axis=1)
    infinite = ~np.isfinite(boxes).all(axis=1)
    negative = ~infinite & (sides.min(axis=1) < 0)
    outside = ~infinite & ~negative & (beyond > BOX_TOLERANCE)
    order = "Write bbox as [x, y, width, height], x and y of the upper left corner"
    for wrong, what, remedy in (
        (columns.unreadable, "are not four numbers", order),
        (np.flatnonzero(infinite), "have NaN or infinite numbers", "Correct or remove them"),
        (np.flatnonzero(negative), "have a negative width or height", order),
        (
            np.flatnonzero(outside),
            f"reach more than {BOX_TOLERANCE:g} pixels beyond their image",
            f"{order}; clip it to the image, or correct the image's width and height if those are wrong",
        ),
    ):
        problems.add(
            f"boxes {what}",
            wrong,
            remedy,
            name=lambda row: f"{name(row)}, its image is {sizes[row, 1]} x {sizes[row, 0]}",
        )
    return boxes
