"""What LVIS adds to the COCO format: frequency groups, and which classes were checked in which image."""

from collections.abc import Sequence
from typing import Any, Final, get_args

import numpy as np

from tailseg.annotations.problems import Problems
from tailseg.annotations.ragged import Ragged
from tailseg.annotations.types import Group

ABSENT: Final = "neg_category_ids"
"""An image's classes that annotators looked for and did not find: detections of these count as false."""
NOT_EXHAUSTIVE: Final = "not_exhaustive_category_ids"
"""An image's classes of which some objects are not annotated: unmatched detections of these are not counted."""


def is_lvis(images: Sequence[dict[str, Any]]) -> bool:
    """Whether any image says which classes were checked: the mark of LVIS v0.5 and v1."""
    return any(ABSENT in image or NOT_EXHAUSTIVE in image for image in images)


def class_lists(
    images: Sequence[dict[str, Any]], category_ids: Sequence[int], problems: Problems
) -> tuple[Ragged, Ragged]:
    """The absent and the not exhaustively annotated classes of each image, as category ids; empty outside LVIS."""
    if not is_lvis(images):
        empty = Ragged(np.empty(0, np.int64), np.zeros(len(images) + 1, np.int64))
        return empty, empty
    known = set(category_ids)
    incomplete: list[int] = []
    unknown: list[tuple[int, Any]] = []
    for image in images:
        lists = [image.get(ABSENT), image.get(NOT_EXHAUSTIVE)]
        if not all(isinstance(ids, list) for ids in lists):
            incomplete.append(image["id"])
        elif wrong := [i for ids in lists if ids for i in ids if not isinstance(i, int) or i not in known]:
            unknown.append((image["id"], wrong[0]))
    problems.add(
        f"images of an LVIS file without both lists {ABSENT} and {NOT_EXHAUSTIVE}",
        incomplete,
        "Add the lists ([] where nothing is known), or remove them from every image: a COCO file has none",
        name=lambda image: f"image {image}",
    )
    problems.add(
        "images list an unknown category as absent or not exhaustive",
        unknown,
        "Remove the id, or add the category",
        name=lambda found: f"image {found[0]} has {found[1]!r:.60}",
    )
    problems.stop_if_any()
    absent, not_exhaustive = (
        Ragged.pack([np.array(image[key], np.int64) for image in images], np.int64) for key in (ABSENT, NOT_EXHAUSTIVE)
    )
    return absent, not_exhaustive


def stated_groups(categories: Sequence[dict[str, Any]], problems: Problems) -> tuple[Group, ...] | None:
    """The frequency groups that the categories state (``frequency``: r, c or f); None when none does."""
    stated: list[Any] = [category.get("frequency") for category in categories]
    if all(group is None for group in stated):
        return None
    problems.add(
        "categories without a frequency of 'r', 'c' or 'f' where others have one",
        [item for item in zip(categories, stated, strict=True) if item[1] not in get_args(Group)],
        "State it for all categories, or for none: groups are then counted in the training file",
        name=lambda item: f"category {item[0]['id']} has {item[1]!r:.60}",
    )
    problems.stop_if_any()
    return tuple(stated)
