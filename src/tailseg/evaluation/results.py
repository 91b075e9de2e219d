"""Result records: written from detections, read and checked from anybody's file.

A record is ``{"image_id", "category_id", "bbox": [x, y, width, height], "score", "segmentation": {"size", "counts"}}``,
category ids being those of the annotation file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import numpy as np

from tailseg.structures import Detections


def to_results(detections: Detections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
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
        masks: n run lengths; None if the records have none.
        source: how errors call them: the file, or "results".
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray | None
    scores: np.ndarray
    masks: list[dict[str, Any]] | None
    source: str

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: np.ndarray) -> "Results":
        """The records at these rows."""
        return Results(
            self.image_ids[rows],
            self.category_ids[rows],
            None if self.boxes is None else self.boxes[rows],
            self.scores[rows],
            None if self.masks is None else [self.masks[row] for row in rows.tolist()],
            self.source,
        )


def read_results(
    results: Sequence[Mapping[str, Any]] | str | Path, *, boxes: bool = True, masks: bool = True
) -> Results:
    """Packs result records after a look at each: fields present, numbers finite, sides not negative, masks run lengths.

    Args:
        results: records, or the JSON file that lists them.
        boxes: every record needs a ``bbox``.
        masks: every record needs a ``segmentation``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, not a list of records, or a record as above; the message names the first and the remedy.
    """
    source = str(results) if isinstance(results, str | Path) else "results"
    records = read_json(Path(results)) if isinstance(results, str | Path) else results
    if not isinstance(records, Sequence) or isinstance(records, str):
        raise ValueError(
            f"{source}: expected a list of result records, got {type(records).__name__}; "
            'a results file is [{"image_id": .., "category_id": .., "bbox": .., "score": .., "segmentation": ..}, ..]'
        )
    return Results(
        image_ids=_column(records, "image_id", source, kind="iu", expected="a whole number").astype(np.int64),
        category_ids=_column(records, "category_id", source, kind="iu", expected="a whole number").astype(np.int64),
        boxes=_boxes(records, source) if boxes else None,
        scores=_column(records, "score", source, kind="iuf", expected="a finite number").astype(np.float64),
        masks=_masks(records, source) if masks else None,
        source=source,
    )


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON is anything until it has been looked at
    """The file's JSON; NaN and Infinity, which Python would let pass, are refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")

    def refuse(constant: str) -> Never:
        raise ValueError(f"it holds the value {constant}, which is no number: remove or mend that record")

    try:
        return json.loads(path.read_bytes(), parse_constant=refuse)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def is_run_lengths(value: Any) -> bool:  # noqa: ANN401
    """Whether it looks like ``{"size": [height, width], "counts": ..}``; the counts are not looked into."""
    if not isinstance(value, Mapping) or not isinstance(value.get("counts"), str | bytes | list):
        return False
    size = value.get("size")
    return isinstance(size, Sequence) and len(size) == 2 and all(_is_number(side, whole=True) for side in size)


def _column(records: Sequence[Any], key: str, source: str, *, kind: str, expected: str) -> np.ndarray:
    """One number a record."""
    try:
        column = np.asarray([record[key] for record in records])
    except (KeyError, TypeError, ValueError):
        column = np.empty(0)
    if not len(records):
        return np.zeros(0)
    if column.shape == (len(records),) and column.dtype.kind in kind and np.isfinite(column).all():
        return column
    raise _first_wrong(records, key, source, expected, lambda value: _is_number(value, whole="f" not in kind))


def _boxes(records: Sequence[Any], source: str) -> np.ndarray:
    try:
        boxes = np.asarray([record["bbox"] for record in records])
    except (KeyError, TypeError, ValueError):
        boxes = np.empty(0)
    if not len(records):
        return np.zeros((0, 4))
    numbers = boxes.shape == (len(records), 4) and boxes.dtype.kind in "iuf"
    if numbers and np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all():
        return boxes.astype(np.float64)
    expected = "[x, y, width, height], four finite numbers of which the sides are not negative"
    raise _first_wrong(records, "bbox", source, expected, _is_box)


def _masks(records: Sequence[Any], source: str) -> list[dict[str, Any]]:
    if all(isinstance(record, Mapping) and is_run_lengths(record.get("segmentation")) for record in records):
        return [record["segmentation"] for record in records]
    expected = 'run lengths {"size": [height, width], "counts": ..}'
    if not any("segmentation" in record for record in records if isinstance(record, Mapping)):
        expected += " (no record has any; to score boxes alone, ask for iou_types=('bbox',))"
    raise _first_wrong(records, "segmentation", source, expected, is_run_lengths)


def _is_number(value: Any, *, whole: bool = False) -> bool:  # noqa: ANN401
    number = isinstance(value, int | np.integer) if whole else isinstance(value, int | float | np.integer | np.floating)
    return number and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_box(value: Any) -> bool:  # noqa: ANN401
    box = value.tolist() if isinstance(value, np.ndarray) else value
    return isinstance(box, Sequence) and len(box) == 4 and all(map(_is_number, box)) and bool(min(box[2:]) >= 0)


def _first_wrong(
    records: Sequence[Any], key: str, source: str, expected: str, valid: Callable[[Any], bool]
) -> ValueError:
    """The error that names the first wrong record and says how many there are."""
    wrong = [
        index
        for index, record in enumerate(records)
        if not (isinstance(record, Mapping) and key in record and valid(record[key]))
    ]
    if not wrong:  # every value is right by itself, so they differ in type
        return ValueError(f"{source}: the records' {key!r} are of mixed types, expected {expected} in each")
    record = records[wrong[0]]
    if isinstance(record, Mapping):
        found = f"got {record[key]!r}" if key in record else "it is missing"
    else:
        found = f"the record is {record!r}"
    return ValueError(
        f"{source}: {key!r} of record {wrong[0]} should be {expected}, {found[:200]} "
        f"({len(wrong):,} of {len(records):,} records are wrong)"
    )
