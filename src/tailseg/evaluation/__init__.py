"""Average precision of results against an annotation file: LVIS's for LVIS files, COCO's for all others.

    evaluate(annotation_file, results) -> Metrics
    to_results(detections, image_id, category_ids) -> result records

Objects marked ``iscrowd`` or ``ignore`` are regions to be left alone, as crowds are in pycocotools: a detection that
lies in one counts neither for nor against, and the object itself is not asked for. lvis-api has no crowds (LVIS marks
none) and knows ``ignore`` alone, matched at most once; pycocotools overlooks ``ignore``.
"""

from tailseg.evaluation.average_precision import evaluate
from tailseg.evaluation.metrics import ClassScore, Metrics
from tailseg.evaluation.results import Results, read_results, to_results

__all__ = ["ClassScore", "Metrics", "Results", "evaluate", "read_results", "to_results"]
