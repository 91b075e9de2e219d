"""A detector on a whole data set, or on this process's share of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import torch

from tailseg.annotations.dataset import Annotations, get_scored_groups
from tailseg.annotations.image_files import ImageError
from tailseg.data.loader import DetectionDataset, evaluation_loader
from tailseg.data.transforms import evaluation_transform
from tailseg.evaluation import Metrics, evaluate, to_results
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.own_metrics import compute_own_metrics
from tailseg.files import write_text
from tailseg.models.detector import Detector
from tailseg.models.precision import Precision, autocast
from tailseg.recipes.recipe import DataConfig
from tailseg.structures import Batch, Detections, ImageInfo

MOST_NAMED: Final = 10
"""Images that are named when they cannot be used."""

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
    say: Callable[[str], None] = lambda _line: None,
    unread: list[str] | None = None,
    turned: list[ImageInfo] | None = None,
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
        say: called with a line when a loader process died and another one took its place.
        unread: gets the reason of each image that cannot be used, which then has no records; None makes it an error.
        turned: gets the images whose EXIF says that they are to be turned.

    Returns:
        The result records of each batch.

    Raises:
        ImageError: an image cannot be used and ``unread`` is None.
        WorkerError: a loader process died, and so did the one in its place.
    """
    category_ids = [category.id for category in annotations.categories]
    transform = evaluation_transform(data.test_short_side, data.max_long_side)
    dataset = DetectionDataset(annotations, transform, look=unread is None)
    loader = evaluation_loader(dataset, data.batch_size, data.workers, rank, world_size, leave_out=unread is not None)
    batches: list[Records] = []
    done = 0
    model.eval()
    for batch in loader.batches(say=say):
        found = detect(model, batch.to(device), precision) if len(batch) else []
        pairs = zip(found, batch.infos, strict=True)
        batches.append([record for each, info in pairs for record in to_results(each, info.image_id, category_ids)])
        if unread is not None:
            unread += batch.replaced
        if turned is not None:
            turned += [info for info in batch.infos if info.exif != 1]
        done = min(done + (len(batch) + len(batch.replaced)) * world_size, annotations.num_images)
        if progress:
            progress(done, annotations.num_images)
    return batches


def detect(model: Detector, batch: Batch, precision: Precision) -> list[Detections]:
    """What the model finds in a batch that is on its device, in pixels of the files."""
    sizes = [(info.height, info.width) for info in batch.infos]
    with autocast(batch.images[0].device, precision):
        return cast("list[Detections]", model(batch.images, original_sizes=sizes))


def measure(
    model: Detector,
    annotations: Annotations,
    results: Sequence[Mapping[str, Any]],
    unread: Sequence[str] = (),
    *,
    own: Sequence[object] = (),
) -> Metrics:
    """The figures of the model's results: boxes, and masks where the model finds masks.

    Args:
        model: the detector.
        annotations: the validation set.
        results: the result records of all its images.
        unread: why each image that could not be used could not. Such an image counts as one in which nothing was found,
            as in the results file; a note gives their number.
        own: configs of the user's own metrics, see `tailseg.evaluation.own_metrics`.

    Returns:
        The figures.

    Raises:
        ImageError: no image could be used.
        ValueError: a metric of the user's own failed.
    """
    if unread and len(unread) == annotations.num_images:
        raise ImageError(f"{unread[0]} (none of the {len(unread):,} images can be used)")
    iou_types: tuple[IouType, ...] = ("bbox", "segm") if model.has_masks else ("bbox",)
    metrics = evaluate(annotations, results, iou_types=iou_types, groups=get_scored_groups(annotations))
    metrics = replace(metrics, extra=compute_own_metrics(own, annotations, results))
    if not unread:
        return metrics
    note = f"{len(unread):,} of {annotations.num_images:,} images could not be used, and count as if nothing was found"
    return replace(metrics, notes=(*metrics.notes, note))


def describe_unread(unread: Sequence[str]) -> list[str]:
    """Lines that name the images that could not be used, the first ten of them."""
    rest = len(unread) - MOST_NAMED
    return [*unread[:MOST_NAMED], *([f"... and {rest:,} more images like this"] if rest > 0 else [])]


def save_results(folder: Path, annotations: Annotations, results: Records, metrics: Metrics) -> None:
    """Writes ``folder/results.json`` and ``folder/metrics.json``, each whole or not at all.

    Ids that the annotation file writes as text are written as text: pycocotools looks them up as they stand.
    """
    images, categories = annotations.text_ids
    for record in results if images or categories else ():
        record["image_id"] = images.get(record["image_id"], record["image_id"])
        record["category_id"] = categories.get(record["category_id"], record["category_id"])
    write_text(folder / "results.json", json.dumps(results))
    write_text(folder / "metrics.json", metrics.to_json())
