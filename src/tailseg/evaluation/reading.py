"""Results read for an annotation file; where ids are unknown, the error says how they could be meant."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tailseg.evaluation.detections import UnknownCategoriesError, read_detections
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.image_names import UnknownImagesError
from tailseg.evaluation.image_numbering import explain_image_ids
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.numbering import explain_category_ids
from tailseg.evaluation.results import Results
from tailseg.evaluation.survey import Source


def read_with_explanation(
    source: Source,
    truth: GroundTruth,
    iou_types: Sequence[IouType],
    *,
    cap: int,
    progress: Callable[[int, int], None] | None = None,
    least_score: float = math.inf,
) -> Results:
    """`read_detections`; the error about unknown category or image ids says how they could be meant.

    Args:
        source: the results file or the records.
        truth: the ground truth.
        iou_types: what every record needs: a box, a mask, or both.
        cap: how many detections of an image (LVIS), or of each class in an image (COCO), count.
        progress: called with the bytes of the file that have been read, and its size.
        least_score: keeps the masks of detections with at least this score, even if the detections do not
            count.

    Returns:
        The results.

    Raises:
        FileNotFoundError, ValueError: as `read_detections`.
    """
    kind: IouType = "bbox" if "bbox" in iou_types else "segm"
    try:
        return read_detections(source, truth, iou_types, progress=progress, least_score=least_score)
    except UnknownCategoriesError as error:
        raise ValueError(f"{error}{explain_category_ids(truth, source, kind, cap)}") from None
    except UnknownImagesError as error:
        raise UnknownImagesError(f"{error}{explain_image_ids(truth, source, kind, cap)}") from None


def read_sources(
    sources: Mapping[IouType, Source],
    truth: GroundTruth,
    *,
    cap: int,
    progress: Callable[[int, int], None] | None = None,
    least_score: float = math.inf,
) -> dict[IouType, Results]:
    """`read_with_explanation` of boxes and of masks: a file is read once, for all that it serves.

    Args:
        sources: the file or the records for each kind of overlap.
        truth: the ground truth.
        cap: how many detections of an image (LVIS), or of each class in an image (COCO), count.
        progress: called with the bytes of the file that have been read, and its size.
        least_score: keeps the masks of detections with at least this score, even if the detections do not
            count.

    Returns:
        The results for each kind of overlap.
    """
    found: dict[IouType, Results] = {}
    for iou_type, source in sources.items():
        if iou_type in found:
            continue
        served = tuple(other for other, same in sources.items() if same is source or _is_file(source, same))
        records = read_with_explanation(source, truth, served, cap=cap, progress=progress, least_score=least_score)
        found |= dict.fromkeys(served, records)
    return {iou_type: found[iou_type] for iou_type in sources}


def _is_file(source: Source, same: Source) -> bool:
    return isinstance(source, str | Path) and isinstance(same, str | Path) and Path(source) == Path(same)
