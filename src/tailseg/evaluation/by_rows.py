"""Whether run lengths of results go by rows: COCO's go by columns, and masks flattened as they lie in memory do not.

Shapes: n masks.
"""

from typing import Final

import numpy as np

from tailseg.annotations.readings import CLOSE, MOST, agree, corners_of, some_of
from tailseg.evaluation.overlaps import get_mask_boxes
from tailseg.evaluation.results import Results

FEW: Final = 500
"""Masks by which it is judged."""


def describe_row_order(found: Results, rows: np.ndarray) -> str:
    """That the run lengths of the records at these rows go by rows, in words; nothing if their boxes do not say so.

    Read so, the same runs are those of an image as wide as this one is high, with x and y swapped.
    """
    assert found.boxes is not None
    rows = some_of(rows, FEW)
    turned = [{"size": mask["size"][::-1], "counts": mask["counts"]} for mask in found.masks(rows)]
    if not turned:
        return ""
    fit = agree(corners_of(get_mask_boxes(turned))[:, [1, 0, 3, 2]], corners_of(found.boxes[rows]), CLOSE)
    return "the masks' run lengths go by rows, and COCO's go by columns" if fit.mean() >= MOST else ""
