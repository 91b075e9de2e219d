"""Category ids of another numbering: shifted by one, positions, another order. They score 0 without an error.

Looked for where AP50 is near zero, or an id is unknown: of the numberings that give every id a class of the annotation
file, the one by which most of the best detections lie on objects of their class.
"""

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from tailseg.evaluation.detections import find_surroundings, match_results, read_detections, select_best_of_each_image
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.json_files import read_beginning, read_records
from tailseg.evaluation.metrics import ROW_NAMES, IouType
from tailseg.evaluation.precision import compute_curves
from tailseg.evaluation.results import Results
from tailseg.evaluation.survey import Source
from tailseg.words import count_noun, verb_form

SUSPICIOUS = 0.05
"""An AP50 below it may come of ids that mean other classes."""
SAMPLE = 20_000
"""Detections, the best ones, by which a numbering is chosen."""


def describe_category_numbering(
    truth: GroundTruth, found: Results, source: Source, kind: IouType, plain: float, cap: int
) -> str:
    """What another numbering of the categories would score, if it is clearly more; else nothing.

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
    if plain >= SUSPICIOUS or not len(found) or not len(truth.objects):
        return ""
    if kind == "segm" and truth.protocol == "lvis":  # run lengths were kept of what counts as the ids stand
        found = read_detections(source, truth, ("segm",), least_score=-math.inf)
    words, score = _find_best_numbering(truth, found, source, kind, cap)
    if score < max(SUSPICIOUS, 2 * plain):
        return ""
    return (
        f"AP50 of {ROW_NAMES[kind]} is {100 * plain:.1f}, but {100 * score:.1f} if {words}: "
        "do the category ids of the results mean other classes?"
    )


def describe_category_names(truth: GroundTruth, source: Source) -> str:
    """That names of classes in the results belong to other ids in the annotation file; by the first records."""
    if isinstance(source, str | Path):
        if b'"category_name"' not in read_beginning(Path(source)):
            return ""
        source = next(read_records(Path(source)), [])
    theirs, ours = _read_names(source), truth.categories
    known = {*ours.values()}
    differ = [(key, name) for key, name in theirs.items() if name in known and ours.get(key, name) != name]
    if not differ:
        return ""
    key, name = differ[0]
    return (
        f"{count_noun(len(differ), 'class')} {verb_form(len(differ), 'has', 'have')} another name in the results than "
        f"in {truth.path} ({key} is {name!r:.60} in the results, {ours[key]!r:.60} in the file): category_id is used, "
        "not category_name"
    )


def explain_category_ids(truth: GroundTruth, source: Source, kind: IouType, cap: int) -> str:
    """How unknown category ids could be meant; nothing if no numbering fits them all.

    Args:
        truth: the ground truth.
        source: the results file or the records.
        kind: what overlaps: boxes or masks.
        cap: how many detections of an image (LVIS), or of each class in an image (COCO), count.

    Returns:
        The explanation, or nothing.
    """
    try:
        found = read_detections(source, truth, (kind,), any_class=True)
    except ValueError:
        return ""
    words, score = _find_best_numbering(truth, found, source, kind, cap)
    return f"; every id fits if {words}: AP50 of {ROW_NAMES[kind]} is then {100 * score:.1f}" if words else ""


def _find_best_numbering(
    truth: GroundTruth, found: Results, source: Source, kind: IouType, cap: int
) -> tuple[str, float]:
    """The numbering that fits best, in words, and its AP50; nothing and 0 if none is better than the ids are."""
    used, at = np.unique(found.category_ids, return_inverse=True)
    rows, wanted = find_best_on_objects(truth, found, kind)
    ids = at[rows]
    most, chosen = int((used[ids] == wanted).sum()), ("", used)
    for words, meant in _list_numberings(truth, used.tolist(), source).items():
        hits = int((meant[ids] == wanted).sum())
        if hits > most:
            most, chosen = hits, (words, meant)
    words, meant = chosen
    if not words:
        return "", 0.0
    return words, compute_ap50(truth, replace(found, category_ids=meant[at]), kind, cap)


def find_best_on_objects(truth: GroundTruth, found: Results, kind: IouType) -> tuple[np.ndarray, np.ndarray]:
    """The best detections that lie on objects, at IoU 0.5: their rows, once for each object, and its category ids.

    Args:
        truth: the ground truth.
        found: the results.
        kind: what overlaps.

    Returns:
        Rows of the results, and the category ids of the objects.
    """
    rows = np.argsort(-found.scores, kind="stable")[:SAMPLE]
    images = np.searchsorted(truth.image_ids, found.image_ids[rows])
    near = find_surroundings(truth, found, rows, images, kind)
    near = near.take(np.flatnonzero(near.overlaps >= 0.5))
    return rows[near.detections], truth.category_ids[truth.objects.classes[near.objects]]


def compute_ap50(truth: GroundTruth, found: Results, kind: IouType, cap: int) -> float:
    """AP50 of results, 0..1; 0 where there is nothing to be found.

    Args:
        truth: the ground truth.
        found: the results.
        kind: what overlaps.
        cap: see `select_best_of_each_image`.

    Returns:
        AP50.
    """
    matches = match_results(truth, found, select_best_of_each_image(found, truth, cap), kind)
    precision = compute_curves(matches).precision[0, ..., 0]
    scored = precision[precision > -1]
    return float(scored.mean()) if scored.size else 0.0


def _list_numberings(truth: GroundTruth, used: list[int], source: Source) -> dict[str, np.ndarray]:
    """What the ids could mean: words -> the category ids of the annotation file, one for each of ``used``."""
    ids = list(truth.categories)
    listed = list(truth.annotations.listed_ids)
    by_name = sorted(ids, key=lambda key: truth.categories[key])
    meanings: dict[str, dict[int, int]] = {
        "1 is subtracted from each category id": {key + 1: key for key in ids},
        "1 is added to each category id": {key - 1: key for key in ids},
    }
    orders = {"in order of id": ids, "as the file lists them": listed, "in order of name": by_name}
    for first in (0, 1):
        for order, keys in orders.items():
            words = f"they are places among the categories {order}, from {first}"
            meanings[words] = dict(enumerate(keys, start=first))
    names = {name: key for key, name in truth.categories.items()}
    meanings["category_name is used"] = {key: names[name] for key, name in _read_names(source).items() if name in names}
    return {
        words: np.asarray([meaning[key] for key in used], dtype=np.int64)
        for words, meaning in meanings.items()
        if all(key in meaning for key in used)
    }


class _Named(msgspec.Struct):
    category_id: int
    category_name: str


def _read_names(source: Source) -> dict[int, str]:
    """The category_name of each category id, where results have both."""
    pieces = read_records(Path(source)) if isinstance(source, str | Path) else iter([source])
    found: dict[int, str] = {}
    try:
        for records in pieces:
            found |= {one.category_id: one.category_name for one in msgspec.convert(records, list[_Named])}
    except msgspec.ValidationError:  # no names
        return {}
    return found
