"""Two images of 40 x 60 with squares of 10 pixels, as in the tests of the evaluation, and detections of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailseg.annotations.types import Group
from tailseg.evaluation import analyze
from tailseg.evaluation.average_precision import MAX_DETECTIONS
from tailseg.evaluation.detections import match_results, read_detections, select_best_of_each_image
from tailseg.evaluation.ground_truth import read_ground_truth
from tailseg.evaluation.metrics import IouType
from tailseg.recipes import get_recipe
from tailseg.report.evaluated import EvaluatedRun, find_kind
from tailseg.report.evidence import Evidence, collect_evidence

ANT, BEE, GNU = 3, 7, 9
SQUARES = [(1, ANT, 5, 5), (2, ANT, 20, 10), (2, BEE, 40, 25)]
LOG = tuple({"kind": "train", "epoch": 0, "step": 20 * n, "loss": 5.0 / n, "lr": 0.1} for n in range(1, 40))


def dataset(**image_lists: list[int]) -> dict[str, Any]:
    """Ants (rare) are at (5, 5) in image 1 and at (20, 10) in image 2, a bee (frequent) at (40, 25) in image 2.

    The lists of LVIS (``neg_category_ids``, ``not_exhaustive_category_ids``), where given, are those of both images.
    """
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60, **image_lists} for i in (1, 2)],
        "categories": [
            {"id": GNU, "name": "gnu", "frequency": "c"},
            {"id": ANT, "name": "ant", "frequency": "r"},
            {"id": BEE, "name": "bee", "frequency": "f"},
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": [x, y, 10, 10],
                "area": 100,
                "iscrowd": 0,
                "segmentation": [[x, y, x + 10, y, x + 10, y + 10, x, y + 10]],
            }
            for number, (image, category, x, y) in enumerate(SQUARES, start=1)
        ],
    }


def record(image: int, category: int, x: int, y: int, score: float, size: int = 10) -> dict[str, Any]:
    """A square detection."""
    counts = [x * 40 + y, size, *([40 - size, size] * (size - 1)), 40 - y - size + (60 - x - size) * 40]
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [float(x), float(y), float(size), float(size)],
        "score": score,
        "segmentation": {"size": [40, 60], "counts": counts},
    }


def evaluated(annotations, records, *, name, recipe="tiny_gumbel", by=()):
    """A run that made these detections."""
    results = annotations.path.with_name(f"{name}.json")
    results.write_text(json.dumps(records))
    kind = find_kind(results)
    groups = {category.id: category.group for category in annotations.categories}
    return EvaluatedRun(
        name=name,
        recipe=get_recipe(recipe),
        log=LOG,
        analysis=analyze(annotations.path, dict.fromkeys({"bbox", kind}, results), groups=groups, by=by, samples=10),
        evidence=gather(annotations.path, results, kind=kind, groups=groups, least_score=0.3),
        annotations=annotations,
        frequency=annotations.frequency,
        train=annotations,
        threshold=0.3,
    )


def gather(
    annotations_json: Path, results: Path, *, kind: IouType, groups: Mapping[int, Group], least_score: float
) -> Evidence:
    """The evidence of a results file, matched for the report alone."""
    both: tuple[IouType, ...] = ("bbox", "segm") if kind == "segm" else ("bbox",)  # boxes say where a picture is
    truth = read_ground_truth(annotations_json, masks=kind == "segm", groups=groups)
    found = read_detections(results, truth, both, least_score=least_score)
    capped = select_best_of_each_image(found, truth, MAX_DETECTIONS[truth.protocol])
    return collect_evidence(truth, found, match_results(truth, found, capped, kind), kind=kind, least_score=least_score)
