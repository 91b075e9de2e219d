"""Image ids of another numbering: shifted by one, or places among the images as some tools number the images again.

All ids exist then, and mean other images, or some do not exist. Looked for where AP50 is low, or an id is unknown: of
the numberings that give every id an image, the one by which most of the best detections lie on objects of their class.

Shapes: n result records, k different image ids.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from tailseg.annotations.columns import parse_whole_number
from tailseg.evaluation.detections import read_detections
from tailseg.evaluation.ground_truth import GroundTruth, is_member
from tailseg.evaluation.metrics import ROW_NAMES, IouType
from tailseg.evaluation.numbering import compute_ap50, find_best_on_objects
from tailseg.evaluation.results import Results
from tailseg.evaluation.survey import Source, count_references

LOW: Final = 0.25
"""An AP50 below it may come of ids that mean other images: by chance, some ids of a small file stay what they were."""

LEAST: Final = 0.05
"""AP50 that another numbering must give."""

FACTOR: Final = 3
"""Times the AP50 as the ids stand that it must give."""

CLEARLY: Final = 2
"""Times as many detections on objects make another numbering the right one: a weak detector has some by chance."""

SOME: Final = 8
"""Detections on objects that another numbering must give: fewer can be chance."""


def describe_image_numbering(
    truth: GroundTruth, found: Results, source: Source, kind: IouType, plain: float, cap: int
) -> str:
    """What another numbering of the images would score, if it is clearly more; else nothing.

    Args:
        truth: the ground truth.
        found: the results.
        source: the results file or the records.
        kind: what overlaps.
        plain: AP50 as the ids stand, 0..1.
        cap: see `select_best_of_each_image`.

    Returns:
        The note, or nothing.
    """
    if plain >= LOW or not len(found) or not len(truth.objects):
        return ""
    used, at = np.unique(found.image_ids, return_inverse=True)
    meanings = [*_list_meanings(truth, used)]
    if not meanings:
        return ""
    if kind == "segm" and truth.protocol == "lvis":  # run lengths were kept of what counts as the ids stand
        found = read_detections(source, truth, ("segm",), least_score=-math.inf)

    def apply_meaning(meant: np.ndarray) -> Results | None:
        other = replace(found, image_ids=meant[at])
        return other if _masks_fit(truth, other) else None

    words, score = _find_best(
        truth, meanings, apply_meaning, kind, cap, least=CLEARLY * _count_hits(truth, found, kind)
    )
    if score < max(LEAST, FACTOR * plain):
        return ""
    return (
        f"AP50 of {ROW_NAMES[kind]} is {100 * plain:.1f}, but {100 * score:.1f} if {words}: do the image ids of the "
        "results mean other images?"
    )


def explain_image_ids(truth: GroundTruth, source: Source, kind: IouType, cap: int) -> str:
    """How image ids could be meant some of which are unknown; nothing if no numbering fits them all.

    Args:
        truth: the ground truth.
        source: the results file or the records.
        kind: what overlaps: boxes or masks.
        cap: how many detections of an image (LVIS), or of each class in an image (COCO), count.

    Returns:
        The explanation, or nothing.
    """
    keys = [*count_references(source).images]
    ids = [number for key in keys if (number := parse_whole_number(key[0])) is not None]
    if len(ids) < len(keys) or any(file_name for _, file_name in keys) or not len(truth.objects):  # names decide
        return ""
    used, at = np.unique(np.array(ids, np.int64), return_inverse=True)

    def apply_meaning(meant: np.ndarray) -> Results | None:
        names = dict(zip(keys, meant[at].tolist(), strict=True))
        try:
            return read_detections(source, truth, (kind,), least_score=-math.inf, names=names)
        except ValueError:  # masks of another size than these images
            return None

    words, score = _find_best(truth, [*_list_meanings(truth, used)], apply_meaning, kind, cap, least=0)
    if score < LEAST:
        return ""
    return f" Every id fits if {words}: AP50 of {ROW_NAMES[kind]} is then {100 * score:.1f}"


def _find_best(
    truth: GroundTruth,
    meanings: list[tuple[str, np.ndarray]],
    apply_meaning: Callable[[np.ndarray], Results | None],
    kind: IouType,
    cap: int,
    *,
    least: int,
) -> tuple[str, float]:
    """The numbering that fits best, in words, and its AP50; nothing and 0 if none does.

    Args:
        truth, kind, cap: see `describe_image_numbering`.
        meanings: see `_list_meanings`.
        meant_so: the results with the images that the ids mean then, None if they cannot.
        least: detections that must lie on objects of their class.
    """
    most, chosen = max(least, SOME) - 1, None
    for words, meant in meanings:
        results = apply_meaning(meant)
        hits = 0 if results is None else _count_hits(truth, results, kind)
        if results is not None and hits > most:
            most, chosen = hits, (words, results)
    return (chosen[0], compute_ap50(truth, chosen[1], kind, cap)) if chosen else ("", 0.0)


def _list_meanings(truth: GroundTruth, used: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What the ids (int64 ``[k]``, ascending) could mean, in words, and then the ids of the images; the likelier first.

    A shift in the order of the file goes round: what runs one image behind can give the last one's to the first.
    """
    told = [used]
    for words, meant in _list_candidates(truth, used):
        if is_member(meant, truth.image_ids).all() and not any(np.array_equal(meant, other) for other in told):
            told.append(meant)
            yield words, meant


def _list_candidates(truth: GroundTruth, used: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "1 is subtracted from each image id", used - 1
    yield "1 is added to each image id", used + 1
    listed = truth.annotations.image_ids
    by_name = sorted(range(len(listed)), key=truth.image_names.get_name)
    orders = {
        "as the file lists them": listed,
        "in order of id": truth.image_ids,
        "in order of file name": listed[by_name],
    }
    for first in (0, 1):
        if first <= used.min() and used.max() < first + len(listed):
            for order, keys in orders.items():
                yield f"image ids are places among the images {order}, from {first}", keys[used - first]
    if is_member(used, truth.image_ids).all():
        for order, keys in orders.items():
            sort = np.argsort(keys)
            places = sort[np.searchsorted(keys, used, sorter=sort)]
            for step, words in ((-1, "before"), (1, "after")):
                yield f"each means the image {words} its own, {order}", keys[(places + step) % len(keys)]


def _masks_fit(truth: GroundTruth, found: Results) -> bool:
    """Whether all masks have the size of their image."""
    runs = found.runs
    if runs is None:
        return True
    rows = np.flatnonzero(runs.places >= 0)
    sizes = truth.image_sizes[np.searchsorted(truth.image_ids, found.image_ids[rows])]
    return bool((runs.sizes[runs.places[rows]] == sizes).all())


def _count_hits(truth: GroundTruth, found: Results, kind: IouType) -> int:
    """How many of the best detections lie on objects of their class."""
    rows, wanted = find_best_on_objects(truth, found, kind)
    return int((found.category_ids[rows] == wanted).sum())
