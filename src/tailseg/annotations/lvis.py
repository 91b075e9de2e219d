"""LVIS's additions to the COCO format: frequency groups, and lists of the classes that were checked in each image."""

from array import array
from collections.abc import Sequence
from typing import Any, Final, get_args

import numpy as np

from tailseg.annotations.columns import parse_whole_number
from tailseg.annotations.problems import Problems
from tailseg.annotations.ragged import Ragged, compute_offsets
from tailseg.annotations.types import Group

ABSENT: Final = "neg_category_ids"
"""Key of the classes that annotators searched for in an image and did not find: detections of them are false."""
NOT_EXHAUSTIVE: Final = "not_exhaustive_category_ids"
"""Key of the classes with objects that are not annotated: unmatched detections of them are not counted."""


def is_lvis(images: Sequence[dict[str, Any]]) -> bool:
    """Whether any image lists the classes that were checked, as in LVIS v0.5 and v1."""
    return any(ABSENT in image or NOT_EXHAUSTIVE in image for image in images)


def read_class_lists(
    images: Sequence[dict[str, Any]], category_ids: Sequence[int], problems: Problems
) -> tuple[Ragged, Ragged]:
    """Reads the absent and the not exhaustively annotated classes of each image.

    Args:
        images: the image records.
        category_ids: the ids of all categories.
        problems: where problems are added.

    Returns:
        Two lists of category ids per image; empty for a file that is not LVIS.
    """
    if not is_lvis(images):
        empty = Ragged(np.empty(0, np.int64), np.zeros(len(images) + 1, np.int64))
        return empty, empty
    known = set(category_ids)
    incomplete: list[Any] = []
    bad: list[tuple[Any, Any]] = []
    unknown: list[tuple[Any, Any]] = []
    columns = {ABSENT: array("q"), NOT_EXHAUSTIVE: array("q")}
    lengths: dict[str, list[int]] = {key: [] for key in columns}
    for image in images:
        lists = [image.get(key) for key in columns]
        if not all(isinstance(ids, list) for ids in lists):
            incomplete.append(image["id"])
        for key, ids in zip(columns, lists, strict=True):
            values = ids if isinstance(ids, list) else []
            if {*map(type, values)} <= {int} and known.issuperset(values):
                valid = values
            else:
                numbers = [parse_whole_number(value) for value in values]
                if None in numbers:
                    bad.append((image["id"], values[numbers.index(None)]))
                elif other := [number for number in numbers if number not in known]:
                    unknown.append((image["id"], other[0]))
                valid = [number for number in numbers if number in known]
            columns[key].extend(valid)
            lengths[key].append(len(valid))
    problems.add("lists_missing", incomplete, lambda image: f"image {image}")
    for kind, wrong in (("lists_bad", bad), ("lists_unknown", unknown)):
        problems.add(kind, wrong, lambda pair: f"image {pair[0]} has {pair[1]!r:.60}")
    absent, not_exhaustive = (
        Ragged(np.frombuffer(columns[key], np.int64), compute_offsets(lengths[key])) for key in columns
    )
    return absent, not_exhaustive


def read_groups(categories: Sequence[dict[str, Any]], problems: Problems) -> tuple[Group, ...] | None:
    """Reads the frequency groups of the categories (``frequency``: r, c or f); None unless all categories state one."""
    stated: list[Any] = [category.get("frequency") for category in categories]
    if all(group is None for group in stated):
        return None
    wrong = [
        (category["id"], group)
        for category, group in zip(categories, stated, strict=True)
        if not (isinstance(group, str) and group in get_args(Group))
    ]
    problems.add("frequency_bad", wrong, lambda pair: f"category {pair[0]} has {pair[1]!r:.60}")
    return None if wrong else tuple(stated)
