"""Whether results can be what they say: boxes in their images and around their masks, scores from 0 to 1.

Large files are judged by a part of their records; what is found is counted in all of them.

Shapes: n records.
"""

from typing import Final

import numpy as np

from tailseg.annotations.readings import (
    boxes_agree,
    guess_box_reading,
    guess_detection_reading,
    guess_reading,
    sample_rows,
    to_corners,
)
from tailseg.annotations.run_lengths import count_pixels, have_pixel_counts
from tailseg.evaluation.by_rows import describe_row_order
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.results import Results
from tailseg.words import count_noun, count_part, verb_form

SAMPLE: Final = 20_000
"""Records by which a file is judged."""

FEW: Final = 2_000
"""Masks whose run lengths are added up: some microseconds each."""

SOME: Final = 10
"""Records that hardly have one score by chance."""

HALF: Final = 0.5
"""Share of the masks that may lie elsewhere than their boxes: those of a weak detector do."""

MISSED: Final = 4
"""Images with objects, and without a detection, that a detector hardly leaves where they are half of all."""

EXPLAINED: Final = 0.05
"""The same where another reading of the boxes explains it."""

SEVERAL: Final = 5
"""Records that hardly agree with another reading by chance, if they are less than a quarter of all."""


def describe_doubts(found: Results, truth: GroundTruth) -> list[str]:
    """What makes results doubtful, a sentence each; nothing of sound ones."""
    if not len(found):
        return []
    place, every = "", np.arange(len(found))
    for rows in (sample_rows(every, SAMPLE), every):
        place = _describe_boxes(found, truth, rows) or _compare_boxes_with_masks(found, truth, rows)
        if not place or len(rows) == len(found):
            break
    place = place or _compare_with_objects(found, truth) or _describe_boxes_outside(found, truth)
    return [note for note in (_describe_scores(found.scores), _describe_run_lengths(found), place) if note]


def describe_untested_images(found: Results, truth: GroundTruth) -> str:
    """That half of the images with objects or more have no detection; nothing of sound results.

    Not for a model that is being trained, which finds nothing at first.
    """
    there = np.unique(truth.objects.images[~truth.objects.crowds])
    missed = int(np.count_nonzero(~np.isin(truth.image_ids[there], found.image_ids)))
    if not len(found) or missed < MISSED or missed < HALF * len(there):
        return ""
    return (
        f"{count_part(missed, len(there), 'image')} with objects have no detection in {found.source}: were only some "
        "of the images tested?"
    )


def describe_crowded_images(truth: GroundTruth, cap: int) -> str:
    """That images have more objects than detections count; nothing where all can be found.

    Args:
        truth: the objects.
        cap: see `select_best_of_each_image`.
    """
    objects = truth.objects
    of_class = objects.classes if truth.protocol == "coco" else np.zeros_like(objects.classes)
    keys = (objects.images * len(truth.categories) + of_class)[~objects.crowds]
    cells, counts = np.unique(keys, return_counts=True)
    large = counts > cap
    if not large.any():
        return ""
    num_images, most = len(np.unique(cells[large] // len(truth.categories))), int(counts.max())
    return (
        f"{count_noun(num_images, 'image')} {verb_form(num_images, 'has', 'have')} more objects"
        f"{' of a class' * (truth.protocol == 'coco')} (up to {most:,}) than detections count ({cap:,}): "
        f"{count_part(int((counts[large] - cap).sum()), int(counts.sum()), 'object')} cannot be found. Let as many "
        f"detections count with `tailseg eval --max-detections {most}`"
    )


def _describe_scores(scores: np.ndarray) -> str:
    low, high = float(scores.min()), float(scores.max())
    wrong = np.flatnonzero((scores < 0) | (scores > 1))
    if len(wrong):
        percent = " (are they percent?)" * (1 < high <= 100 and float(np.median(scores)) > 1)
        return (
            f"{count_part(len(wrong), len(scores), 'score')} {verb_form(len(wrong), 'is', 'are')} not between 0 and 1 "
            f"(record {wrong[0]} has {scores[wrong[0]]:.4g}): scores reach from {low:.4g} to {high:.4g}, expected 0 to "
            f"1{percent}: AP needs only their order, but the calibration error is not computed"
        )
    if len(scores) >= SOME and low == high:
        return f"all {len(scores):,} scores are {low:.4g}: AP then depends on the order of the records"
    return ""


def _describe_run_lengths(found: Results) -> str:
    """Run lengths that end before their image does; those that go beyond it are errors."""
    runs = found.runs
    if runs is None or not len(runs.counts):
        return ""
    rows = sample_rows(np.arange(len(runs.counts)), FEW)
    counts, pixels = runs.counts.take(rows), runs.sizes[rows].astype(np.int64).prod(axis=1)
    if have_pixel_counts(counts.values, counts.offsets, pixels):
        return ""
    short = sum(count_pixels(counts[row].tobytes()) != number for row, number in enumerate(pixels.tolist()))
    return (
        f"{count_part(short, len(rows), 'mask')} that {verb_form(len(rows), 'was', 'were')} checked "
        f"{verb_form(short, 'has', 'have')} run lengths that end before their image does: the rest counts as background"
    )


def _get_image_sizes(found: Results, truth: GroundTruth, rows: np.ndarray) -> np.ndarray:
    """Height and width of the images of the records at these rows."""
    return truth.image_sizes[np.searchsorted(truth.image_ids, found.image_ids[rows])]


def _describe_boxes(found: Results, truth: GroundTruth, rows: np.ndarray) -> str:
    """Boxes that fit their images better when they are read another way."""
    if found.boxes is None:
        return ""
    sizes = _get_image_sizes(found, truth, rows)
    known = (sizes > 0).all(axis=1)
    shown, words = guess_box_reading(found.boxes[rows[known]], sizes[known], masked=found.runs is not None)
    return words and f"{np.count_nonzero(shown):,} of {len(shown):,} {words}"


def _describe_boxes_outside(found: Results, truth: GroundTruth) -> str:
    """Boxes of which less than a half can be in their image: no detector puts them there."""
    if found.boxes is None:
        return ""
    sizes = _get_image_sizes(found, truth, np.arange(len(found)))
    centers = found.boxes[:, :2] + found.boxes[:, 2:] / 2
    out = ((centers < 0) | (centers > sizes[:, ::-1])).any(axis=1) & (sizes > 0).all(axis=1)
    count = np.count_nonzero(out)
    if count < SEVERAL or count < EXPLAINED * len(found):
        return ""
    return f"{count:,} of {len(found):,} boxes have their center outside their image: are they in pixels of that image?"


def _compare_with_objects(found: Results, truth: GroundTruth) -> str:
    """Boxes that fit the objects when they are read another way.

    Compared are the objects that are alone of their class in their image with the best detection of that class there.
    """
    if found.boxes is None:
        return ""
    rows, objects = _pair_with_objects(found, truth)
    written, there = found.boxes[rows], to_corners(truth.objects.boxes[objects])
    apart = ~boxes_agree(there, to_corners(written))
    if np.count_nonzero(apart) < max(SOME, len(rows) / 4):
        return ""
    written, there, sizes = written[apart], there[apart], truth.image_sizes[truth.objects.images[objects[apart]]]
    reading = guess_detection_reading(there, written, sizes)
    return reading and (
        f"{count_part(len(written), len(rows), 'object')} that are the only one of their class in an image are not "
        f"where the best detection of that class is. It seems that {reading}"
    )


def _pair_with_objects(found: Results, truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """Rows of records and of objects, int64 both, some: the best record where an image has one object of a class."""
    objects = truth.objects
    keys, first, counts = np.unique(
        objects.images * len(truth.categories) + objects.classes, return_index=True, return_counts=True
    )
    alone = sample_rows(np.flatnonzero((counts == 1) & ~objects.crowds[first]), FEW)
    keys, first = keys[alone], first[alone]
    of = truth.get_keys(found.image_ids, found.category_ids)
    rows = np.flatnonzero(np.isin(of, keys))
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    paired, best = np.unique(of[rows], return_index=True)
    return rows[best], first[np.searchsorted(keys, paired)]


def _compare_boxes_with_masks(found: Results, truth: GroundTruth, rows: np.ndarray) -> str:
    """Boxes that do not agree with the masks of their own records."""
    if found.boxes is None or found.runs is None or found.mask_areas is None:
        return ""
    rows = rows[(found.runs.places[rows] >= 0) & (found.mask_areas[rows] > 0)]
    masks, boxes = to_corners(found.mask_boxes(rows).astype(np.float64)), found.boxes[rows]
    sizes, wrong = _get_image_sizes(found, truth, rows), ~boxes_agree(masks, to_corners(boxes))
    reading = ""
    for apart, where in ((wrong, ""), _find_wrong_classes(wrong, found.category_ids[rows], truth)):
        count = np.count_nonzero(apart)
        if 4 * count >= len(rows) > 0 or (count >= SEVERAL and (where or count >= EXPLAINED * len(rows))):
            reading = guess_reading(masks[apart], boxes[apart], sizes[apart]) or describe_row_order(found, rows[apart])
        if reading:
            return (
                f"{count:,} of {len(rows):,} masks do not agree with the boxes of their records{where}. It seems that "
                f"{reading}"
            )
    count = np.count_nonzero(wrong)
    if not count or count < HALF * len(rows):
        return ""
    return f"{count:,} of {len(rows):,} masks do not agree with the boxes of their records"


def _find_wrong_classes(wrong: np.ndarray, category_ids: np.ndarray, truth: GroundTruth) -> tuple[np.ndarray, str]:
    """Which records are wrong (bool ``[n]``) and of a class of which half is, and those classes in words.

    In a long tail, all records of a class may be few of the file's.
    """
    classes, of_class, counts = np.unique(category_ids, return_inverse=True, return_counts=True)
    bad = np.bincount(of_class[wrong], minlength=len(classes)) >= HALF * counts
    names = [truth.categories.get(key, str(key)) for key in classes[bad].tolist()]
    where = f"class {names[0]!r:.60}" if len(names) == 1 else f"{len(names):,} classes"
    return wrong & bad[of_class], f" (of {where})" if names else ""
