"""Whether run lengths of results go by rows: COCO's go by columns, and masks flattened as they lie in memory do not.

Shapes: n masks.
"""

from typing import Final

import numpy as np

from tailseg.annotations.readings import MIN_EXPLAINED, MIN_READING_IOU, boxes_agree, sample_rows, to_corners
from tailseg.evaluation.overlaps import get_mask_boxes
from tailseg.evaluation.results import Results

FEW: Final = 500
"""Masks by which it is judged."""


def describe_row_order(found: Results, rows: np.ndarray) -> str:
    """That the run lengths of the records at these rows go by rows, in words; nothing if their boxes do not say so.

    Read so, the same runs are those of an image as wide as this one is high, with x and y swapped.
    """
    assert found.boxes is not None
    rows = sample_rows(rows, FEW)
    turned = [{"size": mask["size"][::-1], "counts": mask["counts"]} for mask in found.masks(rows)]
    if not turned:
        return ""
    fit = boxes_agree(
        to_corners(get_mask_boxes(turned))[:, [1, 0, 3, 2]], to_corners(found.boxes[rows]), MIN_READING_IOU
    )
    return "the masks' run lengths go by rows, and COCO's go by columns" if fit.mean() >= MIN_EXPLAINED else ""
