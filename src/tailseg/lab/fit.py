"""Trains a box head on kept features, as the whole network would train it, and detects with it.

Shapes: D directions of the features, R regions of a step, C classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tailseg.detection.recalibration import LogitStatistics
from tailseg.evaluation.results import Results
from tailseg.lab.features import Features, TrainingRegions, ValidationRegions
from tailseg.losses import ClassificationLoss
from tailseg.models.box_head import BoxHead, best_detections
from tailseg.models.config import BoxHeadConfig, PostprocessConfig
from tailseg.models.sampling import RoISample
from tailseg.recipes.recipe import Recipe
from tailseg.training.optimizer import get_learning_rate
from tailseg.training.run import build_optimizer

REGIONS_AT_A_TIME = 4096
"""Training regions that are classified together."""
IMAGES_AT_A_TIME = 32
"""Validation images whose regions are classified together."""


def build_head(loss: ClassificationLoss, config: BoxHeadConfig, features: Features) -> BoxHead:
    """Builds a box head for kept features, with the random initialization of the head for pooled features.

    The first layer of the network's head starts with values of the variance 1 / (3 I), I its inputs. A rotation of the
    inputs does not change this, so the layer for the D directions starts with the same variance.

    Args:
        loss: trains the classifier.
        config: of the network's box head.
        features: the kept features.

    Returns:
        The head in training mode.
    """
    directions = features.train.x.shape[1]
    head = BoxHead(directions, replace(config, pool_size=1), loss)
    with torch.no_grad():
        for parameter in head.fc1.parameters():
            parameter.mul_((directions / features.num_inputs) ** 0.5)
    return head


def train_head(
    head: BoxHead,
    regions: TrainingRegions,
    steps: Iterable[Sequence[int]],
    recipe: Recipe,
    *,
    steps_per_epoch: int,
) -> None:
    """Trains a head in place.

    Args:
        head: on its device.
        regions: the regions to learn from.
        steps: the views of each step.
        recipe: the optimizer, its schedule and the batch size.
        steps_per_epoch: for the learning rate.
    """
    device = next(head.parameters()).device
    optimizer = build_optimizer(head, recipe)
    for number, views in enumerate(steps):
        epoch = number // steps_per_epoch
        rate = get_learning_rate(recipe, step=number, epoch=epoch, steps_per_epoch=steps_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        x, samples = read_views(regions, views, device)
        optimizer.zero_grad()
        torch.stack(list(head.hidden_losses(head.embed(x), samples).values())).sum().backward()
        if recipe.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(head.parameters(), recipe.optim.clip_norm)
        optimizer.step()
        head.loss.step_taken()


def read_views(regions: TrainingRegions, views: Sequence[int], device: torch.device) -> tuple[Tensor, list[RoISample]]:
    """Reads the features and the regions of some views.

    Args:
        regions: the regions of all views.
        views: which ones.
        device: of the result.

    Returns:
        The features ``[R, D]`` and the regions of each view.
    """
    spans = [slice(*regions.offsets[view : view + 2]) for view in views]
    x = torch.from_numpy(np.concatenate([regions.x[span] for span in spans]).astype(np.float32)).to(device)
    samples = []
    for view, span in zip(views, spans, strict=True):
        unverified = torch.from_numpy(regions.unverified[view]).to(device) if len(regions.unverified) else None
        boxes, labels, object_boxes = (
            torch.from_numpy(values[span]).to(device)
            for values in (regions.boxes, regions.labels, regions.object_boxes)
        )
        positive = int((object_boxes[:, 2] > 0).sum())
        places = torch.arange(positive, device=device)
        samples.append(RoISample(boxes, labels, places, object_boxes[:positive], places < 0, unverified))
    return x, samples


def to_tensor(x: np.ndarray, device: torch.device) -> Float[Tensor, "R D"]:
    """Reads kept features as float32."""
    return torch.from_numpy(x.astype(np.float32)).to(device)


@torch.no_grad()
def measure_logits(head: BoxHead, regions: TrainingRegions) -> LogitStatistics:
    """Measures the mean and the standard deviation of each class's logits over all training regions."""
    device = next(head.parameters()).device
    logits = [
        head.classifier(
            head.embed(torch.from_numpy(regions.x[start : start + REGIONS_AT_A_TIME].astype(np.float32)).to(device))
        )
        for start in range(0, len(regions.x), REGIONS_AT_A_TIME)
    ]
    deviations, means = torch.std_mean(torch.cat(logits)[:, : head.loss.num_classes].double(), dim=0, correction=0)
    return LogitStatistics(tuple(means.tolist()), tuple(deviations.tolist()), len(regions.x))


@torch.no_grad()
def detect(
    head: BoxHead,
    regions: ValidationRegions,
    losses: Sequence[ClassificationLoss],
    config: PostprocessConfig,
    category_ids: np.ndarray,
) -> list[Results]:
    """Detects with a head.

    Args:
        head: trained.
        regions: of the validation images.
        losses: turn logits into scores: the head's own loss, or calibrated ones.
        config: the choice of the detections.
        category_ids: the category id of each label.

    Returns:
        The boxes that each of the losses finds.
    """
    device = next(head.parameters()).device
    columns: list[list[tuple[np.ndarray, ...]]] = [[] for _ in losses]
    for first in range(0, len(regions.image_ids), IMAGES_AT_A_TIME):
        places = range(first, min(first + IMAGES_AT_A_TIME, len(regions.image_ids)))
        start, end = regions.offsets[places[0]], regions.offsets[places[-1] + 1]
        hidden = head.embed(to_tensor(regions.x[start:end], device))
        logits = head.classifier(hidden)
        counts = np.diff(regions.offsets[places[0] : places[-1] + 2]).tolist()
        boxes = torch.from_numpy(regions.boxes[start:end]).to(device).split(counts)
        sizes, originals = (
            [tuple(size) for size in values[places[0] : places[-1] + 1].tolist()]
            for values in (regions.sizes, regions.original_sizes)
        )
        decoded = [
            head.decode_class_boxes(part, references, size)
            for part, references, size in zip(hidden.split(counts), boxes, sizes, strict=True)
        ]
        for rows, loss in zip(columns, losses, strict=True):
            best = best_detections(decoded, loss.scores(logits).split(counts), sizes, originals, config)
            for place, found in zip(places, best, strict=True):
                rows.append(
                    (
                        np.full(len(found.labels), regions.image_ids[place]),
                        category_ids[found.labels.cpu().numpy()],
                        found.boxes.cpu().double().numpy(),
                        found.scores.cpu().double().numpy(),
                    )
                )
    results = []
    for rows in columns:
        image_ids, categories, boxes, scores = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        boxes[:, 2:] -= boxes[:, :2]
        results.append(Results(image_ids, categories, boxes, scores, None, None, "results"))
    return results
