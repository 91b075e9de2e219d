"""Ranks unlabeled images by the rare objects that they probably hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.types import Group
from tailseg.inference import Predictor
from tailseg.structures import Detections

GROUP_WEIGHTS: Final[dict[Group, float]] = {"r": 1.0, "c": 0.1, "f": 0.01}
"""What an expected object of each group counts."""


@dataclass(frozen=True)
class RankedImage:
    """An image and what it probably holds.

    Attributes:
        path: the file.
        score: the sum over the groups of weight times expected number of classes.
        expected: the expected number of classes with an object, by group.
        classes: the likeliest classes, rare groups first: name and probability.
    """

    path: Path
    score: float
    expected: dict[Group, float]
    classes: tuple[tuple[str, float], ...]


def rank_images(
    predictor: Predictor, paths: Iterable[Path], *, named: int = 3
) -> tuple[list[RankedImage], dict[Path, ImageError]]:
    """Ranks images by the rare classes that they probably hold, the best first.

    The score of a detection stands for its probability, so calibrated scores rank better. An image holds a class with
    the probability ``max(scores)``; a group's expected number is the sum over its classes.

    Args:
        predictor: of the run.
        paths: the image files.
        named: classes that are named for each image.

    Returns:
        The images, and the errors of those that cannot be read.
    """
    ranked, unread = [], {}
    for path in paths:
        try:
            found = predictor.detect(path)
        except ImageError as error:
            unread[path] = error
            continue
        ranked.append(rank_image(path, found, predictor.names, predictor.groups, named=named))
    return sorted(ranked, key=lambda image: -image.score), unread


def rank_image(
    path: Path, detections: Detections, names: Sequence[str], groups: Sequence[Group], *, named: int = 3
) -> RankedImage:
    """Computes the score of an image from its detections.

    Args:
        path: the image file.
        detections: those of the image.
        names: the names of the classes, by label.
        groups: their frequency groups.
        named: classes that are named.

    Returns:
        The image with its score.
    """
    probabilities = np.zeros(len(names))
    scores = detections.scores.float().cpu().numpy().clip(0, 1)
    np.maximum.at(probabilities, detections.labels.cpu().numpy(), scores)
    weights = np.array([GROUP_WEIGHTS[group] for group in groups])
    expected: dict[Group, float] = {
        group: float(probabilities[[other == group for other in groups]].sum()) for group in GROUP_WEIGHTS
    }
    best = np.argsort(-weights * probabilities, kind="stable")[:named].tolist()
    classes = tuple((names[label], float(probabilities[label])) for label in best if probabilities[label] > 0)
    return RankedImage(path, float((weights * probabilities).sum()), expected, classes)
