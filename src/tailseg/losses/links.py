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
from jaxtyping import Float, Float32
from torch import Tensor
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
    """

    init_bias: float
    fuses: bool = False
    tabulates: bool = False

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
        return cast(Tensor, _WithSlope.apply(q, self._log_probability, self.log_probability_slope))

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - p), finite where p rounds to 1."""
        return cast(Tensor, _WithSlope.apply(q, self._log_complement, self.log_complement_slope))

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
        above = z * _series(z.clamp(min=1e-9).square(), ATANH) * -2
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

    def published(self, version: PublishedVersion = "2022") -> "PublishedGumbel":  # noqa: ARG002
        """Returns the link with q clamped to [-4, 10], and binary cross entropy on 1 / exp(exp(-q))."""
        return PublishedGumbel()


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


def _series(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Evaluates the polynomial with these coefficients, x^0 first.

    In float32, x is at most 0.05 for `ATANH`, whose coefficients fall slowly: six are enough. For the others x is at
    most 1, and each coefficient is a fortieth of the one before: four are enough.
    """
    used = coefficients if x.dtype == torch.float64 else coefficients[: 6 if coefficients is ATANH else 4]
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

    def published(self, version: PublishedVersion = "2022") -> "PublishedNormalCDF":  # noqa: ARG002
        """Returns the link with q clamped to [-5, 5], and binary cross entropy on Phi(q)."""
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


class PublishedNormalCDF(PublishedLink):
    """NormalCDF with the published code's clamp to [-5, 5]: no logit outside gets a gradient."""

    exact = NormalCDF()
    init_bias = NormalCDF.init_bias

    def clamped_probability(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The probability Phi(q), with q clamped to [-5, 5]."""
        return (1 + torch.erf(q.float().clamp(-5, 5) / math.sqrt(2))) / 2


LINKS: Mapping[LinkName, Link] = {"gumbel": Gumbel(), "sigmoid": Sigmoid(), "normal": NormalCDF()}
"""The links by their name in a config; a loss takes any `Link`."""
