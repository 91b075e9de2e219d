"""Average precision of results against an annotation file: LVIS's for LVIS files, COCO's for all others.

    evaluate(annotation_file, results) -> Metrics
    analyze(annotation_file, {"bbox": results, "segm": results}) -> Analysis: and AP-fixed, error kinds, reliability
    to_results(detections, image_id, category_ids) -> result records

Objects marked ``iscrowd`` or ``ignore`` are regions to be left alone, as crowds are in pycocotools: a detection that
lies in one counts neither for nor against, and the object itself is not asked for. lvis-api has no crowds (LVIS marks
none) and knows ``ignore`` alone, matched at most once; pycocotools overlooks ``ignore``.
"""

from tailseg.evaluation.analysis import Analysis, analyze
from tailseg.evaluation.average_precision import evaluate
from tailseg.evaluation.errors import ErrorKinds, Errors
from tailseg.evaluation.metrics import ClassScore, Metrics
from tailseg.evaluation.reliability import Reliability
from tailseg.evaluation.results import Results, read_results, to_results

__all__ = [
    "Analysis",
    "ClassScore",
    "ErrorKinds",
    "Errors",
    "Metrics",
    "Reliability",
    "Results",
    "analyze",
    "evaluate",
    "read_results",
    "to_results",
]
