"""An annotation file's JSON, taken apart without holding more than its text and some records at a time.

A million polygons as Python's floats in lists take five times the memory of their text. So the file is cut into its
records (msgspec checks the syntax and remembers where each begins), and they are decoded when their turn comes. What
msgspec refuses the standard library reads: it accepts NaN, so that the record that holds one can be named, UTF-16, and
numbers out of range, and says where a syntax error is.
"""

import gc
import gzip
import json
import mmap
import os
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from tailseg.annotations.problems import DatasetError

SECTIONS: Final = ("images", "annotations", "categories")
GZIP: Final = b"\x1f\x8b"

MIN_MAPPED_BYTES: Final = 1 << 24
"""Bytes from which on a file's text is mapped into memory."""

Text = bytes | mmap.mmap


class _Cut(msgspec.Struct):
    """What msgspec cuts a file into."""

    images: list[Any]
    annotations: list[msgspec.Raw]
    categories: list[Any]
    videos: msgspec.Raw | None = None


@dataclass(frozen=True)
class Sections:
    """The sections of a COCO- or LVIS-format file that are read.

    An annotation is not decoded yet (a `msgspec.Raw`), or is what the standard library made of it.
    """

    images: list[Any]
    annotations: Sequence[Any]
    categories: list[Any]
    has_videos: bool


class WrittenRunLengths(msgspec.Struct, gc=False):
    """Run lengths as a file has them, its counts compressed or not."""

    size: tuple[int, int]
    counts: str | list[int]


class Record(msgspec.Struct, gc=False):
    """Those fields of an annotation that are read, of the types that nearly all files write."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    id: int | None = None
    area: float | None = None
    iscrowd: Any = None
    ignore: Any = None
    segmentation: list[list[float]] | WrittenRunLengths | None = None


def read_text(path: Path) -> Text:
    """The content of a file; a large one is mapped, so that `release_memory` can part with what has been decoded.

    As with every mapped file, the system ends the process if another one cuts the file short meanwhile.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size >= MIN_MAPPED_BYTES:
            with suppress(OSError):  # of a file system that cannot map
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return file.read()


def release_memory(content: Text, record: Any) -> None:  # noqa: ANN401 - see `Sections`
    """Takes a mapped text up to a record out of memory; what is wanted again is read from the file."""
    if isinstance(content, mmap.mmap) and isinstance(record, msgspec.Raw) and hasattr(mmap, "MADV_DONTNEED"):
        first, here = (np.frombuffer(text, np.uint8).ctypes.data for text in (content, record))
        content.madvise(mmap.MADV_DONTNEED, 0, (here - first) // mmap.PAGESIZE * mmap.PAGESIZE)


def decompress(content: Text, path: Path) -> Text:
    """The content of a file, unpacked if it is packed by gzip.

    Raises:
        DatasetError: it is a broken gzip file.
    """
    if content[: len(GZIP)] != GZIP:
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be unpacked: {error}. It may be incomplete: download it again") from error


def split_sections(content: Text, path: Path) -> Sections:
    """The sections of a file with that content; only the list of annotations may be empty.

    Raises:
        DatasetError: not JSON, not in COCO format, or empty.
    """
    try:
        cut = msgspec.json.decode(content, type=_Cut)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = _split_slowly(content, path)
    else:
        found = Sections(cut.images, cut.annotations, cut.categories, bool(cut.videos))
    for section in ("images", "categories"):
        if not getattr(found, section):
            only = "" if found.annotations else ", and no annotation: images only are nothing to learn from or to score"
            raise DatasetError(
                f"{path} is an empty data set: its list {section} has no entry{only}. Check that the export selected "
                "annotated images"
            )
    return found


def join_sections(images: list[Any], annotations: Sequence[Any], categories: list[Any]) -> bytes:
    """The JSON of a file with these sections, annotations that are not decoded as they were written."""
    content = dict(zip(SECTIONS, (images, annotations, categories), strict=True))
    try:
        return msgspec.json.encode(content)
    except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError):
        return json.dumps(
            content | {"annotations": [decode_record(record) for record in annotations]}, ensure_ascii=True
        ).encode()


def decode_record(record: Any) -> Any:  # noqa: ANN401 - anything that JSON can hold
    """An annotation as Python's dicts and lists; None for what cannot be decoded."""
    if not isinstance(record, msgspec.Raw):
        return record
    try:
        return msgspec.json.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            return json.loads(bytes(record))  # a number out of msgspec's range
        except (ValueError, RecursionError):
            return None


def _split_slowly(content: Text, path: Path) -> Sections:
    """The same by the standard library, with a message that says what is wrong."""
    try:
        raw = json.loads(bytes(content))
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not JSON: {error}. Expected an annotation file in LVIS or COCO format; if it was downloaded, "
            "it may be incomplete or still compressed"
        ) from error
    if isinstance(raw, dict) and all(isinstance(raw.get(section), list) for section in SECTIONS):
        return Sections(raw["images"], raw["annotations"], raw["categories"], bool(raw.get("videos")))
    other = _describe_other_format(raw)
    if other:
        raise DatasetError(f"{path} is {other}")
    found = list(raw)[:10] if isinstance(raw, dict) else f"a {type(raw).__name__} at the top"
    raise DatasetError(
        f"{path} is not in COCO format: expected the lists {', '.join(SECTIONS)}, found {found!s:.300}. Export "
        "the annotations as 'COCO instance segmentation'"
    )


def _describe_other_format(raw: Any) -> str:  # noqa: ANN401
    """Which known format a file without the three lists has, and the way out; empty if none."""
    if isinstance(raw, dict) and isinstance(raw.get("image"), dict) and isinstance(raw.get("annotations"), list):
        return (
            "a file of Segment Anything (SA-1B): one image a file, masks without classes. Write one COCO file with "
            "the lists images, annotations and categories, and give each mask a category_id"
        )
    first = raw[0] if isinstance(raw, list) and raw else None
    if not isinstance(first, dict):
        return ""
    if "score" in first and "image_id" in first:
        return "a results file (a list of detections with scores), expected the annotation file that they are for"
    if "annotations" in first or "data" in first:
        return "a list of Label Studio's tasks. Export it as 'COCO' there, or convert it with label-studio-sdk"
    return ""


def describe_other_annotations(records: Sequence[Any]) -> str:
    """Which known format annotations without boxes and masks are of, and the way out; empty if none."""
    found = [record for record in map(decode_record, records[:10]) if isinstance(record, dict)]
    boxes = [bool(record.get("bbox") or record.get("segmentation")) for record in found]
    if any("points" in record and not boxed for record, boxed in zip(found, boxes, strict=True)):
        return (
            "a file of Segments.ai, whose polygons stand in 'points'. Export it there as 'COCO instance segmentation'"
        )
    if not found or any(boxes):
        return ""
    if any("segments_info" in record for record in found):
        return "a panoptic file (segments_info). Convert it: panopticapi's panoptic2detection_coco_format.py does"
    if any("caption" in record for record in found):
        return "a file of captions, expected boxes or masks: take the instances file of the same images"
    if all("category_id" in record for record in found):
        return "a file of image labels without boxes or masks: nothing says where the objects are"
    return ""


@contextmanager
def pause_garbage_collector() -> Generator[None]:
    """Millions of records hold no cycles, and are not to be searched for them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
