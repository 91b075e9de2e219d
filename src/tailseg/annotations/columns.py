"""The annotations of a file as columns. A number takes eight bytes, and no annotation is dropped.

Shapes: M annotations, in the file's order.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Final

import msgspec
import numpy as np

from tailseg.annotations.json_file import Record, Text, decode_record, release_memory
from tailseg.annotations.kinds import BITS
from tailseg.annotations.segmentations import SegmentationPacker, Segmentations

BATCH: Final = 64
"""Annotations decoded at a time: few enough that their numbers stay in the processor's cache (three times faster)."""

BATCHES_KEPT: Final = 500
"""Batches after which their text is released from memory."""

VALID_FLAGS: Final = (None, 0, 1)
"""Valid values of ``iscrowd`` and ``ignore``; they include false and true."""

UNKNOWN: Final = np.iinfo(np.int64).min
"""Stands for a missing id; no file can have it, see `parse_whole_number`."""

_RECORDS = msgspec.json.Decoder(list[Record])
_RECORD = msgspec.json.Decoder(Record)


@dataclass(frozen=True)
class Columns:
    """The fields of M annotations.

    Attributes:
        ids, image_ids, category_ids: int64 ``[M]``; UNKNOWN where missing.
        boxes: float64 ``[M, 4]`` xywh as written; 0 where they are not numbers.
        areas: float64 ``[M]`` as written; NaN where missing.
        ignored: bool ``[M]``: crowd and ignore regions.
        faults: uint32 ``[M]``: the problems, as bits of `tailseg.annotations.kinds.BITS`.
        segmentations: the packed masks.
        num_text_ids: number of ids that are written as text.
    """

    ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray
    faults: np.ndarray
    segmentations: Segmentations
    num_text_ids: int

    def __len__(self) -> int:
        return len(self.ids)


def read_columns(records: Sequence[Any], text: Text = b"") -> Columns:
    """Reads the fields of all annotations and marks invalid ones in ``faults``.

    Args:
        records: the annotations.
        text: the text of the file; parts that were read are released from memory.
    """
    reader = _Reader()
    for start in range(0, len(records), BATCH):
        reader.read(records[start : start + BATCH])
        if start % (BATCH * BATCHES_KEPT) == 0:
            release_memory(text, records[start])
    if records:
        release_memory(text, records[-1])
    return Columns(
        *(np.frombuffer(column, np.int64) for column in (reader.ids, reader.image_ids, reader.category_ids)),
        boxes=np.frombuffer(reader.boxes, np.float64).reshape(-1, 4),
        areas=np.frombuffer(reader.areas, np.float64),
        ignored=np.frombuffer(reader.ignored, bool),
        faults=np.frombuffer(reader.faults, np.uint32).copy(),
        segmentations=reader.segmentations.pack(),
        num_text_ids=reader.num_text_ids,
    )


class _Reader:
    def __init__(self) -> None:
        self.ids, self.image_ids, self.category_ids = array("q"), array("q"), array("q")
        self.boxes, self.areas = array("d"), array("d")
        self.ignored, self.faults = bytearray(), array("I")
        self.segmentations = SegmentationPacker()
        self.num_text_ids = 0

    def read(self, raw: Sequence[Any]) -> None:
        """Reads the next annotations: all together if they have the usual types, otherwise one by one."""
        try:
            records = _RECORDS.decode(b"[" + b",".join(raw) + b"]")
            self._add(records)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, OverflowError):
            for record in raw:
                self._read_one(record)

    def _add(self, records: list[Record]) -> None:
        crowds = [record.iscrowd for record in records]
        ignores = [record.ignore for record in records]
        if not {*crowds, *ignores} <= {*VALID_FLAGS}:
            raise TypeError
        columns = (
            array("q", [UNKNOWN if record.id is None else record.id for record in records]),
            array("q", [record.image_id for record in records]),
            array("q", [record.category_id for record in records]),
        )  # built first: a number beyond int64 raises an OverflowError before anything is added
        for column, values in zip((self.ids, self.image_ids, self.category_ids), columns, strict=True):
            column.extend(values)
        self.boxes.extend([number for record in records for number in record.bbox])
        self.areas.extend([nan if record.area is None else record.area for record in records])
        self.ignored += bytes([bool(crowd or ignore) for crowd, ignore in zip(crowds, ignores, strict=True)])
        bit = BITS["ignore"]
        self.faults.extend([bit if ignore else 0 for ignore in ignores])
        self.segmentations.extend([record.segmentation for record in records])

    def _read_one(self, raw: Any) -> None:  # noqa: ANN401 - anything that JSON can hold
        if isinstance(raw, msgspec.Raw):
            try:
                self._add([_RECORD.decode(raw)])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, OverflowError):
                pass
            else:
                return
        record = decode_record(raw)
        faults = 0
        if not isinstance(record, dict):
            record, faults = {}, BITS["record_bad"]
        for column, key in ((self.ids, "id"), (self.image_ids, "image_id"), (self.category_ids, "category_id")):
            value = record.get(key)
            number = parse_whole_number(value)
            column.append(UNKNOWN if number is None else number)
            self.num_text_ids += number is not None and isinstance(value, str)
            if key == "id" and number is None and value is not None:
                faults |= BITS["id_bad"]
        box, area = record.get("bbox"), record.get("area")
        is_box = _is_number_list(box, 4)
        if not is_box:
            faults |= BITS["box_from_mask" if box in (None, []) else "box_bad"]
        self.boxes.extend(box if isinstance(box, list) and is_box else [0.0] * 4)
        if area is not None and not _is_number_list([area], 1):
            faults |= BITS["area_bad"]
            area = None
        self.areas.append(nan if area is None else area)
        crowd, ignore = record.get("iscrowd"), record.get("ignore")
        if not all(_is_flag(flag) for flag in (crowd, ignore)):
            faults |= BITS["flag_bad"]
            crowd = ignore = 0
        faults |= BITS["ignore"] if ignore else 0
        self.ignored.append(bool(crowd or ignore))
        self.faults.append(faults)
        self.segmentations.add(record.get("segmentation"))


def parse_whole_number(value: object) -> int | None:
    """Reads an id: a whole number, also written as ``"12"`` or ``12.0``; None for other values and beyond int64."""
    if isinstance(value, str):
        digits = value.strip()
        value = int(digits) if digits.isascii() and digits.lstrip("-").isdigit() and len(digits) < 20 else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if UNKNOWN < value < 2**63 else None


def _is_number_list(value: Any, length: int) -> bool:  # noqa: ANN401
    """Whether a value is a list of that many numbers within float64."""
    if not isinstance(value, list) or len(value) != length or bool in map(type, value):
        return False
    try:
        array("d", value)
    except (TypeError, OverflowError):
        return False
    return True


def _is_flag(value: Any) -> bool:  # noqa: ANN401
    return value is None or (isinstance(value, int | float) and value in VALID_FLAGS)
