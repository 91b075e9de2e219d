"""A labeled data set as records, ready to be written in another format."""

import os
import reprlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.columns import parse_whole_number
from tailseg.annotations.dataset import Annotations
from tailseg.annotations.formats.builder import require_run_lengths
from tailseg.annotations.formats.registry import read_sections
from tailseg.annotations.formats.rings import MIN_POINTS, Ring, decode_mask, draw_rings, trace_rings
from tailseg.annotations.image_files import ImageError, is_safe_name
from tailseg.annotations.json_file import Sections, decode_record, encode_record, iterate_records
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.writers.records import ObjectRecords
from tailseg.words import inflect

Pictures = Literal["link", "copy", "none"]
ANNOTATION_FIELDS: Final = {
    "id",
    "image_id",
    "category_id",
    "bbox",
    "area",
    "segmentation",
    "iscrowd",
    "ignore",
    "score",
}
IMAGE_FIELDS: Final = {"id", "file_name", "height", "width"}
MAX_ROUNDING: Final = 0.01
"""Largest difference in pixels that is no other box or area: COCO has two decimals."""

CATEGORY_FIELDS: Final = {"id", "name"}


@dataclass(frozen=True)
class Shape:
    """The shape of an object in pixels of the image.

    Attributes:
        box: x, y, width, height.
        rings: the outlines of its parts; empty for a mask and for an object without one.
        mask: bool ``[h, w]`` of an object whose mask is given as run lengths.
    """

    box: tuple[float, float, float, float]
    rings: tuple[Ring, ...] = ()
    mask: np.ndarray | None = None

    @property
    def has_mask(self) -> bool:
        """Whether the object has more than a box."""
        return bool(self.rings) or self.mask is not None

    def draw(self, height: int, width: int) -> np.ndarray:
        """The mask, bool ``[height, width]``."""
        if self.mask is not None:
            return self.mask
        return decode_mask(draw_rings(self.rings, height, width))

    def list_rings(self, height: int, width: int) -> tuple[list[Ring], bool]:
        """The outlines of parts and holes by the even-odd rule.

        Args:
            height: of the image.
            width: of the image.

        Returns:
            The rings, and whether they had to be traced because parts of the object overlap.
        """
        if self.mask is not None:
            return trace_rings(self.mask), False
        if len(self.rings) == 1:
            return list(self.rings), False
        single = [coco.frPyObjects([ring.ravel().tolist()], height, width) for ring in self.rings]
        total = sum(float(coco.area(part)[0]) for part in single)
        if float(coco.area(draw_rings(self.rings, height, width))) == total:
            return list(self.rings), False
        return trace_rings(self.draw(height, width)), True


@dataclass
class Labels:
    """A labeled data set.

    Attributes:
        annotations: the data set as it was read and checked; finds the image files.
        images: the records of images, with height and width.
        objects: the records of the objects of each image, by its id.
        categories: the records of classes, ordered by id.
        header: the sections info, licenses and videos of the file.
        are_results: whether the objects are detections.
        losses: counts of what the written format cannot keep.
        num_left_out: number of objects among them.
    """

    annotations: Annotations
    images: list[dict[str, Any]]
    objects: ObjectRecords
    categories: list[dict[str, Any]]
    header: dict[str, Any] = field(default_factory=dict)
    are_results: bool = False
    losses: Counter[str] = field(default_factory=Counter)
    num_left_out: int = 0

    @property
    def num_written(self) -> int:
        """The number of objects that are written."""
        return self.objects.num_objects - self.num_left_out

    @property
    def names(self) -> dict[int, str]:
        """The names of the classes by id."""
        return {category["id"]: category["name"] for category in self.categories}

    def require_unique_names(self) -> None:
        """Checks that each class has its own name, for formats that know classes by name.

        Raises:
            DatasetError: two classes have one name.
        """
        repeated = [name for name, count in Counter(self.names.values()).items() if count > 1]
        if repeated:
            raise DatasetError(
                f"{self.annotations.path}: {', '.join(repeated):.100} is the name of several categories, and this "
                "format knows classes by name. Give each its own name"
            )

    def lose(self, what: str, number: int = 1) -> None:
        """Counts what the format cannot keep: ``[crowd region|crowd regions]``."""
        if number:
            self.losses[what] += number

    def leave_out(self, what: str, number: int = 1) -> None:
        """Counts objects that the format cannot keep at all."""
        self.lose(what, number)
        self.num_left_out += number

    def lose_fields(self) -> None:
        """Counts the further fields of records that the format cannot keep."""
        objects = (record for records in self.objects.values() for record in records)
        for records, standard, noun in (
            (self.images, IMAGE_FIELDS, "images"),
            (objects, ANNOTATION_FIELDS, "annotations"),
            (self.categories, CATEGORY_FIELDS, "categories"),
        ):
            counts = Counter(key for record in records for key in record.keys() - standard)
            for key, count in sorted(counts.items()):
                self.lose(f"[field|fields] {key!r:.40} of {noun}", count)

    def lose_measures(self, *, boxes: bool = True, regions: bool = False) -> None:
        """Counts the areas, and with ``boxes`` the boxes, that a reader computes again from the masks and finds others.

        Formats store no areas, and most store either a box or a mask. With ``regions``, crowd and ignore regions are
        counted as well.
        """
        for image in self.images:
            height, width = image["height"], image["width"]
            for record in self.objects[image["id"]]:
                if is_region(record) and not regions:
                    continue
                shape = get_shape(record, height, width)
                if not shape.has_mask:
                    continue
                if shape.mask is not None:
                    area, around = float(shape.mask.sum()), coco.toBbox(_compress(record["segmentation"])).tolist()
                else:
                    area = float(coco.area(draw_rings(shape.rings, height, width)))
                    points = np.concatenate(shape.rings)
                    around = [*points.min(axis=0).tolist(), *np.ptp(points, axis=0).tolist()]
                other_area = "area" in record and abs(float(record["area"]) - area) > MAX_ROUNDING
                self.lose("[area is|areas are] not the number of the mask's pixels: computed again", int(other_area))
                other_box = max(abs(a - b) for a, b in zip(shape.box, around, strict=True)) > MAX_ROUNDING
                self.lose("[box is|boxes are] not the one around the mask: computed again", int(boxes and other_box))

    def list_losses(self) -> list[str]:
        """The losses as sentences with counts."""
        return [f"{count:,} {inflect(text, count)}" for text, count in self.losses.items()]


class _Keys(msgspec.Struct):
    """The fields of a record that say where it belongs."""

    id: int
    image_id: int
    category_id: int


def _read_keys(record: msgspec.Raw) -> _Keys | None:
    """Reads the ids of a record; None if one is missing or no whole number."""
    try:
        return msgspec.json.decode(record, type=_Keys)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def read_labels(
    annotations: Annotations,
    results: Sequence[Mapping[str, Any]] | None = None,
    sections: Sections | None = None,
) -> Labels:
    """Reads the records of a data set in any format.

    Args:
        annotations: the checked data set, from `tailseg.annotations.read_dataset`.
        results: detections that stand for the annotations, see `select_results`.
        sections: the records, if they are in memory; read from the data set's path if None.

    Returns:
        The records with ids as whole numbers.

    Raises:
        DatasetError: an image name leads out of its folder.
    """
    sections = read_sections(annotations.path) if sections is None else sections
    known = {int(key): row for row, key in enumerate(annotations.image_ids.tolist())}
    images = []
    for record in sections.images:
        key = int(record["id"])
        height, width = annotations.sizes[known[key]].tolist()
        names = annotations.names.text(known[key]).split("\n")
        if not names[0] or not is_safe_name(names[0]):
            raise DatasetError(f"{annotations.path}: image {key} has no file name within the image folder")
        images.append(record | {"id": key, "height": height, "width": width, "file_name": names[0]})
    ids, objects = {category.id for category in annotations.categories}, ObjectRecords(known, sections.text)
    stems = {Path(image["file_name"]).stem: image["id"] for image in images}
    num_unknown = 0
    records = iterate_records(sections.annotations, sections.text) if results is None else results
    for number, record in enumerate(records, start=1):
        if isinstance(record, msgspec.Raw):
            keys = _read_keys(record)
            if keys is not None and keys.image_id in known and keys.category_id in ids:
                objects.add(keys.image_id, keys.id, record)
                continue
        record = decode_record(record)
        image, category = (parse_whole_number(record.get(key)) for key in ("image_id", "category_id"))
        if image not in known and results is not None:  # ultralytics writes the name of the file
            image = stems.get(str(record["image_id"]))
        if image is None or image not in known or category not in ids:
            num_unknown += 1
            continue
        completed = {"id": number} | record | {"image_id": image, "category_id": category}
        objects.add(image, completed["id"], encode_record(completed))
    names = {category.id: category.name for category in annotations.categories}
    by_id = {int(record["id"]): record for record in sections.categories}
    categories = [by_id[key] | {"id": key, "name": names[key]} for key in sorted(by_id)]
    labels = Labels(annotations, images, objects, categories, sections.header, results is not None)
    labels.lose("[record|records] of images or classes that the file lacks", num_unknown)
    return labels


def get_shape(record: Mapping[str, Any], height: int, width: int) -> Shape:
    """The shape of a record.

    Args:
        record: an annotation or a detection.
        height: of the image.
        width: of the image.

    Returns:
        Its box, and its outlines or its mask.
    """
    segmentation, box = record.get("segmentation"), record.get("bbox")
    if isinstance(segmentation, dict):
        where = f"annotation {record.get('id')} (image {record.get('image_id')})"
        segmentation = require_run_lengths(segmentation, where, (height, width))
        mask = decode_mask(segmentation)
        return Shape(_to_box(box) or _to_box(coco.toBbox(_compress(segmentation)).tolist()) or (0, 0, 0, 0), (), mask)
    rings = tuple(
        np.array(ring, np.float64).reshape(-1, 2) for ring in segmentation or () if len(ring) >= 2 * MIN_POINTS
    )
    if not box and rings:
        points = np.concatenate(rings)
        box = [*points.min(axis=0).tolist(), *(points.max(axis=0) - points.min(axis=0)).tolist()]
    return Shape(_to_box(box) or (0, 0, 0, 0), rings)


def _compress(segmentation: Any) -> Any:  # noqa: ANN401 - pycocotools' own dictionaries
    if isinstance(segmentation["counts"], list):
        return coco.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def _to_box(box: Any) -> tuple[float, float, float, float] | None:  # noqa: ANN401
    if not box:
        return None
    x, y, width, height = map(float, box)
    return x, y, width, height


def is_region(record: Mapping[str, Any]) -> bool:
    """Whether a record is a crowd or an ignore region."""
    return bool(record.get("iscrowd") or record.get("ignore"))


def place_picture(labels: Labels, image: Mapping[str, Any], target: Path, pictures: Pictures) -> None:
    """Links or copies an image file next to its labels, unless a file is there.

    Args:
        labels: the data set; it counts missing files.
        image: the record of the image.
        target: the new file.
        pictures: link (a symbolic link, or a copy where the system has none), copy or none.
    """
    if pictures == "none" or os.path.lexists(target):
        return
    row = int(np.flatnonzero(labels.annotations.image_ids == image["id"])[0])
    try:
        file = Path(labels.annotations.get_info(row).file).resolve()
    except ImageError:
        labels.lose("[image file was|image files were] not found, so only [its|their] labels are written")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if pictures == "link":
        try:
            target.symlink_to(file)
        except (OSError, NotImplementedError):
            pass
        else:
            return
    shutil.copyfile(file, target)


def select_results(records: Sequence[Mapping[str, Any]], threshold: float) -> list[Mapping[str, Any]]:
    """The detections with at least this score.

    Args:
        records: COCO-style detections.
        threshold: least score.

    Returns:
        The records.

    Raises:
        DatasetError: a record lacks a field.
    """
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping) or not isinstance(record.get("score", 0), int | float):
            raise DatasetError(f"detection {number} of the results file is {reprlib.repr(record)}, expected a record")
        missing = {"image_id", "category_id", "score"} - record.keys()
        if missing or not (record.get("bbox") or record.get("segmentation")):
            raise DatasetError(
                f"detection {number} of the results file lacks {', '.join(sorted(missing)) or 'bbox and segmentation'}"
            )
    return [record for record in records if record["score"] >= threshold]


def format_number(value: float) -> str:
    """Writes a number as short as it can be read back, without an exponent for usual sizes."""
    value = round(float(value), 6)
    return str(int(value)) if value == int(value) else repr(value)
