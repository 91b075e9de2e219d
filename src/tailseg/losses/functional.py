"""The binary losses as functions, with the arguments of torch's ``binary_cross_entropy_with_logits``.

For logits of any shape, where each entry is a question of its own: classifiers, multi-label heads, segmentation.
"""

from math import prod
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tailseg.losses.binary import ClassFactors, EntryCost, TargetEntries, split_alpha
from tailseg.losses.links import Link, find_link
from tailseg.losses.settings import LinkName

Reduction = Literal["none", "mean", "sum"]


def bce_with_logits(
    input: Float[Tensor, "*S"],  # noqa: A002 - torch's name
    target: Shaped[Tensor, "*S"],
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
    *,
    link: Link | LinkName = "sigmoid",
    ignore_index: float | None = None,
    ignored: Bool[Tensor, "*S"] | None = None,
) -> Float[Tensor, "..."]:
    """Computes binary cross entropy over a link.

    With p the link's probability of a logit q:

        cost of an entry = weight (-pos_weight y log p - (1 - y) log(1 - p))

    With the sigmoid it is ``torch.nn.functional.binary_cross_entropy_with_logits``, computed in float32 or wider. As
    there, the target gets a gradient if it needs one, which takes more memory; so do weight and pos_weight.

    Args:
        input: the logits q.
        target: y in [0, 1], of the same shape; numbers of any type, or booleans.
        weight: multiplies the cost; any shape that broadcasts to the logits'.
        reduction: ``"mean"`` over the entries that are not ignored, ``"sum"``, or ``"none"``.
        pos_weight: multiplies the part of the positives; any shape that broadcasts to the logits'.
        link: turns logits into probabilities: ``"sigmoid"``, ``"gumbel"``, ``"normal"``, or a `Link`.
        ignore_index: a target of this value is ignored: it costs nothing.
        ignored: entries that are ignored, whatever their logits are.

    Returns:
        The mean or the sum, or the costs in the shape of the logits; in float32 or wider. The mean of no entry is 0.

    Raises:
        TypeError: an argument is no tensor, or the logits are no floating point numbers.
        ValueError: the shapes disagree, or the reduction or the link is unknown.
    """
    _require_tensors(input=input, target=target, weight=weight, pos_weight=pos_weight, ignored=ignored)
    return _reduce(input, target, weight, reduction, pos_weight, link, ClassFactors(), ignore_index, ignored)


def gumbel_bce_with_logits(
    input: Float[Tensor, "*S"],  # noqa: A002 - torch's name
    target: Shaped[Tensor, "*S"],
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
    *,
    ignore_index: float | None = None,
    ignored: Bool[Tensor, "*S"] | None = None,
) -> Float[Tensor, "..."]:
    """Computes binary cross entropy over the Gumbel link, p = exp(-exp(-q)): `bce_with_logits` with that link.

    Scores at test time are ``Gumbel().probability(q)``, not ``torch.sigmoid(q)``.

    Args:
        input: the logits q.
        target: y in [0, 1], of the same shape.
        weight: multiplies the cost.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        pos_weight: multiplies the part of the positives.
        ignore_index: a target of this value is ignored.
        ignored: entries that are ignored.

    Returns:
        The mean, the sum, or the costs.
    """
    return bce_with_logits(
        input, target, weight, reduction, pos_weight, link="gumbel", ignore_index=ignore_index, ignored=ignored
    )


def focal_with_logits(
    input: Float[Tensor, "*S"],  # noqa: A002 - torch's name
    target: Shaped[Tensor, "*S"],
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    link: Link | LinkName = "sigmoid",
    ignore_index: float | None = None,
    ignored: Bool[Tensor, "*S"] | None = None,
) -> Float[Tensor, "..."]:
    """Computes the focal loss over a link, and for targets between 0 and 1 the quality focal loss.

    With p the link's probability of a logit q:

        cost of an entry = weight abs(y - p)^gamma (-alpha y log p - (1 - alpha) (1 - y) log(1 - p))

    Without alpha, neither part has a factor.

    Args:
        input: the logits q.
        target: y in [0, 1], of the same shape. It gets no gradient.
        weight: multiplies the cost.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, see `bce_with_logits`.
        gamma: how fast the weight of a well classified logit falls.
        alpha: the share of the positives.
        link: turns logits into probabilities.
        ignore_index: a target of this value is ignored.
        ignored: entries that are ignored.

    Returns:
        The mean, the sum, or the costs.

    Raises:
        TypeError: an argument is no tensor, or the logits are no floating point numbers.
        ValueError: the shapes disagree, or the reduction or the link is unknown.
    """
    _require_tensors(input=input, target=target, weight=weight, ignored=ignored)
    factors = ClassFactors.for_all(input, *split_alpha(alpha), gamma)
    return _reduce(input, target.detach(), weight, reduction, None, link, factors, ignore_index, ignored)


def _require_tensors(**arguments: object) -> None:
    """Refuses arguments that are no tensors, as torch does."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Tensor):
            hint = f": give torch.tensor({value!r})" if isinstance(value, int | float) and name != "target" else ""
            raise TypeError(f"{name} is a tensor, got {type(value).__name__}{hint}")


def _reduce(
    q: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    pos_weight: Tensor | None,
    link: Link | str,
    factors: ClassFactors,
    ignore_index: float | None,
    ignored: Tensor | None,
) -> Tensor:
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {', '.join(get_args(Reduction))}, got {reduction!r}")
    if not q.is_floating_point():
        raise TypeError(f"input are logits, floating point numbers, got {q.dtype}: are input and target exchanged?")
    for what, tensor in (("target", target), ("ignored", ignored)):
        if tensor is not None and tensor.shape != q.shape:
            raise ValueError(f"{what} has the shape of the logits {list(q.shape)}, got {list(tensor.shape)}")
    if ignore_index is not None:
        ignored = target == ignore_index if ignored is None else ignored | (target == ignore_index)
    # Entries without classes may be many: they are rows. A link that is no plain arithmetic may have classes.
    link = find_link(link)
    rows = (prod(q.shape[:-1]), q.shape[-1]) if q.ndim > 1 or (q.ndim and not link.fuses) else (q.numel(), 1)
    dtype = torch.promote_types(q.dtype, torch.float32)

    def arrange(what: str, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        try:
            return tensor.to(dtype).expand(q.shape).reshape(rows)
        except RuntimeError:
            raise ValueError(
                f"{what} broadcasts to the shape of the logits {list(q.shape)}, got {list(tensor.shape)}"
            ) from None

    entries = TargetEntries(
        q.reshape(rows),
        target.reshape(rows),
        EntryCost(link),
        factors,
        weights=arrange("weight", weight),
        positive=arrange("pos_weight", pos_weight),
        ignored=None if ignored is None else ignored.reshape(rows),
    )
    if reduction == "none":
        return entries.costs().reshape(q.shape)
    if reduction == "sum":
        return entries.sum()
    return entries.sum() / (max(q.numel(), 1) if ignored is None else (~ignored).sum().clamp(min=1))
