"""Links: functions from a logit q to a probability p, with the two logarithms that cross entropy needs.

A binary loss takes a link and never computes p itself. Every function is elementwise, keeps the shape and dtype of its
input, and has a finite gradient for every finite logit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from tailseg.losses.settings import LinkName, PublishedVersion


def softplus(x: Tensor) -> Tensor:
    """Computes log(1 + exp(x)), exact in float64; torch's default becomes linear at 20, 2e-9 too low."""
    return F.softplus(x, threshold=40)


class Link(ABC):
    """An increasing map from a logit q to a probability p.

    A link of your own needs the three abstract functions and ``init_bias``; autograd computes their slopes. A link that
    states the slopes (`ClosedFormLink`) needs less memory, because autograd keeps no intermediate results.

    Attributes:
        init_bias: the published bias of a classifier before training, where p is about 1e-3.
        fuses: whether ``torch.compile`` can make one kernel of the logarithms and slopes: plain tensor arithmetic.
        tabulates: whether p depends on nothing but q: then a table may hold it for each of the 65,536 logits that a
            type of half precision has.
        learns: whether the link has parameters that the logarithms must pass gradients to.
    """

    init_bias: float
    fuses: bool = False
    tabulates: bool = False
    learns: bool = False

    @abstractmethod
    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p, in ``[0, 1]``."""

    @abstractmethod
    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log p, finite where p underflows to 0."""

    @abstractmethod
    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - p), finite where p rounds to 1."""

    def log_probability_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The derivative of log p by q."""
        return _slope_by_autograd(self.log_probability, q)

    def log_complement_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The derivative of log(1 - p) by q."""
        return _slope_by_autograd(self.log_complement, q)

    def at_columns(self, columns: Int64[Tensor, "R 1"]) -> "Link":  # noqa: ARG002
        """Returns the link for one logit of each row, by the classes of the logits; itself if all classes have one."""
        return self

    def as_sigmoid_logits(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Computes the logits z with sigmoid(z) = p(q), for code that applies a sigmoid: z = log p - log(1 - p).

        It is computed in float32 or wider, and differentiable: binary cross entropy of z is that of this link. In
        float16, where the largest number is 65,504, z is clamped.
        """
        wide = q.to(torch.promote_types(q.dtype, torch.float32))
        z = self.log_probability(wide) - self.log_complement(wide)
        limit = torch.finfo(q.dtype).max
        return z.clamp(-limit, limit).to(q.dtype)

    def published(self, version: PublishedVersion = "2022") -> "Link":
        """Returns the link as the code published in ``version`` computes it: in float32, with clamps and dead zones.

        Raises:
            ValueError: there is no published code for this link.
        """
        raise ValueError(f"{type(self).__name__} has no form published in {version}: use published=None")


def _slope_by_autograd(function: Callable[[Tensor], Tensor], q: Tensor) -> Tensor:
    with torch.enable_grad():
        q = q.detach().requires_grad_()
        return torch.autograd.grad(function(q).sum(), q)[0]


class ClosedFormLink(Link):
    """A link that states the slopes of its logarithms; autograd uses them, and keeps only q."""

    fuses = True

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log p, finite where p underflows to 0."""
        return _apply_with_slope(q, self._log_probability, self.log_probability_slope)

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - p), finite where p rounds to 1."""
        return _apply_with_slope(q, self._log_complement, self.log_complement_slope)

    @abstractmethod
    def _log_probability(self, q: Tensor) -> Tensor: ...

    @abstractmethod
    def _log_complement(self, q: Tensor) -> Tensor: ...

    @abstractmethod
    def log_probability_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The derivative of log p by q."""

    @abstractmethod
    def log_complement_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The derivative of log(1 - p) by q."""


class _WithSlope(torch.autograd.Function):
    """An elementwise function with its derivative; the backward pass computes the derivative from q."""

    @staticmethod
    def forward(
        ctx: BackwardCFunction, q: Tensor, function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(q)
        cast(Any, ctx).slope = slope
        return function(q)

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor, None, None]:
        (q,) = ctx.saved_tensors
        return cast(Any, ctx).slope(q) * grads[0], None, None


class _WithTangent(torch.autograd.Function):
    """The same for ``torch.func``, also of more tensors, which get no gradient.

    ``torch.compile`` refuses a function with ``jvp``, so there are two.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, function: Callable[..., Tensor], slope: Callable[..., Tensor], *others: Tensor) -> Tensor:  # noqa: ARG004
        return function(q, *others)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401, ARG004
        q, _, ctx.slope, *others = inputs
        ctx.save_for_backward(q, *others)
        ctx.save_for_forward(q, *others)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return ctx.slope(*ctx.saved_tensors) * grads[0], *[None] * (len(ctx.saved_tensors) + 1)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:  # noqa: ANN401
        return ctx.slope(*ctx.saved_tensors) * tangents[0]


def is_transformed() -> bool:
    """Whether ``torch.func`` (``grad``, ``vmap``, ``jvp`` ...) follows the operations, without a compiler."""
    # What torch.autograd.Function asks itself; there is no public question.
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()  # noqa: SLF001


def _apply_with_slope(q: Tensor, function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Tensor:
    return cast(Tensor, (_WithTangent if is_transformed() else _WithSlope).apply(q, function, slope))


class Sigmoid(ClosedFormLink):
    """The probability p = 1 / (1 + exp(-q)): the logistic distribution's CDF. No slope exceeds 1."""

    tabulates = True
    init_bias = -6.9

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p = 1 / (1 + exp(-q))."""
        return torch.sigmoid(q)

    def _log_probability(self, q: Tensor) -> Tensor:
        return -softplus(-q)

    def _log_complement(self, q: Tensor) -> Tensor:
        return -softplus(q)

    def log_probability_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope 1 - p."""
        return torch.sigmoid(-q)

    def log_complement_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope -p."""
        return -torch.sigmoid(q)

    def as_sigmoid_logits(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Returns q."""
        return q

    def published(self, version: PublishedVersion = "2022") -> "Sigmoid":  # noqa: ARG002
        """Returns this link: the published code's binary cross entropy with logits is exact."""
        return self


class Gumbel(ClosedFormLink):
    """p = exp(-exp(-q)): the standard Gumbel distribution's CDF (Alexandridis et al., ECCV 2022).

    With t = exp(-q) and p = exp(-t):

        log p       = -t                        slope t
        log(1 - p)  = log(1 - exp(-t))          slope -t / (exp(t) - 1), in [-1, 0]

    Exact for every q from ``floor`` = -11 upwards. Below it, log p falls like -exp(-q); there it continues along its
    tangent. So its slope never exceeds exp(11) = 59,874, the largest bound at a whole q that float16 can hold.
    """

    floor = -11.0
    tabulates = True
    init_bias = -2.0

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p = exp(-exp(-q)); exactly 0 below q = -4.64 in float32 and below q = -6.61 in float64."""
        # The clamp changes no value (p is 0 there), but avoids 0 * inf in the gradient.
        return torch.exp(-torch.exp(-q.clamp(min=self.floor)))

    def _log_probability(self, q: Tensor) -> Tensor:
        floored = q.clamp(min=self.floor)
        return -torch.exp(-floored) * (1 + (floored - q))

    def log_probability_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope exp(-q), at most exp(-floor)."""
        return torch.exp(-q.clamp(min=self.floor))

    # Two powers of 2 and two series: on a CPU, exp takes four times as long as a power of 2, a logarithm longer.

    def _log_complement(self, q: Tensor) -> Tensor:
        t, p = self._t_and_p(q)
        # Above t = 1: -2 atanh(p / (2 - p)). The square is not below 1e-18, because denormal numbers are slow.
        z = p / (2 - p)
        above = z * _series(z.clamp(min=1e-9).square(), ATANH, 6) * -2
        # Below t = 1: log t + log((1 - exp(-t)) / t), where log t is -q, which is right even if t underflows.
        s = t.clamp(max=1)
        below = (_series(s.square(), LOG_OF_SLOPE) * s - 0.5) * s - q
        return torch.where(t > 1, above, below)

    def log_complement_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope -exp(-q) / (exp(exp(-q)) - 1)."""
        t, p = self._t_and_p(q)
        s = t.clamp(max=1)
        below = (0.5 - _series(s.square(), SLOPE) * s) * s - 1
        return torch.where(t > 1, t * p / (p - 1), below)

    def _t_and_p(self, q: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.exp2(q.clamp(min=self.floor) * -LOG2_E)
        return t, torch.exp2(t * -LOG2_E)

    def published(self, version: PublishedVersion = "2022") -> "PublishedGumbel | ClampedGumbel":
        """Returns the link of the published code.

        2022: q clamped to [-4, 10], and binary cross entropy on 1 / exp(exp(-q)). 2024: q clamped to [-10, 10], and
        the two logarithms.
        """
        return ClampedGumbel() if version == "2024" else PublishedGumbel()


LOG2_E = math.log2(math.e)
BERNOULLI = (
    *(1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6),
    *(-3617 / 510, 43867 / 798, -174611 / 330, 854513 / 138, -236364091 / 2730),
)
"""The Bernoulli numbers B_2, B_4, ... B_24."""
ATANH = tuple(1 / (2 * k + 1) for k in range(12))
"""atanh(z) / z by powers of z^2."""
SLOPE = tuple(b / math.factorial(2 * k) for k, b in enumerate(BERNOULLI, 1))
"""(t / (exp(t) - 1) - 1 + t / 2) / t^2 by powers of t^2."""
LOG_OF_SLOPE = tuple(c / (2 * k) for k, c in enumerate(SLOPE, 1))
"""(log((1 - exp(-t)) / t) + t / 2) / t^2 by powers of t^2."""


def _series(x: Tensor, coefficients: tuple[float, ...], terms: int = 4) -> Tensor:
    """Evaluates the polynomial with these coefficients, x^0 first; in float32 its first terms.

    In float32, x is at most 0.05 for `ATANH`, whose coefficients fall slowly: six are enough. For the others x is at
    most 1, and each coefficient is a fortieth of the one before: four are enough.
    """
    used = coefficients if x.dtype == torch.float64 else coefficients[:terms]
    total = x * used[-1]
    for coefficient in reversed(used[1:-1]):
        total = total.add_(coefficient).mul_(x)
    return total.add_(used[0])


class NormalCDF(ClosedFormLink):
    """p = Phi(q) = (1 + erf(q / sqrt 2)) / 2: the standard normal distribution's CDF.

    Exact in both tails for every q with abs(q) <= ``bound`` = 10,000. Beyond it, the logarithm that falls like -q^2 / 2
    continues along its tangent, and no slope exceeds 10,000.
    """

    bound = 1e4
    tabulates = True
    init_bias = -3.0

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p = erfc(-q / sqrt 2) / 2, which keeps the digits that 1 + erf loses below -3."""
        return torch.erfc(q * -math.sqrt(0.5)) / 2

    def _log_probability(self, q: Tensor) -> Tensor:
        inside = q.clamp(min=-self.bound)
        return torch.special.log_ndtr(inside) + (q - inside) * self.bound

    def _log_complement(self, q: Tensor) -> Tensor:
        return self._log_probability(-q)

    def log_probability_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope phi(q) / Phi(q), with phi the density; about -q for low q."""
        # Computed as sqrt(2 / pi) / erfcx(-q / sqrt 2). torch's gradient of log_ndtr is the exp of a difference of two
        # numbers near q^2 / 2: in float32 it is 6 times too large at q = -10,000, and NaN at -1e20.
        return math.sqrt(2 / math.pi) / torch.special.erfcx(q.clamp(min=-self.bound) * -math.sqrt(0.5))

    def log_complement_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope -phi(q) / (1 - Phi(q))."""
        return -self.log_probability_slope(-q)

    def published(self, version: PublishedVersion = "2022") -> "PublishedNormalCDF":
        """Returns the link with q clamped to [-5, 5], and binary cross entropy on Phi(q).

        Raises:
            ValueError: the version is not 2022; the later code has no normal link.
        """
        if version != "2022":
            super().published(version)
        return PublishedNormalCDF()


class PublishedLink(Link):
    """The base of published links: binary cross entropy on float32 probabilities of clamped logits.

    `probability`, which gives the scores, is that of the exact link: the clamp is for training only.
    """

    exact: Link
    """The exact link."""

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability of the exact link."""
        return self.exact.probability(q)

    def as_sigmoid_logits(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Computes the logits z with sigmoid(z) = p(q), p of the exact link."""
        return self.exact.as_sigmoid_logits(q)

    @abstractmethod
    def clamped_probability(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The probability that the published code trains with."""

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The logarithm log p, as binary cross entropy on p computes it."""
        return -self._cross_entropy(q, 1.0)

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The logarithm log(1 - p), as binary cross entropy on p computes it."""
        return -self._cross_entropy(q, 0.0)

    def _cross_entropy(self, q: Tensor, target: float) -> Tensor:
        """Binary cross entropy on p; its gradient is 0 where p (1 - p) < 1e-12."""
        p = self.clamped_probability(q)
        with torch.autocast(p.device.type, enabled=False):  # autocast refuses binary cross entropy
            # torch refuses NaN, and on a GPU this ends the process; the training loop reports NaN better.
            cost = F.binary_cross_entropy(p.nan_to_num(0.5), torch.full_like(p, target), reduction="none")
        return torch.where(p.isnan(), torch.nan, cost)


class PublishedGumbel(PublishedLink):
    """Gumbel with the published code's logarithms: a low positive and a high negative get no gradient."""

    exact = Gumbel()
    init_bias = Gumbel.init_bias

    def clamped_probability(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The probability 1 / exp(exp(-q)), with q clamped to [-4, 10]."""
        return 1 / torch.exp(torch.exp(-q.float().clamp(-4, 10)))


class ClampedGumbel(Gumbel):
    """Gumbel as the authors' code of 2024 trains it: q is clamped to [-10, 10], and has no gradient outside.

    `probability`, which gives the scores, is that of the unclamped q. In float32 the published logarithms of 1 - p lose
    up to 6e-4 near q = 10; these do not.
    """

    clamp = (-10.0, 10.0)

    def _log_probability(self, q: Tensor) -> Tensor:
        return super()._log_probability(q.clamp(*self.clamp))

    def log_probability_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope exp(-q), 0 outside the clamp."""
        return torch.where(q.abs() <= self.clamp[1], super().log_probability_slope(q), 0)

    def _log_complement(self, q: Tensor) -> Tensor:
        return super()._log_complement(q.clamp(*self.clamp))

    def log_complement_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope -exp(-q) / (exp(exp(-q)) - 1), 0 outside the clamp."""
        return torch.where(q.abs() <= self.clamp[1], super().log_complement_slope(q), 0)

    def as_sigmoid_logits(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Computes the logits z with sigmoid(z) = p(q), p of the unclamped q."""
        return Gumbel().as_sigmoid_logits(q)


class PublishedNormalCDF(PublishedLink):
    """NormalCDF with the published code's clamp to [-5, 5]: no logit outside gets a gradient."""

    exact = NormalCDF()
    init_bias = NormalCDF.init_bias

    def clamped_probability(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The probability Phi(q), with q clamped to [-5, 5]."""
        return (1 + torch.erf(q.float().clamp(-5, 5) / math.sqrt(2))) / 2


class APA(nn.Module, Link):
    """p = (1 + lambda exp(-kappa q))^(-1 / lambda): adaptive parametric activation (Alexandridis et al., ECCV 2024).

    lambda = 1 is the sigmoid of kappa q, and lambda = 0, the limit, is the Gumbel link of kappa q. With
    t = exp(-kappa q), x = lambda t and v = log(1 + x) / lambda:

        log p       = -v                        slope by q: kappa t / (1 + x)
        log(1 - p)  = log(1 - exp(-v))          slope by q: -kappa t / (1 + x) / (exp(v) - 1), in [-kappa, 0]
        d log p / d lambda = (log(1 + x) - x / (1 + x)) / lambda^2       d log p / d kappa = q t / (1 + x)

    Everything is computed in float32 or wider, without overflow, from lambda = 0 up; the result has the logits' type. A
    slope by q is at most kappa / lambda. Where lambda < exp(-11), log p continues along its tangent below
    kappa q = -11, as that of `Gumbel`.

    A learned lambda or kappa is the softplus of a parameter, so it stays positive and keeps a gradient. A loss that is
    given this link has the parameters among its own. Fixed values are no part of the state dict.

    Args:
        lambda_: at least 0; a number, or one for each class. It must be above 0 to be learned.
        kappa: above 0; a number, or one for each class.
        num_classes: the number of logits if each has its own lambda and kappa, all starting from the same number.
        learns: whether lambda and kappa are learned.

    Raises:
        ValueError: lambda or kappa is out of range, or their shapes disagree.
    """

    def __init__(
        self,
        lambda_: float | Float[Tensor, " C"] = 1.0,
        kappa: float | Float[Tensor, " K"] = 1.0,
        *,
        num_classes: int | None = None,
        learns: bool = False,
    ) -> None:
        super().__init__()
        values = [torch.as_tensor(value, dtype=torch.float32) for value in (lambda_, kappa)]
        shape = (num_classes,) if num_classes is not None else max((value.shape for value in values), key=len)
        if any(value.shape not in ((), shape) for value in values) or len(shape) > 1:
            raise ValueError(
                f"lambda_ and kappa are numbers or have one number for each of {shape[0] if shape else 'C'} classes, "
                f"got the shapes {[list(value.shape) for value in values]}"
            )
        if not any(value.is_meta for value in values):  # which have a shape alone
            self._check_ranges(*values, learns)
        self.learns = learns
        for name, value in zip(("lambda_", "kappa"), values, strict=True):
            value = value.expand(shape).clone()
            if learns:  # the inverse of softplus
                self.register_parameter(f"raw_{name}", nn.Parameter(value + torch.log(-torch.expm1(-value))))
            else:
                self.register_buffer(f"fixed_{name}", value, persistent=False)

    @staticmethod
    def _check_ranges(lambda_: Tensor, kappa: Tensor, learns: bool) -> None:
        lowest, highest = lambda_.min(), lambda_.max()
        if not (lowest > 0 if learns else lowest >= 0) or not highest.isfinite():
            raise ValueError(f"lambda_ is {'above' if learns else 'at least'} 0, got {lowest:g} .. {highest:g}")
        if not (kappa.min() > 0 and kappa.isfinite().all()):
            raise ValueError(f"kappa is above 0, got {kappa.min():g}: with another one p does not rise with q")

    def forward(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability, for code that calls a module."""
        return self.probability(q)

    @property
    def lambda_(self) -> Float[Tensor, "*C"]:
        """The effective lambda."""
        return self._get("lambda_")

    @property
    def kappa(self) -> Float[Tensor, "*C"]:
        """The effective kappa."""
        return self._get("kappa")

    def _get(self, name: str) -> Tensor:
        # get_parameter would refuse the plain tensors that torch.func.functional_call puts there
        return softplus(getattr(self, f"raw_{name}")) if self.learns else getattr(self, f"fixed_{name}")

    @property
    def init_bias(self) -> float:  # ty: ignore[incompatible-property-override]
        """The logit where p = 1e-3, by the mean lambda and kappa: -6.9 for lambda = 1, -1.9 for lambda = 0."""
        shape, slope = float(self.lambda_.detach().mean()), float(self.kappa.detach().mean())
        v = -math.log(1e-3)
        return -math.log(math.expm1(v * shape) / shape if shape > 0 else v) / slope

    def at_columns(self, columns: Int64[Tensor, "R 1"]) -> Link:
        """The link with the lambda and kappa of these classes."""
        if not self.lambda_.ndim:
            return self
        return _APAOf(self.lambda_[columns], self.kappa[columns], learns=self.learns)

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p = exp(log p)."""
        return self._as_link().probability(q)

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log p = -log(1 + lambda exp(-kappa q)) / lambda."""
        return self._as_link().log_probability(q)

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - p)."""
        return self._as_link().log_complement(q)

    def log_probability_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope kappa t / (1 + lambda t), with t = exp(-kappa q)."""
        return self._as_link().log_probability_slope(q)

    def log_complement_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The slope by q, in [-kappa, 0]."""
        return self._as_link().log_complement_slope(q)

    def _as_link(self) -> "_APAOf":
        return _APAOf(self.lambda_, self.kappa, learns=self.learns)

    def extra_repr(self) -> str:
        """The starting values and whether they are learned."""
        return f"lambda_={self.lambda_.tolist()}, kappa={self.kappa.tolist()}, learns={self.learns}"


class _APAOf(Link):
    """APA with a lambda and a kappa that broadcast with the logits; see `APA` for the formulas."""

    init_bias = math.nan

    def __init__(self, lambda_: Tensor, kappa: Tensor, *, learns: bool) -> None:
        self.lambda_, self.kappa, self.learns = lambda_, kappa, learns

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        return self.log_probability(q.to(torch.promote_types(q.dtype, torch.float32))).exp().to(q.dtype)

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        if is_transformed():
            return self._follow(q, "log_probability")
        return cast(Tensor, _APALogarithm.apply(q, self.lambda_, self.kappa, False))

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        if is_transformed():
            return self._follow(q, "log_complement")
        return cast(Tensor, _APALogarithm.apply(q, self.lambda_, self.kappa, True))

    def log_probability_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        parts = _APAParts(q, self.lambda_, self.kappa)
        return (parts.kappa * parts.slope()).to(q.dtype)

    def log_complement_slope(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        parts = _APAParts(q, self.lambda_, self.kappa)
        return (parts.kappa * -parts.complement_slope()).to(q.dtype)

    def _follow(self, q: Tensor, name: str) -> Tensor:
        """Computes a logarithm for ``torch.func``; plain operations lose the slope at lambda = 0, not a learned one."""

        def compute(q: Tensor, *settings: Tensor) -> Tensor:
            return getattr(_APAParts(q, *settings), name)().to(q.dtype)

        def compute_slope(q: Tensor, *settings: Tensor) -> Tensor:
            return getattr(_APAOf(*settings, learns=False), f"{name}_slope")(q)

        if self.learns:
            return compute(q, self.lambda_, self.kappa)
        return cast(Tensor, _WithTangent.apply(q, compute, compute_slope, self.lambda_, self.kappa))


class _APALogarithm(torch.autograd.Function):
    """log p or log(1 - p) of APA; the backward pass computes the derivatives from q again."""

    @staticmethod
    def forward(ctx: BackwardCFunction, q: Tensor, lambda_: Tensor, kappa: Tensor, of_complement: bool) -> Tensor:
        ctx.save_for_backward(q, lambda_, kappa)
        cast(Any, ctx).of_complement = of_complement
        parts = _APAParts(q, lambda_, kappa)
        return (parts.log_complement() if of_complement else parts.log_probability()).to(q.dtype)

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        q, lambda_, kappa = cast(Any, ctx).saved_tensors
        parts = _APAParts(q, lambda_, kappa)
        grad = grads[0].to(parts.q.dtype)
        slope = -parts.complement_slope() if cast(Any, ctx).of_complement else parts.slope()
        by_lambda = by_kappa = None
        if cast(Any, ctx).needs_input_grad[1]:
            each = parts.complement_by_lambda() if cast(Any, ctx).of_complement else parts.by_lambda()
            by_lambda = (grad * each).sum_to_size(lambda_.shape).to(lambda_.dtype)
        if cast(Any, ctx).needs_input_grad[2]:
            by_kappa = (grad * parts.q * slope).sum_to_size(kappa.shape).to(kappa.dtype)
        return (grad * parts.kappa * slope).to(q.dtype), by_lambda, by_kappa, None


class _APAParts:
    """What the logarithms of APA and their derivatives have in common, in float32 or wider.

    With w = kappa q, t = exp(-w) and x = lambda t. Where x < 1, everything is computed from t, which is right down to
    lambda = 0; elsewhere from a = log x, because t may overflow.
    """

    def __init__(self, q: Tensor, lambda_: Tensor, kappa: Tensor) -> None:
        dtype = torch.promote_types(q.dtype, torch.float32)
        self.q, self.lambda_, self.kappa = q.to(dtype), lambda_.to(dtype), kappa.to(dtype)
        w = self.kappa * self.q
        near_gumbel = self.lambda_ < math.exp(Gumbel.floor)
        self.w = torch.where(near_gumbel, w.clamp(min=Gumbel.floor), w)
        self.below = self.w - w  # of the floor
        self.a = self.lambda_.log() - self.w
        self.small = self.a < 0
        self.t = torch.where(self.small, -self.w, 0.0).exp()
        self.x = self.lambda_ * self.t
        self.divisor = torch.where(self.small, 1.0, self.lambda_)

    def _log_ratio(self) -> Tensor:
        """log(1 + x) / x of small x."""
        x = self.x.clamp(min=1e-30)
        return x.log1p() / x

    def minus_log(self) -> Tensor:
        """v, without the tangent."""
        return torch.where(self.small, self.t * self._log_ratio(), softplus(self.a) / self.divisor)

    def slope(self) -> Tensor:
        """The derivative of log p by w: t / (1 + x)."""
        return torch.where(self.small, self.t / (1 + self.x), self.a.sigmoid() / self.divisor)

    def log_probability(self) -> Tensor:
        return -(self.minus_log() + self.slope() * self.below)

    def log_complement(self) -> Tensor:
        v = self.minus_log()
        high, low = v.clamp(min=1), v.clamp(1e-30, 1)
        log_v = torch.where(self.small, self._log_ratio().log() - self.w, low.log())
        return torch.where(v > 1, torch.log1p(-torch.exp(-high)), log_v + (-torch.expm1(-low) / low).log())

    def _v_over_expm1(self) -> Tensor:
        most = 700.0 if self.q.dtype == torch.float64 else 80.0  # exp does not overflow
        v = self.minus_log().clamp(min=1e-30)
        return torch.where(v > most, 0.0, v / v.clamp(max=most).expm1())

    def complement_slope(self) -> Tensor:
        """Minus the derivative of log(1 - p) by w, in [0, 1]."""
        over_v = torch.where(
            self.small, 1 / ((1 + self.x) * self._log_ratio()), self.a.sigmoid() / softplus(self.a.clamp(min=-1))
        )
        return over_v * self._v_over_expm1()

    def by_lambda(self) -> Tensor:
        """The derivative of log p by lambda."""
        large = (softplus(self.a) - self.a.sigmoid()) / self.divisor.square()
        small = self.t.square() * (_lambda_series(self.x) + self.below / (1 + self.x).square())
        return torch.where(self.small, small, large)

    def complement_by_lambda(self) -> Tensor:
        """The derivative of log(1 - p) by lambda."""
        a = self.a.clamp(min=-1)
        large = (1 - a.sigmoid() / softplus(a)) / self.divisor
        small = self.t * _lambda_series(self.x) / self._log_ratio()
        return -torch.where(self.small, small, large) * self._v_over_expm1()


def subtract_from_log(s: Float[Tensor, "*S"], log: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Computes -log(1 - s) - s without cancellation, by its series s^2 / 2 + s^3 / 3 + ... where s < 0.1.

    It is log(1 + x) - x / (1 + x) for s = x / (1 + x): lambda^2 times the derivative of APA's log p by lambda.

    Args:
        s: in [0, 1].
        log: -log(1 - s).

    Returns:
        The difference, at least 0.
    """
    low = s.clamp(max=0.1)
    terms = 17 if s.dtype == torch.float64 else 8
    series = low * (1 / (terms + 1))
    for n in range(terms, 1, -1):
        series = (series + 1 / n) * low
    return torch.where(s < 0.1, series * low, log - s)


def _lambda_series(x: Tensor) -> Tensor:
    """Computes (log(1 + x) - x / (1 + x)) / x^2 for x in [0, 1]; 1 / 2 at 0."""
    x = x.clamp(1e-12, 1)
    s = x / (1 + x)
    return subtract_from_log(s, x.log1p()) / x.square()


LINKS: Mapping[LinkName, Link] = {"gumbel": Gumbel(), "sigmoid": Sigmoid(), "normal": NormalCDF()}
"""The links by their name in a config; a loss takes any `Link`."""


def find_link(link: Link | str) -> Link:
    """Returns the link of this name, or the link itself.

    Raises:
        ValueError: there is no link of this name.
    """
    if isinstance(link, Link):
        return link
    if link not in LINKS:
        raise ValueError(f"link is {', '.join(LINKS)} or a Link, got {link!r}")
    return LINKS[cast(LinkName, link)]
