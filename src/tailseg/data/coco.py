"""Reading LVIS v1, LVIS v0.5 and any COCO-format file of instance annotations.

What is accepted: polygons, run lengths (a list or compressed), no segmentation (boxes only), crowd and ignore regions,
category ids with gaps. What is repaired, with a warning that counts it: boxes that reach up to ``BOX_TOLERANCE`` pixels
beyond the image are clipped; objects below one pixel in width or height are kept but not trained on. Everything else is
an error that names the records: training would go wrong silently, or stop hours later.
"""

import json
import warnings
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.data.annotations import Annotations, Category, Objects, count_frequency
from tailseg.data.images import ImageFinder, candidate_names, leaves_root
from tailseg.data.lvis import class_lists, is_lvis, stated_groups
from tailseg.data.packed import Ragged, offsets_of
from tailseg.data.problems import DatasetError, Problems
from tailseg.data.segmentations import compact, pack_segmentations
from tailseg.structures import ClassFrequency

BOX_TOLERANCE: Final = 2.0
"""Pixels by which a box may leave its image: annotation tools round outwards."""

SECTIONS: Final = ("images", "annotations", "categories")

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
    raw = _load(path)
    problems = Problems(path)
    raw_categories = sorted(_identified("category", raw["categories"], problems), key=lambda category: category["id"])
    raw_images = _identified("image", raw["images"], problems)
    raw_annotations = _identified("annotation", raw["annotations"], problems)
    _check_categories(raw_categories, problems)
    sizes = _sizes(raw_images, problems)
    names = _names(raw_images, problems)
    problems.stop_if_any()

    ids = [category["id"] for category in raw_categories]
    negative, not_exhaustive = class_lists(raw_images, ids, problems)
    objects, notes = _objects(raw_annotations, raw_images, ids, sizes, problems)
    del raw_annotations, raw["annotations"]
    for note in notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    categories, frequency = _categories(raw_categories, objects, frequency_from, problems)
    return Annotations(
        path=path,
        format="lvis" if is_lvis(raw_images) else "coco",
        categories=categories,
        frequency=frequency,
        image_ids=np.array([image["id"] for image in raw_images], np.int64),
        sizes=sizes,
        objects=objects,
        negative=negative,
        not_exhaustive=not_exhaustive,
        names=names,
        finder=ImageFinder(path, Path(images) if images is not None else None),
        notes=notes,
    )


def _load(path: Path) -> RawRecord:
    """The file's JSON, known to have the three sections of COCO, none of them empty."""
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DatasetError(f"{path} {kind}. Expected an annotation file in LVIS or COCO format (.json)")
    try:
        raw = json.loads(path.read_bytes(), object_hook=compact)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not JSON: {error}. Expected an annotation file in LVIS or COCO format; if it was downloaded, "
            "it may be incomplete or still compressed"
        ) from error
    found = list(raw) if isinstance(raw, dict) else f"a {type(raw).__name__} at the top"
    if not isinstance(raw, dict) or not all(isinstance(raw.get(section), list) for section in SECTIONS):
        raise DatasetError(
            f"{path} is not in COCO format: expected the lists {', '.join(SECTIONS)}, found {found}. Export the "
            "annotations as 'COCO instance segmentation'"
        )
    if empty := [section for section in SECTIONS if not raw[section]]:
        raise DatasetError(
            f"{path} is an empty data set: its list {' and '.join(empty)} has no entry. Check that the export selected "
            "annotated images"
        )
    return raw


def _identified(kind: str, records: Sequence[Any], problems: Problems) -> list[RawRecord]:
    """The records that have an id of their own; the others are problems."""
    wrong = [f"number {i}" for i, record in enumerate(records) if not _is_identified(record)]
    problems.add(f"{len(wrong)} {kind} records without an integer id", wrong, "Give each an id of its own")
    identified = [record for record in records if _is_identified(record)]
    counts = Counter(record["id"] for record in identified)
    if len(counts) < len(identified):
        double = [f"{kind} {i} ({count} times)" for i, count in counts.items() if count > 1]
        problems.add(f"{len(double)} {kind} ids occur more than once", double, "Number them anew")
    return identified


def _is_identified(record: object) -> bool:
    return isinstance(record, dict) and type(record.get("id")) is int


def _check_categories(categories: Sequence[RawRecord], problems: Problems) -> None:
    nameless = [f"category {category['id']}" for category in categories if not isinstance(category.get("name"), str)]
    problems.add(f"{len(nameless)} categories without a name", nameless, "Add the key name")


def _categories(
    raw: Sequence[RawRecord], objects: Objects, training: Annotations | None, problems: Problems
) -> tuple[tuple[Category, ...], ClassFrequency]:
    """The classes with their groups (as stated, as in the training set, or as counted), and their frequencies."""
    groups = stated_groups(raw, problems)
    if training is None:
        frequency = count_frequency(objects, len(raw), groups)
    else:
        mine, theirs = {c["id"]: c["name"] for c in raw}, {c.id: c.name for c in training.categories}
        different = sorted(mine.items() ^ theirs.items())
        problems.add(
            f"its categories differ from those of the training set {training.path} ({len(mine)} and {len(theirs)})",
            [f"{i} {name!r}, only in the {'one' if mine.get(i) == name else 'training set'}" for i, name in different],
            "Both files need the same ids and names",
        )
        problems.stop_if_any()
        frequency = training.frequency
    stated = groups or frequency.groups
    categories = tuple(Category(c["id"], c["name"], group) for c, group in zip(raw, stated, strict=True))
    return categories, frequency


def _sizes(images: Sequence[RawRecord], problems: Problems) -> np.ndarray:
    """Height and width of each image, int64 ``[images, 2]``."""
    sides = [(image.get("height"), image.get("width")) for image in images]
    wrong = [
        f"image {image['id']} has height {height!r} and width {width!r}"
        for image, (height, width) in zip(images, sides, strict=True)
        if not (type(height) is int and type(width) is int and height > 0 and width > 0)
    ]
    problems.add(f"{len(wrong)} images without a size in pixels", wrong, "Give each a height and a width above 0")
    return np.zeros((len(images), 2), np.int64) if wrong else np.array(sides, np.int64).reshape(-1, 2)


def _names(images: Sequence[RawRecord], problems: Problems) -> Ragged:
    """The names under which each image may be found."""
    rows, nameless, outside = [], [], []
    for image in images:
        given = [image.get("file_name"), image.get("coco_url")]
        names = candidate_names(*(name if isinstance(name, str) else None for name in given))
        if not names:
            nameless.append(f"image {image['id']}")
        outside += [f"image {image['id']} has {name!r}" for name in names if leaves_root(name)]
        rows.append("\n".join(names))
    problems.add(f"{len(nameless)} images without a file_name or a coco_url", nameless, "Add one of them")
    problems.add(
        f"{len(outside)} file names are absolute or lead out of the image folder",
        outside,
        "Write them relative to the folder that holds all images, and name that folder",
    )
    return Ragged.pack_text(rows)


def _objects(
    annotations: Sequence[RawRecord],
    images: Sequence[RawRecord],
    category_ids: Sequence[int],
    sizes: np.ndarray,
    problems: Problems,
) -> tuple[Objects, tuple[str, ...]]:
    """The annotations ordered by image and packed, and what was repaired."""
    image_of = _positions(annotations, "image_id", [image["id"] for image in images], problems)
    labels = _positions(annotations, "category_id", category_ids, problems)
    problems.stop_if_any()

    order = np.argsort(image_of, kind="stable")
    annotations = [annotations[i] for i in order.tolist()]
    image_of, labels = image_of[order], labels[order]
    names = [f"annotation {a['id']} (image {a['image_id']})" for a in annotations]
    boxes = _boxes(annotations, sizes[image_of], names, problems)
    polygons, polygon_offsets, run_lengths = pack_segmentations(
        [annotation.get("segmentation") for annotation in annotations], sizes[image_of], names, problems
    )
    problems.stop_if_any()

    clipped = np.clip(boxes, 0, np.tile(sizes[image_of][:, ::-1], 2))
    objects = Objects(
        boxes=clipped.astype(np.float32),
        labels=labels,
        ids=np.array([annotation["id"] for annotation in annotations], np.int64),
        ignored=np.array([bool(a.get("iscrowd") or a.get("ignore")) for a in annotations]),
        offsets=offsets_of(np.bincount(image_of, minlength=len(images))),
        polygons=polygons,
        polygon_offsets=polygon_offsets,
        run_lengths=run_lengths,
    )
    return objects, _notes(objects, np.abs(clipped - boxes).max(axis=1))


def _notes(objects: Objects, overshoot: np.ndarray) -> tuple[str, ...]:
    """What was repaired, one sentence a kind."""
    moved = int((overshoot > 1e-3).sum())  # not the rounding of x + width
    small = int((~objects.ignored & ~objects.trainable).sum())
    return (
        *[f"{moved} boxes reach up to {overshoot.max():.2g} pixels beyond their image: clipped"] * (moved > 0),
        *[f"{small} objects are below one pixel in width or height: not trained on"] * (small > 0),
    )


def _positions(annotations: Sequence[RawRecord], key: str, known: Sequence[int], problems: Problems) -> np.ndarray:
    """Where each annotation's image or category stands in its list, int64; -1 (a problem) where it does not."""
    position = {record_id: i for i, record_id in enumerate(known)}
    values = [annotation.get(key) for annotation in annotations]
    found = np.array([position.get(value, -1) if type(value) is int else -1 for value in values], np.int64)
    unknown = [f"annotation {annotations[i]['id']} has {key} {values[i]!r}" for i in np.flatnonzero(found < 0)]
    kind = key.removesuffix("_id")
    problems.add(
        f"{len(unknown)} annotations of an unknown {kind}", unknown, f"Add the {kind}, or remove the annotations"
    )
    return found


def _boxes(annotations: Sequence[RawRecord], sizes: np.ndarray, names: Sequence[str], problems: Problems) -> np.ndarray:
    """Boxes as xyxy, float64 ``[M, 4]``, after the checks."""
    given = [annotation.get("bbox") for annotation in annotations]
    flat = array("d")
    unreadable = np.zeros(len(given), bool)
    for i, box in enumerate(given):
        numbers = _four_numbers(box)
        unreadable[i] = numbers is None
        flat.extend(numbers or [0.0] * 4)
    corner, sides = np.split(np.frombuffer(flat, np.float64).reshape(-1, 4), 2, axis=1)
    boxes = np.concatenate([corner, corner + sides], axis=1)

    infinite = ~np.isfinite(boxes).all(axis=1)
    negative = ~infinite & (sides.min(axis=1) < 0)
    beyond = np.maximum(-corner, boxes[:, 2:] - sizes[:, ::-1]).max(axis=1)
    outside = ~infinite & ~negative & (beyond > BOX_TOLERANCE)
    order = "Write bbox as [x, y, width, height], x and y of the upper left corner"
    for wrong, what, remedy in (
        (unreadable, "are not four numbers", order),
        (infinite, "have NaN or infinite numbers", "Correct or remove them"),
        (negative, "have a negative width or height", order),
        (
            outside,
            f"reach more than {BOX_TOLERANCE:g} pixels beyond their image",
            f"{order}; clip it to the image, or correct the image's width and height if those are wrong",
        ),
    ):
        records = [
            f"{names[i]} has {given[i]}, its image is {sizes[i, 1]} x {sizes[i, 0]}" for i in np.flatnonzero(wrong)
        ]
        problems.add(f"{len(records)} boxes {what}", records, remedy)
    return boxes


def _four_numbers(box: object) -> Sequence[float] | None:
    if not isinstance(box, list) or len(box) != 4:
        return None
    try:
        return array("d", box)
    except TypeError:
        return None
