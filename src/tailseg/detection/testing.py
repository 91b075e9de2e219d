"""A detector on a whole data set, or on this process's share of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from tailseg.annotations.dataset import Annotations
from tailseg.data.loader import DetectionDataset, test_loader
from tailseg.data.transforms import test_transform
from tailseg.evaluation import Metrics, evaluate, to_results
from tailseg.evaluation.metrics import IouType
from tailseg.files import write_text
from tailseg.models.detector import Detector
from tailseg.models.precision import Precision, autocast
from tailseg.recipes.recipe import DataConfig
from tailseg.structures import Batch, Detections

Records = list[dict[str, Any]]
"""COCO-style: image_id, category_id, bbox, score, and segmentation where the model finds masks."""


@torch.no_grad()
def detect_all(
    model: Detector,
    annotations: Annotations,
    data: DataConfig,
    *,
    device: torch.device,
    precision: Precision = "float32",
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Records]:
    """Detections on every image of a data set, or on every batch whose turn is this process's.

    Args:
        model: on ``device``; in evaluation mode afterwards.
        annotations: the data set; its classes are the model's.
        data: the size for testing, images a batch, loader processes.
        device: where the model is.
        precision: of the model's products.
        rank: this process.
        world_size: processes that take batches by turns.
        progress: called after each batch with the images that all processes have done by then, and their total.

    Returns:
        The result records of each batch.
    """
    category_ids = [category.id for category in annotations.categories]
    dataset = DetectionDataset(annotations, test_transform(data.test_short_side, data.max_long_side))
    batches: list[Records] = []
    done = 0
    model.eval()
    for batch in test_loader(dataset, data.batch_size, data.workers, rank, world_size):
        found = zip(detect(model, batch.to(device), precision), batch.infos, strict=True)
        batches.append([record for each, info in found for record in to_results(each, info.image_id, category_ids)])
        done = min(done + len(batch) * world_size, annotations.num_images)
        if progress:
            progress(done, annotations.num_images)
    return batches


def detect(model: Detector, batch: Batch, precision: Precision) -> list[Detections]:
    """What the model finds in a batch that is on its device, in pixels of the files."""
    sizes = [(info.height, info.width) for info in batch.infos]
    with autocast(batch.images[0].device, precision):
        return cast("list[Detections]", model(batch.images, original_sizes=sizes))


def measure(model: Detector, annotations: Annotations, results: Sequence[Mapping[str, Any]]) -> Metrics:
    """The figures of the model's results: boxes, and masks where the model finds masks."""
    iou_types: tuple[IouType, ...] = ("bbox",) if model.config.mask is None else ("bbox", "segm")
    groups = {category.id: category.group for category in annotations.categories}
    return evaluate(annotations, results, iou_types=iou_types, groups=groups)


def save_results(folder: Path, annotations: Annotations, results: Records, metrics: Metrics) -> None:
    """Writes ``folder/results.json`` and ``folder/metrics.json``, each whole or not at all.

    Ids that the annotation file writes as text are written as text: pycocotools looks them up as they stand.
    """
    images, categories = annotations.spelled
    for record in results if images or categories else ():
        record["image_id"] = images.get(record["image_id"], record["image_id"])
        record["category_id"] = categories.get(record["category_id"], record["category_id"])
    write_text(folder / "results.json", json.dumps(results))
    write_text(folder / "metrics.json", metrics.to_json())
