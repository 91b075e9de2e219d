"""From the JSON of LVIS v1, LVIS v0.5 and any COCO-format file of instance annotations to flat arrays.

All that can be packed is packed, whatever a use will make of it (`tailseg.annotations.kinds`): polygons, run lengths (a
list or compressed), no segmentation (boxes only), crowd and ignore regions, ids with gaps or written as text.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.annotations.agreement import check_agreement
from tailseg.annotations.checks import Checks, Images, boxes_of_masks
from tailseg.annotations.columns import UNKNOWN, Columns, read_columns, whole
from tailseg.annotations.dataset import Contents, Objects
from tailseg.annotations.image_files import candidate_names, is_safe_name
from tailseg.annotations.json_file import (
    Sections,
    Text,
    garbage_collector_paused,
    other_annotations,
    read_text,
    split,
    unpack,
)
from tailseg.annotations.kinds import BITS
from tailseg.annotations.lvis import class_lists, is_lvis, stated_groups
from tailseg.annotations.pictures import MAX_PIXELS
from tailseg.annotations.problems import DatasetError, Problems
from tailseg.annotations.ragged import Ragged, offsets_of
from tailseg.annotations.segmentations import Segmentations

RawRecord = dict[str, Any]
FindSize = Callable[[Sequence[str]], tuple[int, int]]
"""From the names of an image's file to its height and width."""

MANY_CROWDS: Final = 1 / 3
"""Share of a class's annotations from which on crowds are suspect: COCO has about one in a hundred."""

FEWEST: Final = 3
"""Annotations of a class by which that is judged."""

LARGEST_SIDE: Final = 2**31 - 1


def parse(
    path: Path, *, key: str | None = None, find_size: FindSize | None = None, content: bytes | None = None
) -> Contents:
    """Read and pack an annotation file.

    Args:
        path: the file.
        key: SHA-256 of its content, if that is known.
        find_size: gives the sizes of images that the file lacks.
        content: the file's content; None reads the file.

    Raises:
        DatasetError: it is no annotation file; the message says what it is.
    """
    return parse_rows(path, key=key, find_size=find_size, content=content)[0]


@garbage_collector_paused()
def parse_rows(
    path: Path, *, key: str | None = None, find_size: FindSize | None = None, content: Text | None = None
) -> tuple[Contents, Sections, Columns]:
    """As `parse`; and the sections as they stand in the file, and the columns of its annotations, in its order."""
    content = read_text(path) if content is None else content
    key = key or hashlib.sha256(content).hexdigest()
    content = unpack(content, path)
    sections = split(content, path)
    if other := other_annotations(sections.annotations):
        raise DatasetError(f"{path} is {other}")
    problems = Problems()
    problems.add("no_annotations", [] if sections.annotations else [0], None)
    images, image_texts = _identified("image", sections.images, problems)
    categories, category_texts = _identified("category", sections.categories, problems)
    listed_ids = tuple(category["id"] for category in categories)
    categories.sort(key=lambda category: category["id"])
    columns = read_columns(sections.annotations, content)
    _note_the_file(sections, categories, problems)
    num_texts = len(image_texts) + len(category_texts) + columns.num_text_ids
    problems.add("text_ids", [0] * bool(num_texts), None, detail=f"{num_texts:,}")
    category_ids = [category["id"] for category in categories]
    names = _category_names(categories, problems)
    groups = stated_groups(categories, problems)
    negative, not_exhaustive = class_lists(images, category_ids, problems)
    files = _file_names(images, problems)
    image_ids = np.array([image["id"] for image in images], np.int64)
    image_of = places(columns.image_ids, image_ids)
    sizes = _sizes(images, problems)
    _fill_sizes(sizes, columns.segmentations, image_of, files, find_size, problems, image_ids)
    objects = _objects(columns, sections.annotations, Images(image_ids, sizes), image_of, category_ids, problems)
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
        problems=tuple(problems.found),
        listed_ids=listed_ids,
        spelled=(image_texts, category_texts),
    )
    return contents, sections, columns


def _note_the_file(sections: Sections, categories: Sequence[RawRecord], problems: Problems) -> None:
    problems.add("videos", [0] * sections.has_videos, None)
    problems.add("keypoints", [0] * any(category.get("keypoints") for category in categories), None)


def _identified(kind: str, records: Sequence[Any], problems: Problems) -> tuple[list[RawRecord], dict[int, str]]:
    """The records that have an id of their own, a whole number from here on, and the ids that are text."""
    ids = [whole(record.get("id")) if isinstance(record, dict) else None for record in records]
    problems.add(
        f"{kind}_id_missing",
        [place for place, number in enumerate(ids) if number is None],
        lambda place: f"number {place}{_has_id(records[place])}",
    )
    known = [number for number in ids if number is not None]
    if len(set(known)) < len(known):
        twice = [item for item in Counter(known).items() if item[1] > 1]
        problems.add(f"{kind}_id_twice", twice, lambda found: f"{kind} {found[0]} ({found[1]} times)")
    texts = {
        number: record["id"]
        for record, number in zip(records, ids, strict=True)
        if number is not None and isinstance(record["id"], str)
    }
    found = {
        number: record if type(record["id"]) is int else record | {"id": number}
        for record, number in zip(records, ids, strict=True)
        if number is not None
    }
    return list(found.values()), texts


def _has_id(record: Any) -> str:  # noqa: ANN401 - anything that JSON can hold
    """The id of a record that has one, for messages."""
    value = record.get("id") if isinstance(record, dict) else None
    return "" if value is None else f" has id {value!r:.60}"


def places(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The place of each id among the known ones, int64; -1 for an unknown one."""
    if not len(known):
        return np.full(len(ids), -1)
    order = np.argsort(known, kind="stable")
    found = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    return np.where(known[found] == ids, found, -1)


def _category_names(categories: Sequence[RawRecord], problems: Problems) -> tuple[str, ...]:
    nameless = [category["id"] for category in categories if category.get("name") in (None, "")]
    unnamed = set(nameless)
    problems.add("category_name_missing", nameless, lambda category_id: f"category {category_id}")
    names = [_text(category["id"] if category["id"] in unnamed else category["name"]) for category in categories]
    times = Counter(names)
    twice = [name for name, count in times.items() if count > 1]
    problems.add(
        "category_name_twice",
        twice,
        lambda name: (
            f"{name!r:.60} of categories "
            f"{', '.join(str(c['id']) for c, other in zip(categories, names, strict=True) if other == name)}"
        ),
    )
    return tuple(names)


def _text(value: object) -> str:
    """As text that can be written: JSON can escape half a surrogate pair."""
    return str(value)[:10_000].encode(errors="replace").decode()


def _sizes(images: Sequence[RawRecord], problems: Problems) -> np.ndarray:
    """Height and width of each image, int64 ``[images, 2]``; 0 where the file has none."""

    def name(place: int) -> str:
        image = images[place]
        return f"image {image['id']} has height {image.get('height')!r:.60} and width {image.get('width')!r:.60}"

    sides = [[_side(image.get(side)) for side in ("height", "width")] for image in images]
    problems.add("size_bad", [place for place, pair in enumerate(sides) if -1 in pair], name)
    sizes = np.array(sides, np.int64).reshape(-1, 2)
    sizes[(sizes <= 0).any(axis=1)] = 0
    too_large = np.flatnonzero(sizes[:, 0] * sizes[:, 1] > MAX_PIXELS)
    problems.add("image_too_large", too_large, name, detail=f"{MAX_PIXELS:,}")
    return sizes


def _side(value: object) -> int:
    """A length in pixels; 0 where there is none, -1 for what is no length."""
    if value is None:
        return 0
    number = None if isinstance(value, str) else whole(value)
    return -1 if number is None or not 0 <= number <= LARGEST_SIDE else number


def _fill_sizes(
    sizes: np.ndarray,
    masks: Segmentations,
    image_of: np.ndarray,
    files: Ragged,
    find_size: FindSize | None,
    problems: Problems,
    image_ids: np.ndarray,
) -> None:
    """Sizes that the file lacks, from its run lengths, or from the pictures."""
    rows = np.flatnonzero((masks.sizes[:, 0] > 0) & (image_of >= 0))
    rows = rows[(sizes[image_of[rows]] == 0).any(axis=1)]
    sizes[image_of[rows]] = masks.sizes[rows]
    bad = {place for problem in problems.found if problem.kind.name == "size_bad" for place in range(len(sizes))}
    missing = np.flatnonzero((sizes == 0).any(axis=1)) if not bad else np.empty(0, np.int64)
    problems.add("size_missing", missing, lambda place: f"image {image_ids[place]}")
    if find_size is not None:
        for place in missing.tolist():
            sizes[place] = find_size(files.text(place).split("\n"))
    with_polygons = np.unique(image_of[(masks.polygon_counts > 0) & (image_of >= 0)])
    left = with_polygons[(sizes[with_polygons] == 0).any(axis=1)]
    problems.add("size_missing_for_polygons", left, lambda place: f"image {image_ids[place]}")


def _file_names(images: Sequence[RawRecord], problems: Problems) -> Ragged:
    """The names under which each image may be found, best first."""
    rows: list[str] = []
    nameless: list[int] = []
    unsafe: list[tuple[int, str]] = []
    absolute: list[tuple[int, str]] = []
    for image in images:
        given = [image.get(key) for key in ("file_name", "coco_url")]
        names = candidate_names(*(name if isinstance(name, str) else None for name in given))
        safe = [name for name in names if is_safe_name(name)]
        if not names:
            nameless.append(image["id"])
        elif len(safe) < len(names):
            (absolute if safe and _is_absolute(names[0]) else unsafe).append((image["id"], names[0]))
        rows.append("\n".join(safe))
    problems.add("file_name_missing", nameless, lambda image: f"image {image}")
    for kind, wrong in (("file_name_unsafe", unsafe), ("file_name_absolute", absolute)):
        problems.add(kind, wrong, lambda found: f"image {found[0]} has {found[1][:100]!r}")
    return Ragged.pack_text(rows)


def _is_absolute(name: str) -> bool:
    return name[:1] in ("/", "\\") or name[1:2] == ":"


def _objects(
    columns: Columns,
    records: Sequence[Any],
    images: Images,
    image_of: np.ndarray,
    category_ids: Sequence[int],
    problems: Problems,
) -> Objects:
    """The annotations of known images and categories, ordered by image."""
    labels = places(columns.category_ids, np.array(category_ids, np.int64))
    checks = Checks(columns, records, images, image_of, problems)
    checks.check_ids(labels)
    _take_boxes_from_masks(columns, checks)
    boxes = checks.check_boxes()
    checks.check_flags_and_areas()
    masks = checks.check_masks()
    check_agreement(checks, masks, boxes, problems)
    known = np.flatnonzero((image_of >= 0) & (labels >= 0) & ~checks.marked("record_bad"))
    rows = known[np.argsort(image_of[known], kind="stable")]
    first = offsets_of(masks.polygon_counts)[:-1]
    in_order = len(rows) == len(columns) and bool((rows[1:] > rows[:-1]).all())
    return Objects(
        boxes=boxes[rows].astype(np.float32),
        written_boxes=columns.boxes[rows],
        areas=columns.areas[rows],
        labels=labels[rows],
        ids=_numbered(columns.ids)[rows],
        ignored=columns.ignored[rows],
        faults=columns.faults[rows],
        offsets=offsets_of(np.bincount(image_of[rows], minlength=len(images.ids))),
        polygons=masks.polygons,
        first_polygons=first[rows],
        polygon_counts=masks.polygon_counts[rows],
        run_lengths=masks.run_lengths if in_order else masks.run_lengths.take(rows),
    )


def _take_boxes_from_masks(columns: Columns, checks: Checks) -> None:
    bad = checks.marked("record_bad")
    columns.faults[bad] = np.uint32(BITS["record_bad"])
    rows = np.flatnonzero(checks.marked("box_from_mask"))
    boxes, found = boxes_of_masks(columns.segmentations, rows)
    columns.boxes[rows] = boxes
    columns.faults[rows[~found]] ^= np.uint32(BITS["box_from_mask"] | BITS["box_bad"])
    checks.mark("box_from_mask", rows[found])


def _numbered(ids: np.ndarray) -> np.ndarray:
    """The ids, with numbers above the largest for those that have none."""
    missing = np.flatnonzero(ids == UNKNOWN)
    if not len(missing):
        return ids
    numbered = ids.copy()
    largest = int(ids.max(initial=0))
    start = largest if largest < 2**62 else -(2**62)
    numbered[missing] = start + 1 + np.arange(len(missing))
    return numbered


def _check_classes(objects: Objects, names: Sequence[str], problems: Problems) -> None:
    """Classes without objects, and classes and images of which everything, or much, is a crowd."""
    crowds = objects.ignored & ~objects.marked("ignore")
    labels, images = objects.labels, objects.images
    found = np.bincount(labels, minlength=len(names))
    unused = [names[label] for label in np.flatnonzero(found == 0).tolist()]
    problems.add("category_unused", unused, lambda name: f"{name[:60]}")
    learned, lost = (np.bincount(labels[rows], minlength=len(names)) for rows in (~objects.ignored, crowds))
    all_lost = np.flatnonzero((found > 0) & (learned == 0))
    many_lost = np.flatnonzero((lost > 1) & (found >= FEWEST) & (lost >= MANY_CROWDS * found))
    images_lost = np.setdiff1d(images[crowds], images[~objects.ignored])
    if not crowds.any():
        return
    if len(all_lost):
        said = f"classes with nothing else: {_first_names(names, all_lost)}"
    elif len(images_lost):
        said = f"{len(images_lost):,} images have nothing else"
    elif len(many_lost):
        said = f"classes of which a third or more are crowds: {_first_names(names, many_lost)}"
    else:
        return
    problems.add("crowds_alone", [said], detail=f"{np.count_nonzero(crowds):,} of {len(objects):,}")


def _first_names(names: Sequence[str], labels: np.ndarray) -> str:
    """The names of the first few classes."""
    return f"{', '.join(names[label][:60] for label in labels[:20].tolist())}{' ...' * (len(labels) > 20)}"
