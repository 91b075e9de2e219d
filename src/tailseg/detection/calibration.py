"""Calibration after training: an offset from the training set's counts is added to each class's logit. No training.

    offsets = norcal_offsets(frequency.image_counts)     or logit_adjustment_offsets, fracal_offsets
    scores  = adjust_scores(scores, offsets)             or adjust_logits before a softmax
    logits  = normalize_logits(logits, means, deviations)    LogN: from the logits themselves, without counts

Average precision ranks the detections of one class, and an offset changes this order little. So calibrate all scores of
a region before the best detections of an image are selected. Results that already have only the best 300 detections per
image do not improve.

Shapes: R regions, C foreground classes, L logits (C, C + 1 or C + 2, the classes first), N objects.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def logit_adjustment_offsets(instance_counts: Int64[Tensor, " C"], *, tau: float = 1.0) -> Float[Tensor, " C"]:
    """Computes the offsets -tau log(n_j / mean n), with n_j the training objects of class j, at least 1.

    The counts are divided by their mean. So background, which has no offset, is treated as a class of average size, and
    equal counts change nothing.

    Source: the post-hoc form of A. K. Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021.
    """
    counts = _positive(instance_counts)
    return -tau * (counts / counts.mean()).log()


def norcal_offsets(image_counts: Int64[Tensor, " C"], *, gamma: float = 0.6) -> Float[Tensor, " C"]:
    """Computes NorCal's offsets -gamma log N_j, with N_j the training images of class j, at least 1.

    They divide exp(q_j) by N_j^gamma. Choose gamma in ``[0, 1]`` on held-out data; 0 changes nothing. Background has no
    offset, and `adjust_scores` normalizes the scores of a region again. The paper found both important.

    Source: T.-Y. Pan et al., "On Model Calibration for Long-Tailed Object Detection and Instance Segmentation",
    NeurIPS 2021.
    """
    return -gamma * _positive(image_counts).log()


def fracal_offsets(
    image_counts: Int64[Tensor, " C"], dimensions: Float[Tensor, " C"], *, num_images: int, strength: float = 2.0
) -> Float[Tensor, " C"]:
    """Computes FRACAL's offsets for a softmax: w_j - strength ln D_j.

    N_j are the training images of class j (at least 1), M all training images, and D_j is the fractal dimension:

        w_j = -log10(N_j / M) - log10 C       base 10 as published
        score_j ~ softmax(q + w)_j / D_j^strength, normalized; background has w = 0 and D = 1

    Source: K. P. Alexandridis et al., "Fractal Calibration for Long-tailed Object Detection", CVPR 2025; M as in their
    code.

    Args:
        image_counts: N, the training images of each class.
        dimensions: D, the result of `fractal_dimensions`.
        num_images: M, including the images without objects (LVIS v1: 100,170).
        strength: lambda of the paper; 0 leaves out the fractal dimension.

    Returns:
        The offsets of the logits, float64.

    Raises:
        ValueError: a class occurs in more than ``num_images`` images, or a dimension is not above 0.
    """
    return _fracal_prior(image_counts, dimensions, num_images) - strength * dimensions.double().log()


def normalize_logits(
    logits: Float[Tensor, "R L"],
    means: Float[Tensor, " C"],
    deviations: Float[Tensor, " C"],
    *,
    strength: float = 1.0,
) -> Float[Tensor, "R L"]:
    """Normalizes the logits of each class by their statistics over regions of the training set (LogN).

        q_j = (q_j - s (m_j - min of m)) / d_j^s

    m and d are the mean and the standard deviation of the logits of class j. Classes that training shows often have
    higher logits in all regions, so LogN needs no counts. The logits of background and objectness stay. A sigmoid or
    Gumbel loss has the same form: the score of a class is the link of its normalized logit, and a background logit has
    no influence. Its logits are mostly negative; so a division by d above 1 raises most scores of the class, and by d
    below 1 it lowers them.

    Source: L. Zhao, Y. Teng, L. Wang, "Logit Normalization for Long-Tail Object Detection", IJCV 2024. Their s is 1.
    Their code takes a running mean and variance: a batch norm with momentum 5e-5, in one pass with 4 images a step.
    After LVIS's 99,388 images, its initial values 0 and 1 still have (1 - 5e-5)^24847 = 29 % of the weight. Here the
    mean and the deviation are exact.

    Args:
        logits: q, the classes first.
        means: m of each class.
        deviations: d of each class; at least 1e-5 is used.
        strength: s in ``[0, 1]``; 0 changes nothing.

    Returns:
        The logits, of the same type.

    Raises:
        ValueError: there are more classes than logits.
    """
    num_classes = len(means)
    if logits.shape[1] < num_classes:
        raise ValueError(f"{num_classes} means need at least as many logits per region, got {logits.shape[1]}")
    shift = strength * (means - means.min()) if num_classes else means
    scale = deviations.clamp(min=1e-5) ** strength
    normalized = (logits[:, :num_classes] - shift.to(logits)) / scale.to(logits)
    return torch.cat([normalized, logits[:, num_classes:]], dim=1)


def adjust_logits(logits: Float[Tensor, "R L"], offsets: Float[Tensor, " C"]) -> Float[Tensor, "R L"]:
    """Adds to the logits of each class its offset. The logits of background and objectness stay.

    Raises:
        ValueError: there are more offsets than logits.
    """
    num_others = logits.shape[1] - len(offsets)
    if num_others < 0:
        raise ValueError(f"{len(offsets)} offsets need at least as many logits per region, got {logits.shape[1]}")
    return logits + torch.nn.functional.pad(offsets, (0, num_others)).to(logits)


def adjust_scores(scores: Float[Tensor, "R C"], offsets: Float[Tensor, " C"]) -> Float[Tensor, "R C"]:
    """Adjusts softmax scores: the result equals the softmax of the logits of `adjust_logits`.

        s_j exp(o_j) / (sum over i of s_i exp(o_i) + 1 - sum over i of s_i)

    The score of background is 1 minus the sum of a region's scores.

    Raises:
        ValueError: the shapes disagree, or the scores of a region add up to more than 1. For scores of a sigmoid, use
            `adjust_binary_scores`.
    """
    _check_scores(scores, offsets)
    background = 1 - scores.sum(1, keepdim=True)
    if bool((background < -1e-3).any()):
        raise ValueError(
            f"expected softmax scores, which add up to 1 at most in a region, got a sum of "
            f"{float(1 - background.min()):.4g}: use adjust_binary_scores for scores of a sigmoid or Gumbel loss"
        )
    # All factors are divided by the largest one, since exp could overflow. A region whose scores are all 0 keeps them.
    largest = offsets.max().clamp(min=0)
    weighted = scores * (offsets - largest).exp().to(scores)
    rest = background.clamp(min=0) * (-largest).exp().to(scores)
    return weighted / (weighted.sum(1, keepdim=True) + rest).clamp(min=torch.finfo(scores.dtype).tiny)


def adjust_binary_scores(scores: Float[Tensor, "R C"], offsets: Float[Tensor, " C"]) -> Float[Tensor, "R C"]:
    """Adjusts scores of independent binary classifiers. The offset is added to the log odds: sigmoid(log(s/(1-s)) + o).

    Raises:
        ValueError: the shapes disagree.
    """
    _check_scores(scores, offsets)
    yes = scores * torch.sigmoid(offsets).to(scores)
    return yes / (yes + (1 - scores) * torch.sigmoid(-offsets).to(scores)).clamp(min=torch.finfo(scores.dtype).tiny)


def fracal_sigmoid_scores(
    logits: Float[Tensor, "R C"],
    image_counts: Int64[Tensor, " C"],
    dimensions: Float[Tensor, " C"],
    *,
    num_images: int,
    strength: float = 2.0,
) -> Float[Tensor, "R C"]:
    """Computes FRACAL's scores for a detector with sigmoids: sigmoid(q) * sigmoid(q + w + f), w as in `fracal_offsets`.

    f_j = -log10(D_j^strength / sum of D^strength) - log10 C

    Args:
        logits: q, of the foreground classes.
        image_counts: N, the training images of each class.
        dimensions: D, the result of `fractal_dimensions`.
        num_images: M, all training images, including those without objects.
        strength: lambda of the paper; 0 leaves out the fractal dimension.

    Returns:
        The scores in ``[0, 1]``.

    Raises:
        ValueError: a class occurs in more than ``num_images`` images, or a dimension is not above 0.
    """
    prior = _fracal_prior(image_counts, dimensions, num_images)
    weight = dimensions.double() ** strength
    spread = -(weight / weight.mean()).log10()
    return logits.sigmoid() * adjust_logits(logits, prior + spread).sigmoid()


def fractal_dimensions(
    centers: Float[Tensor, "N 2"],
    labels: Int64[Tensor, " N"],
    *,
    num_classes: int,
    max_grid: int = 64,
    least_grids: int = 2,
) -> Float[Tensor, " C"]:
    """Measures how evenly the objects of each class are spread over the image: 1 on a line or in a spot, 2 everywhere.

    The fractal dimension is the slope of the least-squares line of log(occupied cells) against log(g). It uses the
    grids of g x g cells, g = 1 .. ``max_grid``, that have no more cells than the class has objects. The result is at
    least 1, and 1 for a class with fewer than ``least_grids^2`` objects: as published, fewer than 4.

    A class of 4 to 8 objects has two grids, and its slope is one of 0, 1, log2 3 and 2. In LVIS v1 these are 86
    classes, all of them rare; 17 have the dimension 2, and FRACAL divides their scores by 4 because of four boxes in
    four quarters. ``least_grids=3`` treats them as the classes with fewer objects.

    Args:
        centers: x and y of the centers of the boxes, divided by the width and height of their image: in ``[0, 1]``.
        labels: ``0 .. C-1``.
        num_classes: C.
        max_grid: g of the finest grid, 2 or more.
        least_grids: the grids that a slope needs; 2 as published.

    Returns:
        The fractal dimension of each class, float64, 1 or more.

    Raises:
        ValueError: a center lies outside ``[0, 1]``, a label outside ``0 .. C-1``, or ``max_grid`` or
            ``least_grids`` is below 2.
    """
    if max_grid < 2 or least_grids < 2:
        raise ValueError(
            f"max_grid and least_grids must be 2 or more, got {max_grid} and {least_grids}: a slope needs two grids"
        )
    if len(centers) and not (bool(((centers >= 0) & (centers <= 1)).all())):
        raise ValueError("centers must be divided by their image's width and height: expected values in [0, 1]")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels must lie in 0 .. {num_classes - 1}, got {int(labels.min())} .. {int(labels.max())}")
    counts = labels.bincount(minlength=num_classes)
    finest = max(min(max_grid, math.isqrt(int(counts.max()))), 1) if num_classes else 1
    grids = torch.arange(1, finest + 1)
    occupied = torch.stack([_occupied_cells(centers, labels, int(grid), num_classes) for grid in grids])
    used = (grids.unsqueeze(1) ** 2 <= counts.cpu()).double()
    x, y = grids.double().log().unsqueeze(1), occupied.clamp(min=1).double().log()
    x = (x - (used * x).sum(0) / used.sum(0)) * used
    slope = (x * y).sum(0) / x.square().sum(0)
    return torch.where(counts.cpu() >= least_grids**2, slope, 1).clamp(min=1)


def _occupied_cells(centers: Tensor, labels: Tensor, grid: int, num_classes: int) -> Tensor:
    column, row = (centers * grid).long().clamp(max=grid - 1).unbind(1)  # a center at 1 lies in the last cell
    cells = ((labels * grid + row) * grid + column).unique()
    return (cells // grid**2).bincount(minlength=num_classes).cpu()


def _fracal_prior(image_counts: Tensor, dimensions: Tensor, num_images: int) -> Tensor:
    counts = _positive(image_counts)
    if dimensions.shape != counts.shape or not ((dimensions > 0) & dimensions.isfinite()).all():
        raise ValueError(
            f"expected a fractal dimension above 0 for each of {len(counts)} classes, got {len(dimensions)} numbers: "
            f"{dimensions.tolist()[:5]} ..."
        )
    if len(counts) and counts.max() > num_images:
        raise ValueError(
            f"num_images must count all training images, got {num_images}, but a class occurs in {int(counts.max())}"
        )
    return -(counts * len(counts) / num_images).log10()


def _positive(counts: Tensor) -> Tensor:
    return counts.clamp(min=1).double()


def _check_scores(scores: Tensor, offsets: Tensor) -> None:
    if scores.shape[1:] != offsets.shape:
        raise ValueError(f"expected scores of {len(offsets)} classes, got {list(scores.shape)}")
