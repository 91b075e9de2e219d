"""Repeat factor sampling: images with rare classes are used more often.

    f_c = images with class c / annotated images        r_c = max(1, sqrt(t / f_c))        r_i = max of r_c over image i

Source: Gupta, Dollár, Girshick, LVIS (2019), appendix B.2; published GOL models use t = 0.001 and ceil.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tailseg.annotations.dataset import Annotations

Rounding = Literal["ceil", "stochastic"]


def category_repeat_factors(image_fraction: Float[Tensor, " C"], threshold: float) -> Float64[Tensor, " C"]:
    """Computes r_c = max(1, sqrt(threshold / f_c)) of each class; 1 for a class that never occurs.

    Args:
        image_fraction: f_c, the share of the annotated images with class c, in ``[0, 1]``.
        threshold: t; a class in a larger share of the images is not repeated. 0 repeats no class.

    Returns:
        The factors, 1 or more.

    Raises:
        ValueError: the threshold is negative or not finite.
    """
    if not 0 <= threshold < float("inf"):
        raise ValueError(f"the repeat threshold must be a share of the images, 0 or more, got {threshold}")
    fraction = image_fraction.double()
    factors = torch.sqrt(threshold / fraction).clamp(min=1)
    return torch.where(fraction > 0, factors, 1.0)


def image_repeat_factors(annotations: Annotations, threshold: float) -> Float64[np.ndarray, " images"]:
    """Computes r_i of each image, in the file's order: the largest r_c of its classes; 1 without objects.

    Raises:
        ValueError: the threshold is negative or not finite.
    """
    objects = annotations.objects
    fraction = torch.from_numpy(annotations.frequency.image_fraction)
    class_factors = category_repeat_factors(fraction, threshold).numpy()
    factors = np.ones(annotations.num_images)
    rows = ~objects.ignored
    np.maximum.at(factors, objects.images[rows], class_factors[objects.labels[rows]])
    return factors


def repeat_indices(
    factors: Float64[np.ndarray, " images"], rounding: Rounding, generator: np.random.Generator
) -> Int64[np.ndarray, " samples"]:
    """Repeats the index of each image according to its factor, in order.

    Args:
        factors: r_i, at least 1.
        rounding: ``ceil`` repeats ceil(r_i) times, as published. ``stochastic`` repeats floor(r_i) times, and once more
            with probability r_i - floor(r_i) (detectron2), so that the expectation is r_i.
        generator: the random numbers of the stochastic rounding.

    Returns:
        The indices of the images, int64.
    """
    if rounding == "ceil":
        counts = np.ceil(factors)
    else:
        counts = np.floor(factors) + (generator.random(len(factors)) < factors % 1)
    return np.repeat(np.arange(len(factors)), counts.astype(np.int64))
