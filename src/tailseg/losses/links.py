"""Links: how one logit q becomes one probability p, with the two logarithms that cross entropy needs.

A binary loss takes a link and never writes p itself. Every function is elementwise, keeps its input's shape and dtype,
and has a finite gradient for every finite logit.
"""

import math
from abc import ABC, abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import BackwardCFunction


class Link(ABC):
    """An increasing map from a logit q to a probability p."""

    @abstractmethod
    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p, in ``[0, 1]``."""

    @abstractmethod
    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log p, finite where p underflows to 0."""

    @abstractmethod
    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - p), finite where p rounds to 1."""


class Sigmoid(Link):
    """The probability p = 1 / (1 + exp(-q)): the logistic distribution's CDF."""

    def probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The probability p = 1 / (1 + exp(-q))."""
        return torch.sigmoid(q)

    def log_probability(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log p = -log(1 + exp(-q)); its gradient lies in ``[0, 1]``."""
        return F.logsigmoid(q)

    def log_complement(self, q: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The logarithm log(1 - p) = -log(1 + exp(q)); its gradient lies in ``[-1, 0]``."""
        return F.logsigmoid(-q)


class Gumbel(Link):
    """p = exp(-exp(-q)): the standard Gumbel distribution's CDF (Alexandridis et al., ECCV 2022).

    Exact for every q from ``floor`` = -11 upwards. Below it -log p, which grows like exp(-q), continues along its
    tangent, so that its gradient never exceeds exp(11) = 59,874: the largest bound of a whole q that float16 can hold.
    """

    floor = -11.0

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
