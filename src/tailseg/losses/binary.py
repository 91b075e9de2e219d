"""Binary cross entropy over any link, for the losses that ask each class a yes-no question.

Shapes: R regions (or anchors, queries, images), L logits per region.
"""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from tailseg.losses.base import at_least_float32
from tailseg.losses.elementwise import gather_label_logits
from tailseg.losses.links import Link, is_transformed

BLOCK = 65536
"""Logits that a CPU thread works on at a time: the logits and the results computed from them fit into its cache."""
COMPILE_FROM = {"cpu": 2**19, "cuda": 1}
"""The least number of logits for which the loss is compiled.

Compiling takes seconds, once; fewer logits take a CPU a millisecond without it."""
HALF_TYPES = (torch.bfloat16, torch.float16)
NEAREST = 1e-12
"""The least distance of target and probability: powers of 0 have no derivative."""

PositiveFactor = Literal["distance", "target", "one"]
"""What multiplies the cost of a positive entry of a focal loss, see `EntryCost`."""


class Dropped(NamedTuple):
    """Which negative entries cost nothing: those where both masks are true.

    Attributes:
        regions: a mask of the regions, one for all classes or one for each class.
        classes: a mask of the classes.
    """

    regions: Bool[Tensor, "R #L"]
    classes: Bool[Tensor, " L"]


class ClassFactors(NamedTuple):
    """The numbers of `EntryCost` by class; one number may stand for all classes, and None is 1 (for gamma: 0).

    Attributes:
        positive: u, the weight of -y log p.
        negative: v, the weight of -(1 - y) log(1 - p).
        gamma: the exponent of the focal factor.
    """

    positive: Float[Tensor, " #L"] | None = None
    negative: Float[Tensor, " #L"] | None = None
    gamma: Float[Tensor, " #L"] | None = None

    @classmethod
    def for_all(cls, logits: Tensor, *values: float) -> "ClassFactors":
        """Makes factors that are the same for all classes; a GPU does not wait for them."""
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return cls(*(torch.full((1,), value, dtype=dtype, device=logits.device) for value in values))


def split_alpha(alpha: float | None) -> tuple[float, float]:
    """Returns the weights of positives and negatives of a focal loss: alpha and 1 - alpha, or 1 and 1 for None."""
    return (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)


@dataclass(frozen=True)
class EntryCost:
    """The cost of one logit q with the target y in [0, 1], and its derivative by q.

    With p the link's probability and u, v, gamma of `ClassFactors`:

        cost   = factor * (-u y log p - v (1 - y) log(1 - p))
        factor = p^gamma                where y = 0
                 abs(y - p)^gamma       where y > 0
                 y or 1                 instead of it, with "target" or "one"; v is then 1 where y > 0

    Attributes:
        link: turns logits into probabilities.
        on_positives: the factor where y > 0.
        constant_factor: the derivative treats the factor as a constant.
    """

    link: Link
    on_positives: PositiveFactor = "distance"
    constant_factor: bool = False

    def at_columns(self, columns: Int64[Tensor, "R 1"]) -> "EntryCost":
        """Returns the cost for one logit of each row, by the columns that the logits are from."""
        link = self.link.at_columns(columns)
        return self if link is self.link else replace(self, link=link)

    def cost(self, q: Tensor, y: Tensor, classes: ClassFactors) -> Tensor:
        """Computes the cost.

        Args:
            q: logits.
            y: targets, of a shape that broadcasts with the logits'.
            classes: u, v and gamma of the logits' classes.

        Returns:
            The cost of each logit.
        """
        cost = self._cross_entropy(q, y, classes)
        return cost if classes.gamma is None else cost * self._factor(q, y, classes.gamma)

    def slope(self, q: Tensor, y: Tensor, classes: ClassFactors) -> Tensor:
        """Computes the derivative of the cost by q.

        Args:
            q: logits.
            y: targets.
            classes: u, v and gamma of the logits' classes.

        Returns:
            The derivative of each logit.
        """
        slope = self._weigh(self.link.log_probability_slope(q), self.link.log_complement_slope(q), y, classes)
        if classes.gamma is None:
            return slope
        slope = slope * self._factor(q, y, classes.gamma)
        if self.constant_factor:
            return slope
        return slope + self._cross_entropy(q, y, classes) * self._factor_slope(q, y, classes.gamma)

    def negative_cost(self, q: Tensor, classes: ClassFactors) -> Tensor:
        """Computes the cost of y = 0."""
        cost = -_scale(self.link.log_complement(q), classes.negative)
        return cost if classes.gamma is None else cost * self._negative_factor(q, classes.gamma)

    def negative_slope(self, q: Tensor, classes: ClassFactors) -> Tensor:
        """Computes the derivative of the cost of y = 0 by q."""
        slope = -_scale(self.link.log_complement_slope(q), classes.negative)
        if classes.gamma is None:
            return slope
        if not self.constant_factor:
            cost = -_scale(self.link.log_complement(q), classes.negative)
            slope = slope + cost * self.link.log_probability_slope(q) * classes.gamma
        return slope * self._negative_factor(q, classes.gamma)

    def _cross_entropy(self, q: Tensor, y: Tensor, classes: ClassFactors) -> Tensor:
        return self._weigh(self.link.log_probability(q), self.link.log_complement(q), y, classes)

    def _weigh(self, yes: Tensor, no: Tensor, y: Tensor, classes: ClassFactors) -> Tensor:
        negative = classes.negative
        if self.on_positives != "distance" and negative is not None:
            negative = torch.where(y > 0, 1, negative)
        return -_scale(yes * y, classes.positive) - _scale(no * (1 - y), negative)

    def _negative_factor(self, q: Tensor, gamma: Tensor) -> Tensor:
        factor = torch.exp(self.link.log_probability(q) * gamma)
        return factor.detach() if self.constant_factor else factor

    def _factor(self, q: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
        if self.on_positives == "distance":
            distance = (y - self.link.probability(q)).abs().clamp(min=NEAREST)
            # 1 - p has no digits where p is near 1
            log_distance = torch.where(y == 1, self.link.log_complement(q), distance.log())
            factor = torch.exp(log_distance * gamma)
        else:
            factor = y if self.on_positives == "target" else torch.ones_like(y)
        factor = torch.where(y > 0, factor, self._negative_factor(q, gamma))
        return factor.detach() if self.constant_factor else factor

    def _factor_slope(self, q: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
        log_slope = self.link.log_probability_slope(q)
        if self.on_positives == "distance":
            p = self.link.probability(q)
            far = (y - p).abs() > NEAREST
            soft = torch.where(far, p * log_slope / torch.where(far, p - y, 1), 0)
            positive = torch.where(y == 1, self.link.log_complement_slope(q), soft)
        else:
            positive = torch.zeros_like(q)
        return torch.where(y > 0, positive, log_slope) * gamma * self._factor(q, y, gamma)


class _Rows(NamedTuple):
    """What each region has; see `binary_cost`."""

    labels: Tensor | None
    target: Tensor | None
    quality: Tensor | None
    weights: Tensor | None
    ignored: Tensor | None
    dropped: Tensor | None
    positive: Tensor | None = None
    """Weights of -y log p by region and class, [R, L]; only with targets."""


class _Columns(NamedTuple):
    """What each class has."""

    factors: ClassFactors
    dropped: Tensor | None
    table: Tensor | None = None
    """Costs and slopes of negatives by the bits of the logit, see `_make_table`."""


_Kind = Literal["cost", "slope"]


def binary_cost(
    q: Float[Tensor, "R L"],
    labels: Int64[Tensor, " R"] | Float[Tensor, "R L"],
    link: Link | EntryCost,
    *,
    dropped: Dropped | None = None,
    weights: Float[Tensor, " R"] | Float[Tensor, "R L"] | None = None,
    quality: Float[Tensor, " R"] | None = None,
    ignored: Bool[Tensor, "R #L"] | None = None,
    factors: ClassFactors | None = None,
    normalizer: float | Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross entropy over a link: the sum over regions and logits, divided by R or another number.

    A region costs -log p(q) for its label and -log(1 - p(q)) for every other class. `EntryCost` says what an entry
    costs with a target between 0 and 1, with weights of the classes, and in a focal loss. Everything is computed in
    float32 or wider, also for half precision.

    In addition to the logits, at most one tensor of their size is kept. On a CPU this is the gradient: the forward pass
    writes it while the logits are in the cache. On a GPU, where memory is slower than arithmetic, nothing is kept, and
    the backward pass computes from the logits again. The same holds for float16, because small gradients would become 0
    before a scaler multiplies them. For large inputs, and if the link allows it, ``torch.compile`` makes one kernel of
    each pass (Triton on CUDA). For half precision a CPU looks up what a negative costs: there are 65,536 such logits.

    Args:
        q: logits.
        labels: ``0 .. L``. The label L (background of a loss without a background logit) makes all logits negatives.
            Or the targets y of all entries, in [0, 1].
        link: turns logits into probabilities; or the cost of an entry.
        dropped: negatives (y = 0) that cost nothing. The cost of the label itself always counts.
        weights: multiply the cost of each region or entry; they get no gradient. None is 1.
        quality: the target y of each region's label; None is 1. Not with targets.
        ignored: entries that cost nothing, whatever their logits are.
        factors: weights and exponents of the classes.
        normalizer: divides the sum; None is R (1 without regions).

    Returns:
        The cost; 0 without regions.
    """
    entry, columns, rows = _arrange(q, labels, link, weights, quality, ignored, factors, dropped)
    divisor = max(len(q), 1) if normalizer is None else normalizer
    if _must_compose(entry):
        return _composed_sum(entry, columns, q, rows) / divisor
    return _run_cost(entry, columns, q, rows, divisor)


@dataclass(frozen=True)
class TargetEntries:
    """Logits with a target each, for `tailseg.losses.functional`.

    Attributes:
        q: logits.
        target: y in [0, 1], of any type. It may need a gradient, as weights and positive may.
        entry: the cost of an entry.
        factors: numbers of the classes.
        weights: multiply the costs.
        positive: u of each entry, instead of that of its class.
        ignored: entries that cost nothing.
    """

    q: Float[Tensor, "R L"]
    target: Shaped[Tensor, "R L"]
    entry: EntryCost
    factors: ClassFactors
    weights: Float[Tensor, "R L"] | None = None
    positive: Float[Tensor, "R L"] | None = None
    ignored: Bool[Tensor, "R L"] | None = None

    def costs(self) -> Float[Tensor, "R L"]:
        """Computes the cost of each entry. The logits are kept for the backward pass, and nothing else."""
        columns, rows = self._arrange()
        if _must_compose(self.entry, *rows):
            return _dense(self.entry, "cost", columns, _drop_ignored(self.q, rows), rows)
        return cast(Tensor, _EntryCosts.apply(self.q, self.entry, None, *columns.factors, *rows))

    def sum(self) -> Float[Tensor, ""]:
        """Computes the sum of the costs, as `binary_cost` does."""
        columns, rows = self._arrange()
        if _must_compose(self.entry, *rows):
            return _composed_sum(self.entry, columns, self.q, rows)
        return _run_cost(self.entry, columns, self.q, rows, 1.0)

    def _arrange(self) -> tuple[_Columns, _Rows]:
        rows = _Rows(None, self.target, None, self.weights, self.ignored, None, self.positive)
        return _Columns(self.factors, None), rows


def sum_class_gradients(
    q: Float[Tensor, "R L"],
    labels: Int64[Tensor, " R"] | Float[Tensor, "R L"],
    link: Link | EntryCost,
    *,
    weights: Float[Tensor, " R"] | Float[Tensor, "R L"] | None = None,
    quality: Float[Tensor, " R"] | None = None,
    ignored: Bool[Tensor, "R #L"] | None = None,
    factors: ClassFactors | None = None,
) -> Float[Tensor, "2 L"]:
    """Sums the absolute gradients of each class: over its positive entries (y > 0), and over its negative ones.

    Args:
        q: logits.
        labels: as those of `binary_cost`, like the other arguments.
        link: turns logits into probabilities; or the cost of an entry.
        weights: of regions or entries.
        quality: the target of each region's label.
        ignored: entries that do not count.
        factors: weights and exponents of the classes.

    Returns:
        The sums over the positives and over the negatives, without gradient.
    """
    q = q.detach()
    entry, columns, rows = _arrange(q, labels, link, weights, quality, ignored, factors, None)
    sums = torch.stack(_run(_class_gradients, entry, columns, q, rows)).sum(0)
    if rows.labels is not None:
        own = _own(EntryCost.slope, entry, columns, q, rows).abs().squeeze(1)
        sums[0] += sums.new_zeros(q.shape[1] + 1).index_add_(0, rows.labels, own)[: q.shape[1]]
    return sums


def _arrange(
    q: Tensor,
    labels: Tensor,
    link: Link | EntryCost,
    weights: Tensor | None,
    quality: Tensor | None,
    ignored: Tensor | None,
    factors: ClassFactors | None,
    dropped: Dropped | None,
) -> tuple[EntryCost, _Columns, _Rows]:
    """Sorts what each region has from what each class has, in the type of the computation."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    widened = [None if each is None else each.to(dtype) for each in (*(factors or ClassFactors()), quality, weights)]
    labels_and_target = (labels, None) if labels.dtype == torch.int64 else (None, labels)
    regions, classes = dropped or (None, None)
    return (
        link if isinstance(link, EntryCost) else EntryCost(link),
        _Columns(ClassFactors(*widened[:3]), classes),
        _Rows(*labels_and_target, *widened[3:], ignored, regions),
    )


def _must_compose(entry: EntryCost, *others: Tensor | None) -> bool:
    """Whether autograd or a compiler must see every operation: then nothing is computed in blocks, or ahead.

    A compiler fuses the operations, and decides what to compute again. A link that learns, and targets and weights that
    need a gradient, need more than that of the logits.
    """
    needs_gradient = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in others)
    return torch.compiler.is_compiling() or is_transformed() or entry.link.learns or needs_gradient


def _run_cost(entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows, divisor: Tensor | float) -> Tensor:
    return cast(Tensor, _BinaryCost.apply(q, entry, divisor, columns.dropped, *columns.factors, *rows))


class _BinaryCost(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: BackwardCFunction, q: Tensor, entry: EntryCost, divisor: Tensor | float, *tensors: Tensor | None
    ) -> Tensor:
        state = cast(Any, ctx)
        state.save_for_backward(q, *tensors)
        state.entry, state.divisor, state.gradient = entry, divisor, None
        columns, rows = _unpack(*tensors)
        columns = _add_table(entry, columns, q, rows)
        if q.is_cuda or q.dtype == torch.float16 or not state.needs_input_grad[0]:
            costs = _run(_dense_sum, entry, columns, q, rows)
            own_cost = _call(_own_sum, entry, columns, q, rows)
        else:
            state.gradient = torch.empty_like(q)
            scale = _make_scale(q, 1.0, divisor)
            costs = _run(_dense_sum_and_gradient, entry, columns, q, rows, scale, state.gradient)
            own_cost, own_slopes = _call(_own_sum_and_slopes, entry, columns, q, rows, scale)
            _write_own_gradient(own_slopes, q, rows, state.gradient)
        return torch.stack([own_cost, *costs]).sum() / divisor

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor | None, ...]:
        state = cast(Any, ctx)
        # Not kept: the receiver of a gradient may write into it. A second backward pass computes it again.
        gradient, state.gradient = state.gradient, None
        if gradient is not None and not torch.is_grad_enabled():
            if grads[0] != 1:  # on a CPU, where looking at a value is cheap
                gradient.mul_(grads[0])
        else:
            q, *tensors = state.saved_tensors
            columns, rows = _unpack(*tensors)
            if torch.is_grad_enabled():  # create_graph: the second derivative needs the graph of the first
                cost = _composed_sum(state.entry, columns, q, rows) / state.divisor
                (gradient,) = torch.autograd.grad(cost, q, grads[0], create_graph=True)
            else:
                gradient = torch.empty_like(q)
                scale = _make_scale(q, grads[0], state.divisor)
                columns = _add_table(state.entry, columns, q, rows)
                _run(_write_dense_gradient, state.entry, columns, q, rows, scale, gradient)
                own_slopes = _call(_own_slopes, state.entry, columns, q, rows, scale)
                _write_own_gradient(own_slopes, q, rows, gradient)
        return (gradient, *[None] * (len(state.needs_input_grad) - 1))


class _EntryCosts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: BackwardCFunction, q: Tensor, entry: EntryCost, *tensors: Tensor | None) -> Tensor:
        cast(Any, ctx).save_for_backward(q, *tensors)
        cast(Any, ctx).entry = entry
        costs = torch.empty_like(q, dtype=torch.promote_types(q.dtype, torch.float32))
        columns, rows = _unpack(*tensors)
        _run(_write_dense_costs, entry, columns, q, rows, costs)
        return costs

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor | None, ...]:
        entry = cast(Any, ctx).entry
        q, *tensors = cast(Any, ctx).saved_tensors
        columns, rows = _unpack(*tensors)
        if torch.is_grad_enabled():  # create_graph
            costs = _dense(entry, "cost", columns, q, rows)
            (gradient,) = torch.autograd.grad(costs, q, grads[0], create_graph=True)
        else:
            gradient = torch.empty_like(q)
            _run(_write_dense_gradient, entry, columns, q, rows, grads[0].contiguous(), gradient)
        return (gradient, *[None] * (len(tensors) + 1))


def _unpack(dropped: Tensor | None, *tensors: Tensor | None) -> tuple[_Columns, _Rows]:
    return _Columns(ClassFactors(*tensors[:3]), dropped), _Rows(*tensors[3:])


def _make_scale(q: Tensor, factor: Tensor | float, divisor: Tensor | float) -> Tensor:
    """What multiplies the gradient of a sum: a tensor, because compiled code would hold the value of a number."""
    return torch.ones((), device=q.device, dtype=at_least_float32(q[:0]).dtype) * factor / divisor


def _composed_sum(entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows) -> Tensor:
    """The whole sum as operations that autograd and compilers can follow."""
    q = _drop_ignored(q, rows)
    return _dense_sum(entry, columns, q, rows) + _own_sum(entry, columns, q, rows)


def _drop_ignored(q: Tensor, rows: _Rows) -> Tensor:
    """The logits, 0 where they are ignored: autograd multiplies their slopes by 0, and NaN would stay NaN."""
    return q if rows.ignored is None else q.masked_fill(rows.ignored, 0)


def _dense_sum(entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows) -> Tensor:
    """The sum of the costs of all entries but the regions' labels."""
    # The label's cost is left out, not subtracted afterwards: if it is large, the other costs would lose their digits.
    return _dense(entry, "cost", columns, q, rows, at_labels=0).sum(1).sum()


def _write_dense_gradient(
    entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows, scale: Tensor, out: Tensor
) -> None:
    """Writes the gradient of `_dense_sum` times ``scale`` into ``out``; entries at the labels are arbitrary."""
    out.copy_(_dense(entry, "slope", columns, q, rows) * scale)


def _dense_sum_and_gradient(
    entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows, scale: Tensor, out: Tensor
) -> Tensor:
    """Both of the above in one pass over the logits: a compiler computes their common parts once."""
    _write_dense_gradient(entry, columns, q, rows, scale, out)
    return _dense_sum(entry, columns, q, rows)


def _class_gradients(entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows) -> Tensor:
    """The sums of absolute gradients by class, of positives and of negatives; without the regions' labels."""
    slopes = _dense(entry, "slope", columns, q, rows, at_labels=0).abs()
    if rows.target is None:
        negative = slopes.sum(0)
        return torch.stack([torch.zeros_like(negative), negative])
    positive = rows.target > 0
    return torch.stack([slopes.masked_fill(~positive, 0).sum(0), slopes.masked_fill(positive, 0).sum(0)])


def _write_dense_costs(entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows, out: Tensor) -> None:
    out.copy_(_dense(entry, "cost", columns, q, rows))


def _dense(
    entry: EntryCost, kind: _Kind, columns: _Columns, q: Tensor, rows: _Rows, *, at_labels: float | None = None
) -> Tensor:
    """Costs or slopes of all entries, weighed; at the regions' labels those of a negative, or a number."""
    if rows.target is None:
        values, drops = _negatives(entry, kind, columns, q), rows.dropped
        if at_labels is not None:
            classes = torch.arange(q.shape[1], device=q.device, dtype=torch.int32)
            values = values.masked_fill(cast(Tensor, rows.labels).int().unsqueeze(1) == classes, at_labels)
    else:
        q = at_least_float32(q)
        y = rows.target.to(q.dtype)
        factors = columns.factors if rows.positive is None else columns.factors._replace(positive=rows.positive)
        values = (entry.cost if kind == "cost" else entry.slope)(q, y, factors)
        drops = None if rows.dropped is None else rows.dropped & (y == 0)
    if drops is not None and columns.dropped is not None:
        values = values.masked_fill(drops & columns.dropped, 0)
    return _weigh(values, rows.weights, rows.ignored)


def _negatives(entry: EntryCost, kind: _Kind, columns: _Columns, q: Tensor) -> Tensor:
    """Costs or slopes of negatives, computed or looked up."""
    if columns.table is not None:
        return columns.table[0 if kind == "cost" else 1][q.view(torch.int16).int() + 2**15]
    return (entry.negative_cost if kind == "cost" else entry.negative_slope)(at_least_float32(q), columns.factors)


def _add_table(entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows) -> _Columns:
    """Adds the table of the costs, if the cost of a negative depends on nothing but its logit of half precision.

    A GPU does not need it: arithmetic costs it nothing.
    """
    numbers = (columns.factors.negative, columns.factors.gamma)
    if q.device.type != "cpu" or q.dtype not in HALF_TYPES or rows.target is not None or not entry.link.tabulates:
        return columns
    if any(number is not None and number.numel() != 1 for number in numbers):
        return columns
    values = (None if number is None else number.item() for number in numbers)
    return columns._replace(table=_make_table(entry, q.dtype, *values))


@functools.lru_cache(maxsize=16)
def _make_table(entry: EntryCost, dtype: torch.dtype, negative: float | None, gamma: float | None) -> Tensor:
    """Computes the costs and the slopes of negatives in float32, [2, 65536]: those of the bits b at b + 32768."""
    factors = (None if value is None else torch.tensor([value]) for value in (negative, gamma))
    with torch.inference_mode(mode=False), torch.no_grad():
        q = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).float()
        factors = ClassFactors(None, *factors)
        return torch.stack([entry.negative_cost(q, factors), entry.negative_slope(q, factors)])


def _own(
    function: Callable[[EntryCost, Tensor, Tensor, ClassFactors], Tensor],
    entry: EntryCost,
    columns: _Columns,
    q: Tensor,
    rows: _Rows,
) -> Tensor:
    """Costs or slopes of the regions' labels, weighed, [R, 1]; 0 for a region without a label's logit."""
    if rows.labels is None:
        return at_least_float32(q[:0, :1])
    column, own, is_label = gather_label_logits(q, rows.labels)
    own = at_least_float32(own)
    y = torch.ones_like(own) if rows.quality is None else rows.quality.unsqueeze(1)
    factors = ClassFactors(*(each if each is None or len(each) == 1 else each[column] for each in columns.factors))
    weights, ignored = rows.weights, rows.ignored
    if weights is not None and weights.ndim == 2:
        weights = weights.gather(1, column)
    if ignored is not None and ignored.shape[1] > 1:
        ignored = ignored.gather(1, column)
    return _weigh(function(entry.at_columns(column), own, y, factors), weights, ignored).masked_fill(~is_label, 0)


def _own_sum(entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows) -> Tensor:
    """The sum of the costs of the regions' labels."""
    return _own(EntryCost.cost, entry, columns, q, rows).sum()


def _own_slopes(entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows, scale: Tensor) -> Tensor:
    """The derivatives of `_own_sum` by the labels' logits times ``scale``, [R, 1]."""
    return _own(EntryCost.slope, entry, columns, q, rows) * scale


def _own_sum_and_slopes(
    entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows, scale: Tensor
) -> tuple[Tensor, Tensor]:
    return _own_sum(entry, columns, q, rows), _own_slopes(entry, columns, q, rows, scale)


def _write_own_gradient(slopes: Tensor, q: Tensor, rows: _Rows, out: Tensor) -> None:
    """Writes the slopes of the regions' labels into ``out``."""
    if rows.labels is None:
        return
    column, _, is_label = gather_label_logits(q, rows.labels)
    index = torch.arange(len(out), device=out.device).unsqueeze(1)
    # By index: on a CPU, scatter_ makes a copy in float32 if the type is narrower.
    out[index, column] = torch.where(is_label, slopes.to(out.dtype), out[index, column])


def _weigh(values: Tensor, weights: Tensor | None, ignored: Tensor | None) -> Tensor:
    if weights is not None:
        values = values * (weights if weights.ndim == 2 else weights.unsqueeze(1))
    return values if ignored is None else values.masked_fill(ignored, 0)


def _scale(values: Tensor, factor: Tensor | None) -> Tensor:
    return values if factor is None else values * factor


def _run(
    function: Callable[..., Any], entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows, *others: Tensor
) -> list[Any]:
    """Calls the function, compiled on all rows or block by block, and returns the results.

    Of the other tensors, those with rows are split like the logits.
    """
    if torch.compiler.is_compiling():  # the caller's compiler makes the kernel
        return [function(entry, columns, q, rows, *others)]
    return _try_compiled(function, entry, columns, q, rows, *others) or [
        function(entry, columns, q[block], _Rows(*_cut(rows, block)), *_cut(others, block)) for block in _split_rows(q)
    ]


def _call(
    function: Callable[..., Any], entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows, *others: Tensor
) -> Any:  # noqa: ANN401 - what the function returns
    """Calls a function of the regions' labels. It is compiled too: forty small operations take as long as a kernel."""
    results = _try_compiled(function, entry, columns, q, rows, *others)
    return results[0] if results else function(entry, columns, q, rows, *others)


def _try_compiled(
    function: Callable[..., Any], entry: EntryCost, columns: _Columns, q: Tensor, rows: _Rows, *others: Tensor
) -> list[Any]:
    """Calls the function compiled and returns its result; nothing if it is not compiled for these logits."""
    return call_compiled(function, q, entry, columns, q, rows, *others) if entry.link.fuses else []


def will_compile(largest: Tensor) -> bool:
    """Whether `call_compiled` would compile a function of this tensor."""
    return largest.numel() >= COMPILE_FROM.get(largest.device.type, sys.maxsize) and not _FAILURES


def call_compiled(function: Callable[..., Any], largest: Tensor, *arguments: object) -> list[Any]:
    """Calls an elementwise function compiled, if its largest argument is large enough and compiling works.

    Args:
        function: of plain tensor arithmetic.
        largest: decides by its size and device, see `COMPILE_FROM`.
        *arguments: of the function.

    Returns:
        The result; nothing if the function was not called.
    """
    if not will_compile(largest):
        return []
    try:
        return [_compiled(function)(*arguments)]
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # takes seconds: imported only after a failure

        if not isinstance(error, TorchDynamoException):
            raise
        _FAILURES.append(str(error).strip().splitlines()[0])
        warnings.warn(f"torch.compile failed, so the loss runs uncompiled and slower: {_FAILURES[0]}", stacklevel=2)
        return []


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


def _cut(tensors: Iterable[Tensor | None], block: slice) -> list[Tensor | None]:
    return [tensor if tensor is None or tensor.ndim == 0 else tensor[block] for tensor in tensors]


def _split_rows(q: Tensor) -> Iterator[slice]:
    """Splits the rows into blocks; on a GPU, into one block."""
    num_rows, num_logits = q.shape
    step = BLOCK * torch.get_num_threads() // max(num_logits, 1)
    step = max(num_rows if q.device.type != "cpu" else step, 1)
    for start in range(0, max(num_rows, 1), step):
        yield slice(start, start + step)
