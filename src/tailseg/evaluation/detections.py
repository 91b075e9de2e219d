"""The detections of a results file that count, and their matches: from files to `Matches`.

Shapes: n result records, M objects.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from tailseg.annotations.columns import parse_whole_number
from tailseg.evaluation.ground_truth import GroundTruth, is_member
from tailseg.evaluation.image_names import UnknownImagesError, complete_clash_note
from tailseg.evaluation.matches import Candidates, Matches, match, sort_best_first, sort_for_matching
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.overlaps import Pairs, Shapes, argsort_ascending, find_overlaps, get_mask_boxes
from tailseg.evaluation.records import Names, Part, WrongRecordsError, compute_mask_areas
from tailseg.evaluation.results import Results, read_results
from tailseg.evaluation.survey import Source, Survey, count_references, has_file_names
from tailseg.words import count_part

SAMPLE = 20_000
"""Detections, the best ones, by which two readings of their images are compared."""
CLEARLY = 2
"""Times as many detections on objects make another reading the right one."""


class UnknownCategoriesError(ValueError):
    """Some records have a category id that the annotation file lacks."""


class WrongSizesError(ValueError):
    """A mask has another size than its image."""


def read_detections(
    results: Source,
    truth: GroundTruth,
    iou_types: Sequence[IouType],
    *,
    progress: Callable[[int, int], None] | None = None,
    least_score: float = math.inf,
    any_class: bool = False,
    names: Names | None = None,
) -> Results:
    """Reads results that belong to an annotation file, and keeps the masks of the detections that can count.

    `tailseg.evaluation.image_names` decides which image a record means. Polygons are rasterized at the size of their
    image.

    Args:
        results: the results file or the records.
        truth: the ground truth.
        iou_types: what every record needs: a box, a mask, or both.
        progress: called with the bytes of the file that have been read, and its size.
        least_score: keeps the masks of detections with at least this score, even if the detections do not
            count.
        any_class: reads unknown categories too, and keeps all masks.
        names: the image that is meant by each name; None finds it.

    Returns:
        The results.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_results`; unknown image or category, or a mask of another size than its image.
    """

    def keep(part: Part, before: int) -> np.ndarray:
        if not is_member(part.image_ids, truth.image_ids).all():
            raise UnknownImagesError(f"{part.source}: images that {truth.path} lacks")
        if not any_class and not is_member(part.category_ids, truth.category_ids).all():
            raise UnknownCategoriesError(f"{part.source}: categories that {truth.path} lacks")
        _check_sizes(part, truth, before)
        if any_class:
            return np.ones(len(part), dtype=bool)
        return truth.can_count(part.image_ids, part.category_ids) | (part.scores >= least_score)

    def size(image_id: int) -> tuple[int, int]:
        if image_id not in truth.sizes:
            raise UnknownImagesError(f"{truth.path} has no image {image_id}: were they made for another split?")
        if 0 in truth.sizes[image_id]:
            raise ValueError(
                f"the results have polygons, which need the size of their image, but {truth.path} has no size of image "
                f"{image_id}: add its height and width"
            )
        return truth.sizes[image_id]

    def read(names: Names | None, *, digits: bool) -> Results:
        boxes, masks = "bbox" in iou_types, "segm" in iou_types
        return read_results(
            results, boxes=boxes, masks=masks, keep=keep, names=names, digits=digits, size=size, progress=progress
        )

    try:
        if names is not None:
            return read(names, digits=True)
        if isinstance(results, Results):  # their image ids are numbers already
            return read(None, digits=False)
        if not has_file_names(results) and not truth.image_names.has_clash:
            with suppress(UnknownImagesError):
                return read(None, digits=False)
        return _read_by_names(read, truth, count_references(results, progress))
    except UnknownCategoriesError:
        raise UnknownCategoriesError(_describe_unknown_categories(count_references(results), truth)) from None


def _read_by_names(read: Callable[..., Results], truth: GroundTruth, found: Survey) -> Results:
    """The results, their images found as the records mean them."""
    try:
        reading = truth.image_names.decide_reading(found)
    except UnknownImagesError as error:
        try:  # a value that can be no id is told with its record
            read(None, digits=True)
        except UnknownImagesError:
            pass
        except WrongRecordsError as wrong:
            named = wrong.key == "image_id" and any(isinstance(key[0], str) for key in found.images)
            raise ValueError(f"{wrong}; taken for a name, {error}" if named else str(wrong)) from None
        raise
    try:
        first = read(reading.names, digits=True)
    except WrongSizesError:
        if reading.other is None:
            raise
        note = f"{reading.other.note}: otherwise masks have another size than their images"
        return _with_note(read(reading.other.names, digits=True), note)
    if reading.other is None:
        return _with_note(first, reading.note)
    (hits, sample), (others, _) = (_count_on_objects(first, truth, images) for images in ({}, reading.images_of_other))
    if others > CLEARLY * hits:
        return _with_note(
            read(reading.other.names, digits=True), complete_clash_note(reading.other.note, others, hits, sample)
        )
    return _with_note(first, complete_clash_note(reading.note, hits, others, sample))


def _with_note(found: Results, note: str) -> Results:
    return replace(found, notes=(*found.notes, *filter(None, [note])))


def _count_on_objects(found: Results, truth: GroundTruth, images: Mapping[int, int]) -> tuple[int, int]:
    """How many of the best detections lie on an object at IoU 0.5, by their boxes, and how many were looked at.

    Args:
        found, truth: as above.
        images: other images than those of the results, by the latter's ids.
    """
    rows = np.arange(len(found))
    if found.boxes is None:
        assert found.runs is not None
        rows = np.flatnonzero(found.runs.places >= 0)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")[:SAMPLE]]
    ids = np.array([images.get(key, key) for key in found.image_ids[rows].tolist()], np.int64)
    boxes = found.boxes[rows] if found.boxes is not None else found.mask_boxes(rows).astype(np.float64)
    shapes = Shapes(boxes, boxes[:, 2] * boxes[:, 3])
    places = np.searchsorted(truth.image_ids, ids)
    near = find_overlaps(places, truth.objects.images, shapes, get_object_shapes(truth, "bbox"), truth.objects.crowds)
    return len(np.unique(near.detections[near.overlaps >= 0.5])), len(rows)


def _describe_unknown_categories(found: Survey, truth: GroundTruth) -> str:
    """What is wrong with the category ids, in words."""
    unknown = Counter(
        {key: count for key, count in found.categories.items() if parse_whole_number(key) not in truth.categories}
    )
    examples = ", ".join(sorted(map(str, unknown), key=lambda text: (len(text), text))[:5])
    return (
        f"{found.source}: the category_id of {count_part(unknown.total(), found.total, 'record')} is not in "
        f"{truth.path} ({examples} ..): use the category ids of that file, not labels 0 .. C-1"
    )


def _check_sizes(found: Part, truth: GroundTruth, before: int) -> None:
    if found.sizes is None:
        return
    wrong = (found.sizes != truth.image_sizes[np.searchsorted(truth.image_ids, found.image_ids)]).any(1)
    if wrong.any():
        row = int(wrong.argmax())
        image_id = int(found.image_ids[row])
        raise WrongSizesError(
            f"{found.source}: the mask of record {before + row} has size [height, width] = "
            f"{found.sizes[row].tolist()}, but image {image_id} is {list(truth.sizes[image_id])} in {truth.path}; "
            "masks must cover the original image"
        )


def select_best_of_each_image(found: Results, truth: GroundTruth, cap: int) -> np.ndarray:
    """Selects the records with the best scores of each image (COCO: of each class in an image).

    Of equal scores the earlier record is better.

    Args:
        found: the results.
        truth: the ground truth.
        cap: how many detections of an image (LVIS), or of each class in an image (COCO), count.

    Returns:
        The rows, int64, ascending.
    """
    if truth.protocol == "lvis":
        return _select_best(np.searchsorted(truth.image_ids, found.image_ids), found.scores, cap)
    _, keys = np.unique(truth.get_keys(found.image_ids, found.category_ids), return_inverse=True)
    return _select_best(keys, found.scores, cap)


def select_best_of_each_class(found: Results, truth: GroundTruth, cap: int = 10_000) -> np.ndarray:
    """Selects the records with the best scores of each class over the data set.

    A. Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details", 2021: fixed AP.

    Args:
        found: the results.
        truth: the ground truth.
        cap: how many detections of each class count.

    Returns:
        The rows, int64, ascending.
    """
    return _select_best(np.searchsorted(truth.category_ids, found.category_ids), found.scores, cap)


def _select_best(keys: np.ndarray, scores: np.ndarray, cap: int) -> np.ndarray:
    """Rows, ascending, of the ``cap`` best scores of each key (a position); sorts only where there are more."""
    crowded = (np.bincount(keys) > cap)[keys]
    rows = np.flatnonzero(crowded)
    order = rows[sort_best_first(scores[rows])]
    order = order[argsort_ascending(keys[order])]
    ordered = keys[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    kept = ~crowded
    kept[order[rank < cap]] = True
    return np.flatnonzero(kept)


def get_areas(found: Results, iou_type: IouType) -> np.ndarray:
    """Areas of boxes or masks, ``[n]``."""
    if iou_type == "bbox":
        assert found.boxes is not None
        return found.boxes[:, 2] * found.boxes[:, 3]
    assert found.mask_areas is not None
    return found.mask_areas.astype(np.float64)


def select_counting(found: Results, truth: GroundTruth, rows: np.ndarray, iou_type: IouType) -> np.ndarray:
    """Selects the records that can count for or against; under LVIS's rules a record without area cannot.

    Args:
        found: the results.
        truth: the ground truth.
        rows: int64 ``[n]``, positions of the records that are used.
        iou_type: what overlaps: boxes or masks.

    Returns:
        The rows of these that can count.
    """
    rows = rows[truth.can_count(found.image_ids[rows], found.category_ids[rows])]
    # lvis-api drops what has no area, after the cap; pycocotools counts it as a false positive.
    return rows if truth.protocol == "coco" else rows[get_areas(found, iou_type)[rows] > 0]


def find_candidates(
    truth: GroundTruth, found: Results, rows: np.ndarray, iou_type: IouType, *, around: bool = False
) -> Candidates:
    """Finds the records that count, and the objects that they overlap.

    Args:
        truth: the ground truth.
        found: the results.
        rows: int64 ``[n]``, positions of the records that are used.
        iou_type: what overlaps: boxes or masks.
        around: finds the overlaps with objects of other classes too.

    Returns:
        The detections in the order of matching, with their overlaps.
    """
    rows = select_counting(found, truth, rows, iou_type)
    images = np.searchsorted(truth.image_ids, found.image_ids[rows])
    classes = np.searchsorted(truth.category_ids, found.category_ids[rows])
    order = sort_for_matching(classes, images, found.scores[rows])
    rows, images, classes = rows[order], images[order], classes[order]
    objects, num_classes = truth.objects, len(truth.categories)
    shapes = get_shapes(found, rows, iou_type)
    if around:
        near = find_overlaps(images, objects.images, shapes, get_object_shapes(truth, iou_type), objects.crowds)
        pairs = near.take(np.flatnonzero(classes[near.detections] == objects.classes[near.objects]))
    else:
        keys, object_keys = images * num_classes + classes, objects.images * num_classes + objects.classes
        near = None
        pairs = find_overlaps(keys, object_keys, shapes, get_object_shapes(truth, iou_type), objects.crowds)
    return Candidates(rows, classes, images, found.scores[rows], shapes.areas, pairs, around=near)


def find_surroundings(
    truth: GroundTruth, found: Results, rows: np.ndarray, images: np.ndarray, iou_type: IouType
) -> Pairs:
    """Finds the objects of any class that overlap some records.

    Args:
        truth: the ground truth.
        found: the results.
        rows: int64 ``[n]``, positions of the records that are used.
        images: int64 ``[n]``, positions of their images.
        iou_type: what overlaps: boxes or masks.

    Returns:
        The pairs of detections and objects that overlap.
    """
    shapes = get_shapes(found, rows, iou_type)
    return find_overlaps(images, truth.objects.images, shapes, get_object_shapes(truth, iou_type), truth.objects.crowds)


def match_results(
    truth: GroundTruth, found: Results, rows: np.ndarray, iou_type: IouType, *, around: bool = False
) -> Matches:
    """Matches some records, after a cap, with the objects; see `find_candidates`.

    Args:
        truth: the ground truth.
        found: the results.
        rows: int64 ``[n]``, positions of the records that are used.
        iou_type: what overlaps: boxes or masks.
        around: keeps the overlaps with objects of other classes too.

    Returns:
        The matches.
    """
    return match(truth, find_candidates(truth, found, rows, iou_type, around=around))


def get_shapes(found: Results, rows: np.ndarray, iou_type: IouType) -> Shapes:
    """The boxes or masks of some records.

    Args:
        found: the results.
        rows: int64 ``[n]``, positions of the records that are used.
        iou_type: what overlaps: boxes or masks.

    Returns:
        The boxes or masks.
    """
    areas = get_areas(found, iou_type)[rows]
    if iou_type == "bbox":
        assert found.boxes is not None
        return Shapes(found.boxes[rows], areas)
    return Shapes(found.mask_boxes(rows), areas, lambda at: found.masks(rows[at]))


def get_object_shapes(truth: GroundTruth, iou_type: IouType) -> Shapes:
    """Those of the objects; the areas of masks are the masks' own, not the file's."""
    if iou_type == "bbox":
        boxes = truth.objects.boxes
        return Shapes(boxes, boxes[:, 2] * boxes[:, 3])
    masks = truth.object_masks
    return Shapes(
        get_mask_boxes(masks),
        compute_mask_areas(masks).astype(np.float64),
        lambda at: [masks[index] for index in at.tolist()],
    )
