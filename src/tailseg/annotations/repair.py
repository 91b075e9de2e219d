"""Writing an annotation file without what is wrong with it; see `tailseg data check --repair`."""

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
from tailseg.annotations.image_files import ImageError, ImageFinder
from tailseg.annotations.json_file import SECTIONS, Sections, decode_record, decompress
from tailseg.annotations.kinds import BITS, KINDS
from tailseg.annotations.lints import find_copies
from tailseg.annotations.lvis import ABSENT, NOT_EXHAUSTIVE
from tailseg.annotations.parse import find_positions, parse, parse_sections
from tailseg.annotations.pictures import read_size
from tailseg.annotations.problems import DatasetError, means_boxes_only
from tailseg.files import write_atomically

RawRecord = dict[str, Any]

REPAIRED_KINDS: Final = {"image_id_missing", "category_id_missing", "size_missing_for_polygons"}
"""Kinds that stop a use and concern no objects, and can be repaired; absolute file names where they are unique."""

BOX_KINDS: Final = ("box_bad", "box_infinite", "box_negative")
"""Bad boxes; that of the mask is taken, where there is one."""

MASK_KINDS: Final = (
    "mask_unknown",
    "run_lengths_bad",
    "polygon_short",
    "polygon_infinite",
    "polygon_far",
    "mask_missing",
)
"""Bad masks."""

KEPT_KINDS: Final = {"area_bad", "area_negative", "flag_bad", *BOX_KINDS}
"""Kinds that stop a use, of objects that can be kept."""

FLAG_VALUES: Final = {"0": 0, "1": 1, "false": 0, "true": 1}
"""What ``iscrowd`` and ``ignore`` say where they are written as text."""


def repair(path: Path, out: Path, *, images: Path | None = None) -> dict[str, int]:
    """Write a file that training of masks and evaluation of masks accept (of boxes, where no object has a mask).

    Records are put right or left out; what is right stays as it is written.

    Args:
        path: an annotation file.
        out: the new file; there must be none.
        images: folder of the images, see `tailseg.annotations.read.read_dataset`.

    Returns:
        What was done, and for how many records.

    Raises:
        FileExistsError: ``out`` is there, or is a link.
        DatasetError: something is wrong that cannot be repaired; nothing is written.
    """
    require_new(out)
    finder = ImageFinder(path, images)
    try:
        contents, sections, columns = parse_sections(path, find_size=lambda names: read_size(finder.find(names)))
    except ImageError as error:
        raise DatasetError(f"{path} does not say how large its images are, and {error}") from error
    last_parts = _has_unique_names(contents)
    _refuse(path, contents, REPAIRED_KINDS | ({"file_name_absolute"} if last_parts else set()), "cannot be repaired")
    repairer = _Repairer(contents, sections, columns, last_parts)
    content = repairer.file(path)
    with write_atomically(out) as written:
        written.write_bytes(content)
        _refuse(path, parse(written), set(), "cannot be repaired: what is left of it has")
        require_new(out)
    return dict(repairer.done)


def require_new(out: Path) -> None:
    """Refuse to overwrite a file.

    Raises:
        FileExistsError: there is one, or a link, with this name.
    """
    if os.path.lexists(out):
        raise FileExistsError(f"{out} is there already, and is not overwritten. Name another file")


def _refuse(path: Path, contents: Contents, repaired: set[str], what: str) -> None:
    num_objects = int((~contents.objects.ignored).sum())
    left = [
        problem
        for problem in contents.problems
        if problem.kind.stops
        and not means_boxes_only(problem, num_objects)
        and problem.kind.name not in repaired
        and not (repaired and problem.kind.scope == "object")
    ]
    if left:
        raise DatasetError("\n  ".join([f"{path} {what}:", *map(str, left)]), left)


def _has_unique_names(contents: Contents) -> bool:
    """Whether the last part of its name tells each image from all others."""
    last = [contents.names.text(row).rsplit("\n", 1)[-1] for row in range(len(contents.names))]
    return len(set(last)) == len(last)


class _Repairer:
    """Puts the records of one file right; ``done`` counts what was done."""

    def __init__(self, contents: Contents, sections: Sections, columns: Columns, last_parts: bool) -> None:
        self.contents, self.sections, self.columns = contents, sections, columns
        self.last_parts = last_parts
        self.known = set(contents.category_ids)
        self.rows = {number: row for row, number in enumerate(contents.image_ids.tolist())}
        self.done: Counter[str] = Counter()
        self.boxes = self._good_boxes()
        self.kept = self._kept()
        self.ids = self._ids()

    def is_marked(self, *kinds: str) -> np.ndarray:
        """Annotations with a problem of these kinds, bool."""
        return (self.columns.faults & np.uint32(sum(BITS[kind] for kind in kinds))) > 0

    def file(self, path: Path) -> bytes:
        """The JSON of the new file."""
        content = decompress(path.read_bytes(), path)
        try:
            top: dict[str, Any] = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            encode = _encode
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # of NaN, say, which msgspec does not write
            top, encode = json.loads(bytes(content)), _encode_with_json
        images = [self._image(record) for record in self._identified("image", self.sections.images)]
        categories = [self._category(record) for record in self._identified("category", self.sections.categories)]
        annotations = [self._annotation(row) for row in np.flatnonzero(self.kept).tolist()]
        return encode(top | dict(zip(SECTIONS, (images, annotations, categories), strict=True)))

    def _identified(self, name: str, records: Sequence[Any]) -> list[RawRecord]:
        known = [
            record
            for record in records
            if isinstance(record, dict) and parse_whole_number(record.get("id")) is not None
        ]
        self._count(f"{name} records without an integer id: left out", len(records) - len(known))
        return known

    def _count(self, what: str, number: int = 1) -> None:
        if number:
            self.done[what] += number

    # What is decided for all annotations at once

    def _good_boxes(self) -> dict[int, list[float]]:
        """Boxes of masks, by row, where the file has none that is good."""
        wanted = self.is_marked("box_from_mask") | (self.is_marked(*BOX_KINDS) & ~self.is_marked(*MASK_KINDS))
        rows = np.flatnonzero(wanted)
        boxes, found = compute_mask_boxes(self.columns.segmentations, rows)
        return dict(zip(rows[found].tolist(), boxes[found].tolist(), strict=True))

    def _copies(self) -> np.ndarray:
        """Annotations that say what one before them says, bool."""
        image_of = find_positions(self.columns.image_ids, self.contents.image_ids)
        known = np.flatnonzero(~self.is_marked("record_bad", "image_unknown", "category_unknown"))
        rows = known[np.argsort(image_of[known], kind="stable")]  # those of the objects
        found = np.zeros(len(self.columns), bool)
        found[rows[find_copies(self.contents.objects)]] = True
        return found

    def _kept(self) -> np.ndarray:
        """The annotations that stay, bool."""
        objects = self.contents.objects
        boxes_alone = not objects.masked[~objects.ignored].any()
        kept = np.ones(len(self.columns), bool)
        for name in BITS:
            if not KINDS[name].stops or name in KEPT_KINDS or (name == "mask_missing" and boxes_alone):
                continue
            self._leave_out(kept, self.is_marked(name), name)
        boxed = np.zeros(len(kept), bool)
        boxed[list(self.boxes)] = True
        for name in BOX_KINDS:
            self._leave_out(kept, self.is_marked(name) & ~boxed, name)
        bad_flags = self.is_marked("flag_bad")
        for row in np.flatnonzero(bad_flags).tolist():
            record = decode_record(self.sections.annotations[row])
            bad_flags[row] = any(_read_flag(record.get(key)) not in (None, 0, 1) for key in ("iscrowd", "ignore"))
        self._leave_out(kept, bad_flags, "flag_bad")
        self._leave_out(kept, self._copies(), "copies")
        return kept

    def _leave_out(self, kept: np.ndarray, rows: np.ndarray, kind: str) -> None:
        what = KINDS[kind].what.partition(" ({detail}")[0]
        self._count(f"{what}: left out", int((rows & kept).sum()))
        kept &= ~rows

    def _ids(self) -> np.ndarray:
        """Ids of the annotations: their own, new ones where there is none or another one has it."""
        ids = self.columns.ids.copy()
        first = np.zeros(len(ids), bool)
        rows = np.flatnonzero(self.kept)
        first[rows[np.unique(ids[rows], return_index=True)[1]]] = True
        wanting = self.kept & (~first | (ids == UNKNOWN))
        start = int(ids[rows].max(initial=0))
        start = start if start < 2**62 else -(2**62)
        ids[wanting] = start + 1 + np.arange(np.count_nonzero(wanting))
        self._count("annotations without an id, or with one that another has: numbered", int(wanting.sum()))
        return ids

    # What is done to one record

    def _whole(self, record: RawRecord, key: str, number: int) -> None:
        """Sets an id; counts it where it was written otherwise."""
        if type(record.get(key)) is not int and record.get(key) is not None:
            self._count("ids that were no whole numbers: written as whole numbers")
        record[key] = number

    def _image(self, given: RawRecord) -> RawRecord:
        image = dict(given)
        self._whole(image, "id", number := _get_id(image))
        if not (image.get("height") and image.get("width")):
            image["height"], image["width"] = self.contents.sizes[self.rows[number]].tolist()
            self._count("images without a height or a width: taken from the pictures or the run lengths")
        name = image.get("file_name")
        if self.last_parts and isinstance(name, str) and (name[:1] in ("/", "\\") or name[1:2] == ":"):
            image["file_name"] = PurePosixPath(name.replace("\\", "/")).name
            self._count("file names are absolute: their last parts are kept")
        for key in (ABSENT, NOT_EXHAUSTIVE):
            if isinstance(image.get(key), list):
                numbers = [number for value in image[key] if (number := parse_whole_number(value)) in self.known]
                self._count(f"ids in {key} of categories that the file lacks: left out", len(image[key]) - len(numbers))
                image[key] = numbers
        return image

    def _category(self, given: RawRecord) -> RawRecord:
        category = dict(given)
        self._whole(category, "id", number := _get_id(category))
        if category.get("name") in (None, ""):
            category["name"] = str(number)
            self._count("categories without a name: named after their ids")
        return category

    def _annotation(self, row: int) -> Any:  # noqa: ANN401 - as it is written, where nothing is wrong
        given = self.sections.annotations[row]
        record = decode_record(given)
        before = dict(record)
        faults = {name for name, bit in BITS.items() if self.columns.faults[row] & bit}
        self._whole(record, "id", int(self.ids[row]))
        self._whole(record, "image_id", int(self.columns.image_ids[row]))
        self._whole(record, "category_id", int(self.columns.category_ids[row]))
        if faults & {"area_bad", "area_negative"} or record.get("area") != record.get("area"):  # NaN
            del record["area"]
            self._count("areas are negative or no numbers: left out")
        if "flag_bad" in faults:
            record |= {key: _read_flag(record[key]) for key in ("iscrowd", "ignore") if key in record}
            self._count("iscrowd or ignore is written as text: written as 0 or 1")
        if row in self.boxes:
            record["bbox"] = self.boxes[row]
            self._count("boxes are missing or bad: taken from the masks")
        if "polygon_part" in faults:
            record["segmentation"] = [part for part in record["segmentation"] if len(part) >= 6 and len(part) % 2 == 0]
            self._count(f"{KINDS['polygon_part'].what}: those polygons are left out")
        same = before == record and list(map(type, before.values())) == list(map(type, record.values()))
        return given if same else record


def _get_id(record: RawRecord) -> int:
    number = parse_whole_number(record["id"])
    assert number is not None
    return number


def _read_flag(value: object) -> object:
    """0 or 1 where a text says so."""
    return FLAG_VALUES.get(value.strip().lower(), value) if isinstance(value, str) else value


def _encode(content: RawRecord) -> bytes:
    try:
        return msgspec.json.encode(content)
    except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError):
        return _encode_with_json(content)


def _encode_with_json(content: RawRecord) -> bytes:
    """By the standard library, which writes all that it reads."""
    decoded = {key: decode_record(value) for key, value in content.items()}
    return json.dumps(decoded | {"annotations": list(map(decode_record, content["annotations"]))}).encode()
