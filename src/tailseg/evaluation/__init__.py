"""Average precision of results against an annotation file: LVIS's for LVIS files, COCO's for all others.

    evaluate(annotations, results) -> Metrics
    analyze(annotations, results) -> Analysis: also AP-fixed, error kinds, reliability of scores
    analyze(annotations, results, by="site").slices -> Slices: the figures by a field of the image records
    compare(annotations, before, after) -> ResultsComparison: differences with 95 % intervals
    find_thresholds(annotations, results) -> Thresholds: a score threshold for each class
    Evaluator(annotations): the figures of `evaluate` inside a loop, batch by batch
    to_results(detections, image_id, category_ids) -> result records

Annotations are the path of an annotation file, its content as a dict, or `tailseg.annotations.dataset.Annotations`.
Results are the path of a results file, a list of records, or a dict of these with the keys ``"bbox"`` and ``"segm"``.
In a notebook all three show tables; ``to_dict()`` and ``to_pandas()`` give the figures.

Objects marked ``iscrowd`` or ``ignore`` are treated as pycocotools treats crowds: a detection in such a region counts
neither for nor against, and nobody has to find the region itself. lvis-api has no crowds (LVIS marks none); it only
knows ``ignore``, which it matches at most once. pycocotools does not read ``ignore``.
"""

from tailseg.deprecated import names_renamed_in
from tailseg.evaluation.analysis import Analysis, analyze
from tailseg.evaluation.average_precision import evaluate
from tailseg.evaluation.comparison import Comparison, Difference, ResultsComparison, compare
from tailseg.evaluation.errors import ErrorKinds, Errors
from tailseg.evaluation.evaluator import Evaluator
from tailseg.evaluation.metrics import ClassScore, Metrics
from tailseg.evaluation.reliability import Reliability
from tailseg.evaluation.results import Results, read_results, to_results
from tailseg.evaluation.slices import Slice, SliceFigure, Slices
from tailseg.evaluation.thresholds import ClassThreshold, Thresholds, find_thresholds

__getattr__ = names_renamed_in(__name__, {"analyse": "analyze"})

__all__ = [
    "Analysis",
    "ClassScore",
    "ClassThreshold",
    "Comparison",
    "Difference",
    "ErrorKinds",
    "Errors",
    "Evaluator",
    "Metrics",
    "Reliability",
    "Results",
    "ResultsComparison",
    "Slice",
    "SliceFigure",
    "Slices",
    "Thresholds",
    "analyze",
    "compare",
    "evaluate",
    "find_thresholds",
    "read_results",
    "to_results",
]
