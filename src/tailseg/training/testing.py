"""A detector on a whole data set."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from tailseg.data.annotations import Annotations
from tailseg.data.loader import DetectionDataset, Loader, test_loader
from tailseg.data.transforms import test_transform
from tailseg.evaluation import Metrics, evaluate, to_results
from tailseg.evaluation.metrics import IouType
from tailseg.models.detector import Detector
from tailseg.recipes.recipe import DataConfig
from tailseg.structures import Batch, Detections
from tailseg.training.device import Precision, autocast


@torch.no_grad()
def test(
    model: Detector,
    annotations: Annotations,
    loader: Iterable[Batch],
    *,
    device: torch.device,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], Metrics]:
    """Detections on every image of a data set, and their figures: boxes, and masks where the model finds masks.

    Args:
        model: on ``device``; in evaluation mode afterwards.
        annotations: the data set; its classes are the model's.
        loader: batches of its images, see `build_test_loader`.
        device: where the model is.
        precision: float32, or bfloat16 autocast.
        progress: called after each batch with the images done and their total.

    Returns:
        Result records (image_id, category_id, bbox, score, segmentation) and their figures.
    """
    category_ids = [category.id for category in annotations.categories]
    results: list[dict[str, Any]] = []
    done = 0
    model.eval()
    for batch in loader:
        for detections, info in zip(detect(model, batch.to(device), precision), batch.infos, strict=True):
            results += to_results(detections, info.image_id, category_ids)
        done += len(batch)
        if progress:
            progress(done, annotations.num_images)
    iou_types: tuple[IouType, ...] = ("bbox",) if model.config.mask is None else ("bbox", "segm")
    groups = {category.id: category.group for category in annotations.categories}
    return results, evaluate(annotations.path, results, iou_types=iou_types, groups=groups)


test.__test__ = False  # ty: ignore[missing-attribute]  # not a test case of pytest


def save_results(folder: Path, results: Sequence[Mapping[str, Any]], metrics: Metrics) -> None:
    """Writes ``folder/results.json`` and ``folder/metrics.json``, each whole or not at all."""
    for name, text in (("results.json", json.dumps(results)), ("metrics.json", metrics.to_json())):
        unfinished = folder / f"{name}.unfinished"
        unfinished.write_text(text)
        unfinished.replace(folder / name)


def detect(model: Detector, batch: Batch, precision: Precision) -> list[Detections]:
    """What the model finds in a batch that is on its device, in pixels of the files."""
    sizes = [(info.height, info.width) for info in batch.infos]
    with autocast(batch.images[0].device, precision):
        return cast("list[Detections]", model(batch.images, original_sizes=sizes))


def build_test_loader(annotations: Annotations, data: DataConfig) -> Loader:
    """Batches of every image of a data set, at the size for testing."""
    dataset = DetectionDataset(annotations, test_transform(data.test_short_side, data.max_long_side))
    return test_loader(dataset, data.batch_size, data.workers)
