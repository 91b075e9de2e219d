"""Boundary AP: masks must agree along their outlines, which the IoU of a large mask hardly shows.

The overlap of two masks is the smaller one of their IoU and of the IoU of their outlines, bands of 2 % of the image's
diagonal inside the masks.

B. Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021.
"""

import numpy as np
from hotcoco import mask as run_lengths

from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.matches import IOUS, Candidates
from tailseg.evaluation.overlaps import Pairs, Runs
from tailseg.evaluation.results import Results

WIDTH = 0.02
"""Of the band, relative to the image's diagonal."""


def compute_outline(mask: Runs) -> Runs:
    """The pixels of a mask at most max(1, round(0.02 diagonal)) from its edge or the image's, along rows or columns."""
    height, width = mask["size"]
    band = max(round(WIDTH * float(np.hypot(height, width))), 1)
    x, y, w, h = (int(value) for value in run_lengths.to_bbox(mask))
    bitmap = run_lengths.decode(mask)
    inside = bitmap[y : y + h, x : x + w]
    inner = _erode(np.ascontiguousarray(_erode(np.pad(inside, band), 2 * band + 1).T), 2 * band + 1).T
    bitmap[y : y + h, x : x + w] -= inner
    return run_lengths.encode(np.asfortranarray(bitmap))


def _erode(bitmap: np.ndarray, width: int) -> np.ndarray:
    """1 where ``width`` rows in succession are 1: ``[h, w]`` becomes ``[h - width + 1, w]``."""
    done = 1
    while done < width:  # what is 1 over `done` rows here and `step` rows below is 1 over `done + step` rows
        step = min(done, width - done)
        bitmap = bitmap[:-step] & bitmap[step:]
        done += step
    return bitmap


def with_boundaries(truth: GroundTruth, found: Results, candidates: Candidates) -> Candidates:
    """Candidates of masks with the overlaps of Boundary IoU.

    Args:
        truth: the ground truth.
        found: the results.
        candidates: the detections that count.

    Returns:
        The same detections with other overlaps.
    """
    near = candidates.pairs.take(np.flatnonzero(candidates.pairs.overlaps >= IOUS[0]))
    order = np.argsort(candidates.images[near.detections], kind="stable")
    near = near.take(order)
    overlaps = near.overlaps.copy()
    images = candidates.images[near.detections]
    for rows in np.split(np.arange(len(near)), np.flatnonzero(np.diff(images)) + 1):
        mine, at_mine = np.unique(near.detections[rows], return_inverse=True)
        theirs, at_theirs = np.unique(near.objects[rows], return_inverse=True)
        if not len(rows):
            continue
        table = run_lengths.iou(
            [compute_outline(mask) for mask in found.masks(candidates.rows[mine])],
            [compute_outline(truth.object_masks[index]) for index in theirs.tolist()],
            truth.objects.crowds[theirs],
        )
        overlaps[rows] = np.minimum(overlaps[rows], table[at_mine, at_theirs])
    columns = candidates.rows, candidates.classes, candidates.images, candidates.scores, candidates.areas
    return Candidates(*columns, Pairs(near.detections, near.objects, overlaps))
