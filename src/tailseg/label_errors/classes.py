"""Which class does each region have? Probabilities by classifiers that did not see its image (out of fold).

Two classifiers are fitted on the region features: a linear one with the softmax, and the vote of the nearest
neighbors. Their probabilities are averaged. Shapes: R regions, D features, C classes; label C is the background.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

NEIGHBORS: Final = 5
"""Nearest regions that vote."""
TEMPERATURE: Final = 0.1
"""A neighbor's vote is ``exp(similarity / TEMPERATURE)``."""
DECAY: Final = 1e-4
"""Of the linear classifier: ``DECAY * ||W||^2`` is added to the mean cross entropy."""
STEPS: Final = 60
"""Iterations of L-BFGS."""
REGIONS_AT_A_TIME: Final = 2048
"""Regions whose probabilities are computed together; limits the memory."""
FLOOR: Final = 1e-4
"""The least probability of a class."""


@dataclass(frozen=True, eq=False)
class ClassEstimates:
    """What the classifiers say of each region.

    Attributes:
        own: float32 ``[R]``, the probability of the region's label.
        other: float32 ``[R]``, the largest probability of another class, without the background.
        other_labels: int64 ``[R]``, this class.
        background: float32 ``[R]``, the probability of no object.
        support: int64 ``[R]``, the number of regions with the same label in other images.
    """

    own: np.ndarray
    other: np.ndarray
    other_labels: np.ndarray
    background: np.ndarray
    support: np.ndarray


def estimate_classes(
    x: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    num_classes: int,
    *,
    learned: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> ClassEstimates:
    """Estimates the classes of regions, each by classifiers that were fitted on other images.

    Args:
        x: ``[R, D]``.
        labels: ``[R]``, C for the background.
        images: ``[R]``, the image of each region. Images are drawn into folds, not videos: nearly the same object in
            the next frame tells the right label.
        num_classes: C.
        learned: bool ``[R]``, the regions that the classifiers learn from; all unless given.
        folds: number of folds.
        seed: of the draw.

    Returns:
        The estimates.
    """
    _, places = np.unique(images, return_inverse=True)
    learned = np.ones(len(x), bool) if learned is None else learned
    draw = np.random.default_rng(seed).permutation(places.max(initial=0) + 1) % folds
    parts = draw[places]
    features = torch.from_numpy((x - x.mean(axis=0)).astype(np.float32))
    targets = torch.from_numpy(labels.astype(np.int64))
    columns = [np.zeros(len(x), kind) for kind in (np.float32, np.float32, np.int64, np.float32)]
    for part in range(folds):
        outside, inside = (
            torch.from_numpy(np.flatnonzero(mask)) for mask in (learned & (parts != part), parts == part)
        )
        if not len(outside) or not len(inside):
            continue
        layer = fit_linear(features[outside], targets[outside], num_classes + 1)
        for rows in inside.split(REGIONS_AT_A_TIME):
            linear = layer(features[rows]).softmax(dim=1)
            votes = vote(features[rows], features[outside], targets[outside], num_classes + 1)
            values = _read_columns((linear + votes) / 2, targets[rows], num_classes)
            for column, value in zip(columns, values, strict=True):
                column[rows.numpy()] = value.numpy()
    return ClassEstimates(*columns, support=count_support(labels, images))


@torch.no_grad()
def _read_columns(probabilities: Float[Tensor, "P L"], labels: Int64[Tensor, " P"], num_classes: int) -> list[Tensor]:
    own = probabilities.gather(1, labels[:, None])[:, 0]
    background = probabilities[:, num_classes]
    others = probabilities[:, :num_classes].scatter(1, labels.clamp(max=num_classes - 1)[:, None], -1.0)
    others = torch.where((labels == num_classes)[:, None], probabilities[:, :num_classes], others)
    other, other_labels = others.max(dim=1)
    return [own, other.clamp(min=0), other_labels, background]


def fit_linear(x: Float[Tensor, "R D"], labels: Int64[Tensor, " R"], num_labels: int) -> torch.nn.Linear:
    """Fits a linear classifier with the softmax by L-BFGS.

    Args:
        x: the features.
        labels: the labels.
        num_labels: rows of the classifier.

    Returns:
        The classifier, for features as they came.
    """
    spread = x.std().clamp(min=1e-6)
    layer = torch.nn.Linear(x.shape[1], num_labels)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    scaled = x / spread
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(layer(scaled), labels) + DECAY * layer.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(step)
    with torch.no_grad():
        layer.weight.div_(spread)
    return layer.requires_grad_(False)


@torch.no_grad()
def vote(
    x: Float[Tensor, "P D"], known: Float[Tensor, "R D"], labels: Int64[Tensor, " R"], num_labels: int
) -> Float[Tensor, "P L"]:
    """The vote of the nearest known regions, by the cosine of their features.

    Args:
        x: the regions.
        known: the regions that vote.
        labels: their labels.
        num_labels: L.

    Returns:
        The share of the votes of each label.
    """
    similarity, neighbors = (normalize(x) @ normalize(known).T).topk(min(NEIGHBORS, len(known)), dim=1)
    weights = (similarity / TEMPERATURE).softmax(dim=1)
    return torch.zeros(len(x), num_labels).scatter_add_(1, labels[neighbors], weights)


@torch.no_grad()
def find_similar(x: np.ndarray, images: np.ndarray, count: int) -> np.ndarray:
    """The most similar regions in other images, by the cosine of their features.

    Args:
        x: ``[R, D]``.
        images: ``[R]``, the image of each region.
        count: how many.

    Returns:
        Int64 ``[R, count]``, positions; the region itself where the other images have fewer.
    """
    features = normalize(torch.from_numpy((x - x.mean(axis=0)).astype(np.float32)))
    own_images = torch.from_numpy(images)
    blocks = []
    for rows in torch.arange(len(x)).split(REGIONS_AT_A_TIME):
        similarity = features[rows] @ features.T
        similarity.masked_fill_(own_images[rows, None] == own_images, -2.0)
        values, places = similarity.topk(min(count, len(x)), dim=1)
        places = torch.where(values < -1.5, rows[:, None], places)
        blocks.append(torch.cat([places, rows[:, None].expand(-1, count - places.shape[1])], dim=1))
    return torch.cat(blocks).numpy()


def count_support(labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The number of regions with the same label in other images, int64 ``[R]``."""
    keys = labels.astype(np.int64) * (int(images.max(initial=0)) + 1) + images
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.bincount(labels)[labels] - counts[inverse]
