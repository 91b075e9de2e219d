"""Writes a repaired annotation file; see `tailseg data check --repair`."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
import numpy as np

from tailseg.annotations.checks import compute_mask_boxes
from tailseg.annotations.columns import UNKNOWN, Columns, parse_whole_number
from tailseg.annotations.dataset import Contents
from tailseg.annotations.formats.registry import make_finder
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.json_file import SECTIONS, Sections, decode_record, decompress
from tailseg.annotations.kinds import BITS, KINDS
from tailseg.annotations.lints import find_copies
from tailseg.annotations.lvis import ABSENT, NOT_EXHAUSTIVE
from tailseg.annotations.parse import find_positions, parse, parse_sections
from tailseg.annotations.pictures import read_size
from tailseg.annotations.problems import DatasetError, means_boxes_only
from tailseg.files import write_atomically
from tailseg.words import inflect

RawRecord = dict[str, Any]

REPAIRED_KINDS: Final = {"image_id_missing", "category_id_missing", "size_missing_for_polygons"}
"""Kinds that stop a use, concern no objects, and can be repaired. Absolute file names can be repaired if unique."""

BOX_KINDS: Final = ("box_bad", "box_infinite", "box_negative")
"""Kinds of bad boxes. The box around the mask replaces a bad box, if there is a mask."""

MASK_KINDS: Final = (
    "mask_unknown",
    "run_lengths_bad",
    "polygon_short",
    "polygon_infinite",
    "polygon_far",
    "mask_missing",
)
"""Kinds of bad masks."""

KEPT_KINDS: Final = {"area_bad", "area_negative", "flag_bad", *BOX_KINDS}
"""Kinds that stop a use, but whose objects can be kept."""

FLAG_VALUES: Final = {"0": 0, "1": 1, "false": 0, "true": 1}
"""The values of ``iscrowd`` and ``ignore`` that are written as text."""


def repair_file(path: Path, out: Path, *, images: Path | None = None) -> dict[str, int]:
    """Writes a file that training and evaluation of masks accept (of boxes, if no object has a mask).

    Invalid records are corrected or left out. Valid records are written unchanged.

    Args:
        path: an annotation file.
        out: the new file; it must not exist.
        images: folder of the images, see `tailseg.annotations.read_dataset`.

    Returns:
        The number of records for each repair.

    Raises:
        FileExistsError: ``out`` exists, or is a link.
        DatasetError: a problem cannot be repaired; nothing is written.
    """
    require_new(out)
    finder = make_finder(path, images)
    try:
        contents, sections, columns = parse_sections(path, find_size=lambda names: read_size(finder.find(names)))
    except ImageError as error:
        raise DatasetError(f"{path} does not state the sizes of its images, and {error}") from error
    unique_names = _has_unique_names(contents)
    repaired = REPAIRED_KINDS | ({"file_name_absolute"} if unique_names else set())
    _refuse(path, contents, repaired, "cannot be repaired")
    repairer = _Repairer(contents, sections, columns, unique_names)
    content = repairer.write(path)
    with write_atomically(out) as written:
        written.write_bytes(content)
        _refuse(path, parse(written), set(), "cannot be repaired. The repaired file would have")
        require_new(out)
    return {inflect(text, count): count for text, count in repairer.done.items()}


def require_new(out: Path) -> None:
    """Refuses to overwrite a file.

    Raises:
        FileExistsError: a file or a link with this name exists.
    """
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists already and is not overwritten. Name another file")


def _refuse(path: Path, contents: Contents, repaired: set[str], message: str) -> None:
    """Raises DatasetError for problems that are not among the repaired kinds."""
    num_objects = int((~contents.objects.ignored).sum())
    remaining = [
        problem
        for problem in contents.problems
        if problem.kind.stops
        and not means_boxes_only(problem, num_objects)
        and problem.kind.name not in repaired
        and not (repaired and problem.kind.scope == "object")
    ]
    if remaining:
        raise DatasetError("\n  ".join([f"{path} {message}:", *map(str, remaining)]), remaining)


def _has_unique_names(contents: Contents) -> bool:
    """Whether the last parts of the images' names are unique."""
    last_parts = [contents.names.text(row).rsplit("\n", 1)[-1] for row in range(len(contents.names))]
    return len(set(last_parts)) == len(last_parts)


class _Repairer:
    """Repairs the records of one file; ``done`` counts the repairs."""

    def __init__(self, contents: Contents, sections: Sections, columns: Columns, unique_names: bool) -> None:
        self.contents, self.sections, self.columns = contents, sections, columns
        self.unique_names = unique_names
        self.category_ids = set(contents.category_ids)
        self.rows = {number: row for row, number in enumerate(contents.image_ids.tolist())}
        self.done: Counter[str] = Counter()
        self.boxes = self._compute_boxes()
        self.valid = self._select_valid()
        self.ids = self._number()

    def is_marked(self, *kinds: str) -> np.ndarray:
        """Whether each annotation has a problem of these kinds, bool."""
        return (self.columns.faults & np.uint32(sum(BITS[kind] for kind in kinds))) > 0

    def write(self, path: Path) -> bytes:
        """Returns the JSON of the repaired file."""
        content = b"{}" if self.sections.format else decompress(path.read_bytes(), path)
        try:
            top: dict[str, Any] = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            encode = _encode
        except (
            msgspec.MsgspecError,
            UnicodeDecodeError,
            RecursionError,
        ):  # for example NaN, which msgspec does not write
            top, encode = json.loads(bytes(content)), _encode_with_json
        images = [self._repair_image(record) for record in self._identified("image", self.sections.images)]
        categories = [
            self._repair_category(record) for record in self._identified("category", self.sections.categories)
        ]
        annotations = [self._repair_annotation(row) for row in np.flatnonzero(self.valid).tolist()]
        return encode(top | dict(zip(SECTIONS, (images, annotations, categories), strict=True)))

    def _identified(self, name: str, records: Sequence[Any]) -> list[RawRecord]:
        valid = [
            record
            for record in records
            if isinstance(record, dict) and parse_whole_number(record.get("id")) is not None
        ]
        self._count(f"{name} [record|records] without an integer id: left out", len(records) - len(valid))
        return valid

    def _count(self, text: str, number: int = 1) -> None:
        if number:
            self.done[text] += number

    # Decisions for all annotations together

    def _compute_boxes(self) -> dict[int, list[float]]:
        """The boxes around masks, by row, for annotations without a valid box."""
        wanted = self.is_marked("box_from_mask") | (self.is_marked(*BOX_KINDS) & ~self.is_marked(*MASK_KINDS))
        rows = np.flatnonzero(wanted)
        boxes, has_mask = compute_mask_boxes(self.columns.segmentations, rows)
        return dict(zip(rows[has_mask].tolist(), boxes[has_mask].tolist(), strict=True))

    def _find_copies(self) -> np.ndarray:
        """Whether each annotation is a copy of an earlier one, bool."""
        image_rows = find_positions(self.columns.image_ids, self.contents.image_ids)
        known = np.flatnonzero(~self.is_marked("record_bad", "image_unknown", "category_unknown"))
        rows = known[np.argsort(image_rows[known], kind="stable")]  # the rows of the objects
        copies = np.zeros(len(self.columns), bool)
        copies[rows[find_copies(self.contents.objects)]] = True
        return copies

    def _select_valid(self) -> np.ndarray:
        """Whether each annotation stays in the file, bool."""
        objects = self.contents.objects
        boxes_only = not objects.masked[~objects.ignored].any()
        valid = np.ones(len(self.columns), bool)
        for name in BITS:
            if not KINDS[name].stops or name in KEPT_KINDS or (name == "mask_missing" and boxes_only):
                continue
            self._leave_out(valid, self.is_marked(name), name)
        has_box = np.zeros(len(valid), bool)
        has_box[list(self.boxes)] = True
        for name in BOX_KINDS:
            self._leave_out(valid, self.is_marked(name) & ~has_box, name)
        bad_flags = self.is_marked("flag_bad")
        for row in np.flatnonzero(bad_flags).tolist():
            record = decode_record(self.sections.annotations[row])
            bad_flags[row] = any(_read_flag(record.get(key)) not in (None, 0, 1) for key in ("iscrowd", "ignore"))
        self._leave_out(valid, bad_flags, "flag_bad")
        self._leave_out(valid, self._find_copies(), "copies")
        return valid

    def _leave_out(self, valid: np.ndarray, rows: np.ndarray, kind: str) -> None:
        text = KINDS[kind].what.partition(" ({detail}")[0]
        self._count(f"{text}: left out", int((rows & valid).sum()))
        valid &= ~rows

    def _number(self) -> np.ndarray:
        """The ids of the annotations; new ones if an id is missing or occurs earlier."""
        ids = self.columns.ids.copy()
        first = np.zeros(len(ids), bool)
        rows = np.flatnonzero(self.valid)
        first[rows[np.unique(ids[rows], return_index=True)[1]]] = True
        renumbered = self.valid & (~first | (ids == UNKNOWN))
        start = int(ids[rows].max(initial=0))
        start = start if start < 2**62 else -(2**62)
        ids[renumbered] = start + 1 + np.arange(np.count_nonzero(renumbered))
        self._count(
            "[annotation|annotations] without an id, or with the id of another one: given a new id",
            int(renumbered.sum()),
        )
        return ids

    # Repairs of one record

    def _set_id(self, record: RawRecord, key: str, number: int) -> None:
        """Sets an id; counts the repair if the id was not written as a whole number."""
        if type(record.get(key)) is not int and record.get(key) is not None:
            self._count(
                "[id was not a whole number|ids were not whole numbers]: written as [a whole number|whole numbers]"
            )
        record[key] = number

    def _repair_image(self, record: RawRecord) -> RawRecord:
        image = dict(record)
        self._set_id(image, "id", number := _get_id(image))
        if not (image.get("height") and image.get("width")):
            image["height"], image["width"] = self.contents.sizes[self.rows[number]].tolist()
            self._count("[image|images] without a height or a width: taken from the image files or the run lengths")
        name = image.get("file_name")
        if self.unique_names and isinstance(name, str) and (name[:1] in ("/", "\\") or name[1:2] == ":"):
            image["file_name"] = PurePosixPath(name.replace("\\", "/")).name
            self._count("absolute file [name|names]: only the last part is kept")
        for key in (ABSENT, NOT_EXHAUSTIVE):
            if isinstance(image.get(key), list):
                numbers = [number for value in image[key] if (number := parse_whole_number(value)) in self.category_ids]
                self._count(f"[id|ids] in {key} of unknown categories: left out", len(image[key]) - len(numbers))
                image[key] = numbers
        return image

    def _repair_category(self, record: RawRecord) -> RawRecord:
        category = dict(record)
        self._set_id(category, "id", number := _get_id(category))
        if category.get("name") in (None, ""):
            category["name"] = str(number)
            self._count("[category|categories] without a name: the id is used as the name")
        return category

    def _repair_annotation(self, row: int) -> Any:  # noqa: ANN401 - a valid annotation is returned as written
        written = self.sections.annotations[row]
        record = decode_record(written)
        before = dict(record)
        faults = {name for name, bit in BITS.items() if self.columns.faults[row] & bit}
        self._set_id(record, "id", int(self.ids[row]))
        self._set_id(record, "image_id", int(self.columns.image_ids[row]))
        self._set_id(record, "category_id", int(self.columns.category_ids[row]))
        if faults & {"area_bad", "area_negative"} or record.get("area") != record.get("area"):  # NaN
            del record["area"]
            self._count("[area is|areas are] negative or not [a number|numbers]: left out")
        if "flag_bad" in faults:
            record |= {key: _read_flag(record[key]) for key in ("iscrowd", "ignore") if key in record}
            self._count("[annotation|annotations] with iscrowd or ignore as text: written as 0 or 1")
        if row in self.boxes:
            record["bbox"] = self.boxes[row]
            self._count("[box is|boxes are] missing or invalid: taken from the [mask|masks]")
        if "polygon_part" in faults:
            polygons = record["segmentation"]
            record["segmentation"] = [part for part in polygons if len(part) >= 6 and len(part) % 2 == 0]
            self._count(f"{KINDS['polygon_part'].what}: the invalid polygons are left out")
        same = before == record and list(map(type, before.values())) == list(map(type, record.values()))
        return written if same else record


def _get_id(record: RawRecord) -> int:
    number = parse_whole_number(record["id"])
    assert number is not None
    return number


def _read_flag(value: object) -> object:
    """Converts a flag that is written as text to 0 or 1."""
    return FLAG_VALUES.get(value.strip().lower(), value) if isinstance(value, str) else value


def _encode(content: RawRecord) -> bytes:
    try:
        return msgspec.json.encode(content)
    except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError):
        return _encode_with_json(content)


def _encode_with_json(content: RawRecord) -> bytes:
    """Encodes with the standard library, which can write everything that it reads."""
    decoded = {key: decode_record(value) for key, value in content.items()}
    return json.dumps(decoded | {"annotations": list(map(decode_record, content["annotations"]))}).encode()
