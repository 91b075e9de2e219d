"""Links: how one logit q becomes one probability p, with the two logarithms that cross entropy needs.

A binary loss takes a link and never writes p itself. Every function is elementwise, keeps its input's shape and dtype,
and has a finite gradient for every finite logit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor
from torch.autograd.function import BackwardCFunction


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact to float64; torch's default becomes linear at 20, 2e-9 too low."""
    return F.softplus(x, threshold=40)


class Link(ABC):
    """An increasing map from a logit q to a probability p.

    Attributes:
        init_bias: the published bias of a classifier before training, where p is about 1e-3.
    """

    init_bias: float

    @abstractmethod
    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p, in ``[0, 1]``."""

    @abstractmethod
    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log p, finite where p underflows to 0."""

    @abstractmethod
    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - p), finite where p rounds to 1."""

    def published(self) -> "Link":
        """The link as the published code computes it, clamps and dead zones included, in float32.

        Raises:
            ValueError: there is no published code for this link.
        """
        raise ValueError(f"{type(self).__name__} has no published form: use parity=False")


class Sigmoid(Link):
    """The probability p = 1 / (1 + exp(-q)): the logistic distribution's CDF."""

    init_bias = -6.9

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p = 1 / (1 + exp(-q))."""
        return torch.sigmoid(q)

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log p = -log(1 + exp(-q)); its gradient lies in ``[0, 1]``."""
        return -softplus(-q)

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - p) = -log(1 + exp(q)); its gradient lies in ``[-1, 0]``."""
        return -softplus(q)

    def published(self) -> "Sigmoid":
        """This link: the published code's binary cross entropy with logits is exact."""
        return self


class Gumbel(Link):
    """p = exp(-exp(-q)): the standard Gumbel distribution's CDF (Alexandridis et al., ECCV 2022).

    Exact for every q from ``floor`` = -11 upwards. Below it -log p, which grows like exp(-q), continues along its
    tangent, so that its gradient never exceeds exp(11) = 59,874: the largest bound of a whole q that float16 can hold.
    """

    floor = -11.0
    init_bias = -2.0

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p = exp(-exp(-q)); exactly 0 below q = -4.64 in float32 and below q = -6.61 in float64."""
        # The clamp changes no value (p is 0 there) but spares the gradient 0 * inf.
        return torch.exp(-torch.exp(-q.clamp(min=self.floor)))

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log p = -exp(-q); for q < floor its tangent, -exp(-floor) * (1 + floor - q)."""
        floored = q.clamp(min=self.floor)
        # Written so that the gradient at q = floor is right whichever side of it clamp's own gradient takes.
        return -torch.exp(-floored) * (1 + (floored - q))

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - p) = log(-expm1(-exp(-q))); its gradient lies in ``[-1, 0]``."""
        return cast(Tensor, _GumbelLogComplement.apply(q))

    def published(self) -> "PublishedGumbel":
        """q clamped to [-4, 10], and binary cross entropy on 1 / exp(exp(-q))."""
        return PublishedGumbel()


class _GumbelLogComplement(torch.autograd.Function):
    """The logarithm log(1 - p) with t = exp(-q).

    Keeps q alone for the backward pass and computes t again; in place, for fresh memory costs more than arithmetic.
    """

    @staticmethod
    def _t(q: Tensor) -> Tensor:
        # Below the floor log(1 - p) = log(1 - exp(-t)) is 0 in any precision. Above 60 it is -q - t / 2 = -q, and
        # t must not underflow.
        return q.clamp(Gumbel.floor, 60.0).neg_().exp_()

    @staticmethod
    def forward(ctx: BackwardCFunction, q: Tensor) -> Tensor:
        ctx.save_for_backward(q)
        t = _GumbelLogComplement._t(q)
        # Either form loses all digits where the other is right (Maechler, "Accurately computing log(1 - exp(-|a|))").
        small = t.neg().expm1_().neg_().log_()
        large = t.neg().exp_().neg_().log1p_()
        return torch.where(t > math.log(2), large, small).sub_(F.relu(q - 60.0))

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> Tensor:
        (q,) = ctx.saved_tensors
        t = _GumbelLogComplement._t(q)
        return t.div_(torch.expm1(t)).mul_(grads[0]).neg_()  # t / inf = 0 is the limit


class NormalCDF(Link):
    """p = Phi(q) = (1 + erf(q / sqrt 2)) / 2: the standard normal distribution's CDF.

    Exact in both tails for every q with abs(q) <= ``bound`` = 10,000. Beyond, the logarithm that falls like -q^2 / 2
    continues along its tangent, so that no gradient exceeds 10,000.
    """

    bound = 1e4
    init_bias = -3.0

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p = erfc(-q / sqrt 2) / 2, which keeps the digits that 1 + erf loses below -3."""
        return torch.erfc(q * -math.sqrt(0.5)) / 2

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log Phi(q); its gradient lies in ``[0, bound]`` and is about -q for low q."""
        return cast(Tensor, _LogNormalCDF.apply(q, 1))

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - Phi(q)) = log Phi(-q)."""
        return cast(Tensor, _LogNormalCDF.apply(q, -1))

    def published(self) -> "PublishedNormalCDF":
        """q clamped to [-5, 5], and binary cross entropy on Phi(q)."""
        return PublishedNormalCDF()


class _LogNormalCDF(torch.autograd.Function):
    """The logarithm log Phi(sign * q), with a gradient that keeps its digits; keeps q alone for the backward pass.

    The derivative is sqrt(2 / pi) / erfcx(-q / sqrt 2). torch's own is exp of a difference of two numbers near q^2 / 2:
    in float32 it is 6 times too large at q = -10,000, and not a number at -1e20.
    """

    @staticmethod
    def forward(ctx: BackwardCFunction, q: Tensor, sign: int) -> Tensor:
        ctx.save_for_backward(q)
        cast(Any, ctx).sign = sign
        x = q * sign
        inside = x.clamp(min=-NormalCDF.bound)
        return torch.special.log_ndtr(inside).add_(x - inside, alpha=NormalCDF.bound)

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor, None]:
        (q,) = ctx.saved_tensors
        sign = cast(Any, ctx).sign
        x = (q * sign).clamp_(min=-NormalCDF.bound).mul_(-math.sqrt(0.5))
        return torch.special.erfcx(x).reciprocal_().mul_(sign * math.sqrt(2 / math.pi)).mul_(grads[0]), None


class PublishedGumbel(Gumbel):
    """Gumbel with the published code's logarithms: a low positive and a high negative get no gradient.

    Its probability, by which models are tested, is that of `Gumbel`: the published clamp serves training alone.
    """

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The logarithm of 1 / exp(exp(-q)), as binary cross entropy takes it."""
        return -_cross_entropy(self._clamped(q), 1.0)

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The logarithm of 1 - 1 / exp(exp(-q)), as binary cross entropy takes it."""
        return -_cross_entropy(self._clamped(q), 0.0)

    @staticmethod
    def _clamped(q: Tensor) -> Tensor:
        return 1 / torch.exp(torch.exp(-q.float().clamp(-4, 10)))


class PublishedNormalCDF(NormalCDF):
    """NormalCDF with the published code's clamp to [-5, 5]: beyond it no logit gets a gradient."""

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The logarithm of Phi(q), as binary cross entropy takes it."""
        return -_cross_entropy(self._clamped(q), 1.0)

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float32[Tensor, "*S"]:
        """The logarithm of 1 - Phi(q), as binary cross entropy takes it."""
        return -_cross_entropy(self._clamped(q), 0.0)

    @staticmethod
    def _clamped(q: Tensor) -> Tensor:
        return (1 + torch.erf(q.float().clamp(-5, 5) / math.sqrt(2))) / 2


def _cross_entropy(p: Tensor, target: float) -> Tensor:
    """Binary cross entropy on float32 probabilities, whose gradient dies where p (1 - p) < 1e-12: as published."""
    with torch.autocast(p.device.type, enabled=False):  # which refuses it
        # NaN would be refused here, on a GPU by ending the process; the training loop reports it better.
        cost = F.binary_cross_entropy(p.nan_to_num(0.5), torch.full_like(p, target), reduction="none")
    return torch.where(p.isnan(), torch.nan, cost)


LinkName = Literal["gumbel", "sigmoid", "normal"]
"""How a config names a link."""

LINKS: Mapping[LinkName, Link] = {"gumbel": Gumbel(), "sigmoid": Sigmoid(), "normal": NormalCDF()}
"""The links that a config can name; a loss itself takes any `Link`."""
