"""The detections of a results file that count, and their matches: from files to `Matches`.

Shapes: n result records, M objects.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.matches import Candidates, Matches, match, order_of_match
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.overlaps import Pairs, box_pairs, mask_pairs, pairs_of_equal
from tailseg.evaluation.results import Names, Results, UnknownImagesError, read_results


def read_found(
    results: Sequence[Mapping[str, Any]] | str | Path,
    truth: GroundTruth,
    iou_types: Sequence[IouType],
    *,
    progress: Callable[[int, int], None] | None = None,
    least_score: float = math.inf,
) -> Results:
    """Results that belong to an annotation file; run lengths are kept of the detections that can count.

    They are kept as well of those that score at least ``least_score``. An ``image_id`` that no image has may be the
    name of its file: see `GroundTruth.namings`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_results`; unknown image or category, or a mask of another size than its image.
    """

    def keep(part: Results, before: int) -> np.ndarray:
        hint = "were they made for another split?"
        if unknown := _unknown(part.image_ids, truth.image_ids, "image_id", hint, part, before, truth):
            raise UnknownImagesError(unknown)
        hint = "the file's own category ids are wanted, not labels 0 .. C-1"
        if unknown := _unknown(part.category_ids, truth.category_ids, "category_id", hint, part, before, truth):
            raise ValueError(unknown)
        _check_sizes(part, truth, before)
        return truth.counts(part.image_ids, part.category_ids) | (part.scores >= least_score)

    def read(names: Names | None) -> Results:
        boxes, masks = "bbox" in iou_types, "segm" in iou_types
        return read_results(results, boxes=boxes, masks=masks, keep=keep, names=names, progress=progress)

    try:
        return read(None)
    except UnknownImagesError as error:
        for names in truth.namings:
            with suppress(UnknownImagesError):
                return read(names)
        raise error from None


def _unknown(
    ids: np.ndarray, known: np.ndarray, key: str, hint: str, found: Results, before: int, truth: GroundTruth
) -> str:
    """What is wrong with the ids that are not known, if there are any."""
    unknown = ~np.isin(ids, known)
    if not unknown.any():
        return ""
    examples = ", ".join(map(str, np.unique(ids[unknown])[:5]))
    return (
        f"{found.source}: the {key} of {int(unknown.sum()):,} of {before + len(found):,} records is not in "
        f"{truth.path} ({examples} ..): {hint}"
    )


def _check_sizes(found: Results, truth: GroundTruth, before: int) -> None:
    if found.sizes is None:
        return
    wrong = (found.sizes != truth.image_sizes[np.searchsorted(truth.image_ids, found.image_ids)]).any(1)
    if wrong.any():
        row = int(wrong.argmax())
        image_id = int(found.image_ids[row])
        raise ValueError(
            f"{found.source}: the mask of record {before + row} has size [height, width] = "
            f"{found.sizes[row].tolist()}, but image {image_id} is {list(truth.sizes[image_id])} in {truth.path}; "
            "masks must cover the original image"
        )


def best_of_each_image(found: Results, truth: GroundTruth, cap: int) -> np.ndarray:
    """Rows, ascending, of the ``cap`` best scores of each image (coco: of each image and class).

    Of equal scores the earlier record is better.
    """
    if truth.protocol == "lvis":
        return _best(np.searchsorted(truth.image_ids, found.image_ids), found.scores, cap)
    _, keys = np.unique(truth.keys(found.image_ids, found.category_ids), return_inverse=True)
    return _best(keys, found.scores, cap)


def best_of_each_class(found: Results, truth: GroundTruth, cap: int = 10_000) -> np.ndarray:
    """Rows, ascending, of the ``cap`` best scores of each class over the data set.

    A. Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details", 2021: fixed AP.
    """
    return _best(np.searchsorted(truth.category_ids, found.category_ids), found.scores, cap)


def _best(keys: np.ndarray, scores: np.ndarray, cap: int) -> np.ndarray:
    """Rows, ascending, of the ``cap`` best scores of each key (a position); sorts only where there are more."""
    crowded = (np.bincount(keys) > cap)[keys]
    rows = np.flatnonzero(crowded)
    order = rows[np.lexsort((-scores[rows], keys[rows]))]
    ordered = keys[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    kept = ~crowded
    kept[order[rank < cap]] = True
    return np.flatnonzero(kept)


def areas_of(found: Results, iou_type: IouType) -> np.ndarray:
    """Areas of boxes or masks, ``[n]``."""
    if iou_type == "bbox":
        assert found.boxes is not None
        return found.boxes[:, 2] * found.boxes[:, 3]
    assert found.mask_areas is not None
    return found.mask_areas


def counting(found: Results, truth: GroundTruth, rows: np.ndarray, iou_type: IouType) -> np.ndarray:
    """Those of the rows that can count for or against; in lvis, what has no area cannot."""
    rows = rows[truth.counts(found.image_ids[rows], found.category_ids[rows])]
    # lvis-api drops what has no area, after the cap; pycocotools counts it as a false positive.
    return rows if truth.protocol == "coco" else rows[areas_of(found, iou_type)[rows] > 0]


def candidates(truth: GroundTruth, found: Results, rows: np.ndarray, iou_type: IouType) -> Candidates:
    """The records at ``rows`` that count, and the objects that they overlap."""
    rows = counting(found, truth, rows, iou_type)
    images = np.searchsorted(truth.image_ids, found.image_ids[rows])
    classes = np.searchsorted(truth.category_ids, found.category_ids[rows])
    order = order_of_match(classes, images, found.scores[rows])
    rows, images, classes = rows[order], images[order], classes[order]
    objects, num_classes = truth.objects, len(truth.categories)
    keys = images * num_classes + classes
    detections, others = pairs_of_equal(keys, objects.images * num_classes + objects.classes)
    pairs = overlaps(truth, found, rows, detections, others, keys[detections], iou_type)
    return Candidates(rows, classes, images, found.scores[rows], areas_of(found, iou_type)[rows], pairs)


def match_results(truth: GroundTruth, found: Results, rows: np.ndarray, iou_type: IouType) -> Matches:
    """Matches the records at ``rows`` (after a cap) with the objects."""
    return match(truth, candidates(truth, found, rows, iou_type))


def overlaps(
    truth: GroundTruth,
    found: Results,
    rows: np.ndarray,
    detections: np.ndarray,
    objects: np.ndarray,
    groups: np.ndarray,
    iou_type: IouType,
) -> Pairs:
    """Those of the given pairs that overlap.

    Args:
        truth, found: objects, and records.
        rows: records of the detections.
        detections, objects: ``[P]`` positions in ``rows`` and among the objects.
        groups: ``[P]``: see `mask_pairs`.
        iou_type: what overlaps.
    """
    of_truth = truth.objects
    if iou_type == "bbox":
        assert found.boxes is not None
        return box_pairs(detections, objects, found.boxes[rows], of_truth.boxes, of_truth.crowds)
    areas = areas_of(found, iou_type)[rows]
    return mask_pairs(
        detections, objects, groups, lambda at: found.masks(rows[at]), areas, truth.object_masks, of_truth.crowds
    )
