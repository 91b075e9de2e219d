"""Binary cross entropy over any link, for the losses that ask each class a yes-no question.

Shapes: R regions, L logits per region.
"""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from tailseg.losses.base import at_least_float32
from tailseg.losses.elementwise import gather_label_logits
from tailseg.losses.links import Link

BLOCK = 65536
"""Logits that a CPU thread works on at a time: the logits and the results computed from them fit into its cache."""
COMPILE_FROM = {"cpu": 2**19, "cuda": 1}
"""The least number of logits for which the loss is compiled.

Compiling takes seconds, once; fewer logits take a CPU a millisecond without it."""


class Dropped(NamedTuple):
    """Which negative entries cost nothing: those where both masks are true.

    Attributes:
        regions: a mask of the regions, one for all classes or one for each class.
        classes: a mask of the classes.
    """

    regions: Bool[Tensor, "R #L"]
    classes: Bool[Tensor, " L"]


def binary_cost(
    q: Float[Tensor, "R L"],
    labels: Int64[Tensor, " R"],
    link: Link,
    *,
    dropped: Dropped | None = None,
    weights: Float[Tensor, " R"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross entropy over a link: the mean over regions of the sum over logits.

    A region costs -log p(q) for its label and -log(1 - p(q)) for every other class. It is computed in float32 or wider,
    also for half precision.

    In addition to the logits, at most one tensor of their size is kept. On a CPU this is the gradient: the forward pass
    writes it while the logits are in the cache. On a GPU, where memory is slower than arithmetic, nothing is kept, and
    the backward pass computes from the logits again. The same holds for float16, because small gradients would become 0
    before a scaler multiplies them. For large inputs, and if the link allows it, ``torch.compile`` makes one kernel of
    each pass (Triton on CUDA).

    Args:
        q: logits.
        labels: ``0 .. L``. The label L (background of a loss without a background logit) makes all logits negatives.
        link: turns logits into probabilities.
        dropped: negatives that cost nothing. The cost of the label itself always counts.
        weights: multiply the cost of each region; they get no gradient. None is 1.

    Returns:
        The mean cost of a region, over R and not over the weights; 0 without regions.
    """
    regions, classes = dropped or (None, None)
    if torch.compiler.is_compiling():  # the compiler fuses the operations, and decides what to compute again
        return _composed_cost(link, classes, q, labels, regions, weights)
    return cast(Tensor, _BinaryCost.apply(q, labels, regions, classes, weights, link))


class _BinaryCost(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: BackwardCFunction,
        q: Tensor,
        labels: Tensor,
        regions: Tensor | None,
        classes: Tensor | None,
        weights: Tensor | None,
        link: Link,
    ) -> Tensor:
        state = cast(Any, ctx)
        state.save_for_backward(q, labels, regions, classes, weights)
        state.link, state.gradient = link, None
        if q.is_cuda or q.dtype == torch.float16 or not state.needs_input_grad[0]:
            costs = _run(_negative_cost, link, classes, q, labels, regions, weights)
        else:
            state.gradient = torch.empty_like(q)
            scale = _get_mean_factors(q, 1.0, weights)
            costs = _run(_negative_cost_and_gradient, link, classes, q, labels, regions, weights, scale, state.gradient)
            _write_positive_gradient(link, q, labels, scale, state.gradient)
        return torch.stack([_positive_cost(link, q, labels, weights), *costs]).sum() / max(len(q), 1)

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        state = cast(Any, ctx)
        # Not kept: the receiver of a gradient may write into it. A second backward pass computes it again.
        gradient, state.gradient = state.gradient, None
        if torch.is_grad_enabled():  # create_graph: the second derivative needs the graph of the first
            q, labels, regions, classes, weights = state.saved_tensors
            cost = _composed_cost(state.link, classes, q, labels, regions, weights)
            (gradient,) = torch.autograd.grad(cost, q, grads[0], create_graph=True)
        elif gradient is not None:
            if grads[0] != 1:  # on a CPU, where looking at a value is cheap
                gradient.mul_(grads[0])
        else:
            q, labels, regions, classes, weights = state.saved_tensors
            gradient = torch.empty_like(q)
            scale = _get_mean_factors(q, grads[0], weights)
            _run(_write_negative_gradient, state.link, classes, q, regions, scale, gradient)
            _write_positive_gradient(state.link, q, labels, scale, gradient)
        return gradient, None, None, None, None, None


def _composed_cost(
    link: Link, classes: Tensor | None, q: Tensor, labels: Tensor, regions: Tensor | None, weights: Tensor | None
) -> Tensor:
    """The whole cost as operations that autograd and compilers can follow."""
    negative = _negative_cost(link, classes, q, labels, regions, weights)
    return (negative + _positive_cost(link, q, labels, weights)) / max(len(q), 1)


def _negative_cost(
    link: Link, classes: Tensor | None, q: Tensor, labels: Tensor, regions: Tensor | None, weights: Tensor | None
) -> Tensor:
    """The sum of the costs of all classes but the regions' labels."""
    costs = link.log_complement(at_least_float32(q))
    # The label's cost is left out, not subtracted afterwards: if it is large, the other costs would lose their digits.
    is_label = labels.int().unsqueeze(1) == torch.arange(q.shape[1], device=q.device, dtype=torch.int32)
    return -_weigh(_zero_dropped(costs.masked_fill(is_label, 0), regions, classes).sum(1), weights).sum()


def _write_negative_gradient(
    link: Link,
    classes: Tensor | None,
    q: Tensor,
    regions: Tensor | None,
    scale: Tensor,
    out: Tensor,
) -> None:
    """Writes the gradient of `_negative_cost` times ``scale`` [R] into ``out``; entries at the labels are arbitrary."""
    slopes = link.log_complement_slope(at_least_float32(q)) * -scale.unsqueeze(1)
    out.copy_(_zero_dropped(slopes, regions, classes))


def _negative_cost_and_gradient(
    link: Link,
    classes: Tensor | None,
    q: Tensor,
    labels: Tensor,
    regions: Tensor | None,
    weights: Tensor | None,
    scale: Tensor,
    out: Tensor,
) -> Tensor:
    """Both of the above in one pass over the logits: a compiler computes their common parts once."""
    _write_negative_gradient(link, classes, q, regions, scale, out)
    return _negative_cost(link, classes, q, labels, regions, weights)


def _positive_cost(link: Link, q: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of the costs of the regions' labels."""
    _, own, is_label = gather_label_logits(q, labels)
    costs = link.log_probability(at_least_float32(own)).masked_fill(~is_label, 0)
    return -_weigh(costs.squeeze(1), weights).sum()


def _write_positive_gradient(link: Link, q: Tensor, labels: Tensor, scale: Tensor, out: Tensor) -> None:
    """Writes the gradient of `_positive_cost` times ``scale`` [R] into ``out``, at the regions' labels."""
    column, own, is_label = gather_label_logits(q, labels)
    slopes = link.log_probability_slope(at_least_float32(own)) * -scale.unsqueeze(1)
    rows = torch.arange(len(out), device=out.device).unsqueeze(1)
    # By index: on a CPU, scatter_ makes a copy in float32 if the type is narrower.
    out[rows, column] = torch.where(is_label, slopes.to(out.dtype), out[rows, column])


def _weigh(costs: Tensor, weights: Tensor | None) -> Tensor:
    return costs if weights is None else costs * weights


def _zero_dropped(values: Tensor, regions: Tensor | None, classes: Tensor | None) -> Tensor:
    return values if regions is None or classes is None else values.masked_fill(regions & classes, 0)


def _get_mean_factors(q: Tensor, factor: Tensor | float, weights: Tensor | None) -> Tensor:
    """The factor of every region that turns a sum over regions into a mean, times ``factor`` and its weight."""
    mean = torch.full((len(q),), 1 / max(len(q), 1), device=q.device, dtype=at_least_float32(q[:0]).dtype)
    return _weigh(mean * factor, weights)


def _run(function: Callable[..., Any], link: Link, classes: Tensor | None, *rows: Tensor | None) -> list[Any]:
    """Calls the function, compiled on all rows or block by block, and returns the results."""
    q = cast(Tensor, rows[0])
    if link.fuses and q.numel() >= COMPILE_FROM.get(q.device.type, sys.maxsize) and not _FAILURES:
        try:
            return [_compiled(function)(link, classes, *rows)]
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException  # takes seconds: imported only after a failure

            if not isinstance(error, TorchDynamoException):
                raise
            _FAILURES.append(str(error).strip().splitlines()[0])
            warnings.warn(f"torch.compile failed, so the loss runs uncompiled and slower: {_FAILURES[0]}", stacklevel=2)
    return [function(link, classes, *block) for block in _split_rows(*rows)]


_FAILURES: list[str] = []
"""The reason why the loss could not be compiled, if it could not."""


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # One kernel from the logits to the result: without these options the compiler would write parts of long expressions
    # into [R, L] tensors between two kernels. Each link, type and mask is compiled separately.
    options: dict[str, str | int | bool] = {"realize_opcount_threshold": 1000, "realize_reads_threshold": 1000}
    # An older torch has no such argument and compiles 8 of them.
    limit = {"recompile_limit": 64} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}
    return torch.compile(function, options=options, **limit)  # ty: ignore[no-matching-overload]


def _split_rows(*rows: Tensor | None) -> Iterator[list[Tensor | None]]:
    """Splits the rows of all tensors into blocks; on a GPU, into one block."""
    num_rows, num_logits = cast(Tensor, rows[0]).shape
    step = BLOCK * torch.get_num_threads() // max(num_logits, 1)
    step = max(num_rows if cast(Tensor, rows[0]).device.type != "cpu" else step, 1)
    for start in range(0, max(num_rows, 1), step):
        yield [None if tensor is None else tensor[start : start + step] for tensor in rows]
