"""JSON files, packed by gzip or not: as a whole, or lists record by record without holding all in memory."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Never

import msgspec

PIECE = 1 << 18
"""Bytes of text that are parsed at a time: few enough that the records stay in the processor's cache."""
_REMEDY = "remove or correct that record"
_BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")
# JSONDecodeError and UnicodeDecodeError are ValueErrors; thousands of brackets end in a RecursionError
_UNREADABLE = (ValueError, EOFError, RecursionError, gzip.BadGzipFile, zlib.error)


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON is anything until it has been looked at
    """The file's JSON; NaN and Infinity, which Python would let pass, are refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON.
    """
    _check_file(path)
    try:
        with path.open("rb") as raw, _open_unpacked(raw) as file:
            text = file.read()
        try:
            return parse(text)
        except _NoNumberError as error:
            raise ValueError(f"{error}{_describe_record_without_number(text, 0)}: {_REMEDY}") from error
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def parse(text: bytes) -> Any:  # noqa: ANN401
    """What JSON text says; NaN and Infinity are refused.

    Raises:
        ValueError: not JSON.
    """
    try:
        return msgspec.json.decode(text)
    except ValueError:  # Python's parser is slower, knows larger numbers and says better what is wrong
        return json.loads(text, parse_constant=_refuse)


class _NoNumberError(ValueError):
    """A text holds NaN or Infinity."""


class _NoNumber(str):
    """What stands for NaN or Infinity where a text is searched for it."""

    __slots__ = ()


def _refuse(constant: str) -> Never:
    raise _NoNumberError(f"it holds the value {constant}, which is no number")


def _describe_record_without_number(text: bytes, before: int) -> str:
    """The first record of a text that holds NaN or Infinity, in words; nothing if the text holds no records.

    Args:
        text: of some records.
        before: records of the file that come earlier.
    """
    try:
        records = json.loads(text, parse_constant=_NoNumber)
    except (ValueError, RecursionError):  # it was cut within a record, or is broken
        return ""
    for row, record in enumerate(records if isinstance(records, list) else (), start=before):
        if _holds_no_number(record):
            keys = [key for key, value in record.items() if _holds_no_number(value)] if isinstance(record, dict) else []
            return f" ({keys[0]!r} of record {row})" if keys else f" (record {row})"
    return ""


def _holds_no_number(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, list | dict):
        return any(map(_holds_no_number, value.values() if isinstance(value, dict) else value))
    return isinstance(value, _NoNumber)


def read_beginning(path: Path) -> bytes:
    """The first `PIECE` bytes of the text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is packed, and damaged.
    """
    _check_file(path)
    try:
        with path.open("rb") as raw, _open_unpacked(raw) as file:
            return file.read(PIECE)
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def read_records(
    path: Path, progress: Callable[[int, int], None] | None = None, parse: Callable[[bytes], Any] = parse
) -> Iterator[list[Any]]:
    """The records of a file that holds one list of objects, some thousand at a time.

    The text is cut between two objects. Where a cut does not work out (there are objects in lists within the records)
    the file is read as a whole.

    Args:
        path: the file.
        progress: called with the bytes of the file read so far and its size.
        parse: takes the text of some records apart, and raises errors as `parse` does.

    Returns:
        The records, some thousand at a time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or not a list.
    """
    _check_file(path)
    size, text_read, done = path.stat().st_size, 0, 0
    try:
        for text, position, is_cut in _read_pieces(path):
            try:
                records = parse(text)
            except UnicodeDecodeError:  # cut within a character
                break
            except json.JSONDecodeError as error:
                if is_cut or not text_read:
                    break
                raise ValueError(f"{error.msg}, about character {text_read + error.pos:,}") from error
            except _NoNumberError as error:
                place = _describe_record_without_number(text, done)
                if is_cut and not place:
                    break
                raise ValueError(f"{error}{place}: {_REMEDY}") from error
            if not isinstance(records, list):
                break
            text_read += len(text)
            done += len(records)
            yield records
            if progress:
                progress(position, size)
        else:
            return
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(
            f"{path}: expected a list of result records, got {type(records).__name__}; a results file is "
            '[{"image_id": .., "category_id": .., "bbox": .., "score": .., "segmentation": ..}, ..]'
        )
    yield records[done:]


def _read_pieces(path: Path) -> Iterator[tuple[bytes, int, bool]]:
    """Parts of the list, each a list by itself, the place in the file up to which it was read, whether more follow."""
    with path.open("rb") as raw, _open_unpacked(raw) as file:
        rest = b""
        while part := file.read(PIECE):
            rest += part
            if not rest.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
                break  # no list: a search for its objects would go over all of it again and again
            cut = _find_last_cut(rest)
            if cut:
                yield rest[: cut[0]] + b"]", raw.tell(), True
                rest = b"[" + rest[cut[1] :]
        yield rest, raw.tell(), False


def _find_last_cut(text: bytes) -> tuple[int, int] | None:
    """End of an object and begin of the next, as far to the right as can be."""
    reach = 1 << 12
    while True:
        found = list(_BETWEEN.finditer(text, max(len(text) - reach, 0)))
        if found:
            return found[-1].start() + 1, found[-1].end()
        if reach >= len(text):
            return None
        reach *= 8


def _open_unpacked(file: BufferedIOBase) -> BufferedIOBase:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if packed else file


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
