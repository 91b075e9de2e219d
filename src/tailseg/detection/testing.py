"""Runs a detector on a data set, or on the share of one process, and computes and writes the figures."""

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
from tailseg.words import count_noun, count_part, verb_form

MAX_NAMED: Final = 10
"""The largest number of unusable images that are named."""

Records = list[dict[str, Any]]
"""COCO-style results: image_id, category_id, bbox, score, and segmentation if the model finds masks."""


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
    """Detects objects in every image of a data set, or in this process's share of the batches.

    Args:
        model: on ``device``; in evaluation mode afterwards.
        annotations: the data set; its classes are the model's.
        data: the size of the images, the batch size, the number of loader processes.
        device: the device of the model.
        precision: the precision of the model's layers.
        rank: the number of this process.
        world_size: the number of processes, which take batches in turns.
        progress: called after each batch with the number of images that all processes have done, and their total.
        say: called with a line when a loader process died and was replaced.
        unread: gets the reason for each image that cannot be used; such an image has no records. With None it is an
            error.
        turned: gets the images with an EXIF orientation other than 1.

    Returns:
        The result records of each batch.

    Raises:
        ImageError: an image cannot be used and ``unread`` is None.
        WorkerError: a loader process died, and so did its replacement.
    """
    category_ids = [category.id for category in annotations.categories]
    transform = evaluation_transform(data.test_short_side, data.max_long_side)
    dataset = DetectionDataset(annotations, transform, look=unread is None)
    loader = evaluation_loader(dataset, data.batch_size, data.workers, rank, world_size, leave_out=unread is not None)
    batches: list[Records] = []
    done = 0
    model.eval()
    for batch in loader.batches(say=say):
        detections = detect(model, batch.to(device), precision) if len(batch) else []
        records: Records = []
        for detected, info in zip(detections, batch.infos, strict=True):
            records += to_results(detected, info.image_id, category_ids)
        batches.append(records)
        if unread is not None:
            unread += batch.replaced
        if turned is not None:
            turned += [info for info in batch.infos if info.exif != 1]
        done = min(done + (len(batch) + len(batch.replaced)) * world_size, annotations.num_images)
        if progress:
            progress(done, annotations.num_images)
    return batches


def detect(model: Detector, batch: Batch, precision: Precision) -> list[Detections]:
    """Detects objects in a batch.

    Args:
        model: in evaluation mode.
        batch: the images, on the device of the model.
        precision: the precision of the model's layers.

    Returns:
        The detections of each image, in pixels of its file.
    """
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
    """Computes the figures of the model's results: for boxes, and for masks if the model finds masks.

    Args:
        model: the detector.
        annotations: the validation set.
        results: the result records of all its images.
        unread: the reason for each image that could not be used. Such an image counts as one without detections, as in
            the results file; a note gives their number.
        own: configs of the user's own metrics, see `tailseg.evaluation.own_metrics`.

    Returns:
        The figures.

    Raises:
        ImageError: no image could be used.
        ValueError: a metric of the user's own failed.
    """
    if unread and len(unread) == annotations.num_images:
        raise ImageError(f"{unread[0]} ({count_noun(len(unread), 'image')}, and none can be used)")
    iou_types: tuple[IouType, ...] = ("bbox", "segm") if model.has_masks else ("bbox",)
    metrics = evaluate(annotations, results, iou_types=iou_types, groups=get_scored_groups(annotations))
    metrics = replace(metrics, extra=compute_own_metrics(own, annotations, results))
    if not unread:
        return metrics
    count = count_part(len(unread), annotations.num_images, "image")
    counts = verb_form(len(unread), "counts as an image", "count as images")
    note = f"{count} could not be used and {counts} without detections"
    return replace(metrics, notes=(*metrics.notes, note))


def describe_unread(unread: Sequence[str]) -> list[str]:
    """Returns lines that name the first `MAX_NAMED` images that could not be used, and count the rest."""
    rest = len(unread) - MAX_NAMED
    more = [f"... and {count_noun(rest, 'more image')} that cannot be used"] if rest > 0 else []
    return [*unread[:MAX_NAMED], *more]


def save_results(
    folder: Path,
    annotations: Annotations,
    results: Records,
    metrics: Metrics,
    *,
    tested_on: Mapping[str, str | None] | None = None,
) -> None:
    """Writes ``folder/results.json`` and ``folder/metrics.json``: each the whole file or nothing.

    Ids that the annotation file writes as text are written as text, because pycocotools compares them unchanged.

    Args:
        folder: of the run.
        annotations: the validation set.
        results: the result records; their ids are replaced by the text.
        metrics: the figures.
        tested_on: ``val`` and ``val_images``, if they are not those of the run; `locate_results` reads them.
    """
    images, categories = annotations.text_ids
    for record in results if images or categories else ():
        record["image_id"] = images.get(record["image_id"], record["image_id"])
        record["category_id"] = categories.get(record["category_id"], record["category_id"])
    write_text(folder / "results.json", json.dumps(results))
    content = metrics.to_dict() | ({"tested_on": dict(tested_on)} if tested_on else {})
    write_text(folder / "metrics.json", json.dumps(content, indent=1))
