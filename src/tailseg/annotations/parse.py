"""Parses annotation files (LVIS v1, LVIS v0.5, and any file in COCO format) into flat arrays.

Everything is packed, for all uses of the file (`tailseg.annotations.kinds`): polygons, run lengths (a list or
compressed), objects without a segmentation, crowd and ignore regions, ids with gaps or written as text.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.annotations.agreement import check_agreement
from tailseg.annotations.checks import Checks, Images, compute_mask_boxes
from tailseg.annotations.columns import UNKNOWN, Columns, parse_whole_number, read_columns
from tailseg.annotations.dataset import Contents, Objects
from tailseg.annotations.formats.registry import load
from tailseg.annotations.image_files import is_safe_name, list_candidate_names
from tailseg.annotations.json_file import (
    Sections,
    Text,
    describe_other_annotations,
    pause_garbage_collector,
)
from tailseg.annotations.kinds import BITS
from tailseg.annotations.lvis import is_lvis, read_class_lists, read_groups
from tailseg.annotations.pictures import MAX_PIXELS
from tailseg.annotations.problems import DatasetError, Problems
from tailseg.annotations.ragged import Ragged, compute_offsets
from tailseg.annotations.segmentations import Segmentations
from tailseg.words import count_noun, verb_form

RawRecord = dict[str, Any]
FindSize = Callable[[Sequence[str]], tuple[int, int]]
"""Returns height and width of the image with these possible names."""

MIN_CROWD_SHARE: Final = 1 / 3
"""Least share of crowds among a class's annotations that is suspicious: COCO has about one in a hundred."""

MIN_ANNOTATIONS: Final = 3
"""Least number of annotations of a class for this check."""

LARGEST_SIDE: Final = 2**31 - 1
"""Largest height or width of an image in pixels."""


def parse(
    path: Path, *, key: str | None = None, find_size: FindSize | None = None, content: bytes | None = None
) -> Contents:
    """Parses an annotation file.

    Args:
        path: the file.
        key: SHA-256 of its content, if known.
        find_size: returns the size of an image if the file does not state it.
        content: content of the file; read from the file if None.

    Returns:
        The packed content with all its problems.

    Raises:
        DatasetError: the file is not an annotation file; the message says what it is.
    """
    return parse_sections(path, key=key, find_size=find_size, content=content)[0]


@pause_garbage_collector()
def parse_sections(
    path: Path, *, key: str | None = None, find_size: FindSize | None = None, content: Text | None = None
) -> tuple[Contents, Sections, Columns]:
    """Parses an annotation file as `parse` does, and returns its sections and columns as well.

    Args:
        path: the file.
        key: SHA-256 of its content, if known.
        find_size: returns the size of an image if the file does not state it.
        content: content of the file; read from the file if None.

    Returns:
        The packed content, the sections as written, and the columns of the annotations in the order of the file.
    """
    sections, own_key = load(path, content)
    key = key or own_key
    if other := describe_other_annotations(sections.annotations):
        raise DatasetError(f"{path} is {other}")
    problems = Problems()
    problems.add("other_format", [0] * bool(sections.format), None, detail=sections.format)
    for text in sections.losses:
        problems.add("not_kept", [0], None, detail=text)
    for text in sections.remarks:
        problems.add("read_so", [0], None, detail=text)
    problems.add("no_annotations", [] if sections.annotations else [0], None)
    images, image_texts = _read_identified("image", sections.images, problems)
    categories, category_texts = _read_identified("category", sections.categories, problems)
    listed_ids = tuple(category["id"] for category in categories)
    categories.sort(key=lambda category: category["id"])
    columns = read_columns(sections.annotations, sections.text)
    _check_file(sections, categories, problems)
    num_texts = len(image_texts) + len(category_texts) + columns.num_text_ids
    texts = f"{count_noun(num_texts, 'id')} {verb_form(num_texts, 'is', 'are')} written as text"
    problems.add("text_ids", [0] * bool(num_texts), None, detail=texts)
    category_ids = [category["id"] for category in categories]
    names = _read_category_names(categories, problems)
    groups = read_groups(categories, problems)
    negative, not_exhaustive = read_class_lists(images, category_ids, problems)
    files = _read_file_names(images, problems)
    image_ids = np.array([image["id"] for image in images], np.int64)
    image_rows = find_positions(columns.image_ids, image_ids)
    sizes = _read_sizes(images, problems)
    _fill_sizes(sizes, columns.segmentations, image_rows, files, find_size, problems, image_ids)
    objects = _make_objects(columns, sections.annotations, Images(image_ids, sizes), image_rows, category_ids, problems)
    lists = is_lvis(images)
    states = any("frequency" in category for category in categories)
    if lists != states:
        problems.add("lists_without_frequency" if lists else "frequency_without_lists", [0], None)
    if not lists and len(objects):
        _check_classes(objects, names, problems)
    contents = Contents(
        key=key,
        format="lvis" if lists else "coco",
        category_ids=tuple(category_ids),
        category_names=names,
        groups=groups,
        image_ids=image_ids,
        sizes=sizes,
        objects=objects,
        negative=negative,
        not_exhaustive=not_exhaustive,
        names=files,
        problems=tuple(problems.entries),
        listed_ids=listed_ids,
        text_ids=(image_texts, category_texts),
    )
    return contents, sections, columns


def _check_file(sections: Sections, categories: Sequence[RawRecord], problems: Problems) -> None:
    problems.add("videos", [0] * bool(sections.header.get("videos")), None)
    problems.add("keypoints", [0] * any(category.get("keypoints") for category in categories), None)


def _read_identified(kind: str, records: Sequence[Any], problems: Problems) -> tuple[list[RawRecord], dict[int, str]]:
    """Selects the records with a unique id.

    Returns:
        The records, with ids as whole numbers, and the ids that are written as text.
    """
    ids = [parse_whole_number(record.get("id")) if isinstance(record, dict) else None for record in records]
    problems.add(
        f"{kind}_id_missing",
        [index for index, number in enumerate(ids) if number is None],
        lambda index: f"number {index}{_describe_id(records[index])}",
    )
    valid = [number for number in ids if number is not None]
    if len(set(valid)) < len(valid):
        repeated = [item for item in Counter(valid).items() if item[1] > 1]
        problems.add(f"{kind}_id_twice", repeated, lambda item: f"{kind} {item[0]} ({item[1]} times)")
    texts = {
        number: record["id"]
        for record, number in zip(records, ids, strict=True)
        if number is not None and isinstance(record["id"], str)
    }
    by_id = {
        number: record if type(record["id"]) is int else record | {"id": number}
        for record, number in zip(records, ids, strict=True)
        if number is not None
    }
    return list(by_id.values()), texts


def _describe_id(record: Any) -> str:  # noqa: ANN401 - anything that JSON can hold
    """The invalid id of a record, for a message; empty without an id."""
    value = record.get("id") if isinstance(record, dict) else None
    return "" if value is None else f" has id {value!r:.60}"


def find_positions(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The position of each id among the known ids, int64; -1 for an unknown id."""
    if not len(known):
        return np.full(len(ids), -1)
    order = np.argsort(known, kind="stable")
    positions = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    return np.where(known[positions] == ids, positions, -1)


def _read_category_names(categories: Sequence[RawRecord], problems: Problems) -> tuple[str, ...]:
    unnamed = [category["id"] for category in categories if category.get("name") in (None, "")]
    problems.add("category_name_missing", unnamed, lambda category_id: f"category {category_id}")
    without_name = set(unnamed)
    names = [
        _clean_text(category["id"] if category["id"] in without_name else category["name"]) for category in categories
    ]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    problems.add(
        "category_name_twice",
        repeated,
        lambda name: (
            f"{name!r:.60} of categories "
            f"{', '.join(str(c['id']) for c, other in zip(categories, names, strict=True) if other == name)}"
        ),
    )
    return tuple(names)


def _clean_text(value: object) -> str:
    """Converts a value to text that can be written: JSON can contain an unpaired surrogate."""
    return str(value)[:10_000].encode(errors="replace").decode()


def _read_sizes(images: Sequence[RawRecord], problems: Problems) -> np.ndarray:
    """Height and width of each image, int64 ``[images, 2]``; 0 where missing."""

    def describe(index: int) -> str:
        image = images[index]
        return f"image {image['id']} has height {image.get('height')!r:.60} and width {image.get('width')!r:.60}"

    sides = [[_read_side(image.get(side)) for side in ("height", "width")] for image in images]
    problems.add("size_bad", [index for index, pair in enumerate(sides) if -1 in pair], describe)
    sizes = np.array(sides, np.int64).reshape(-1, 2)
    sizes[(sizes <= 0).any(axis=1)] = 0
    too_large = np.flatnonzero(sizes[:, 0] * sizes[:, 1] > MAX_PIXELS)
    problems.add("image_too_large", too_large, describe, detail=f"{MAX_PIXELS:,}")
    return sizes


def _read_side(value: object) -> int:
    """Reads a height or width in pixels; 0 if missing, -1 if invalid."""
    if value is None:
        return 0
    number = None if isinstance(value, str) else parse_whole_number(value)
    return -1 if number is None or not 0 <= number <= LARGEST_SIDE else number


def _fill_sizes(
    sizes: np.ndarray,
    masks: Segmentations,
    image_rows: np.ndarray,
    files: Ragged,
    find_size: FindSize | None,
    problems: Problems,
    image_ids: np.ndarray,
) -> None:
    """Fills in missing sizes, from run lengths or from the image files."""
    rows = np.flatnonzero((masks.sizes[:, 0] > 0) & (image_rows >= 0))
    rows = rows[(sizes[image_rows[rows]] == 0).any(axis=1)]
    sizes[image_rows[rows]] = masks.sizes[rows]
    has_bad = len(sizes) > 0 and any(problem.kind.name == "size_bad" for problem in problems.entries)
    missing = np.empty(0, np.int64) if has_bad else np.flatnonzero((sizes == 0).any(axis=1))
    problems.add("size_missing", missing, lambda index: f"image {image_ids[index]}")
    if find_size is not None:
        for index in missing.tolist():
            sizes[index] = find_size(files.text(index).split("\n"))
    with_polygons = np.unique(image_rows[(masks.polygon_counts > 0) & (image_rows >= 0)])
    unsized = with_polygons[(sizes[with_polygons] == 0).any(axis=1)]
    problems.add("size_missing_for_polygons", unsized, lambda index: f"image {image_ids[index]}")


def _read_file_names(images: Sequence[RawRecord], problems: Problems) -> Ragged:
    """Collects the possible names of each image file, best first."""
    rows: list[str] = []
    unnamed: list[int] = []
    unsafe: list[tuple[int, str]] = []
    absolute: list[tuple[int, str]] = []
    for image in images:
        written = [image.get(key) for key in ("file_name", "coco_url")]
        names = list_candidate_names(*(name if isinstance(name, str) else None for name in written))
        safe = [name for name in names if is_safe_name(name)]
        if not names:
            unnamed.append(image["id"])
        elif len(safe) < len(names):
            (absolute if safe and _is_absolute(names[0]) else unsafe).append((image["id"], names[0]))
        rows.append("\n".join(safe))
    problems.add("file_name_missing", unnamed, lambda image: f"image {image}")
    for kind, wrong in (("file_name_unsafe", unsafe), ("file_name_absolute", absolute)):
        problems.add(kind, wrong, lambda pair: f"image {pair[0]} has {pair[1][:100]!r}")
    return Ragged.pack_text(rows)


def _is_absolute(name: str) -> bool:
    return name[:1] in ("/", "\\") or name[1:2] == ":"


def _make_objects(
    columns: Columns,
    records: Sequence[Any],
    images: Images,
    image_rows: np.ndarray,
    category_ids: Sequence[int],
    problems: Problems,
) -> Objects:
    """Checks the annotations and packs those of known images and categories, ordered by image."""
    labels = find_positions(columns.category_ids, np.array(category_ids, np.int64))
    checks = Checks(columns, records, images, image_rows, problems)
    checks.check_ids(labels)
    _fill_boxes(columns, checks)
    boxes = checks.check_boxes()
    checks.check_flags_and_areas()
    masks = checks.check_masks()
    check_agreement(checks, masks, boxes, problems)
    known = np.flatnonzero((image_rows >= 0) & (labels >= 0) & ~checks.is_marked("record_bad"))
    rows = known[np.argsort(image_rows[known], kind="stable")]
    first = compute_offsets(masks.polygon_counts)[:-1]
    in_order = len(rows) == len(columns) and bool((rows[1:] > rows[:-1]).all())
    return Objects(
        boxes=boxes[rows].astype(np.float32),
        written_boxes=columns.boxes[rows],
        areas=columns.areas[rows],
        labels=labels[rows],
        ids=_number_missing_ids(columns.ids)[rows],
        ignored=columns.ignored[rows],
        faults=columns.faults[rows],
        offsets=compute_offsets(np.bincount(image_rows[rows], minlength=len(images.ids))),
        polygons=masks.polygons,
        first_polygons=first[rows],
        polygon_counts=masks.polygon_counts[rows],
        run_lengths=masks.run_lengths if in_order else masks.run_lengths.take(rows),
    )


def _fill_boxes(columns: Columns, checks: Checks) -> None:
    """Replaces missing boxes by those around the masks."""
    bad = checks.is_marked("record_bad")
    columns.faults[bad] = np.uint32(BITS["record_bad"])
    rows = np.flatnonzero(checks.is_marked("box_from_mask"))
    boxes, has_mask = compute_mask_boxes(columns.segmentations, rows)
    columns.boxes[rows] = boxes
    columns.faults[rows[~has_mask]] ^= np.uint32(BITS["box_from_mask"] | BITS["box_bad"])
    checks.mark("box_from_mask", rows[has_mask])


def _number_missing_ids(ids: np.ndarray) -> np.ndarray:
    """The ids; missing ids are numbered above the largest one."""
    missing = np.flatnonzero(ids == UNKNOWN)
    if not len(missing):
        return ids
    numbered = ids.copy()
    largest = int(ids.max(initial=0))
    start = largest if largest < 2**62 else -(2**62)
    numbered[missing] = start + 1 + np.arange(len(missing))
    return numbered


def _check_classes(objects: Objects, names: Sequence[str], problems: Problems) -> None:
    """Finds classes without objects, and classes and images with nothing but crowds, or with many."""
    crowds = objects.ignored & ~objects.is_marked("ignore")
    labels, images = objects.labels, objects.images
    counts = np.bincount(labels, minlength=len(names))
    unused = [names[label] for label in np.flatnonzero(counts == 0).tolist()]
    problems.add("category_unused", unused, lambda name: f"{name[:60]}")
    object_counts, crowd_counts = (
        np.bincount(labels[rows], minlength=len(names)) for rows in (~objects.ignored, crowds)
    )
    only_crowds = np.flatnonzero((counts > 0) & (object_counts == 0))
    many_crowds = np.flatnonzero(
        (crowd_counts > 1) & (counts >= MIN_ANNOTATIONS) & (crowd_counts >= MIN_CROWD_SHARE * counts)
    )
    crowd_images = np.setdiff1d(images[crowds], images[~objects.ignored])
    if not crowds.any():
        return
    if len(only_crowds):
        text = f"classes with nothing else: {_list_first_names(names, only_crowds)}"
    elif len(crowd_images):
        text = f"{count_noun(len(crowd_images), 'image')} {verb_form(len(crowd_images), 'has', 'have')} nothing else"
    elif len(many_crowds):
        text = f"classes with a third or more crowds: {_list_first_names(names, many_crowds)}"
    else:
        return
    count = int(np.count_nonzero(crowds))
    verb = verb_form(count, "is a crowd region and is", "are crowd regions and are")
    detail = f"{count:,} of {count_noun(len(objects), 'annotation')} {verb}"
    problems.add("crowds_alone", [text], detail=detail)


def _list_first_names(names: Sequence[str], labels: np.ndarray) -> str:
    """The names of the first few classes."""
    return f"{', '.join(names[label][:60] for label in labels[:20].tolist())}{' ...' * (len(labels) > 20)}"
