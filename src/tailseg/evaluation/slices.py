"""The figures of some of the images: by site, camera, night, or any other field of the image records.

A slice is evaluated as if its images were the whole data set: AP is the mean over the classes that have objects in it.
Two slices rarely have the same classes, and AP depends on the number of images: in few images a rare class has few
false detections for each of its objects. The APs of two slices can therefore not be compared directly. Instead, the
values of the field are given to the images at random, again and again. The slice is compared with as many images drawn
like this, over its own classes. ``benchmarks/bootstrap_coverage.py --slices`` counts how often this calls slices of
equal images different. (A bootstrap within the slice, against all other images, does so for one slice in five.)

Shapes: B samples, V values of a field, K classes, I images, n detections.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tailseg.annotations.types import Group
from tailseg.evaluation.average_precision import compute_scores
from tailseg.evaluation.comparison import FEWEST_IMAGES, Difference
from tailseg.evaluation.errors import find_members
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.image_fields import sort_values
from tailseg.evaluation.matches import FOUND, Matches
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.notebook import import_pandas, to_csv, to_html, to_markdown, to_text
from tailseg.evaluation.precision import compute_curves, compute_mean_precision
from tailseg.words import count_part, verb_form

if TYPE_CHECKING:
    from rich.table import Table

FIGURES: Final = ("AP", "AP50", "AP75", "AR", "APr", "APc", "APf")
DEVIATIONS: Final = 1.959963984540054
"""Standard deviations on each side of a 95 % interval."""
FEWEST_SAMPLES: Final = 5
"""Samples with objects of a class that its expected AP needs."""
NEGLIGIBLE: Final = 1e-9
"""Differences up to this are rounding."""


@dataclass(frozen=True)
class SliceFigure:
    """A figure of a slice, in 0..1.

    Attributes:
        value: the figure; None where the slice has no object.
        low, high: its 95 % interval: how much it varies between sets of as many images. None if unknown.
        difference: the figure that as many images drawn at random have (``before``), and this one (``after``), both
            over the classes of the slice that such images have too.
    """

    value: float | None
    low: float | None
    high: float | None
    difference: Difference

    @property
    def expected(self) -> float | None:
        """The figure of as many images drawn at random."""
        return self.difference.before


@dataclass(frozen=True)
class Slice:
    """The images with one value of a field.

    Attributes:
        field: the field of the image records.
        value: its value as text; ``(none)`` for images without one.
        num_images, num_objects, num_classes: images, objects to find, and classes with an object.
        figures: AP, AP50, AP75, AR, and APr, APc, APf if there are such classes.
    """

    field: str
    value: str
    num_images: int
    num_objects: int
    num_classes: int
    figures: dict[str, SliceFigure]

    def __getitem__(self, key: str) -> SliceFigure:
        return self.figures[key]


@dataclass(frozen=True, eq=False, repr=False)
class Slices:
    """The figures by the values of fields: ``slices["segm"][0].figures["AP"].value``.

    Attributes:
        by_kind: the slices by kind of overlap, in the order of the fields, then of the values.
        notes: what the reader should know.
    """

    by_kind: dict[IouType, tuple[Slice, ...]]
    notes: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> tuple[Slice, ...]:
        for iou_type, slices in self.by_kind.items():
            if iou_type == key:
                return slices
        raise KeyError(f"no slices of {key!r}, only of {', '.join(self.by_kind)}")

    def __contains__(self, key: str) -> bool:
        return key in self.by_kind

    def tables(self) -> "list[Table]":
        """A table for each field, of masks where there are any."""
        from tailseg.evaluation.tables import build_slice_tables  # which imports this module

        return [*build_slice_tables(self)]

    def __repr__(self) -> str:
        return to_text(*self.tables())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return to_html(*self.tables())

    def to_dict(self) -> dict[str, Any]:
        """All slices as dicts, lists and numbers, by kind of overlap."""
        return {iou_type: [_to_dict(entry) for entry in slices] for iou_type, slices in self.by_kind.items()}

    def to_csv(self) -> str:
        """One line for each slice and kind of overlap: its figures with their intervals, and the comparison of AP."""
        return to_csv(self._rows())

    def to_markdown(self) -> str:
        """The tables in Markdown."""
        return to_markdown(*self.tables())

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas need not be installed
        """The slices as a pandas DataFrame: the columns of `to_csv`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        header, *rows = self._rows()
        return import_pandas().DataFrame(rows, columns=header)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        """The header, then one row for each slice and kind of overlap."""
        names = [name for name in FIGURES if any(name in entry.figures for entry in self._list())]
        columns = [f"{name}{part}" for name in names for part in ("", "_low", "_high")]
        comparison = "AP_expected", "AP_difference", "AP_difference_low", "AP_difference_high", "AP_verdict"
        yield "iou_type", "field", "value", "num_images", "num_objects", "num_classes", *columns, *comparison
        for iou_type, slices in self.by_kind.items():
            for entry in slices:
                counts = entry.num_images, entry.num_objects, entry.num_classes
                figures = [(found.value, found.low, found.high) for found in map(entry.figures.__getitem__, names)]
                found = entry.figures["AP"].difference
                compared = found.before, found.difference, found.low, found.high, found.verdict
                values = (value for figure in figures for value in figure)
                yield iou_type, entry.field, entry.value, *counts, *values, *compared

    def _list(self) -> list[Slice]:
        return [entry for slices in self.by_kind.values() for entry in slices]


def _to_dict(entry: Slice) -> dict[str, Any]:
    content = asdict(entry)
    for name, figure in entry.figures.items():
        found = figure.difference
        content["figures"][name] = {
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
            "difference": {**asdict(found), "difference": found.difference, "verdict": found.verdict},
        }
    return content


def describe_slices(slices: tuple[Slice, ...]) -> tuple[str, ...]:
    """What the reader should know about slices: those without an interval, and fields with one value."""
    notes = []
    for field in dict.fromkeys(entry.field for entry in slices):
        entries = [entry for entry in slices if entry.field == field]
        if len(entries) == 1:
            notes.append(f"all images have the value {entries[0].value!r:.60} of the field {field!r}: nothing differs")
            continue
        scarce = sum(entry.figures["AP"].difference.low is None for entry in entries)
        if scarce:
            has = verb_form(scarce, "has", "have")
            notes.append(
                f"{count_part(scarce, len(entries), 'value')} of the field {field!r} {has} no interval: fewer than "
                f"{FEWEST_IMAGES} images with objects have the value, or another one"
            )
    return tuple(notes)


def compute_slices(
    matches: Matches,
    truth: GroundTruth,
    fields: Mapping[str, np.ndarray],
    *,
    samples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Slice, ...]:
    """Computes the figures of each value of each field.

    Args:
        matches: the matches of all images.
        truth: the ground truth.
        fields: the values of each field as text, one for each image in order of id.
        samples: how often the values are given to the images at random.
        seed: the seed of the samples.
        progress: called with the number of samples that are done, and of all.

    Returns:
        The slices in the order of the fields, then of the values.
    """
    done: list[Slice] = []
    for number, (field, column) in enumerate(fields.items()):
        values = sort_values(column)
        places = {value: place for place, value in enumerate(values)}
        parts = np.array([places[value] for value in column.tolist()], dtype=np.int64)
        figures = evaluate_parts(
            matches,
            parts,
            truth.class_groups,
            samples=samples,
            seed=seed,
            progress=lambda count, number=number: progress(number * samples + count, len(fields) * samples),
        )
        for place, value in enumerate(values):
            slice_matches = matches.select_images(parts == place)
            scores = compute_scores(compute_curves(slice_matches), truth)
            num_objects = slice_matches.num_objects()
            done.append(
                Slice(
                    field=field,
                    value=value,
                    num_images=slice_matches.num_images,
                    num_objects=int(num_objects.sum()),
                    num_classes=int((num_objects > 0).sum()),
                    figures={name: _build_figure(scores[name], part[place]) for name, part in figures.items()},
                )
            )
    return tuple(done)


@dataclass(frozen=True)
class PartFigure:
    """A figure of one part of the images; NaN where unknown.

    Attributes:
        deviation: the standard deviation of the figure between sets of as many images.
        before, after: the figure of as many images drawn at random and that of the part, over the same classes.
        chance: the standard deviation of after - before if the part's images are drawn at random.
    """

    deviation: float
    before: float
    after: float
    chance: float


def evaluate_parts(
    matches: Matches,
    parts: np.ndarray,
    groups: tuple[Group | None, ...],
    *,
    samples: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, list[PartFigure]]:
    """Evaluates parts of the images, and as many images drawn at random for each.

    Let A(S, k) be the AP of class k in a set of images S, and m(k) its mean over samples: sets of as many images as the
    part has, where they have an object of k. The difference D(S) is the mean of A(S, k) - m(k) over the classes of S,
    and its standard deviation that of D over the samples, which are drawn without replacement.

    Args:
        matches: the matches of all images.
        parts: int64 ``[I]``, the part 0 .. V - 1 of each image.
        groups: the frequency groups of the K classes.
        samples: the number of samples, B.
        seed: the seed of the samples.
        progress: called with the number of samples that are done.

    Returns:
        For each figure those of the V parts.
    """
    num_parts = int(parts.max()) + 1
    matches = _without_rest(matches)
    members = {f"AP{part}": rows for part, rows in find_members(groups).items() if part != "all"}
    everything = np.ones(matches.num_classes, dtype=bool)
    rows = {name: members.get(name, everything) for name in FIGURES if name in members or name[:3] not in _GROUPED}
    actual = _evaluate(matches, parts, num_parts)
    rng = np.random.default_rng(seed)
    shape = num_parts, matches.num_classes
    sums = {name: np.zeros(shape) for name in actual}
    means = {name: np.zeros((samples, num_parts)) for name in rows}
    present = np.zeros((samples, *shape), dtype=bool)
    for sample in range(samples):
        drawn = _evaluate(matches, rng.permutation(parts), num_parts)
        present[sample] = ~np.isnan(drawn["AP"])
        for name, values in drawn.items():
            sums[name] += np.nan_to_num(values)
        for name, classes in rows.items():
            means[name][sample] = _mean(drawn[_get_column(name)][:, classes], axis=1)
        progress(sample + 1)
    counts = present.sum(0)
    sizes = np.bincount(parts, minlength=num_parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = {name: np.where(counts >= FEWEST_SAMPLES, total / counts, np.nan) for name, total in sums.items()}
    # sets drawn without replacement vary less than data sets do
    widening = 1 / np.sqrt(np.where(sizes < len(parts), 1 - sizes / len(parts), np.nan))
    filled = np.zeros(len(parts), dtype=bool)
    filled[matches.object_images[matches.wanted[0]]] = True
    num_filled = np.bincount(parts[filled], minlength=num_parts)
    scarce = np.minimum(num_filled, filled.sum() - num_filled) < FEWEST_IMAGES
    found: dict[str, list[PartFigure]] = {}
    for name, classes in rows.items():
        column = _get_column(name)
        base = np.where(classes, expected[column], np.nan)
        # the same mean over the classes of each sample, of what is expected of them
        matched = np.stack([_mean(np.where(mask, base, np.nan), axis=1) for mask in present])
        chance, deviation = (_deviate(values) for values in (means[name] - matched, means[name]))
        after = np.where(np.isnan(base), np.nan, actual[column])
        before = np.where(np.isnan(after), np.nan, base)
        columns = np.stack([deviation * widening, _mean(before, axis=1), _mean(after, axis=1), chance], axis=1)
        columns[np.ix_(scarce, [0, 3])] = np.nan
        found[name] = [PartFigure(*row) for row in columns.tolist()]
    return found


_GROUPED: Final = ("APr", "APc", "APf")


def _get_column(name: str) -> str:
    """The figure of single classes whose mean it is."""
    return "AP" if name in _GROUPED else name


def _without_rest(matches: Matches) -> Matches:
    """Without detections that find nothing and follow all that do: they change no precision in any set of images."""
    last = np.full(matches.num_classes, -1)
    finders = np.flatnonzero((matches.states[0] == FOUND).any(0))
    last[matches.classes[finders]] = finders  # in order: the last one stays
    return matches.take(np.flatnonzero(np.arange(len(matches)) <= last[matches.classes]))


def _evaluate(matches: Matches, parts: np.ndarray, num_parts: int) -> dict[str, np.ndarray]:
    """AP, AP50, AP75 and AR of each class in each part, ``[V, K]``; NaN where a part has no object of the class."""
    wanted, num_classes = matches.wanted[0], matches.num_classes
    keys = parts[matches.object_images[wanted]] * num_classes + matches.object_classes[wanted]
    num_objects = np.bincount(keys, minlength=num_parts * num_classes)
    present = np.flatnonzero(num_objects)
    places = np.full(num_parts * num_classes, -1)
    places[present] = np.arange(len(present))
    at = places[parts[matches.images] * num_classes + matches.classes]
    order = np.argsort(at, kind="stable")[np.count_nonzero(at < 0) :]
    at, states, num_objects = at[order], matches.states[0][:, order], num_objects[present]
    count = len(present)
    # the thresholds at once, as if their classes were others
    keys = (at + count * np.arange(len(states))[:, None]).ravel()
    precision, recall = (
        values.reshape(len(states), count)
        for values in compute_mean_precision(keys, states.ravel(), np.tile(num_objects, len(states)))
    )
    columns = {
        "AP": precision.mean(0),
        "AP50": precision[0],
        "AP75": precision[5],
        "AR": recall.mean(0),
    }
    found = {}
    for name, values in columns.items():
        whole = np.full(num_parts * num_classes, np.nan)
        whole[present] = values
        found[name] = whole.reshape(num_parts, num_classes)
    return found


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is not NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(axis)
    return np.where(count > 0, np.where(there, values, 0).sum(axis) / np.maximum(count, 1), np.nan)


def _deviate(values: np.ndarray) -> np.ndarray:
    """The standard deviation over samples ``[B, V]`` of what is not NaN; NaN where there are fewer than two."""
    there = ~np.isnan(values)
    count = there.sum(0)
    squares = np.where(there, (values - _mean(values, axis=0)) ** 2, 0).sum(0)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def _build_figure(value: float | None, found: PartFigure) -> SliceFigure:
    low = high = None
    if value is not None and not np.isnan(found.deviation):
        reach = DEVIATIONS * found.deviation
        low, high = max(value - reach, 0.0), min(value + reach, 1.0)
    before, after = (None if np.isnan(end) else end for end in (found.before, found.after))
    if before is None or after is None or np.isnan(found.chance):
        return SliceFigure(value, low, high, Difference(before, after, None, None))
    reach = max(DEVIATIONS * found.chance, NEGLIGIBLE)
    ends = max(after - before - reach, -1.0), min(after - before + reach, 1.0)
    return SliceFigure(value, low, high, Difference(before, after, *ends))
