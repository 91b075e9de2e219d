"""An annotation file's JSON, taken apart without holding more than its text and a record at a time.

A million polygons as Python's floats in lists take five times the memory of their text. So the file is cut into its
records (msgspec checks the syntax and remembers where each begins), and each is decoded when its turn comes. What
msgspec refuses the standard library reads: it accepts NaN, so that the record that holds one can be named, UTF-16, and
numbers out of range, and says where a syntax error is.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload

import msgspec

from tailseg.annotations.problems import DatasetError

SECTIONS: Final = ("images", "annotations", "categories")


class RawAnnotation(msgspec.Struct):
    """Those fields of an annotation that are read, as they come: what they hold is checked later."""

    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    segmentation: Any = None
    iscrowd: Any = None
    ignore: Any = None


class RawAnnotations(Sequence[RawAnnotation | None]):
    """The annotations of a file, each decoded when it is asked for; None for what is no JSON object."""

    def __init__(self, records: Sequence[Any]) -> None:
        self.records = records
        self._decoder = msgspec.json.Decoder(RawAnnotation)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> RawAnnotation | None: ...
    @overload
    def __getitem__(self, index: slice) -> "RawAnnotations": ...
    def __getitem__(self, index: int | slice) -> "RawAnnotation | RawAnnotations | None":
        if isinstance(index, slice):
            return RawAnnotations(self.records[index])
        return self._decode(self.records[index])

    def take(self, rows: Sequence[int]) -> "RawAnnotations":
        """The annotations ``rows``, in that order."""
        return RawAnnotations([self.records[row] for row in rows])

    def field(self, index: int, name: str) -> Any:  # noqa: ANN401
        """A field of annotation ``index``, for messages."""
        return getattr(self[index], name, None)

    def __iter__(self) -> Iterator[RawAnnotation | None]:
        return map(self._decode, self.records)

    def _decode(self, record: Any) -> RawAnnotation | None:  # noqa: ANN401 - anything that JSON can hold
        if isinstance(record, msgspec.Raw):
            try:
                return self._decoder.decode(record)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                try:
                    record = json.loads(bytes(record))  # a number out of msgspec's range
                except (ValueError, RecursionError):
                    return None
        if not isinstance(record, dict):
            return None
        return RawAnnotation(**{field: record.get(field) for field in RawAnnotation.__struct_fields__})


class RawFile(msgspec.Struct):
    """The three sections of a COCO- or LVIS-format file; annotations are not decoded yet."""

    images: list[Any]
    annotations: list[msgspec.Raw]
    categories: list[Any]


def split(content: bytes, path: Path) -> tuple[list[Any], RawAnnotations, list[Any]]:
    """Images, annotations and categories of a file with that content, none of them empty.

    Raises:
        DatasetError: not JSON, not in COCO format, or empty.
    """
    try:
        raw = msgspec.json.decode(content, type=RawFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        sections = _split_slowly(content, path)
    else:
        sections = raw.images, raw.annotations, raw.categories
    if empty := [name for name, section in zip(SECTIONS, sections, strict=True) if not section]:
        raise DatasetError(
            f"{path} is an empty data set: its list {' and '.join(empty)} has no entry. Check that the export selected "
            "annotated images"
        )
    images, annotations, categories = sections
    return images, RawAnnotations(annotations), categories


def join(images: list[Any], annotations: RawAnnotations, categories: list[Any]) -> bytes:
    """The JSON of a file with these sections, its annotations as they were written: the inverse of `split`."""
    content = dict(zip(SECTIONS, (images, annotations.records, categories), strict=True))
    if all(isinstance(record, msgspec.Raw) for record in annotations.records):
        return msgspec.json.encode(content)
    return json.dumps(content).encode()


def _split_slowly(content: bytes, path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """The same by the standard library, with a message that says what is wrong."""
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not JSON: {error}. Expected an annotation file in LVIS or COCO format; if it was downloaded, "
            "it may be incomplete or still compressed"
        ) from error
    found = list(raw)[:10] if isinstance(raw, dict) else f"a {type(raw).__name__} at the top"
    if not isinstance(raw, dict) or not all(isinstance(raw.get(section), list) for section in SECTIONS):
        raise DatasetError(
            f"{path} is not in COCO format: expected the lists {', '.join(SECTIONS)}, found {found!s:.300}. Export "
            "the annotations as 'COCO instance segmentation'"
        )
    return raw["images"], raw["annotations"], raw["categories"]
