"""Precision and recall by three engines, which must agree: ours, hotcoco, and lvis-api as the oracle.

Each takes the annotation file, the results, the rows that a cap let through, and what overlaps; each returns precision
``[T, P, K, A]`` and recall ``[T, K, A]``, -1 where there is no object to be found.

Shapes: T IoU thresholds (0.50, 0.55 .. 0.95), P recall points (0, 0.01 .. 1), K classes in order of id,
A ranges of object area (all, small, medium, large).
"""

import json
import logging
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, Literal

import numpy as np
from hotcoco import COCOeval
from hotcoco import mask as run_lengths

from tailseg.evaluation import old_hotcoco
from tailseg.evaluation.detections import get_areas, match_results, select_counting
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.precision import compute_precision_and_recall
from tailseg.evaluation.results import Results

Arrays = tuple[np.ndarray, np.ndarray]
Engine = Literal["tailseg", "hotcoco", "lvis-api"]


def run_tailseg(truth: GroundTruth, found: Results, rows: np.ndarray, iou_type: IouType) -> Arrays:
    """The engine of this package, on whose matches the error kinds, calibration and comparisons stand too.

    Args:
        truth: the ground truth.
        found: the results.
        rows: int64 ``[n]``, positions of the records that are used.
        iou_type: what overlaps: boxes or masks.

    Returns:
        Precision and recall.
    """
    return compute_precision_and_recall(match_results(truth, found, rows, iou_type))


def run_hotcoco(truth: GroundTruth, found: Results, rows: np.ndarray, iou_type: IouType) -> Arrays:
    """hotcoco's, in Rust.

    Args:
        truth: the ground truth.
        found: the results.
        rows: int64 ``[n]``, positions of the records that are used.
        iou_type: what overlaps: boxes or masks.

    Returns:
        Precision and recall.

    Raises:
        ValueError: hotcoco is older than 1.2.
    """
    if old_hotcoco.IS_OLD:
        raise ValueError(f"the engine hotcoco needs hotcoco 1.2 or later, got {version('hotcoco')}: take tailseg's")
    rows = select_counting(found, truth, rows, iou_type)
    boxes = np.zeros((len(rows), 4))
    if iou_type == "bbox":
        assert found.boxes is not None
        boxes = found.boxes[rows]
    images, classes = _find_places(truth, found, rows)
    table = np.column_stack([images, boxes, found.scores[rows], classes])
    masks: list[dict[str, Any] | list[list[float]]] | None = [*found.masks(rows)] if iou_type == "segm" else None
    detections = truth.coco.load_res(table, segmentation=masks)
    detections.update_anns(ids=np.arange(1, len(rows) + 1), area=get_areas(found, iou_type)[rows])
    if truth.protocol == "lvis":  # capped already: keep the engine from doing it once more, at 300
        detections = detections.cap_detections_per_image(None)
    engine = COCOeval(truth.coco, detections, iou_type, lvis_style=truth.protocol == "lvis")
    engine.params.cat_ids = list(range(1, len(truth.categories) + 1))
    if truth.protocol == "coco":
        engine.params.max_dets = [len(rows) + 1]
    engine.evaluate()
    engine.accumulate()
    assert engine.eval is not None
    return engine.eval["precision"][..., -1], engine.eval["recall"][..., -1]


def run_lvis_api(truth: GroundTruth, found: Results, rows: np.ndarray, iou_type: IouType) -> Arrays:
    """lvis-api's, slow: about 100 times the time and 4 times the memory of the others.

    It knows no crowds, which it would ask for; what it knows is ``ignore``: left alone, by one detection each.

    Args:
        truth: the ground truth.
        found: the results.
        rows: int64 ``[n]``, positions of the records that are used.
        iou_type: what overlaps: boxes or masks.

    Returns:
        Precision and recall.

    Raises:
        ValueError: lvis-api is not installed, or the annotation file is not LVIS's.
    """
    try:
        import lvis
    except ModuleNotFoundError as error:
        raise ValueError("the engine lvis-api needs the package lvis: pip install lvis") from error
    if truth.protocol != "lvis":
        raise ValueError(f"{truth.path} lacks LVIS's lists, without which lvis-api can do nothing")
    rows = select_counting(found, truth, rows, iou_type)
    if not len(rows):
        return run_tailseg(truth, found, rows, iou_type)  # lvis-api raises an IndexError
    columns = *_find_places(truth, found, rows), found.scores[rows]
    if iou_type == "segm":
        masks = found.masks(rows)  # lvis-api takes compressed run lengths only
        key, shapes = "segmentation", [run_lengths.frPyObjects(mask, *mask["size"]) for mask in masks]
    else:
        assert found.boxes is not None
        key, shapes = "bbox", found.boxes[rows].tolist()
    records = [
        {"image_id": image_id, "category_id": category_id, "score": score, key: shape}
        for image_id, category_id, score, shape in zip(*(column.tolist() for column in columns), shapes, strict=True)
    ]
    logging.getLogger("lvis").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder, _with_old_numpy(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file, dataset = Path(folder) / "truth.json", truth.to_dataset()
        for annotation in dataset["annotations"]:
            annotation["ignore"] = annotation["iscrowd"]
        file.write_text(json.dumps(dataset))
        reference = lvis.LVIS(str(file))
        engine = lvis.LVISEval(reference, lvis.LVISResults(reference, records, max_dets=-1), iou_type)
        engine.evaluate()
        engine.accumulate()
    return np.asarray(engine.eval["precision"]), np.asarray(engine.eval["recall"])


def _find_places(truth: GroundTruth, found: Results, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images and classes as `GroundTruth.dataset` numbers them."""
    images = np.searchsorted(truth.image_ids, found.image_ids[rows]) + 1
    return images, np.searchsorted(truth.category_ids, found.category_ids[rows]) + 1


_NUMPY = Lock()


@contextmanager
def _with_old_numpy() -> Generator[None]:
    """NumPy with the name ``float``, which it lost in 2023 and lvis-api asks for; one thread at a time."""
    with _NUMPY:
        old = np.__dict__.get("float")
        np.__dict__["float"] = float
        try:
            yield
        finally:
            if old is None:
                del np.__dict__["float"]


ENGINES: dict[Engine, Callable[[GroundTruth, Results, np.ndarray, IouType], Arrays]] = {
    "tailseg": run_tailseg,
    "hotcoco": run_hotcoco,
    "lvis-api": run_lvis_api,
}
