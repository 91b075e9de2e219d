"""Result records as they come, a part of a file at a time: into columns, after a look at each.

Nearly all files hold what they should, so that msgspec can check the types while it reads; what it refuses is read
once more without types and looked at record by record, to be taken another way or to be named.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress
from typing import Any, Final, TypedDict

import msgspec
import numpy as np
from hotcoco import mask as run_lengths

from tailseg.evaluation import json_files, old_hotcoco
from tailseg.evaluation.image_names import UnknownImagesError
from tailseg.evaluation.survey import ImageReference, get_image_reference
from tailseg.words import count_part, verb_form

Names = Mapping[ImageReference, int]
"""Image ids by what records call the images."""
Size = Callable[[int], tuple[int, int]]
"""Height and width of an image, by its id."""
LARGEST: Final = 2**63 - 1
"""Of the whole numbers."""
_ID: Final = "a whole number"
_BOX: Final = "[x, y, width, height], four finite numbers of which the sides are not negative"
_MASK: Final = 'run lengths {"size": [height, width], "counts": ..}'


class _Mask(TypedDict):
    size: tuple[int, int]
    counts: str


class _Scored(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    score: float


class _Boxed(_Scored, gc=False):
    bbox: tuple[float, float, float, float]


class _Masked(_Scored, gc=False):
    segmentation: _Mask


class _BoxedMasked(_Boxed, gc=False):
    segmentation: _Mask


_DECODERS: Final[dict[tuple[bool, bool], msgspec.json.Decoder[Any]]] = {
    (True, False): msgspec.json.Decoder(list[_Boxed]),
    (False, True): msgspec.json.Decoder(list[_Masked]),
    (True, True): msgspec.json.Decoder(list[_BoxedMasked]),
}


@dataclass(frozen=True)
class Part:
    """Some records, in columns.

    Attributes:
        image_ids, category_ids: int64 ``[n]``.
        scores: float64 ``[n]``.
        boxes: float64 ``[n, 4]`` xywh; None if they were not asked for.
        masks: n run lengths; None if they were not asked for.
        sizes: int64 ``[n, 2]`` of the masks, or None.
        areas: uint32 ``[n]`` of the masks, or None.
        source: how errors call the file.
        converted: how many ids were no whole numbers as they are written, by their key.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None
    masks: list[dict[str, Any]] | None
    sizes: np.ndarray | None
    areas: np.ndarray | None
    source: str
    converted: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, chosen: np.ndarray) -> "Part":
        """Some of the records, by a flag for each."""
        return replace(
            self,
            image_ids=self.image_ids[chosen],
            category_ids=self.category_ids[chosen],
            scores=self.scores[chosen],
            boxes=None if self.boxes is None else self.boxes[chosen],
            masks=None if self.masks is None else [*compress(self.masks, chosen.tolist())],
            sizes=None if self.sizes is None else self.sizes[chosen],
            areas=None if self.areas is None else self.areas[chosen],
        )


class Reader:
    """Takes records of one file apart.

    Args:
        source: how errors call the file.
        boxes, masks: what every record needs.
        names: see `image_names.Reading`.
        digits: whether an ``image_id`` may be a text of digits.
        size: of images, for masks that are polygons; None refuses these.
    """

    def __init__(
        self, source: str, *, boxes: bool, masks: bool, names: Names | None, digits: bool, size: Size | None
    ) -> None:
        self.source, self.boxes, self.masks = source, boxes, masks
        self._names, self._digits, self._size = names, digits, size
        self._decoder = _DECODERS[boxes, masks]
        self._as_expected = names is None

    def parse(self, text: bytes) -> Any:  # noqa: ANN401
        """The records of a JSON text; see `json_files.parse`."""
        if self._as_expected:
            try:
                return self._decoder.decode(text)
            except msgspec.ValidationError:
                self._as_expected = False  # what comes will be of the same kind
            except ValueError:
                pass
        return json_files.parse(text)

    def read_part(self, records: Sequence[Any], before: int) -> Part:
        """Columns of records, of which ``before`` came earlier.

        Raises:
            ValueError: a record is not as expected; the message names the first.
            UnknownImagesError: what a record calls its image is none of the names.
        """
        if records and isinstance(records[0], _Scored):
            part = self._read_typed(records)
            if part is not None:
                return part
            records = msgspec.to_builtins(records)
        return self._read_untyped(records, Wrong(records, self.source, before))

    def _read_typed(self, records: Sequence[Any]) -> Part | None:
        """None if something is wrong beyond its type."""
        count = len(records)
        boxes = masks = sizes = areas = None
        try:
            image_ids = np.fromiter([record.image_id for record in records], np.int64, count)
            category_ids = np.fromiter([record.category_id for record in records], np.int64, count)
            if self.boxes:
                corners = chain.from_iterable([record.bbox for record in records])
                boxes = np.fromiter(corners, np.float64, 4 * count).reshape(-1, 4)
            if self.masks:
                masks = [record.segmentation for record in records]
                sides = chain.from_iterable([mask["size"] for mask in masks])
                sizes, areas = np.fromiter(sides, np.int64, 2 * count).reshape(-1, 2), compute_mask_areas(masks)
        except (OverflowError, ValueError):
            return None
        if boxes is not None and not (boxes[:, 2:] >= 0).all():
            return None
        scores = np.fromiter([record.score for record in records], np.float64, count)
        return Part(image_ids, category_ids, scores, boxes, masks, sizes, areas, self.source)

    def _read_untyped(self, records: Sequence[Any], wrong: "Wrong") -> Part:
        converted: dict[str, int] = {}
        image_ids = self._image_ids(records, wrong, converted)
        category_ids = _read_ids(records, "category_id", wrong, converted)
        scores = _read_scores(records, wrong)
        masks = sizes = areas = None
        if self.masks:
            masks, sizes, areas = _read_masks(records, image_ids, self._size, wrong)
        boxes = _read_boxes(records, wrong) if self.boxes else None
        return Part(image_ids, category_ids, scores, boxes, masks, sizes, areas, self.source, converted)

    def _image_ids(self, records: Sequence[Any], wrong: "Wrong", converted: dict[str, int]) -> np.ndarray:
        try:
            if self._names is not None:
                return np.asarray([self._names[get_image_reference(record)] for record in records], dtype=np.int64)
        except KeyError as error:
            raise UnknownImagesError(f"{self.source} has changed while it was read: {error} is new") from error
        try:
            return _read_ids(records, "image_id", wrong, converted, digits=self._digits)
        except ValueError as error:
            if self._digits:
                raise
            raise UnknownImagesError(str(error)) from error  # names, perhaps


def compute_mask_areas(masks: dict[str, Any] | list[dict[str, Any]]) -> np.ndarray:
    """Pixels of each mask, uint32, by hotcoco: pycocotools' area overflows on exactly 256 masks under NumPy 2.

    Raises:
        ValueError: run lengths are broken, or of a size below zero or beyond its range.
    """
    try:
        areas = np.asarray(run_lengths.area(masks), dtype=np.uint32).reshape(-1)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if old_hotcoco.IS_OLD:
        for mask in [masks] if isinstance(masks, dict) else masks:
            old_hotcoco.check_length(mask)
    return areas


def is_run_lengths(value: Any) -> bool:  # noqa: ANN401
    """Whether it looks like ``{"size": [height, width], "counts": ..}``; the counts are not looked into."""
    if not isinstance(value, Mapping) or not isinstance(value.get("counts"), str | bytes | list):
        return False
    size = value.get("size")
    return (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(_to_whole_number(side, digits=False) is not None for side in size)
    )


def _with_whole_numbers(mask: Any) -> Any:  # noqa: ANN401
    """Run lengths that write 96 as 96.0, in their size or in a list of counts, with the whole numbers."""
    if not is_run_lengths(mask):
        return mask
    size, counts = mask["size"], mask["counts"]
    if any(isinstance(side, float | np.floating) for side in size):
        mask = {**mask, "size": [int(side) for side in size]}
    if isinstance(counts, list) and any(isinstance(count, float) and count.is_integer() for count in counts):
        whole = [int(count) if isinstance(count, float) and count.is_integer() else count for count in counts]
        mask = {**mask, "counts": whole}
    return mask


def _read_ids(
    records: Sequence[Any], key: str, wrong: "Wrong", converted: dict[str, int], *, digits: bool = True
) -> np.ndarray:
    """One id a record; 1.0 and "1" are taken as the number, and counted."""
    try:
        values = [record[key] for record in records]
    except (KeyError, TypeError):
        raise wrong.describe_first(key, _ID, lambda value: _to_whole_number(value, digits=digits) is not None) from None
    ids = values if {*map(type, values)} <= {int} else [_to_whole_number(value, digits=digits) for value in values]
    try:
        found = np.asarray(ids, dtype=np.int64)
    except (OverflowError, TypeError):  # None among them
        raise wrong.describe_first(key, _ID, lambda value: _to_whole_number(value, digits=digits) is not None) from None
    if others := sum(not isinstance(value, int | np.integer) for value in values):
        converted[key] = others
    return found


def _to_whole_number(value: Any, *, digits: bool) -> int | None:  # noqa: ANN401
    """The whole number that is meant, or None; a text with zeros in front is rather a name."""
    if isinstance(value, str) and digits and len(value) < 20 and value.isascii() and value.isdecimal():
        number = int(value)
        return number if str(number) == value and number <= LARGEST else None
    if isinstance(value, float | np.floating) and value == value // 1 and abs(value) < 2**53:
        return int(value)
    return int(value) if _is_number(value, whole=True) else None


def _read_scores(records: Sequence[Any], wrong: "Wrong") -> np.ndarray:
    try:
        values = [record["score"] for record in records]
        scores = np.asarray(values, dtype=np.float64)
        if {*map(type, values)} <= {int, float} and np.isfinite(scores).all():
            return scores
    except (KeyError, TypeError, ValueError, OverflowError):
        values = []
    if values and all(map(_is_number, values)):
        return np.asarray(values, dtype=np.float64)
    raise wrong.describe_first("score", "a finite number", _is_number)


def _read_boxes(records: Sequence[Any], wrong: "Wrong") -> np.ndarray:
    try:
        boxes = [record["bbox"] for record in records]
        fit = {*map(type, boxes)} <= {list, tuple, np.ndarray} and {*map(len, boxes)} <= {4}
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
    raise wrong.describe_first("bbox", _BOX, is_box)


def _read_masks(
    records: Sequence[Any], image_ids: np.ndarray, size: Size | None, wrong: "Wrong"
) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """Run lengths, sizes and areas; polygons are rasterized where the sizes of the images are known."""
    values: list[Any] = [record.get("segmentation") if isinstance(record, Mapping) else None for record in records]
    masks: list[Any] = [
        _rasterize(value, size(image_id)) if size is not None and is_polygons(value) else _with_whole_numbers(value)
        for value, image_id in zip(values, image_ids.tolist(), strict=True)
    ]
    if not all(map(is_run_lengths, masks)):
        expected = _MASK if size is None else f"{_MASK} or polygons [[x1, y1, x2, y2, x3, y3, ..], ..]"
        if not any(values):
            expected += " (no record has any; to score boxes alone, ask for iou_types=('bbox',), or --only bbox)"
        raise wrong.describe_first("segmentation", expected, lambda value: is_run_lengths(value) or is_polygons(value))
    sizes = np.asarray([mask["size"] for mask in masks], dtype=np.int64).reshape(-1, 2)
    return masks, sizes, _compute_areas(masks, wrong)


def is_polygons(value: Any) -> bool:  # noqa: ANN401
    """Whether it is ``[[x1, y1, x2, y2, x3, y3, ..], ..]``; the engines would take four numbers for a box."""
    return isinstance(value, list) and len(value) > 0 and all(map(_is_polygon, value))


def _is_polygon(value: Any) -> bool:  # noqa: ANN401
    if not isinstance(value, list) or len(value) < 6 or len(value) % 2:
        return False
    return all(isinstance(number, int | float) and abs(number) < 1e300 for number in value)


def _rasterize(polygons: list[list[float]], size: tuple[int, int]) -> dict[str, Any]:
    parts = run_lengths.frPyObjects(polygons, *size)
    return parts[0] if len(parts) == 1 else run_lengths.merge(parts)


def _compute_areas(masks: list[dict[str, Any]], wrong: "Wrong") -> np.ndarray:
    try:
        return compute_mask_areas(masks)
    except ValueError:
        for row, mask in enumerate(masks, start=wrong.before):
            try:
                compute_mask_areas(mask)
            except ValueError as error:
                raise ValueError(f"{wrong.source}: the run lengths of record {row} are broken: {error}") from error
        raise


def _is_number(value: Any, *, whole: bool = False) -> bool:  # noqa: ANN401
    if isinstance(value, int | np.integer):
        return not isinstance(value, bool) and -LARGEST <= value <= LARGEST
    return not whole and isinstance(value, float | np.floating) and bool(np.isfinite(value))


def is_box(value: Any) -> bool:  # noqa: ANN401
    """Whether it is ``[x, y, width, height]``, finite, the sides not negative."""
    box = value.tolist() if isinstance(value, np.ndarray) else value
    return isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_number, box)) and bool(min(box[2:]) >= 0)


class WrongRecordsError(ValueError):
    """Some of the records read so far are not as expected; `count_all` counts those to come as well."""

    def __init__(
        self, key: str, begin: str, counts: tuple[int, int], is_wrong: Callable[[Any], bool], read: str = ""
    ) -> None:
        wrong, total = counts
        are = verb_form(wrong, "is", "are")
        super().__init__(f"{begin} ({count_part(wrong, total, 'record')}{read} {are} wrong)")
        self.key = key
        self._begin, self._counts, self._is_wrong = begin, counts, is_wrong

    def count_all(self, rest: Iterable[Sequence[Any]]) -> "WrongRecordsError":
        """The error with the counts of the whole file.

        Args:
            rest: the records that were not read yet.
        """
        wrong, total = self._counts
        try:
            for records in rest:
                plain = msgspec.to_builtins(records) if records and isinstance(records[0], _Scored) else records
                wrong += sum(map(self._is_wrong, plain))
                total += len(plain)
        except ValueError:  # the rest cannot be read
            return WrongRecordsError(self.key, self._begin, (wrong, total), self._is_wrong, " read so far")
        return WrongRecordsError(self.key, self._begin, (wrong, total), self._is_wrong)


@dataclass(frozen=True)
class Wrong:
    """Writes the error about some of the records; ``before`` them come others."""

    records: Sequence[Any]
    source: str
    before: int

    def describe_first(self, key: str, expected: str, valid: Callable[[Any], bool]) -> ValueError:
        """Names the first wrong record and says how many there are.

        Args:
            key: the key of the wrong value.
            expected: what the value should be, in words.
            valid: says whether a value is right.

        Returns:
            The error.
        """

        def is_wrong(record: Any) -> bool:  # noqa: ANN401
            return not (isinstance(record, Mapping) and key in record and valid(record[key]))

        wrong = [index for index, record in enumerate(self.records) if is_wrong(record)]
        if not wrong:  # every value is right by itself, so they differ in type
            return ValueError(f"{self.source}: the records' {key!r} are of mixed types, expected {expected} in each")
        record = self.records[wrong[0]]
        if isinstance(record, Mapping):
            found = f"got {record[key]!r}" if key in record else "it is missing"
        else:
            found = f"the record is {record!r}"
        begin = f"{self.source}: {key!r} of record {self.before + wrong[0]} should be {expected}, {found[:200]}"
        return WrongRecordsError(key, begin, (len(wrong), self.before + len(self.records)), is_wrong)
