"""Reads the JSON of an annotation file; only the text and a few records are in memory at the same time.

A million polygons as lists of Python floats take five times the memory of their text. Therefore the file is first cut
into records: msgspec checks the syntax and stores where each record begins. The records are decoded later, in batches.
If msgspec refuses a file, the standard library reads it. It accepts NaN (a message can then name the record), UTF-16
and numbers out of range, and it reports the position of a syntax error.
"""

import gc
import gzip
import io
import json
import mmap
import os
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

import msgspec
import numpy as np

from tailseg.annotations.problems import DatasetError
from tailseg.files import write_atomically

SECTIONS: Final = ("images", "annotations", "categories")
HEADER: Final = ("info", "licenses", "videos")
GZIP: Final = b"\x1f\x8b"

MIN_MAPPED_BYTES: Final = 1 << 24
"""Least size in bytes of a file that is mapped into memory."""

WRITTEN_AT_ONCE: Final = 4096
"""Annotations that are joined to one text for writing."""

RELEASED_AT_ONCE: Final = 32_768
"""Annotations after which their text is released from memory."""

Text = bytes | mmap.mmap


class _Cut(msgspec.Struct):
    """The sections into which msgspec cuts a file."""

    images: list[Any]
    annotations: list[msgspec.Raw]
    categories: list[Any]
    info: Any = None
    licenses: Any = None
    videos: Any = None


class _Images(msgspec.Struct):
    """The images alone."""

    images: list[Any]


class OtherFormatError(DatasetError):
    """A JSON file is not in COCO format.

    Attributes:
        content: what it has instead.
    """

    def __init__(self, message: str, content: object) -> None:
        super().__init__(message)
        self.content = content


@dataclass(frozen=True)
class Sections:
    """The sections of a file in COCO or LVIS format.

    An annotation is a `msgspec.Raw` that is not decoded yet, or the value that the standard library decoded.
    """

    images: list[Any]
    annotations: Sequence[Any]
    categories: list[Any]
    header: dict[str, Any] = field(default_factory=dict)
    """The sections `HEADER` of the file, as they were read."""
    format: str = ""
    """The name of the format, if it is another one than COCO's and LVIS's."""
    losses: tuple[str, ...] = ()
    """What COCO's form could not keep of another format, with counts."""
    remarks: tuple[str, ...] = ()
    """How another format was read."""
    text: Text = b""
    """The text that undecoded annotations lie in, one after the other; see `release_memory`."""


class WrittenRunLengths(msgspec.Struct, gc=False):
    """Run lengths as written in a file, with compressed or uncompressed counts."""

    size: tuple[int, int]
    counts: str | list[int]


class Record(msgspec.Struct, gc=False):
    """The fields of an annotation that are read, with the types that nearly all files have."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    id: int | None = None
    area: float | None = None
    iscrowd: Any = None
    ignore: Any = None
    segmentation: list[list[float]] | WrittenRunLengths | None = None


def read_text(path: Path) -> Text:
    """Reads a file. A large file is mapped, and `release_memory` can then release the parts that were decoded.

    If another process truncates a mapped file, the system stops this process.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size >= MIN_MAPPED_BYTES:
            with suppress(OSError):  # the file system cannot map files
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return file.read()


def release_memory(content: Text, record: Any) -> None:  # noqa: ANN401 - see `Sections`
    """Releases the memory of a mapped text up to a record. Later accesses read the file again."""
    if isinstance(content, mmap.mmap) and isinstance(record, msgspec.Raw) and hasattr(mmap, "MADV_DONTNEED"):
        start, position = (np.frombuffer(text, np.uint8).ctypes.data for text in (content, record))
        content.madvise(mmap.MADV_DONTNEED, 0, (position - start) // mmap.PAGESIZE * mmap.PAGESIZE)


def decompress(content: Text, path: Path) -> Text:
    """Decompresses the content of a gzip file; returns other content unchanged.

    Raises:
        DatasetError: the gzip file is damaged.
    """
    if content[: len(GZIP)] != GZIP:
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{path} cannot be decompressed: {error}. It may be incomplete: download it again"
        ) from error


def split_sections(content: Text, path: Path) -> Sections:
    """Splits the content of a file into sections. Only the list of annotations may be empty.

    Raises:
        DatasetError: the content is not JSON, not in COCO format, or empty.
    """
    try:
        cut = msgspec.json.decode(content, type=_Cut)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        sections = _split_with_json(content, path)
    else:
        sections = Sections(
            cut.images, cut.annotations, cut.categories, _get_header(msgspec.structs.asdict(cut)), text=content
        )
    for name in ("images", "categories"):
        if not getattr(sections, name):
            also = "" if sections.annotations else ", and its list annotations has none either"
            raise DatasetError(
                f"{path} is an empty data set: its list {name} has no entry{also}. Check that the export selected "
                "annotated images"
            )
    return sections


def read_image_records(path: Path) -> list[Any]:
    """Reads the list of images of an annotation file, without its annotations.

    Raises:
        DatasetError: the content is not JSON, not in COCO format, or empty.
    """
    content = decompress(read_text(path), path)
    try:
        return msgspec.json.decode(content, type=_Images).images
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return split_sections(content, path).images


def join_sections(
    images: list[Any], annotations: Sequence[Any], categories: list[Any], header: Mapping[str, Any]
) -> bytes:
    """Writes sections as JSON. Annotations that are not decoded are written unchanged.

    Args:
        images: the list of images.
        annotations: the list of annotations, decoded or not.
        categories: the list of categories.
        header: the sections before them.

    Returns:
        The content of a file.
    """
    content = {**header, **dict(zip(SECTIONS, (images, annotations, categories), strict=True))}
    try:
        return msgspec.json.encode(content)
    except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError):
        return json.dumps(
            content | {"annotations": [decode_record(record) for record in annotations]}, ensure_ascii=True
        ).encode()


def decode_record(record: Any) -> Any:  # noqa: ANN401 - anything that JSON can hold
    """Decodes an annotation to dictionaries and lists; None if it cannot be decoded."""
    if not isinstance(record, msgspec.Raw):
        return record
    try:
        return msgspec.json.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            return json.loads(bytes(record))  # a number that is out of range for msgspec
        except (ValueError, RecursionError):
            return None


def encode_record(record: Mapping[str, Any]) -> msgspec.Raw:
    """Encodes a record as JSON text; numbers that msgspec refuses are written by the standard library."""
    try:
        return msgspec.Raw(msgspec.json.encode(record))
    except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError):
        return msgspec.Raw(json.dumps(record, ensure_ascii=True).encode())


def iterate_records(records: Iterable[Any], text: Text) -> Iterator[Any]:
    """Yields annotations, and releases the memory of the text that they lie in after each few thousand."""
    for number, record in enumerate(records, start=1):
        yield record
        if number % RELEASED_AT_ONCE == 0:
            release_memory(text, record)


class RecordFile:
    """Annotations as the text of a JSON list, which is in a temporary file if it is large.

    Attributes:
        count: the number of annotations.
    """

    def __init__(self) -> None:
        self.count = 0
        self._file: IO[bytes] = io.BytesIO()

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds an annotation."""
        self._file.write((b"," if self.count else b"[") + encode_record(record))
        self.count += 1
        if isinstance(self._file, io.BytesIO) and self._file.tell() >= MIN_MAPPED_BYTES:
            text = self._file.getvalue()
            self._file = TemporaryFile()  # noqa: SIM115 - closed by `finish`
            self._file.write(text)

    def finish(self) -> tuple[list[msgspec.Raw], Text]:
        """The annotations, not decoded, and the text that they lie in. Nothing can be added any more."""
        if not self.count:
            return [], b""
        with self._file as file:
            file.write(b"]")
            file.flush()
            in_memory = isinstance(file, io.BytesIO)
            text: Text = file.getvalue() if in_memory else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return msgspec.json.decode(text, type=list[msgspec.Raw]), text


def write_sections(
    path: Path,
    images: Sequence[Any],
    annotations: Iterable[Any],
    categories: Sequence[Any],
    header: Mapping[str, Any],
    text: Text = b"",
) -> None:
    """Writes a file in COCO format, some annotations at a time.

    Args:
        path: the file.
        images: the list of images.
        annotations: the annotations, decoded or not.
        categories: the list of categories.
        header: the sections before them.
        text: the text that the annotations lie in; parts that were written are released from memory.
    """
    with write_atomically(path) as written, written.open("wb") as file:
        first = b"".join(bytes(encode_record({key: value}))[1:-1] + b"," for key, value in header.items())
        file.write(b"{" + first + b'"images":' + msgspec.json.encode(images) + b',"annotations":[')
        records = iterate_records(annotations, text)
        texts = (record if isinstance(record, msgspec.Raw) else encode_record(record) for record in records)
        for number, batch in enumerate(iter(lambda: list(islice(texts, WRITTEN_AT_ONCE)), [])):
            file.write(b"," * bool(number) + b",".join(batch))
        file.write(b'],"categories":' + msgspec.json.encode(categories) + b"}")


def _get_header(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: content[name] for name in HEADER if content.get(name) is not None}


def _split_with_json(content: Text, path: Path) -> Sections:
    """Splits the content with the standard library, whose messages say what is wrong."""
    try:
        raw = json.loads(bytes(content))
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not JSON: {error}. Expected an annotation file in LVIS or COCO format; if it was downloaded, "
            "it may be incomplete or still compressed"
        ) from error
    if isinstance(raw, dict) and all(isinstance(raw.get(section), list) for section in SECTIONS):
        return Sections(raw["images"], raw["annotations"], raw["categories"], _get_header(raw))
    other = _describe_other_format(raw)
    if other:
        raise OtherFormatError(f"{path} is {other}", raw)
    content_text = list(raw)[:10] if isinstance(raw, dict) else f"a {type(raw).__name__} at the top level"
    raise OtherFormatError(
        f"{path} is not in COCO format: expected the lists {', '.join(SECTIONS)}, found {content_text!s:.300}. Export "
        "the annotations as 'COCO instance segmentation'",
        raw,
    )


def _describe_other_format(raw: Any) -> str:  # noqa: ANN401
    """Names the known format of a file without the three lists, and says what to do; empty for an unknown format."""
    if isinstance(raw, dict) and isinstance(raw.get("image"), dict) and isinstance(raw.get("annotations"), list):
        return (
            "a file of Segment Anything (SA-1B), which has one image and masks without classes. Write one COCO file "
            "with "
            "the lists images, annotations and categories, and give each mask a category_id"
        )
    first = raw[0] if isinstance(raw, list) and raw else None
    if not isinstance(first, dict):
        return ""
    if "score" in first and "image_id" in first:
        return "a results file (a list of detections with scores). Name the annotation file instead"
    if "annotations" in first or "data" in first:
        return "a list of Label Studio tasks. Export it as 'COCO' in Label Studio, or convert it with label-studio-sdk"
    return ""


def describe_other_annotations(records: Sequence[Any]) -> str:
    """Names the known format of annotations without boxes and masks, and says what to do; empty for an unknown one."""
    first = [record for record in map(decode_record, records[:10]) if isinstance(record, dict)]
    boxes = [bool(record.get("bbox") or record.get("segmentation")) for record in first]
    if any("points" in record and not has_box for record, has_box in zip(first, boxes, strict=True)):
        return "a file of Segments.ai with polygons in 'points'. Export it as 'COCO instance segmentation' there"
    if not first or any(boxes):
        return ""
    if any("segments_info" in record for record in first):
        return "a panoptic file (segments_info). Convert it with panopticapi's panoptic2detection_coco_format.py"
    if any("caption" in record for record in first):
        return "a file of captions, but boxes or masks are expected. Use the instances file of the same images"
    if all("category_id" in record for record in first):
        return "a file of image labels without boxes or masks. Annotate where the objects are"
    return ""


@contextmanager
def pause_garbage_collector() -> Generator[None]:
    """Pauses the garbage collector: millions of records have no cycles, and searching them again and again takes
    time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
