"""Result records: written from detections, read and checked from anybody's file.

A record is ``{"image_id", "category_id", "bbox": [x, y, width, height], "score", "segmentation": {"size", "counts"}}``,
category ids being those of the annotation file.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from hotcoco import mask as run_lengths

from tailseg.annotations.ragged import Ragged, compute_offsets
from tailseg.evaluation import old_hotcoco
from tailseg.evaluation.json_files import read_records
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.overlaps import get_mask_boxes
from tailseg.evaluation.records import (
    Names,
    Part,
    Reader,
    Size,
    WrongRecordsError,
)
from tailseg.evaluation.survey import Source

FIRST = 1000
"""Records of a file that are looked at to know what it holds."""


@runtime_checkable
class Detected(Protocol):
    """A `tailseg.structures.Detections`, which cannot be named without importing torch."""

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]: ...


def to_results(detections: Detected, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Converts the detections of one image to result records.

    Args:
        detections: D detections in pixels of the original file, labels ``0 .. C-1``.
        image_id: the image's id in its annotation file.
        category_ids: C ids: label j has the id ``category_ids[j]``.

    Returns:
        One record for each detection.

    Raises:
        ValueError: a label has no category id.
    """
    return detections.to_coco(image_id, category_ids)


@dataclass(frozen=True, eq=False)
class Results(Sequence[Mapping[str, Any]]):
    """n result records, packed: a sequence of the records, which takes a tenth of the memory of a list of them.

    Attributes:
        image_ids, category_ids: int64 ``[n]``.
        boxes: float64 ``[n, 4]`` xywh; None if the records have none.
        scores: float64 ``[n]``.
        mask_areas: uint32 ``[n]``, pixels; None without masks.
        runs: run lengths of the records that were kept; None without masks.
        source: how errors call them: the file, or "results".
        notes: what was read otherwise than it is written.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray | None
    scores: np.ndarray
    mask_areas: np.ndarray | None
    runs: "Runs | None"
    source: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """The record at a row, or a list of those of a slice; without a mask where its run lengths were not kept."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        record = {"image_id": int(self.image_ids[row]), "category_id": int(self.category_ids[row])}
        if self.boxes is not None:
            record["bbox"] = self.boxes[row].tolist()
        record["score"] = float(self.scores[row])
        if self.runs is not None and (place := int(self.runs.places[row])) >= 0:
            text = self.runs.text(place).decode("ascii")
            record["segmentation"] = {"size": self.runs.sizes[place].tolist(), "counts": text}
        return record

    @classmethod
    def concatenate(cls, parts: "Sequence[Results]") -> "Results":
        """The records of several, which all have boxes or none, and masks or none.

        Raises:
            ValueError: there are no parts.
        """
        if not parts:
            raise ValueError("no results to concatenate: give one or more")
        first = parts[0]
        if len(parts) == 1:
            return first

        def join(name: str) -> Any:  # noqa: ANN401 - an array, or None
            return None if getattr(first, name) is None else np.concatenate([getattr(part, name) for part in parts])

        return cls(
            image_ids=join("image_ids"),
            category_ids=join("category_ids"),
            boxes=join("boxes"),
            scores=join("scores"),
            mask_areas=join("mask_areas"),
            runs=None if first.runs is None else Runs.concatenate([part.runs for part in parts if part.runs]),
            source=first.source,
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )

    def select(self, rows: np.ndarray) -> "Results":
        """The records at these rows, as a copy."""
        runs = self.runs
        return replace(
            self,
            image_ids=self.image_ids[rows],
            category_ids=self.category_ids[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            scores=self.scores[rows],
            mask_areas=None if self.mask_areas is None else self.mask_areas[rows],
            runs=None if runs is None else runs.select(runs.places[rows]),
        )

    def masks(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Run lengths of the records at these rows."""
        assert self.runs is not None
        return self.runs.masks(self.runs.places[rows])

    def mask_boxes(self, rows: np.ndarray) -> np.ndarray:
        """The boxes (xywh, ``[n, 4]``) around the masks at these rows."""
        assert self.runs is not None
        return self.runs.boxes[self.runs.places[rows]]


@dataclass(frozen=True)
class Runs:
    """Compressed run lengths of k masks out of n.

    Attributes:
        places: int32 ``[n]``, positions among the k; -1 for those that were not kept.
        counts: k strings of bytes.
        sizes: int32 ``[k, 2]``, height and width.
        boxes: int32 ``[k, 4]`` xywh, around the masks.
    """

    places: np.ndarray
    counts: Ragged
    sizes: np.ndarray
    boxes: np.ndarray

    @classmethod
    def concatenate(cls, parts: "Sequence[Runs]") -> "Runs":
        """The masks of several."""
        starts = np.cumsum([0, *(len(part.counts) for part in parts)])[:-1].tolist()
        places = [
            np.where(part.places >= 0, part.places + start, -1) for part, start in zip(parts, starts, strict=True)
        ]
        lengths = np.concatenate([np.diff(part.counts.offsets) for part in parts])
        return cls(
            places=np.concatenate(places).astype(np.int32),
            counts=Ragged(np.concatenate([part.counts.values for part in parts]), compute_offsets(lengths)),
            sizes=np.concatenate([part.sizes for part in parts]),
            boxes=np.concatenate([part.boxes for part in parts]),
        )

    def select(self, places: np.ndarray) -> "Runs":
        """Those at these places, all of which were kept."""
        here = np.arange(len(places), dtype=np.int32)
        return Runs(here, self.counts.take(places), self.sizes[places], self.boxes[places])

    def text(self, place: int) -> bytes:
        """The run lengths at a place; none at -1."""
        return self.counts[place].tobytes() if place >= 0 else b""

    def masks(self, places: np.ndarray) -> list[dict[str, Any]]:
        """Some of them."""
        text = self.counts.values.data
        ends = zip(self.counts.offsets[places].tolist(), self.counts.offsets[places + 1].tolist(), strict=True)
        masks = [
            {"size": size, "counts": text[start:end].tobytes()}
            for (start, end), size in zip(ends, self.sizes[places].tolist(), strict=True)
        ]
        return [*map(old_hotcoco.fill, masks)] if old_hotcoco.IS_OLD else masks


Keep = Callable[[Part, int], np.ndarray]


def read_results(
    results: Sequence[Mapping[str, Any]] | str | Path,
    *,
    boxes: bool = True,
    masks: bool = True,
    keep: Keep | None = None,
    names: Names | None = None,
    digits: bool = True,
    size: Size | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Packs result records after a look at each: fields present, numbers finite, sides not negative, masks run lengths.

    A file is read piece by piece, so that its records are never in memory all at once; it may be packed by gzip. Ids
    written as 1.0 or "1" are taken as the numbers, with a note.

    Args:
        results: records, or the JSON file that lists them.
        boxes: every record needs a ``bbox``.
        masks: every record needs a ``segmentation``.
        keep: given some records and the number of those before, may object by a ValueError, and says whose run
            lengths are kept (bool ``[n]``); all are if None.
        names: image ids by what records call the images; None where ``image_id`` is the id.
        digits: whether an ``image_id`` may be a text of digits.
        size: height and width of an image by its id, for masks that are polygons; None refuses polygons.
        progress: called with the bytes read so far and the size of the file.

    Returns:
        The records, packed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, not a list of records, or a record as above; the message names the first and the remedy.
        UnknownImagesError: what a record calls its image is none of the names.
    """
    if isinstance(results, Results) and names is None and _has(results, boxes=boxes, masks=masks):
        return _check_packed(results, boxes=boxes, masks=masks, keep=keep)
    source = str(results) if isinstance(results, str | Path) else "results"
    reader = Reader(source, boxes=boxes, masks=masks, names=names, digits=digits, size=size)
    if isinstance(results, str | Path):
        pieces = read_records(Path(results), progress, reader.parse)
    else:
        pieces = iter([results])
    packed = ResultsBuilder(boxes=boxes, masks=masks)
    try:
        for records in pieces:
            part = reader.read_part(records, packed.length)
            packed.add(part, np.ones(len(part), dtype=bool) if keep is None else keep(part, packed.length))
    except WrongRecordsError as error:
        raise error.count_all(pieces) from None
    return packed.results(source)


def _has(results: Results, *, boxes: bool, masks: bool) -> bool:
    """Whether packed results have the boxes and all the masks that are asked for."""
    runs = results.runs
    return not (boxes and results.boxes is None) and not (masks and (runs is None or bool((runs.places < 0).any())))


def _check_packed(results: Results, *, boxes: bool, masks: bool, keep: Keep | None) -> Results:
    """Packed results with what is asked for; ``keep`` may object, and all masks stay."""
    if not boxes:
        results = replace(results, boxes=None)
    if not masks:
        results = replace(results, runs=None, mask_areas=None)
    if keep is not None:
        runs = results.runs
        sizes = None if runs is None else runs.sizes[runs.places].astype(np.int64)
        keep(
            Part(
                results.image_ids,
                results.category_ids,
                results.scores,
                results.boxes,
                None,
                sizes,
                results.mask_areas,
                results.source,
            ),
            0,
        )
    return results


def _is_given(value: object) -> bool:
    """Whether a record has a box or a mask: a list, an array or run lengths, and none of these is empty."""
    return len(value) > 0 if isinstance(value, np.ndarray) else value not in ([], None, "")


def find_iou_types(source: Source) -> tuple[IouType, ...]:
    """What the first records of some results have: ``bbox``, ``segm`` (a segmentation that is not empty), or both.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, or not a list of records.
    """
    parts = read_records(Path(source)) if isinstance(source, str | Path) else [source]
    first = [record for record in islice(chain.from_iterable(parts), FIRST) if isinstance(record, Mapping)]
    return tuple(iou_type for iou_type, key in _KEYS if any(_is_given(record.get(key)) for record in first))


_KEYS: tuple[tuple[IouType, str], ...] = (("bbox", "bbox"), ("segm", "segmentation"))


class _Growing:
    """An array to which rows are added: the system moves its pages, nothing is copied."""

    def __init__(self, dtype: type[np.generic], *shape: int) -> None:
        self._values = np.empty((0, *shape), dtype)
        self.length = 0

    def add(self, rows: np.ndarray) -> None:
        """Adds rows at the end."""
        length = self.length + len(rows)
        if length > len(self._values):
            self._resize(length + length // 8)
        self._values[self.length : length] = rows
        self.length = length

    def array(self) -> np.ndarray:
        """All rows; nothing may be added after."""
        self._resize(self.length)
        return self._values

    def _resize(self, length: int) -> None:
        self._values.resize((length, *self._values.shape[1:]), refcheck=False)


class ResultsBuilder:
    """Packs records part by part.

    Args:
        boxes, masks: what every part has.
    """

    def __init__(self, *, boxes: bool, masks: bool) -> None:
        self._image_ids, self._category_ids, self._scores = _Growing(np.int64), _Growing(np.int64), _Growing(np.float64)
        self._boxes = _Growing(np.float64, 4) if boxes else None
        self._runs = _PackedRuns() if masks else None
        self._converted: Counter[str] = Counter()

    @property
    def length(self) -> int:
        """Records so far."""
        return self._scores.length

    def add(self, part: Part, kept: np.ndarray) -> None:
        """Adds records; the run lengths of those that are ``kept``."""
        self._image_ids.add(part.image_ids)
        self._category_ids.add(part.category_ids)
        self._scores.add(part.scores)
        if self._boxes is not None and part.boxes is not None:
            self._boxes.add(part.boxes)
        if self._runs is not None:
            self._runs.add(part, kept)
        self._converted.update(part.converted)

    def results(self, source: str) -> Results:
        """All of them; nothing may be added after."""
        runs = self._runs
        notes = (
            f'{source}: {count:,} values of {key!r} are written as 1.0 or "1": taken as whole numbers'
            for key, count in sorted(self._converted.items())
        )
        return Results(
            image_ids=self._image_ids.array(),
            category_ids=self._category_ids.array(),
            boxes=None if self._boxes is None else self._boxes.array(),
            scores=self._scores.array(),
            mask_areas=None if runs is None else runs.areas.array(),
            runs=None if runs is None else runs.runs(),
            source=source,
            notes=tuple(notes),
        )


class _PackedRuns:
    """Masks of parts of a file, put together."""

    def __init__(self) -> None:
        self.areas, self._places = _Growing(np.uint32), _Growing(np.int32)
        self._sizes, self._boxes = _Growing(np.int32, 2), _Growing(np.int32, 4)
        self._text, self._lengths = _Growing(np.uint8), _Growing(np.int64)

    def add(self, part: Part, kept: np.ndarray) -> None:
        """Adds records; the run lengths of those that are ``kept``."""
        assert part.masks is not None
        assert part.sizes is not None
        assert part.areas is not None
        self.areas.add(part.areas)
        self._places.add(np.where(kept, self._boxes.length + np.cumsum(kept) - 1, -1))
        masks = [*compress(part.masks, kept.tolist())]
        texts = [mask["counts"] for mask in masks]
        if not {*map(type, texts)} <= {str}:
            texts = [*map(_get_text, masks)]
        self._sizes.add(part.sizes[kept])
        self._boxes.add(get_mask_boxes(masks))
        self._lengths.add(np.fromiter(map(len, texts), np.int64, len(texts)))
        self._text.add(np.frombuffer("".join(texts).encode("ascii"), np.uint8))

    def runs(self) -> Runs:
        """All of them."""
        offsets = np.append(0, np.cumsum(self._lengths.array()))
        text = Ragged(self._text.array(), offsets)
        return Runs(self._places.array(), text, self._sizes.array(), self._boxes.array())


def _get_text(mask: dict[str, Any]) -> str:
    """The compressed run lengths."""
    counts = mask["counts"]
    if isinstance(counts, list):
        counts = run_lengths.frPyObjects(mask, *mask["size"])["counts"]
    return counts if isinstance(counts, str) else counts.decode("ascii")
