"""The page of `tailseg data show`: classes, sizes, positions, co-occurrence, examples and sampling of a data set.

Tables and charts are HTML and SVG, so that the page shows everything without its script. The script sorts and searches
the table of classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.statistics import (
    BAND_EDGES,
    Companion,
    ObjectTable,
    compute_quantiles,
    count_bands,
    count_group_pairs,
    count_positions,
    find_companions,
    list_class_groups,
    tabulate_objects,
)
from tailseg.annotations.summary import ClassCount, Summary
from tailseg.annotations.types import Group
from tailseg.data.epoch_plan import Exposure, compute_exposure, count_group_draws, plan_epoch
from tailseg.report.builder import MAX_BYTES, build_page
from tailseg.report.galleries import Galleries, Photographs, fit, remove_folders
from tailseg.report.page import GROUPS
from tailseg.report.thumbnails import crop_around, limit_aspect, trace_box, trace_outline
from tailseg.words import count_noun

MAX_CLASSES: Final = 4000
"""Classes in the chart and in the table; of more classes, the most and the least frequent ones are shown."""
MAX_COMPANION_ROWS: Final = 120
"""Classes in the table of co-occurrence."""
COMPANIONS: Final = 3
EXAMPLE_CLASSES: Final = 24
"""The rarest classes that are shown with pictures."""
EXAMPLES: Final = 3
"""Pictures of each of these classes."""
LONGEST: Final = 220
"""The longest side of a picture in pixels."""
MAX_NAME: Final = 60
"""Letters of a name; a longer one is cut."""
GRID: Final = 20
"""Rows and columns of the maps of positions."""
LEVELS: Final = 10
"""Shades of these maps."""
CHART_HEIGHT: Final = 100.0
SIZE_BINS: Final = np.exp2(np.arange(0, 13.5, 0.5))
"""Bounds of the histogram of sizes, in pixels; the last bin takes everything above, too."""
DRAW_EDGES: Final = (0.0, 1.0 - 1e-9, 1.0 + 1e-9, 2.0 + 1e-9, 4.0 + 1e-9, 8.0 + 1e-9, np.inf)
DRAW_NAMES: Final = ("less than once", "once", "up to 2 times", "up to 4 times", "up to 8 times", "more than 8 times")
SAMPLINGS: Final[tuple[tuple[str, Mapping[str, Any]], ...]] = (
    ("every image once", {"sampling": "repeat", "threshold": 0.0}),
    ("repeat, threshold 0.001", {"sampling": "repeat", "threshold": 0.001}),
    ("repeat, threshold 0.01", {"sampling": "repeat", "threshold": 0.01}),
    ("repeat, threshold auto", {"sampling": "repeat", "threshold": "auto"}),
    ("instance_repeat, threshold auto", {"sampling": "instance_repeat", "threshold": "auto"}),
    ("balanced", {"sampling": "balanced"}),
    ("class_aware", {"sampling": "class_aware"}),
)
"""The samplings that the page compares with the chosen one."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """What an epoch of a sampling shows.

    Attributes:
        name: the sampling in words.
        factors: float64, the draws of each image that training uses, before the last step is filled up.
        exposure: how often the epoch shows each class.
    """

    name: str
    factors: np.ndarray
    exposure: Exposure


def render(
    annotations: Annotations, content: Summary, sampled: Sampled | None, batch_size: int
) -> tuple[str, str, int]:
    """Builds the page.

    Args:
        annotations: the data set.
        content: its summary.
        sampled: the sampling that the page describes; None if no object can be trained.
        batch_size: images per step.

    Returns:
        The text of the page; why pictures are missing, empty if none is; and the number of pictures.
    """
    table, groups = tabulate_objects(annotations), list_class_groups(annotations)
    group_images, group_pairs = count_group_pairs(table, groups)
    labels = {category.id: label for label, category in enumerate(annotations.categories)}
    plain = sample(annotations, "every image once", batch_size, sampling="repeat", threshold=0.0) if sampled else None
    values: dict[str, Any] = {
        "title": annotations.path.name,
        "subtitle": _describe_content(annotations, content),
        "notes": content.notes,
        "groups": GROUPS,
        "overview": _list_overview(annotations, content),
        "group_rows": _list_groups(annotations, content, group_images),
        "tail": _draw_tail(content),
        "sizes": _describe_sizes(table, groups),
        "size_chart": _draw_sizes(table, groups),
        "maps": _draw_maps(table, groups),
        "group_pairs": _list_group_pairs(group_images, group_pairs),
        "companions": _list_companions(annotations, content, table, labels),
        "classes": _list_classes(annotations, content, table, labels, plain, sampled),
        "negatives": annotations.format == "lvis",
        "left_out": max(0, len(content.counts) - MAX_CLASSES),
        "band_edges": BAND_EDGES,
        "grid": GRID,
        "aspect": _choose_aspect(content),
        "sampling": None
        if plain is None or sampled is None
        else _describe_sampling(annotations, content, plain, sampled, groups, batch_size),
    }
    photographs, chosen = Photographs(annotations), content.least_frequent(EXAMPLE_CLASSES)
    galleries = Galleries((count.category.id for count in chosen), room=MAX_BYTES // 2)
    if not annotations.num_objects:
        chosen = ()
    rows = [_choose_examples(annotations, labels[count.category.id]) for count in chosen]
    for place in range(EXAMPLES):  # the first example of each class comes first
        for row in (of_class[place] for of_class in rows if place < len(of_class)):
            _add_example(galleries, annotations, photographs, row)

    def build() -> str:
        examples = [_describe_example(count, galleries.of[count.category.id]) for count in chosen]
        return build_page(
            "data.html",
            styles=["base", "report", "data"],
            scripts=["data"],
            examples=[example for example in examples if example["pictures"]],
            problem=remove_folders(photographs.problem, "--images"),
            **values,
        )

    text = fit(galleries, build, limit=MAX_BYTES)
    return text, photographs.problem, galleries.shown


def sample(annotations: Annotations, name: str, batch_size: int, **plan: Any) -> Sampled:  # noqa: ANN401
    """Computes what an epoch of a sampling shows.

    Args:
        annotations: the data set; at least one object can be trained.
        name: the sampling in words.
        batch_size: images per step.
        **plan: arguments of `plan_epoch`.

    Returns:
        The draws of the images, and how often each class is shown.
    """
    epoch = plan_epoch(annotations, **plan)
    factors = np.ceil(epoch.factors) if epoch.rounding == "ceil" else epoch.factors
    return Sampled(name, factors, compute_exposure(annotations, epoch, batch_size))


def shorten_name(name: str) -> str:
    """Makes a name one line of at most `MAX_NAME` letters."""
    line = " ".join(name.split()) or "(no name)"
    return line if len(line) <= MAX_NAME else f"{line[: MAX_NAME - 1]}…"


def _describe_content(annotations: Annotations, content: Summary) -> str:
    parts = count_noun(content.images, "image"), count_noun(content.objects, "object")
    masks = "with masks" if content.with_masks else "boxes without masks"
    classes = count_noun(len(content.counts), "class")
    return f"{annotations.format.upper()} format, {', '.join(parts)} ({masks}), {classes}"


def _list_overview(annotations: Annotations, content: Summary) -> list[tuple[str, str]]:
    (width, height), share = content.image_sizes
    per_image, counts = content.objects_per_image, np.array([count.objects for count in content.counts])
    head = np.sort(counts)[::-1][: max(1, int((counts > 0).sum()) // 10)].sum()
    rows = [
        ("images with objects", f"{content.annotated_images:,} of {content.images:,}"),
        ("classes with objects", f"{(counts > 0).sum():,} of {len(counts):,}"),
        ("objects of the most frequent tenth of these classes", _format_share(head, content.objects)),
        ("objects in an image", f"median {per_image[2]:.0f}, 90 % from {per_image[0]:.0f} to {per_image[4]:.0f}"),
        ("most frequent image size", f"{width:,} x {height:,} pixels, {share:.0%} of the images"),
        ("crowd or ignore regions", f"{content.ignored:,}"),
    ]
    if annotations.format == "lvis":
        absent = len(annotations.negative.values) / max(content.images, 1)
        rows.append(("classes that are known to be absent from an image", f"{absent:.1f} on average"))
    return rows


def _list_groups(annotations: Annotations, content: Summary, images: np.ndarray) -> list[dict[str, Any]]:
    rare, common = annotations.group_bounds
    ranges = f"up to {rare:,}", f"{rare + 1:,} to {common:,}", f"more than {common:,}"
    return [
        {
            "key": group,
            "range": "" if annotations.states_groups else ranges[number],
            "classes": f"{content.groups[group].classes:,}",
            "present": f"{content.groups[group].present:,}",
            "objects": f"{content.groups[group].objects:,}",
            "share": _format_share(content.groups[group].objects, content.objects),
            "images": f"{images[number]:,}",
        }
        for number, group in enumerate(get_args(Group))
    ]


def _format_share(part: float | np.integer, whole: float | np.integer) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _choose_counts(content: Summary) -> Sequence[ClassCount]:
    """The classes that the page lists, the most frequent first."""
    half = MAX_CLASSES // 2
    counts = content.counts
    return counts if len(counts) <= MAX_CLASSES else (*counts[:half], *counts[-half:])


def _draw_tail(content: Summary) -> dict[str, Any]:
    """The chart of the long tail: for each class a bar of its images, and behind it one of its objects."""
    counts = _choose_counts(content)
    top = max(10, *(count.objects for count in counts))
    width = 0.86 if len(counts) <= 200 else 1.1  # bars narrower than a pixel overlap, so that no gap shines through
    bars = [
        {
            "group": count.category.group,
            "title": f"{shorten_name(count.category.name)}: {GROUPS[count.category.group]}, "
            f"{count_noun(count.images, 'image')}, {count_noun(count.objects, 'object')}",
            "objects": _draw_bar(number, width, count.objects, top),
            "images": _draw_bar(number, width, count.images, top),
        }
        for number, count in enumerate(counts)
    ]
    return {"bars": bars, "width": len(counts), "ticks": _list_log_ticks(top)}


def _place_log(value: float, top: float) -> float:
    """The height of a count above the axis, in [0, 1]; a count of 1 has a height, too."""
    start = 0.5  # the value at the axis
    return float(np.log(max(value, start) / start) / np.log(top / start))


def _draw_bar(number: int, width: float, value: int, top: int) -> str:
    height = CHART_HEIGHT * _place_log(value, top)
    return f"M{number} {CHART_HEIGHT:g}v-{height:.2f}h{width}v{height:.2f}z" if value else ""


def _list_log_ticks(top: int) -> list[tuple[str, float]]:
    """The powers of ten up to the largest count, and their heights in percent."""
    powers = 10 ** np.arange(int(np.log10(top)) + 1)
    return [(f"{power:,}", round(100 * _place_log(power, top), 2)) for power in powers.tolist()]


def _describe_sizes(table: ObjectTable, groups: np.ndarray) -> list[dict[str, Any]]:
    """The sizes of each group and of all objects: bands, and quantiles in pixels and as shares of the image."""
    keys = groups[table.labels]
    bands = count_bands(table.sides, keys, 3)
    pixels, shares = compute_quantiles(table.sides, keys, 3), compute_quantiles(table.shares, keys, 3)
    zeros = np.zeros(len(keys), np.int64)
    bands = np.concatenate([bands, bands.sum(axis=0, keepdims=True)])
    pixels = np.concatenate([pixels, compute_quantiles(table.sides, zeros, 1)])
    shares = np.concatenate([shares, compute_quantiles(table.shares, zeros, 1)])
    return [
        {
            "key": key,
            "name": name,
            "bands": [(width, f"{part:,}", _format_share(part, total)) for width, part in _to_percent(bands[number])],
            "pixels": [_format_number(value) for value in pixels[number]],
            "shares": [_format_number(100 * value) for value in shares[number]],
        }
        for number, (key, name) in enumerate([*GROUPS.items(), ("all", "all")])
        if (total := int(bands[number].sum()))
    ]


def _to_percent(counts: np.ndarray) -> list[tuple[float, int]]:
    """Counts as widths of a bar in percent."""
    return [(round(100 * count / max(int(counts.sum()), 1), 2), count) for count in counts.tolist()]


def _format_number(value: float) -> str:
    """Three digits or fewer; a dash for NaN."""
    if np.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _draw_sizes(table: ObjectTable, groups: np.ndarray) -> dict[str, Any]:
    """The histogram of the sizes of each group's objects, as lines."""
    keys, num_bins = groups[table.labels], len(SIZE_BINS) - 1
    bins = (np.searchsorted(SIZE_BINS, table.sides, side="right") - 1).clip(0, num_bins - 1)
    counts = np.bincount(keys * num_bins + bins, minlength=3 * num_bins).reshape(3, num_bins)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    used = np.flatnonzero(counts.sum(axis=0))
    first, last = (max(int(used[0]) - 1, 0), min(int(used[-1]) + 2, num_bins)) if len(used) else (0, num_bins)
    top = max(float(shares.max()), 0.01)
    lines = [
        {
            "key": group,
            "path": "M"
            + "L".join(
                f"{number - first + 0.5:g} {CHART_HEIGHT * (1 - shares[row, number] / top):.1f}"
                for number in range(first, last)
            ),
        }
        for row, group in enumerate(get_args(Group))
        if totals[row]
    ]

    def place(value: float) -> float:
        return round(100 * (2 * float(np.log2(value)) - first) / (last - first), 2)

    ticks = [(f"{edge:,.0f}", place(edge)) for edge in SIZE_BINS[first + first % 2 : last + 1 : 2].tolist()]
    edges = [(edge, place(edge)) for edge in BAND_EDGES if 0 <= place(edge) <= 100]
    return {"lines": lines, "width": last - first, "ticks": ticks, "edges": edges, "top": f"{100 * top:.0f} %"}


def _draw_maps(table: ObjectTable, groups: np.ndarray) -> list[dict[str, Any]]:
    """The centers of boxes of each group, as shades of a grid, and as a table of thirds of the image."""
    keys = groups[table.labels]
    counts, thirds = (count_positions(table.centers, keys, 3, bins) for bins in (GRID, 3))
    return [
        {
            "key": group,
            "total": count_noun(int(counts[row].sum()), "object"),
            "levels": _draw_levels(counts[row]),
            "thirds": [[_format_share(cell, counts[row].sum()) for cell in line] for line in thirds[row].tolist()],
            "top": f"{100 * counts[row].max() / counts[row].sum():.1f} %",
        }
        for row, group in enumerate(get_args(Group))
        if counts[row].any()
    ]


def _choose_aspect(content: Summary) -> float:
    """Width by height of the maps: that of most images, but a map stays readable."""
    (width, height), _ = content.image_sizes
    return round(min(max(width / max(height, 1), 0.6), 2.5), 3)


def _draw_levels(counts: np.ndarray) -> list[tuple[float, str]]:
    """The cells of a grid as one path for each shade: its opacity and the path."""
    levels = np.ceil(LEVELS * counts / max(int(counts.max()), 1)).astype(int)
    return [
        (level / LEVELS, "".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(levels == level).tolist()))
        for level in range(1, LEVELS + 1)
        if (levels == level).any()
    ]


def _list_group_pairs(images: np.ndarray, pairs: np.ndarray) -> list[dict[str, Any]]:
    """For each group with images: the shares of these images that have objects of the others."""
    return [
        {
            "key": group,
            "images": f"{images[row]:,}",
            "cells": [_format_share(pairs[row, other], images[row]) for other in range(3)],
        }
        for row, group in enumerate(get_args(Group))
        if images[row]
    ]


def _list_companions(
    annotations: Annotations, content: Summary, table: ObjectTable, labels: Mapping[int, int]
) -> dict[str, Any]:
    """The company of the rare classes; of the least frequent ones if no class is rare."""
    rarest = content.least_frequent(MAX_COMPANION_ROWS)
    rare = [count for count in rarest if count.category.group == "r"] or rarest[:EXAMPLE_CLASSES]
    company = find_companions(table, annotations.num_classes, [labels[count.category.id] for count in rare], COMPANIONS)

    def describe(companions: tuple[Companion, ...], *, lift: bool) -> list[tuple[str, str, str]]:
        categories = (annotations.categories[companion.label] for companion in companions)
        return [
            (
                category.group,
                shorten_name(category.name),
                f"{companion.lift:,.1f} times, {count_noun(companion.images, 'image')}"
                if lift
                else f"{100 * companion.share:.0f} %",
            )
            for category, companion in zip(categories, companions, strict=True)
        ]

    rows = [
        {
            "key": annotations.categories[one.label].group,
            "name": shorten_name(annotations.categories[one.label].name),
            "images": f"{one.images:,}",
            "alone": f"{100 * one.alone / one.images:.0f} %",
            "frequent": describe(one.frequent, lift=False),
            "beyond": describe(one.beyond_chance, lift=True),
        }
        for one in company
    ]
    num_rare = content.groups["r"].present
    return {"rows": rows, "rare": num_rare > 0, "more": max(0, num_rare - len(rows)) if num_rare else 0}


def _list_classes(
    annotations: Annotations,
    content: Summary,
    table: ObjectTable,
    labels: Mapping[int, int],
    plain: Sampled | None,
    sampled: Sampled | None,
) -> list[dict[str, Any]]:
    """The rows of the table of classes: what is shown, and the values by which the script sorts."""
    num_classes = annotations.num_classes
    pixels = compute_quantiles(table.sides, table.labels, num_classes)
    shares = compute_quantiles(table.shares, table.labels, num_classes)
    bands = count_bands(table.sides, table.labels, num_classes)
    ids = np.array([category.id for category in annotations.categories])
    absent = np.bincount(np.searchsorted(ids, annotations.negative.values), minlength=num_classes)
    counts = _choose_counts(content)
    top = max(1, *(count.images for count in counts)) if counts else 1
    rows = []
    for count in counts:
        label = labels[count.category.id]
        cells = [
            f"{count.images:,}",
            f"{count.objects:,}",
            f"{count.objects / count.images:.1f}" if count.images else "–",
            *([f"{absent[label]:,}"] if annotations.format == "lvis" else []),
            *(_format_number(pixels[label][number]) for number in (0, 2, 4)),
            _format_number(100 * shares[label][2]),
            *(f"{100 * part / count.objects:.0f}" if count.objects else "–" for part in bands[label].tolist()),
        ]
        if plain is not None and sampled is not None:
            cells += _describe_draws(plain, sampled, label, count.objects)
        rows.append(
            {
                "key": count.category.group,
                "name": shorten_name(count.category.name),
                "bar": round(100 * _place_log(count.images, max(top, 2)), 1) if count.images else 0,
                "cells": cells,
            }
        )
    return rows


def _describe_draws(plain: Sampled, sampled: Sampled, label: int, objects: int) -> list[str]:
    """The share of the drawn images that have a class, without and with the sampling, and how often objects come."""
    before, after = (100 * one.exposure.images[label] / max(one.exposure.draws.sum(), 1e-9) for one in (plain, sampled))
    times = f"{sampled.exposure.objects[label] / objects:.2f}" if objects else "–"
    return [_format_number(before), _format_number(after), times]


def _describe_sampling(
    annotations: Annotations,
    content: Summary,
    plain: Sampled,
    sampled: Sampled,
    groups: np.ndarray,
    batch_size: int,
) -> dict[str, Any]:
    """What the chosen sampling and others show of each group."""
    rows = []
    for number, group in enumerate(get_args(Group)):
        if not content.groups[group].objects:
            continue
        member = groups == number
        images = [
            count_group_draws(annotations, one.exposure, member) / one.exposure.draws.sum() for one in (plain, sampled)
        ]
        shown = [one.exposure.objects[member].sum() / one.exposure.objects.sum() for one in (plain, sampled)]
        times = sampled.exposure.objects[member].sum() / content.groups[group].objects
        rows.append(
            {
                "key": group,
                "images": [f"{100 * share:.1f} %" for share in images],
                "objects": [f"{100 * share:.1f} %" for share in shown],
                "widths": [round(100 * float(share), 2) for share in shown],
                "times": f"{times:.2f}",
            }
        )
    bins = np.searchsorted(DRAW_EDGES, sampled.factors, side="left") - 1
    counts = np.bincount(bins.clip(0), minlength=len(DRAW_NAMES))
    draws = [
        {"name": name, "images": f"{count:,}", "share": _format_share(count, len(sampled.factors)), "width": width}
        for name, count, (width, _) in zip(DRAW_NAMES, counts.tolist(), _to_percent(counts), strict=True)
        if count
    ]
    unused = content.images - len(sampled.factors)
    others = [
        plain if name == plain.name else sample(annotations, name, batch_size, **plan)
        for name, plan in SAMPLINGS
        if name != sampled.name
    ]
    compared = [
        _describe_compared(annotations, content, one, groups, chosen=one is sampled, batch_size=batch_size)
        for one in (sampled, *others)
    ]
    return {
        "name": sampled.name,
        "rows": rows,
        "draws": draws,
        "most": f"{sampled.factors.max():,.1f}".removesuffix(".0"),
        "unused": count_noun(unused, "image") if unused else "",
        "compared": compared,
        "batch": batch_size,
    }


def _describe_compared(
    annotations: Annotations, content: Summary, one: Sampled, groups: np.ndarray, *, chosen: bool, batch_size: int
) -> dict[str, Any]:
    times = []
    for number, group in enumerate(get_args(Group)):
        shown = one.exposure.objects[groups == number].sum()
        objects = content.groups[group].objects
        times.append(f"{shown / objects:.2f}" if objects else "–")
    member = groups == 0
    images = count_group_draws(annotations, one.exposure, member) / one.exposure.draws.sum()
    steps = round(float(one.exposure.draws.sum()) / batch_size)
    return {
        "name": one.name,
        "chosen": chosen,
        "cells": [f"{steps:,}", *times, f"{100 * images:.1f} %", f"{one.factors.max():,.1f}"],
    }


def _choose_examples(annotations: Annotations, label: int) -> list[int]:
    """The rows of the largest objects of a class, at most one for each image."""
    objects = annotations.objects
    rows = np.flatnonzero((objects.labels == label) & ~objects.ignored)
    sides = objects.boxes[rows, 2:] - objects.boxes[rows, :2]
    rows = rows[np.argsort(-sides.prod(axis=1), kind="stable")]
    _, first = np.unique(_find_images(annotations, rows), return_index=True)
    return rows[np.sort(first)][:EXAMPLES].tolist()


def _find_images(annotations: Annotations, rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(annotations.objects.offsets, rows, side="right") - 1


def _add_example(galleries: Galleries, annotations: Annotations, photographs: Photographs, row: int) -> None:
    """Adds the picture of an object, if its image can be read."""
    objects = annotations.objects
    index = int(_find_images(annotations, np.array([row]))[0])
    if not photographs.can_read(index):
        return
    from tailseg.ops.masks import segmentation_to_rle  # torch, which has just read the image

    height, width = annotations.sizes[index].tolist()
    box = objects.boxes[row].tolist()
    crop = limit_aspect(crop_around(box, height=height, width=width), box)
    outline = ""
    if objects.masked[row]:
        mask = segmentation_to_rle(annotations.get_segmentation(row, index), height, width)
        outline = trace_outline(mask, crop, LONGEST)
    item = [outline or trace_box(box, crop, LONGEST), int(annotations.image_ids[index])]
    key = annotations.categories[int(objects.labels[row])].id
    galleries.add(key, (index, crop), lambda: photographs.cut(index, crop, LONGEST), item)


def _describe_example(count: ClassCount, gallery: Mapping[str, list[Any]]) -> dict[str, Any]:
    pictures = [
        {"width": 2 * width, "height": 2 * height, "file": file, "outline": outline, "image": image}
        for number, outline, image in gallery["items"]
        for width, height, file in [gallery["pictures"][number]]
    ]
    return {
        "key": count.category.group,
        "name": shorten_name(count.category.name),
        "counts": f"{count_noun(count.images, 'image')}, {count_noun(count.objects, 'object')}",
        "pictures": pictures,
    }
