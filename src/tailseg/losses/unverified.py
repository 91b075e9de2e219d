"""Classes that nobody looked for in an image: they must be no negatives there, in any loss.

A. Gupta, P. Dollár and R. Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019: each image
is annotated for some classes only.
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

HIDDEN: Final = -1e4
"""The logit of a hidden class. It is finite, also in float16, and its exponential is 0 in every type."""


def hide_unverified(
    logits: Float[Tensor, "R L"],
    labels: Int64[Tensor, " R"],
    unverified: Bool[Tensor, "B C"],
    images: Int64[Tensor, " R"],
) -> Float[Tensor, "R L"]:
    """Replaces the logits of the classes that were not looked for in a region's image; a region keeps its own label's.

    A replaced logit gets no gradient. It costs nothing in a binary cross entropy, whose "no" is certain, and adds
    nothing to the partition sum of a softmax: a loss of the result is the loss of the other classes alone. (With
    ``published="2022"`` the normal link costs the constant 3e-7 for it, because that code clamps the logit to -5.)

    Args:
        logits: the first C are those of the classes.
        labels: ``0 .. C``; C is background.
        unverified: the classes of each image that are no negatives there.
        images: the image of each region, ``0 .. B-1``.

    Returns:
        The logits, with `HIDDEN` in place of those of unverified classes.
    """
    num_classes = unverified.shape[1]
    hidden = F.pad(unverified, (0, logits.shape[1] - num_classes))[images]
    column = labels.clamp(0, num_classes - 1).unsqueeze(1)
    is_background = (labels >= num_classes).unsqueeze(1)
    hidden.scatter_(1, column, hidden.gather(1, column) & is_background)
    return logits.masked_fill(hidden, HIDDEN)


def stack_unverified(
    rows: Sequence[Bool[Tensor, " C"] | None], counts: Sequence[int], num_classes: int, device: torch.device
) -> tuple[Bool[Tensor, "B C"], Int64[Tensor, " R"]] | None:
    """Stacks the unverified classes of images for `hide_unverified`; None if no image has any.

    Args:
        rows: the unverified classes of each image; None for an image with all classes verified.
        counts: the number of regions of each image.
        num_classes: C.
        device: of the results.

    Returns:
        The rows, and the image of each region.
    """
    if all(row is None for row in rows):
        return None
    none = torch.zeros(num_classes, dtype=torch.bool, device=device)
    stacked = torch.stack([none if row is None else row for row in rows])
    numbers = torch.tensor(counts, device=device)
    return stacked, torch.arange(len(rows), device=device).repeat_interleave(numbers, output_size=sum(counts))
