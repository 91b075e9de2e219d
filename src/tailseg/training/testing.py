"""A detector on a whole data set."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import torch

from tailseg.annotations.dataset import Annotations
from tailseg.data.loader import DetectionDataset, Loader, test_loader
from tailseg.data.transforms import test_transform
from tailseg.evaluation import Metrics, evaluate, to_results
from tailseg.evaluation.metrics import IouType
from tailseg.files import write_text
from tailseg.models.detector import Detector
from tailseg.models.precision import Precision, autocast
from tailseg.recipes.recipe import DataConfig
from tailseg.structures import Batch, Detections
from tailseg.training.distributed import from_first, gather, rank, together, world_size


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

    Several processes share the images; the first one has all results, in the order of the file, the others none.
    Results and figures are those of one process, to the bit.

    Args:
        model: on ``device``; in evaluation mode afterwards.
        annotations: the data set; its classes are the model's.
        loader: batches of its images, see `build_test_loader`.
        device: where the model is.
        precision: of the model's products.
        progress: called after each batch with the images done and their total.

    Returns:
        Result records (image_id, category_id, bbox, score, segmentation) and their figures.
    """
    category_ids = [category.id for category in annotations.categories]
    batches: list[list[dict[str, Any]]] = []
    done = 0
    model.eval()
    with together():
        for batch in loader:
            found = zip(detect(model, batch.to(device), precision), batch.infos, strict=True)
            batches.append([record for each, info in found for record in to_results(each, info.image_id, category_ids)])
            done = min(done + len(batch) * world_size(), annotations.num_images)
            if progress:
                progress(done, annotations.num_images)
    parts = gather(batches) or []
    results = [record for row in zip_longest(*parts, fillvalue=()) for batch in row for record in batch]
    iou_types: tuple[IouType, ...] = ("bbox",) if model.config.mask is None else ("bbox", "segm")
    groups = {category.id: category.group for category in annotations.categories}
    return results, from_first(lambda: evaluate(annotations.path, results, iou_types=iou_types, groups=groups))


test.__test__ = False  # ty: ignore[missing-attribute]  # not a test case of pytest


def save_results(folder: Path, results: Sequence[Mapping[str, Any]], metrics: Metrics) -> None:
    """Writes ``folder/results.json`` and ``folder/metrics.json``, each whole or not at all, from the first process."""

    def write() -> None:
        write_text(folder / "results.json", json.dumps(results))
        write_text(folder / "metrics.json", metrics.to_json())

    from_first(write)


def detect(model: Detector, batch: Batch, precision: Precision) -> list[Detections]:
    """What the model finds in a batch that is on its device, in pixels of the files."""
    sizes = [(info.height, info.width) for info in batch.infos]
    with autocast(batch.images[0].device, precision):
        return cast("list[Detections]", model(batch.images, original_sizes=sizes))


def build_test_loader(annotations: Annotations, data: DataConfig) -> Loader:
    """Batches of this process's share of the images of a data set, at the size for testing."""
    dataset = DetectionDataset(annotations, test_transform(data.test_short_side, data.max_long_side))
    return test_loader(dataset, data.batch_size, data.workers, rank(), world_size())
