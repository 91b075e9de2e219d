"""The cache of large annotation files. Such a file is parsed once; every process then maps the result into its memory.

The cache is in ``$TAILSEG_HOME/annotations`` (``~/.cache/tailseg/annotations``), never next to the annotation file:

    <SHA-256 of the annotation file>.safetensors   the content: the arrays of `Contents`, the rest as metadata
    index/<hash of a path>.json                    the SHA-256 of the file with this path when it was last read

*The hash of a path's content.* Hashing takes seconds. The index gives the hash if device, inode, size, modification
time and change time of the file are those of the entry. Nobody can set the change time, so an edit with the same size
and a restored modification time is noticed. An entry is written only if the file did not change while it was hashed,
and its last change was at least ``SETTLED_SECONDS`` earlier: a later change then has another time. Windows has no
change time, and there the file is hashed each time. (An edit through a writable memory map counts once the system has
written it.)

*A cache file is not trusted.* safetensors checks its header, a checksum covers all of it, and the arrays are checked
against each other: no index leads out of an array, and no value is one that the reader refuses. A file that fails is
deleted with a warning and written again. A cache file is written under another name and then renamed, by one process
while others wait. If it cannot be written (read-only or full disk), a warning is given, and the parsed file is used
from memory.
"""

import hashlib
import json
import os
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol, get_args, runtime_checkable

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open

from tailseg.annotations.dataset import Contents, Objects
from tailseg.annotations.image_files import MAX_NAME, is_safe_name, is_text
from tailseg.annotations.kinds import KINDS
from tailseg.annotations.pictures import MAX_PIXELS
from tailseg.annotations.problems import Problem
from tailseg.annotations.ragged import Ragged, map_arrays, write_arrays
from tailseg.annotations.run_lengths import have_pixel_counts
from tailseg.annotations.types import Group
from tailseg.files import get_cache_folder, write_atomically

MIN_CACHED_BYTES = 16_000_000
"""Least size in bytes of an annotation file that is cached: a smaller one is parsed within a second."""

VERSION: Final = "4"
"""Version of the cache's format. A file of another version is written again, without a warning."""

SETTLED_SECONDS: Final = 2.0
"""Seconds after which a later change of a file has another time: the coarsest clock of file systems."""

LOCK_TIMEOUT: Final = 600.0
"""Seconds to wait for another process that parses the same file, before this process parses it too."""

BLOCK: Final = 1 << 25
"""Bytes that are hashed together."""

RAGGED_ARRAYS: Final = ("negative", "not_exhaustive", "names", "polygons", "run_lengths")
DTYPES: Final = {
    "image_ids": np.int64,
    "sizes": np.int64,
    "boxes": np.float32,
    "written_boxes": np.float64,
    "areas": np.float64,
    "labels": np.int64,
    "ids": np.int64,
    "ignored": np.bool_,
    "faults": np.uint32,
    "offsets": np.int64,
    "first_polygons": np.int64,
    "polygon_counts": np.int64,
    "negative": np.int64,
    "not_exhaustive": np.int64,
    "names": np.uint8,
    "polygons": np.float64,
    "run_lengths": np.uint8,
    **{f"{name}_offsets_of_rows": np.int64 for name in RAGGED_ARRAYS},
}
"""The tensors of a cache file. A `Ragged` has two: its values and its offsets."""

OBJECT_ARRAYS: Final = (
    *("boxes", "written_boxes", "areas", "labels", "ids", "ignored", "faults", "offsets"),
    *("first_polygons", "polygon_counts"),
)
"""The tensors that belong to `Objects`."""

NUMBERS_PER_OBJECT: Final = ("areas", "labels", "ids", "ignored", "faults", "first_polygons", "polygon_counts")
"""The tensors with one number per object."""


class DamagedError(Exception):
    """A cache file is not as it was written."""


class OutdatedError(Exception):
    """A cache file is of another version of tailseg."""


@runtime_checkable
class Parser(Protocol):
    """Parses an annotation file; ``key`` is the SHA-256 of its content, if it is known."""

    def __call__(self, path: Path, *, key: str | None = None) -> Contents: ...


def read_cached(path: Path, parse: Parser) -> Contents:
    """Reads an annotation file: from the cache if it is large, otherwise with ``parse``.

    Only files that training accepts are cached. A file that must be repaired first is parsed each time.
    """
    if path.stat().st_size < MIN_CACHED_BYTES:
        return parse(path)
    try:
        folder = get_cache_folder() / "annotations"
    except OSError as error:
        warnings.warn(f"{path} is parsed each time: {error}", stacklevel=3)
        return parse(path)
    stamp, key = _read_stamp(path), _get_key(path, folder)
    contents = _load(folder, key)
    if contents is not None:
        return contents
    with _hold_lock(folder, key):
        contents = _load(folder, key)  # another process may have written it meanwhile
        if contents is not None:
            return contents
        parsed = parse(path, key=key)
        if _read_stamp(path) != stamp:  # edited meanwhile: the key may belong to another content
            return parse(path)
        if not _is_accepted(parsed):
            return parsed
        try:
            _save(parsed, folder)
        except OSError as error:
            warnings.warn(
                f"{path} was parsed, but the result could not be cached in {folder}: {error}. Set TAILSEG_HOME to a "
                f"folder with {_count_bytes(parsed) / 1e6:,.0f} MB of free space",
                stacklevel=3,
            )
            return parsed
        with suppress(DamagedError, OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError):
            return _read(get_cache_file(folder, parsed.key), parsed.key, just_written=True)
    return parsed


def _is_accepted(contents: Contents) -> bool:
    """Whether training accepts the annotations; images are not checked.

    Labels of other formats are not cached: they may depend on further files.
    """
    return not any(
        "training" in problem.kind.stops or problem.kind.name in ("size_missing", "other_format")
        for problem in contents.problems
    )


def get_cache_file(folder: Path, key: str) -> Path:
    """The cache file of the content with this key."""
    return folder / f"{key}.safetensors"


def _get_key(path: Path, folder: Path) -> str:
    """SHA-256 of the file's content, from the index if the file has not changed."""
    entry_file = folder / "index" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"
    before = _read_stamp(path)
    entry = _read_entry(entry_file)
    if entry and sys.platform != "win32" and entry["stamp"] == before:
        return entry["key"]
    settled = time.time() - max(path.stat().st_mtime, path.stat().st_ctime) >= SETTLED_SECONDS
    with path.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()
    if settled and _read_stamp(path) == before:
        with suppress(OSError):
            _write_entry(entry_file, {"path": str(path.resolve()), "stamp": before, "key": key})
            if entry and entry["key"] != key:
                _drop_unused(folder, entry["key"])
    return key


def _read_stamp(path: Path) -> list[int]:
    """The properties that change when a file is edited or replaced."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read_entry(file: Path) -> dict[str, Any] | None:
    """Reads an entry of the index; None if it is missing or malformed."""
    try:
        entry = json.loads(file.read_bytes())
        valid = isinstance(entry["stamp"], list) and len(bytes.fromhex(entry["key"])) == hashlib.sha256().digest_size
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return entry if valid else None


def _write_entry(file: Path, entry: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as written:
        written.write_text(json.dumps(entry))


def _drop_unused(folder: Path, key: str) -> None:
    """Deletes the cache file of a content that no path has any more. Processes that have mapped it keep it."""
    if all((_read_entry(file) or {}).get("key") != key for file in (folder / "index").glob("*.json")):
        get_cache_file(folder, key).unlink(missing_ok=True)


@contextmanager
def _hold_lock(folder: Path, key: str) -> Generator[None]:
    """Lets one process parse a file at a time. Without locks in the file system, two processes may parse it; both "
    "are right.
    """
    lock = FileLock(folder / f"{key}.lock", timeout=LOCK_TIMEOUT)
    held = False
    with suppress(OSError, NotImplementedError):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        held = True
        for leftover in folder.glob(f".{key}-*.unfinished"):  # of a killed process; earlier versions wrote folders
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
    try:
        yield
    finally:
        if held:
            lock.release()


def _save(contents: Contents, folder: Path) -> None:
    """Writes the cache file.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = _collect_arrays(contents)
    metadata = {
        "version": VERSION,
        "key": contents.key,
        "format": contents.format,
        "categories": json.dumps([contents.category_ids, contents.category_names, contents.groups]),
        "listed_ids": json.dumps(contents.listed_ids),
        "problems": json.dumps([[p.kind.name, p.count, p.examples, p.detail] for p in contents.problems]),
        "spelled": json.dumps([list(texts.items()) for texts in contents.text_ids]),
    }
    metadata["checksum"] = _compute_checksum(metadata, arrays)
    with write_atomically(get_cache_file(folder, contents.key)) as written:
        write_arrays(arrays, written, metadata)


def _collect_arrays(contents: Contents) -> dict[str, np.ndarray]:
    """Collects the tensors of a cache file."""
    objects = contents.objects
    arrays = {"image_ids": contents.image_ids, "sizes": contents.sizes}
    arrays |= {name: getattr(objects, name) for name in OBJECT_ARRAYS}
    for name in RAGGED_ARRAYS:
        ragged = getattr(objects if hasattr(objects, name) else contents, name)
        arrays |= {name: ragged.values, f"{name}_offsets_of_rows": ragged.offsets}
    return arrays


def _count_bytes(contents: Contents) -> int:
    return sum(array.nbytes for array in _collect_arrays(contents).values())


def _load(folder: Path, key: str) -> Contents | None:
    """Reads the cache file of a content; deletes a damaged or outdated file."""
    file = get_cache_file(folder, key)
    if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises for a folder without read permission
        return None
    try:
        return _read(file, key)
    except FileNotFoundError:  # deleted meanwhile
        return None
    except OutdatedError:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        return None
    except (DamagedError, OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        warnings.warn(f"{file} is damaged ({error}): deleted; it will be written again", stacklevel=4)
        with suppress(OSError):
            file.unlink(missing_ok=True)
        return None


def _read(file: Path, key: str, *, just_written: bool = False) -> Contents:
    """Reads a cache file and maps its arrays.

    Args:
        file: the cache file.
        key: SHA-256 of the annotation file.
        just_written: skips the checks of the content.

    Raises:
        DamagedError, OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError: the file is not as it was
            written, or cannot be mapped.
    """
    with safe_open(file, framework="np") as tensors:
        metadata, names = dict(tensors.metadata() or {}), set(tensors.keys())
    checksum = metadata.pop("checksum", "")
    if metadata.get("version", VERSION) != VERSION:
        raise OutdatedError(metadata["version"])
    if metadata.get("key") != key or names != set(DTYPES):
        raise DamagedError("it belongs to another file, or lacks a part")
    arrays: dict[str, np.ndarray] = {**map_arrays(file, DTYPES)}
    if wrong := [
        name for name, dtype in DTYPES.items() if (arrays[name].dtype, arrays[name].ndim) != (dtype, _get_ndim(name))
    ]:
        raise DamagedError(f"{wrong[0]} has a wrong type")
    if not just_written and _compute_checksum(metadata, arrays) != checksum:
        raise DamagedError("its checksum is wrong")
    category_ids, category_names, groups = json.loads(metadata["categories"])
    contents = _assemble(metadata, arrays, tuple(category_ids), tuple(category_names), groups and tuple(groups))
    if not just_written:
        _check(contents)
    return contents


def _get_ndim(name: str) -> int:
    return 2 if name in ("sizes", "boxes", "written_boxes") else 1


def _assemble(
    metadata: dict[str, str],
    arrays: dict[str, np.ndarray],
    category_ids: tuple[int, ...],
    category_names: tuple[str, ...],
    groups: tuple[Group, ...] | None,
) -> Contents:
    ragged = {name: Ragged(arrays[name], arrays[f"{name}_offsets_of_rows"]) for name in RAGGED_ARRAYS}
    objects = Objects(
        **{name: arrays[name] for name in OBJECT_ARRAYS},
        polygons=ragged["polygons"],
        run_lengths=ragged["run_lengths"],
    )
    images, categories = json.loads(metadata["spelled"])
    return Contents(
        key=metadata["key"],
        format=metadata["format"],  # ty: ignore[invalid-argument-type] - _check looks at it
        category_ids=category_ids,
        category_names=category_names,
        groups=groups,
        image_ids=arrays["image_ids"],
        sizes=arrays["sizes"],
        objects=objects,
        negative=ragged["negative"],
        not_exhaustive=ragged["not_exhaustive"],
        names=ragged["names"],
        problems=tuple(
            Problem(KINDS[name], count, tuple(examples), detail)
            for name, count, examples, detail in json.loads(metadata["problems"])
        ),
        listed_ids=tuple(json.loads(metadata["listed_ids"])),
        text_ids=(dict(images), dict(categories)),
    )


def _check(contents: Contents) -> None:
    """Checks that no index leads out of an array and no value out of its range.

    Raises:
        DamagedError: there is such an index or value.
    """
    if not (_has_matching_shapes(contents) and _is_in_range(contents)):
        raise DamagedError("its parts do not fit together")


def _has_matching_shapes(contents: Contents) -> bool:
    """Whether the arrays have the right shapes, and the offsets cut them into rows without gaps or overlaps."""
    objects, images, classes = contents.objects, len(contents.image_ids), len(contents.category_ids)
    rows, polygons = len(objects.boxes), objects.polygons
    return (
        len(contents.category_names) == classes > 0
        and (contents.groups is None or len(contents.groups) == classes)
        and contents.image_ids.shape == (images,)
        and contents.sizes.shape == (images, 2)
        and images > 0
        and objects.boxes.shape == (rows, 4)
        and objects.written_boxes.shape == (rows, 4)
        and all(getattr(objects, name).shape == (rows,) for name in NUMBERS_PER_OBJECT)
        and all(
            _cut_completely(offsets, rows_in, len(values))
            for offsets, rows_in, values in (
                (objects.offsets, images, objects.labels),
                (polygons.offsets, len(polygons.offsets) - 1, polygons.values),
                (objects.run_lengths.offsets, rows, objects.run_lengths.values),
                *((r.offsets, images, r.values) for r in (contents.names, contents.negative, contents.not_exhaustive)),
            )
        )
        and _are_within(objects.first_polygons, objects.polygon_counts, len(polygons))
    )


def _are_within(first: np.ndarray, counts: np.ndarray, end: int) -> bool:
    """Whether the positions ``first[i] .. first[i] + counts[i] - 1`` are in ``0 .. end - 1``."""
    return bool(((first >= 0) & (counts >= 0) & (first <= end) & (counts <= end - first)).all())


def _is_in_range(contents: Contents) -> bool:
    """Whether training accepts the values: others would stop it or give wrong results."""
    objects, sizes = contents.objects, contents.sizes
    ids, names, groups = contents.category_ids, contents.category_names, contents.groups or ()
    lists = (contents.negative.values, contents.not_exhaustive.values)
    if not (
        contents.format in ("lvis", "coco")
        and all(type(i) is int and -(2**63) <= i < 2**63 for i in ids)
        and all(one < other for one, other in pairwise(ids))
        and sorted(contents.listed_ids) == list(ids)
        and all(is_text(text) for text in names)
        and all(group in get_args(Group) for group in groups)
        and bool(np.diff(np.sort(contents.image_ids)).all())  # no id occurs twice
        and bool(((sizes > 0) & (sizes <= MAX_PIXELS)).all() and (sizes.prod(axis=1) <= MAX_PIXELS).all())
        and bool(np.isfinite(objects.written_boxes).all() and not np.isinf(objects.areas).any())
        and bool(((objects.labels >= 0) & (objects.labels < len(ids))).all())
        and not (objects.ignored.view(np.uint8) > 1).any()
        and (contents.format == "lvis" or not any(map(len, lists)))
        and all(np.isin(values, np.array(ids)).all() for values in lists)
        and _are_names(contents.names)
    ):
        return False
    x1, y1, x2, y2 = objects.boxes.T
    images, (heights, widths) = objects.images, sizes.astype(np.float32).T  # boxes are float32, too
    lengths, counts = np.diff(objects.polygons.offsets), objects.run_lengths
    return bool(
        objects.boxes.min(initial=0) >= 0  # false for NaN, as are the others
        and ((x1 <= x2).all() and (x2 <= widths[images]).all())
        and ((y1 <= y2).all() and (y2 <= heights[images]).all())
        and lengths.min(initial=6) >= 6
        and not (lengths & 1).any()  # coordinates, which are most of the file, are checked when they are used
        and have_pixel_counts(counts.values, counts.offsets, sizes.prod(axis=1)[images])
    )


def _are_names(names: Ragged) -> bool:
    """Whether each image has only safe names. Plain names, as in nearly all files, are checked together."""
    lengths, text = np.diff(names.offsets), names.values.tobytes()
    plain = (
        text.isascii()
        and 0 < lengths.min() <= lengths.max() <= MAX_NAME
        and not np.isin(names.values[np.append(names.offsets[:-1], names.offsets[1:] - 1)], [*b"/\n"]).any()
        and np.count_nonzero(names.values < ord(" ")) == text.count(b"\n")
        and not any(odd in text for odd in (b"..", b"\n/", b"\n\n", b"\\", b":"))
    )
    return plain or all(is_safe_name(name) for row in range(len(names)) for name in names.text(row).split("\n"))


def _cut_completely(offsets: np.ndarray, rows: int, values: int) -> bool:
    """Whether offsets cut ``values`` values into ``rows`` rows."""
    if offsets.shape != (rows + 1,):
        return False
    return bool(offsets[0] == 0 and offsets[-1] == values and (offsets[1:] >= offsets[:-1]).all())


def _compute_checksum(metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    """A checksum of the whole cache file. It detects damage, not manipulation."""
    named = sorted(arrays.items())
    blocks = [
        array.reshape(-1).view(np.uint8)[start : start + BLOCK]
        for _, array in named
        for start in range(0, array.nbytes, BLOCK)
    ]
    with ThreadPoolExecutor(2) as pool:  # zlib lets other threads run
        sums = list(pool.map(zlib.crc32, blocks))
    shapes = [(name, str(array.dtype), array.shape) for name, array in named]
    return hashlib.sha256(json.dumps([metadata, shapes, sums], sort_keys=True).encode()).hexdigest()
