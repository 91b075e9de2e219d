"""Result records: written from detections, read and checked from anybody's file.

A record is ``{"image_id", "category_id", "bbox": [x, y, width, height], "score", "segmentation": {"size", "counts"}}``,
category ids being those of the annotation file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from hotcoco import mask as run_lengths

from tailseg.annotations.types import RunLengths
from tailseg.evaluation.json_files import read_records
from tailseg.evaluation.metrics import IouType


@runtime_checkable
class Found(Protocol):
    """What is read of a `tailseg.structures.Detections`, which cannot be named without torch."""

    @property
    def boxes(self) -> Any: ...  # noqa: ANN401 - tensors
    @property
    def scores(self) -> Any: ...  # noqa: ANN401
    @property
    def labels(self) -> Any: ...  # noqa: ANN401
    @property
    def masks(self) -> tuple[RunLengths, ...] | None: ...


def to_results(detections: Found, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of one image as result records.

    Args:
        detections: D detections in pixels of the original file, labels ``0 .. C-1``.
        image_id: the image's id in its annotation file.
        category_ids: C ids: that of label j is ``category_ids[j]``.

    Raises:
        ValueError: a label has no category id.
    """
    boxes = detections.boxes.detach().double().cpu().numpy()
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    labels = detections.labels.tolist()
    if labels and not 0 <= min(labels) <= max(labels) < len(category_ids):
        raise ValueError(f"labels {min(labels)} to {max(labels)} need as many category ids, got {len(category_ids)}")
    records: list[dict[str, Any]] = [
        {"image_id": int(image_id), "category_id": int(category_ids[label]), "bbox": box, "score": score}
        for label, box, score in zip(labels, boxes, detections.scores.tolist(), strict=True)
    ]
    for record, mask in zip(records, detections.masks or (), strict=detections.masks is not None):
        counts = mask["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        record["segmentation"] = {"size": list(mask["size"]), "counts": text}
    return records


@dataclass(frozen=True)
class Results:
    """n result records, packed.

    Attributes:
        image_ids, category_ids: int64 ``[n]``.
        boxes: float64 ``[n, 4]`` xywh; None if the records have none.
        scores: float64 ``[n]``.
        sizes: int64 ``[n, 2]``, height and width of the masks; None if the records have none.
        counts: n run lengths as the records have them, None for those that were not kept; None without masks.
        mask_areas: float64 ``[n]``, pixels; None without masks.
        source: how errors call them: the file, or "results".
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray | None
    scores: np.ndarray
    sizes: np.ndarray | None
    counts: list[Any] | None
    mask_areas: np.ndarray | None
    source: str

    def __len__(self) -> int:
        return len(self.scores)

    def masks(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Run lengths of the records at these rows."""
        assert self.sizes is not None
        assert self.counts is not None
        return [
            {"size": size, "counts": self.counts[row]}
            for row, size in zip(rows.tolist(), self.sizes[rows].tolist(), strict=True)
        ]


Keep = Callable[[Results, int], np.ndarray]
Names = Mapping[str | int, int]
"""Image ids by what results call the images."""


class UnknownImagesError(ValueError):
    """What stands for the image in some records means none."""


def read_results(
    results: Sequence[Mapping[str, Any]] | str | Path,
    *,
    boxes: bool = True,
    masks: bool = True,
    keep: Keep | None = None,
    names: Names | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Packs result records after a look at each: fields present, numbers finite, sides not negative, masks run lengths.

    A file is read piece by piece, so that its records are never in memory all at once; it may be packed by gzip.

    Args:
        results: records, or the JSON file that lists them.
        boxes: every record needs a ``bbox``.
        masks: every record needs a ``segmentation``.
        keep: given some records and the number of those before, may object by a ValueError, and says whose run lengths
            are kept (bool ``[n]``); all are if None.
        names: for results whose ``image_id`` is a name; None for those that hold the ids themselves.
        progress: called with the bytes read so far and the size of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, not a list of records, or a record as above; the message names the first and the remedy.
        UnknownImagesError: an ``image_id`` is no whole number, or none of the names.
    """
    source = str(results) if isinstance(results, str | Path) else "results"
    if isinstance(results, str | Path):
        pieces = read_records(Path(results), progress)
    else:
        pieces = iter([results])
    parts: list[Results] = []
    first = 0
    for records in pieces:
        part = _pack(records, source, first, boxes=boxes, masks=masks, names=names)
        if keep is not None:
            kept = keep(part, first)
            if part.counts is not None:
                counts = [text if kept else None for text, kept in zip(part.counts, kept.tolist(), strict=True)]
                part = replace(part, counts=counts)
        parts.append(part)
        first += len(part)
    return _joined(parts)


def holds(path: Path) -> tuple[IouType, ...]:
    """What the first record of a results file has: a bbox, a segmentation, both.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or not a list of records.
    """
    for records in read_records(path):
        for record in records:
            if isinstance(record, Mapping):
                return tuple(iou_type for iou_type, key in _KEYS if key in record)
    return ()


_LARGEST = 2**63 - 1
"""Of the whole numbers."""
_KEYS: tuple[tuple[IouType, str], ...] = (("bbox", "bbox"), ("segm", "segmentation"))


def _pack(records: Sequence[Any], source: str, first: int, *, boxes: bool, masks: bool, names: Names | None) -> Results:
    wrong = _Wrong(records, source, first)
    image_ids = _image_ids(records, names, wrong)
    category_ids = _column(records, "category_id", wrong, kind="iu", expected="a whole number").astype(np.int64)
    scores = _column(records, "score", wrong, kind="iuf", expected="a finite number").astype(np.float64)
    sizes, counts, areas = _masks(records, wrong) if masks else (None, None, None)
    return Results(
        image_ids=image_ids,
        category_ids=category_ids,
        boxes=_boxes(records, wrong) if boxes else None,
        scores=scores,
        sizes=sizes,
        counts=counts,
        mask_areas=areas,
        source=source,
    )


def _joined(parts: Sequence[Results]) -> Results:
    if len(parts) == 1:
        return parts[0]

    def joined(columns: list[np.ndarray | None]) -> np.ndarray | None:
        present = [column for column in columns if column is not None]
        return np.concatenate(present) if present else None

    return Results(
        image_ids=np.concatenate([part.image_ids for part in parts]),
        category_ids=np.concatenate([part.category_ids for part in parts]),
        boxes=joined([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        sizes=joined([part.sizes for part in parts]),
        counts=None if parts[0].counts is None else [text for part in parts for text in part.counts or ()],
        mask_areas=joined([part.mask_areas for part in parts]),
        source=parts[0].source,
    )


def _image_ids(records: Sequence[Any], names: Names | None, wrong: "_Wrong") -> np.ndarray:
    try:
        if names is None:
            return _column(records, "image_id", wrong, kind="iu", expected="a whole number").astype(np.int64)
        if all(type(record["image_id"]) in (str, int) for record in records):
            return np.asarray([names[record["image_id"]] for record in records], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownImagesError(str(error)) from error
    raise UnknownImagesError(f"{wrong.source}: an image_id is no name")


def mask_areas(masks: dict[str, Any] | list[dict[str, Any]]) -> np.ndarray:
    """Pixels of each mask, by hotcoco: pycocotools' area overflows on exactly 256 masks under NumPy 2.

    Raises:
        ValueError: run lengths are broken, or of a size below zero or beyond its range.
    """
    try:
        return np.asarray(run_lengths.area(masks), dtype=np.float64).reshape(-1)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def is_run_lengths(value: Any) -> bool:  # noqa: ANN401
    """Whether it looks like ``{"size": [height, width], "counts": ..}``; the counts are not looked into."""
    if not isinstance(value, Mapping) or not isinstance(value.get("counts"), str | bytes | list):
        return False
    size = value.get("size")
    return isinstance(size, Sequence) and len(size) == 2 and all(_is_number(side, whole=True) for side in size)


def _column(records: Sequence[Any], key: str, wrong: "_Wrong", *, kind: str, expected: str) -> np.ndarray:
    """One number a record."""
    try:
        column = np.asarray([record[key] for record in records])
    except (KeyError, TypeError, ValueError):
        column = np.empty(0)
    if not len(records):
        return np.zeros(0)
    fits = column.dtype.kind in kind and not (column.dtype.kind == "u" and len(column) and column.max() > _LARGEST)
    if column.shape == (len(records),) and fits and np.isfinite(column).all():
        return column
    raise wrong.first(key, expected, lambda value: _is_number(value, whole="f" not in kind))


def _boxes(records: Sequence[Any], wrong: "_Wrong") -> np.ndarray:
    try:
        boxes = [record["bbox"] for record in records]
        fit = {*map(type, boxes)} <= {list, tuple, np.ndarray} and {*map(len, boxes)} == {4}
        # much faster than from a list of lists
        flat = np.asarray([*chain.from_iterable(boxes)]) if fit else np.empty(0)
    except (KeyError, TypeError, ValueError):
        flat = np.empty(0)
    if not len(records):
        return np.zeros((0, 4))
    if flat.shape == (4 * len(records),) and flat.dtype.kind in "iuf" and np.isfinite(flat).all():
        corners = flat.astype(np.float64).reshape(-1, 4)
        if (corners[:, 2:] >= 0).all():
            return corners
    expected = "[x, y, width, height], four finite numbers of which the sides are not negative"
    raise wrong.first("bbox", expected, _is_box)


def _masks(records: Sequence[Any], wrong: "_Wrong") -> tuple[np.ndarray, list[Any], np.ndarray]:
    """Sizes, counts and areas."""
    try:
        masks = [record["segmentation"] for record in records]
        sizes, counts = np.asarray([mask["size"] for mask in masks]), [mask["counts"] for mask in masks]
    except (KeyError, TypeError, ValueError):
        masks, sizes, counts = [], np.empty(0), []
    if not len(records):
        return np.zeros((0, 2), dtype=np.int64), [], np.zeros(0)
    if sizes.shape == (len(records), 2) and sizes.dtype.kind in "iu" and {*map(type, counts)} <= {str, bytes, list}:
        return sizes.astype(np.int64), counts, _areas(masks, wrong)
    expected = 'run lengths {"size": [height, width], "counts": ..}'
    if not any("segmentation" in record for record in records if isinstance(record, Mapping)):
        expected += " (no record has any; to score boxes alone, ask for iou_types=('bbox',), or --only bbox)"
    raise wrong.first("segmentation", expected, is_run_lengths)


def _areas(masks: list[dict[str, Any]], wrong: "_Wrong") -> np.ndarray:
    try:
        return mask_areas(masks)
    except ValueError:
        for row, mask in enumerate(masks, start=wrong.before):
            try:
                mask_areas(mask)
            except ValueError as error:
                raise ValueError(f"{wrong.source}: the run lengths of record {row} are broken: {error}") from error
        raise


def _is_number(value: Any, *, whole: bool = False) -> bool:  # noqa: ANN401
    if isinstance(value, int | np.integer):
        return not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
    return not whole and isinstance(value, float | np.floating) and bool(np.isfinite(value))


def _is_box(value: Any) -> bool:  # noqa: ANN401
    box = value.tolist() if isinstance(value, np.ndarray) else value
    return isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_number, box)) and bool(min(box[2:]) >= 0)


@dataclass(frozen=True)
class _Wrong:
    """Writes the error about some of the records; ``before`` them come others."""

    records: Sequence[Any]
    source: str
    before: int

    def first(self, key: str, expected: str, valid: Callable[[Any], bool]) -> ValueError:
        """Names the first wrong record and says how many there are."""
        wrong = [
            index
            for index, record in enumerate(self.records)
            if not (isinstance(record, Mapping) and key in record and valid(record[key]))
        ]
        if not wrong:  # every value is right by itself, so they differ in type
            return ValueError(f"{self.source}: the records' {key!r} are of mixed types, expected {expected} in each")
        record = self.records[wrong[0]]
        if isinstance(record, Mapping):
            found = f"got {record[key]!r}" if key in record else "it is missing"
        else:
            found = f"the record is {record!r}"
        read = self.before + len(self.records)
        return ValueError(
            f"{self.source}: {key!r} of record {self.before + wrong[0]} should be {expected}, {found[:200]} "
            f"({len(wrong):,} of {read:,} records are wrong)"
        )
