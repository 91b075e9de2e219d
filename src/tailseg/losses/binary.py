"""Binary cross entropy over any link, shared by the losses that ask each class a yes-no question.

Shapes: R regions, L logits per region.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from tailseg.losses.base import at_least_float32
from tailseg.losses.links import Link
from tailseg.losses.weighted_bce import gather_label_logits

BLOCK = 65536
"""Logits that a CPU thread works on at a time: with what is computed from them they fit into its cache."""
COMPILE_FROM = {"cpu": 2**19, "cuda": 1}
"""Logits from which on the loss is compiled, once, within seconds: fewer take a CPU a millisecond as they are."""


class Dropped(NamedTuple):
    """Negative entries that cost nothing: those where both are true.

    Attributes:
        regions: of each region, for all classes alike or each on its own.
        classes: of each class.
    """

    regions: Bool[Tensor, "R #L"]
    classes: Bool[Tensor, " L"]


def binary_cost(
    q: Float[Tensor, "R L"], labels: Int64[Tensor, " R"], link: Link, *, dropped: Dropped | None = None
) -> Float[Tensor, ""]:
    """The mean over regions of a region's costs: -log p(q) for its label, -log(1 - p(q)) for every other class.

    A label equal to L (background of a loss without a background logit) makes the whole row negative. Where
    ``dropped`` the cost is 0, but for the label's own, which always counts. Without regions the mean is 0.

    Computed in float32 or wider, for half precision too. Beside the logits it keeps one tensor of their size at most.
    On a CPU that is the gradient, which the forward pass writes while it has the logits at hand. On a GPU, where memory
    is slower than arithmetic, and for float16, whose small gradients would not survive until a scaler has multiplied
    them, it is nothing: the backward pass computes from the logits anew. Where the problem is large and the link allows
    it, ``torch.compile`` makes one kernel of each pass (Triton on CUDA).
    """
    regions, classes = dropped or (None, None)
    if torch.compiler.is_compiling():  # the compiler fuses, and decides itself what to compute again
        return _composed_cost(link, classes, q, labels, regions)
    return cast(Tensor, _BinaryCost.apply(q, labels, regions, classes, link))


class _BinaryCost(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: BackwardCFunction, q: Tensor, labels: Tensor, regions: Tensor | None, classes: Tensor | None, link: Link
    ) -> Tensor:
        state = cast(Any, ctx)
        state.save_for_backward(q, labels, regions, classes)
        state.link, state.gradient = link, None
        if q.is_cuda or q.dtype == torch.float16 or not state.needs_input_grad[0]:
            costs = _run(_negative_cost, link, classes, q, labels, regions)
        else:
            state.gradient = torch.empty_like(q)
            scale = _over_regions(q, 1.0)
            costs = _run(_negative_cost_and_gradient, link, classes, q, labels, regions, scale, state.gradient)
            _write_positive_gradient(link, q, labels, scale, state.gradient)
        return torch.stack([_positive_cost(link, q, labels), *costs]).sum() / max(len(q), 1)

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        state = cast(Any, ctx)
        # Given away, since whoever receives a gradient may write into it; a second backward pass computes it anew.
        gradient, state.gradient = state.gradient, None
        if torch.is_grad_enabled():  # create_graph: a second derivative must see how this one depends on the logits
            q, labels, regions, classes = state.saved_tensors
            cost = _composed_cost(state.link, classes, q, labels, regions)
            (gradient,) = torch.autograd.grad(cost, q, grads[0], create_graph=True)
        elif gradient is not None:
            if grads[0] != 1:  # on a CPU, where a look at a value costs nothing
                gradient.mul_(grads[0])
        else:
            q, labels, regions, classes = state.saved_tensors
            gradient = torch.empty_like(q)
            scale = _over_regions(q, grads[0])
            _run(_write_negative_gradient, state.link, classes, q, regions, scale, gradient)
            _write_positive_gradient(state.link, q, labels, scale, gradient)
        return gradient, None, None, None, None


def _composed_cost(link: Link, classes: Tensor | None, q: Tensor, labels: Tensor, regions: Tensor | None) -> Tensor:
    """The whole cost as operations that autograd and compilers can follow."""
    return (_negative_cost(link, classes, q, labels, regions) + _positive_cost(link, q, labels)) / max(len(q), 1)


def _negative_cost(link: Link, classes: Tensor | None, q: Tensor, labels: Tensor, regions: Tensor | None) -> Tensor:
    """The sum of the costs of all classes but the regions' labels."""
    costs = link.log_complement(at_least_float32(q))
    # Left out, not subtracted afterwards: beside a confident label's all other costs would lose their digits.
    is_label = labels.int().unsqueeze(1) == torch.arange(q.shape[1], device=q.device, dtype=torch.int32)
    return -_kept(costs.masked_fill(is_label, 0), regions, classes).sum(1).sum()


def _write_negative_gradient(
    link: Link,
    classes: Tensor | None,
    q: Tensor,
    regions: Tensor | None,
    scale: Tensor,
    out: Tensor,
) -> None:
    """Writes that cost's gradient times ``scale`` [R] into ``out``; at the regions' labels it is of no account."""
    slopes = link.log_complement_slope(at_least_float32(q)) * -scale.unsqueeze(1)
    out.copy_(_kept(slopes, regions, classes))


def _negative_cost_and_gradient(
    link: Link,
    classes: Tensor | None,
    q: Tensor,
    labels: Tensor,
    regions: Tensor | None,
    scale: Tensor,
    out: Tensor,
) -> Tensor:
    """Both of the above in one pass over the logits: a compiler computes once what they have in common."""
    _write_negative_gradient(link, classes, q, regions, scale, out)
    return _negative_cost(link, classes, q, labels, regions)


def _positive_cost(link: Link, q: Tensor, labels: Tensor) -> Tensor:
    """The sum of the costs of the regions' labels."""
    _, own, is_label = gather_label_logits(q, labels)
    return -link.log_probability(at_least_float32(own)).masked_fill(~is_label, 0).sum()


def _write_positive_gradient(link: Link, q: Tensor, labels: Tensor, scale: Tensor, out: Tensor) -> None:
    """Writes that cost's gradient times ``scale`` [R] to the regions' labels in ``out``."""
    column, own, is_label = gather_label_logits(q, labels)
    slopes = link.log_probability_slope(at_least_float32(own)) * -scale.unsqueeze(1)
    rows = torch.arange(len(out), device=out.device).unsqueeze(1)
    # By index: on a CPU scatter_ works on a copy in float32 where the type is narrower.
    out[rows, column] = torch.where(is_label, slopes.to(out.dtype), out[rows, column])


def _kept(values: Tensor, regions: Tensor | None, classes: Tensor | None) -> Tensor:
    return values if regions is None or classes is None else values.masked_fill(regions & classes, 0)


def _over_regions(q: Tensor, factor: Tensor | float) -> Tensor:
    """The factor that makes a mean of a sum, for every region."""
    return torch.full((len(q),), 1 / max(len(q), 1), device=q.device, dtype=at_least_float32(q[:0]).dtype) * factor


def _run(function: Callable[..., Any], link: Link, classes: Tensor | None, *rows: Tensor | None) -> list[Any]:
    """The function's results: of all rows, compiled, or block by block."""
    q = cast(Tensor, rows[0])
    if link.fuses and q.numel() >= COMPILE_FROM.get(q.device.type, sys.maxsize) and not _FAILURES:
        try:
            return [_compiled(function)(link, classes, *rows)]
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException  # seconds, which only the compiler is worth

            if not isinstance(error, TorchDynamoException):
                raise
            _FAILURES.append(str(error).strip().splitlines()[0])
            warnings.warn(f"the loss runs uncompiled, slower: torch.compile failed: {_FAILURES[0]}", stacklevel=2)
    return [function(link, classes, *block) for block in _blocks(*rows)]


_FAILURES: list[str] = []
"""Why the loss could not be compiled, once it could not."""


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # One kernel from the logits to the result: left to itself, the compiler would write long expressions' parts into
    # [R, L] tensors between two kernels. A link, a type and a mask each want code of their own.
    options: dict[str, str | int | bool] = {"realize_opcount_threshold": 1000, "realize_reads_threshold": 1000}
    return torch.compile(function, options=options, recompile_limit=64)  # ty: ignore[no-matching-overload]


def _blocks(*rows: Tensor | None) -> Iterator[list[Tensor | None]]:
    """The same rows of every tensor, block after block; one block, all rows, on a GPU."""
    num_rows, num_logits = cast(Tensor, rows[0]).shape
    step = BLOCK * torch.get_num_threads() // max(num_logits, 1)
    step = max(num_rows if cast(Tensor, rows[0]).is_cuda else step, 1)
    for start in range(0, max(num_rows, 1), step):
        yield [None if tensor is None else tensor[start : start + step] for tensor in rows]
