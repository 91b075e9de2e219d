"""Image ids of another numbering: places among the images, as tools write that number the images of a file again.

All ids exist then, and mean other images. Looked for where AP50 is low: of the numberings that give every id an image,
the one by which most of the best detections lie on objects of their class.

Shapes: n result records.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from tailseg.evaluation.detections import read_found, surroundings
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.metrics import ROW_NAMES, IouType
from tailseg.evaluation.numbering import SAMPLE, average_precision_50
from tailseg.evaluation.results import Results
from tailseg.evaluation.survey import Source

LOW: Final = 0.25
"""An AP50 below it may come of ids that mean other images: by chance, some ids of a small file stay what they were."""

LEAST: Final = 0.05
"""AP50 that another numbering must give."""


def note_on_images(truth: GroundTruth, found: Results, source: Source, kind: IouType, plain: float, cap: int) -> str:
    """What another numbering of the images would score, if it is clearly more; else nothing.

    Args:
        truth, found, source: the objects, the results and where they came from.
        kind: what overlaps.
        plain: AP50 as the ids stand, 0..1.
        cap: see `best_of_each_image`.
    """
    if plain >= LOW or not len(found) or not len(truth.objects):
        return ""
    meanings = [*_places(truth, found.image_ids)]
    if not meanings:
        return ""
    if kind == "segm" and truth.protocol == "lvis":  # run lengths were kept of what counts as the ids stand
        found = read_found(source, truth, ("segm",), least_score=-math.inf)
    most, chosen = _hits(truth, found, kind), ("", found)
    for words, meant in meanings:
        meant_so = replace(found, image_ids=meant)
        hits = _hits(truth, meant_so, kind) if _fit(truth, meant_so) else 0
        if hits > most:
            most, chosen = hits, (words, meant_so)
    words, meant_so = chosen
    score = average_precision_50(truth, meant_so, kind, cap) if words else 0.0
    if score < max(LEAST, 2 * plain):
        return ""
    return (
        f"AP50 of {ROW_NAMES[kind]} is {100 * plain:.1f}, but {100 * score:.1f} if image ids are places among the "
        f"images {words}: do the image ids of the results mean other images?"
    )


def _places(truth: GroundTruth, image_ids: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The image ids (int64 ``[n]``) that are meant if those of the results are places, with the order in words."""
    listed = truth.annotations.image_ids
    names = truth.image_names
    by_name = sorted(range(len(listed)), key=names.name_of)
    orders = {
        "as the file lists them": listed,
        "in order of id": truth.image_ids,
        "in order of file name": listed[by_name],
    }
    told = [image_ids]
    for first in (0, 1):
        if image_ids.min() < first or image_ids.max() >= first + len(listed):
            continue
        for order, keys in orders.items():
            meant = keys[image_ids - first]
            if not any(np.array_equal(meant, other) for other in told):
                told.append(meant)
                yield f"{order}, from {first}", meant


def _fit(truth: GroundTruth, found: Results) -> bool:
    """Whether all masks have the size of their image."""
    runs = found.runs
    if runs is None:
        return True
    rows = np.flatnonzero(runs.places >= 0)
    sizes = truth.image_sizes[np.searchsorted(truth.image_ids, found.image_ids[rows])]
    return bool((runs.sizes[runs.places[rows]] == sizes).all())


def _hits(truth: GroundTruth, found: Results, kind: IouType) -> int:
    """How many of the best detections lie on objects of their class."""
    rows = np.argsort(-found.scores, kind="stable")[:SAMPLE]
    images = np.searchsorted(truth.image_ids, found.image_ids[rows])
    near = surroundings(truth, found, rows, images, kind)
    wanted = truth.category_ids[truth.objects.classes[near.objects]]
    return int(((found.category_ids[rows][near.detections] == wanted) & (near.overlaps >= 0.5)).sum())
