"""Calibration after training: each class's logit moves by an offset from the training set's counts; nothing is trained.

    offsets = norcal_offsets(frequency.image_counts)     or logit_adjustment_offsets, fracal_offsets
    scores  = adjust_scores(scores, offsets)             or adjust_logits before a softmax

Average precision ranks within a class, where an offset changes little: calibrate all scores of a region, before the
best detections of an image are chosen. On results already cut to 300 an image there is nothing left to gain.

Shapes: R regions, C foreground classes, L logits: C, C + 1 or C + 2, the classes first; N objects.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def logit_adjustment_offsets(instance_counts: Int64[Tensor, " C"], *, tau: float = 1.0) -> Float[Tensor, " C"]:
    """The offsets -tau log(n_j / mean n), with n_j the training objects of class j, at least 1.

    Relative to the mean, so that background, which stays, is a class of average size; equal counts change nothing.

    A. K. Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021: its post-hoc form.
    """
    counts = _positive(instance_counts)
    return -tau * (counts / counts.mean()).log()


def norcal_offsets(image_counts: Int64[Tensor, " C"], *, gamma: float = 0.6) -> Float[Tensor, " C"]:
    """The offsets -gamma log N_j of NorCal, which divide exp(q_j) by N_j^gamma, N_j the training images, at least 1.

    gamma lies in ``[0, 1]`` and is to be chosen on held-out data; 0 changes nothing. Background stays, and the scores
    of a region are normalized again: the two things that the paper found to matter.

    T.-Y. Pan et al., "On Model Calibration for Long-Tailed Object Detection and Instance Segmentation", NeurIPS 2021.
    """
    return -gamma * _positive(image_counts).log()


def fracal_offsets(
    image_counts: Int64[Tensor, " C"], dimensions: Float[Tensor, " C"], *, num_images: int, strength: float = 2.0
) -> Float[Tensor, " C"]:
    """The offsets of FRACAL for a softmax: w_j - strength ln D_j.

    With N_j the training images of class j (at least 1), M all training images, those without objects too (LVIS v1:
    100,170), and D_j the fractal dimension::

        w_j = -log10(N_j / M) - log10 C       base 10 as published
        score_j ~ softmax(q + w)_j / D_j^strength, normalized; background has w = 0 and D = 1

    K. P. Alexandridis et al., "Fractal Calibration for Long-tailed Object Detection", CVPR 2025; M as in their code.

    Raises:
        ValueError: a class occurs in more than ``num_images`` images.
    """
    return _fracal_prior(image_counts, num_images) - strength * dimensions.double().log()


def adjust_logits(logits: Float[Tensor, "R L"], offsets: Float[Tensor, " C"]) -> Float[Tensor, "R L"]:
    """The logits with each class's offset added; background and objectness stay.

    Raises:
        ValueError: there are more offsets than logits.
    """
    num_others = logits.shape[1] - len(offsets)
    if num_others < 0:
        raise ValueError(f"{len(offsets)} offsets want at least as many logits a region, got {logits.shape[1]}")
    return logits + torch.nn.functional.pad(offsets, (0, num_others)).to(logits)


def adjust_scores(scores: Float[Tensor, "R C"], offsets: Float[Tensor, " C"]) -> Float[Tensor, "R C"]:
    """Softmax scores as `adjust_logits` would have made them; background has what a region's scores lack to 1.

        s_j exp(o_j) / (sum over i of s_i exp(o_i) + 1 - sum over i of s_i)

    Raises:
        ValueError: shapes disagree, or a region's scores add up to more than 1 (those of a sigmoid may:
            `adjust_binary_scores`).
    """
    _check_scores(scores, offsets)
    background = 1 - scores.sum(1, keepdim=True)
    if bool((background < -1e-3).any()):
        raise ValueError(
            f"softmax scores of a region add up to 1 at most, got {float(1 - background.min()):.4g}: "
            "scores of a sigmoid or Gumbel loss want adjust_binary_scores"
        )
    # By the largest factor: otherwise exp could overflow. A region without background and scores stays without scores.
    largest = offsets.max().clamp(min=0)
    weighted = scores * (offsets - largest).exp().to(scores)
    rest = background.clamp(min=0) * (-largest).exp().to(scores)
    return weighted / (weighted.sum(1, keepdim=True) + rest).clamp(min=torch.finfo(scores.dtype).tiny)


def adjust_binary_scores(scores: Float[Tensor, "R C"], offsets: Float[Tensor, " C"]) -> Float[Tensor, "R C"]:
    """Scores of independent yes-no questions whose log odds move by the offsets: sigmoid(log(s / (1 - s)) + o).

    Raises:
        ValueError: shapes disagree.
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
    """FRACAL for a detector of sigmoids: sigmoid(q) * sigmoid(q + w + f), w as in `fracal_offsets`.

    f_j = -log10(D_j^strength / sum of D^strength) - log10 C

    Raises:
        ValueError: a class occurs in more than ``num_images`` images.
    """
    weight = dimensions.double() ** strength
    spread = -(weight / weight.mean()).log10()
    return logits.sigmoid() * adjust_logits(logits, _fracal_prior(image_counts, num_images) + spread).sigmoid()


def fractal_dimensions(
    centers: Float[Tensor, "N 2"], labels: Int64[Tensor, " N"], *, num_classes: int, max_grid: int = 64
) -> Float[Tensor, " C"]:
    """How evenly each class's objects lie in the image: 1 on a line or in a spot, 2 all over the plane.

    The slope of a straight line through log(occupied cells) against log(g), least squares, over the grids of g x g
    cells, g from 1 to ``max_grid``, that have no more cells than the class has objects; at least 1, and 1 for a class
    of fewer than 4 objects.

    Args:
        centers: x and y of the boxes' centers, divided by their image's width and height: in ``[0, 1]``.
        labels: ``0 .. C-1``.
        num_classes: C.
        max_grid: the finest grid, 2 or more: one grid alone has no slope.

    Raises:
        ValueError: a center lies outside ``[0, 1]``, a label outside ``0 .. C-1``, or ``max_grid`` is below 2.
    """
    if max_grid < 2:
        raise ValueError(f"max_grid must be 2 or more, got {max_grid}: a slope needs two grids")
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
    return torch.where(counts.cpu() >= 4, slope, 1).clamp(min=1)


def _occupied_cells(centers: Tensor, labels: Tensor, grid: int, num_classes: int) -> Tensor:
    column, row = (centers * grid).long().clamp(max=grid - 1).unbind(1)  # a center at 1 lies in the last cell
    cells = ((labels * grid + row) * grid + column).unique()
    return (cells // grid**2).bincount(minlength=num_classes).cpu()


def _fracal_prior(image_counts: Tensor, num_images: int) -> Tensor:
    counts = _positive(image_counts)
    if len(counts) and counts.max() > num_images:
        raise ValueError(
            f"num_images counts all training images, got {num_images}, but a class occurs in {int(counts.max())}"
        )
    return -(counts * len(counts) / num_images).log10()


def _positive(counts: Tensor) -> Tensor:
    return counts.clamp(min=1).double()


def _check_scores(scores: Tensor, offsets: Tensor) -> None:
    if scores.shape[1:] != offsets.shape:
        raise ValueError(f"expected scores of {len(offsets)} classes, got {list(scores.shape)}")
