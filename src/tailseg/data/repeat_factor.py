"""Repeat factor sampling: images with rare classes are used more often.

    f_c = images with class c / annotated images        r_c = max(1, sqrt(t / f_c))        r_i = max of r_c over image i

Source: Gupta, Dollár, Girshick, LVIS (2019), appendix B.2; published GOL models use t = 0.001 and ceil. Other exponents
and other kinds of sampling: `tailseg.data.epoch_plan`.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tailseg.annotations.dataset import Annotations
from tailseg.data.epoch_plan import (
    Rounding,
    compute_class_factors,
    compute_class_shares,
    compute_image_maximum,
    repeat_indices,
    resolve_threshold,
)

__all__ = ["Rounding", "category_repeat_factors", "image_repeat_factors", "repeat_indices"]


def category_repeat_factors(
    image_fraction: Float[Tensor, " C"], threshold: float, exponent: float = 0.5
) -> Float64[Tensor, " C"]:
    """Computes r_c = max(1, (threshold / f_c)^exponent) of each class; 1 for a class that never occurs.

    Args:
        image_fraction: f_c, the share of the annotated images with class c, in ``[0, 1]``.
        threshold: t; a class in a larger share of the images is not repeated. 0 repeats no class.
        exponent: 0.5 is the published square root. With e, a class is shown in proportion to f_c^(1 - e).

    Returns:
        The factors, 1 or more.

    Raises:
        ValueError: the threshold is negative or not finite.
    """
    shares = image_fraction.double().cpu().numpy()
    return torch.from_numpy(compute_class_factors(shares, resolve_threshold(shares, threshold), exponent))


def image_repeat_factors(
    annotations: Annotations, threshold: float, exponent: float = 0.5
) -> Float64[np.ndarray, " images"]:
    """Computes r_i of each image, in the file's order: the largest r_c of its classes; 1 without objects.

    Args:
        annotations: the training set.
        threshold: t, see `category_repeat_factors`.
        exponent: see `category_repeat_factors`.

    Returns:
        The factors, 1 or more.

    Raises:
        ValueError: the threshold is negative or not finite.
    """
    shares = compute_class_shares(annotations, instances=False)
    factors = compute_class_factors(shares, resolve_threshold(shares, threshold), exponent)
    return compute_image_maximum(annotations, factors, least=1.0)
