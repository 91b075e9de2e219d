"""Which side of zero a ReLU's input is on, where only rounding says so.

A gradient jumps where an input of a ReLU passes zero. Among a million such inputs a few lie closer to zero than two
float32 programs agree, so that they pass in one and not in the other, and one of them alone moves the gradient of every
layer before it by up to a percent. Whether two programs have the same gradients can be seen once those few are on the
same side in both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

RELUS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
NEARNESS = (3e-6, 1e-5, 3e-5)
"""How near to zero an input is tried, of its map's largest, nearest first: up to what float32 leaves after fifty
layers, 2e-5 and, in the mask head, 4e-5. The farther ones are hundreds, and needed with some processors' rounding
only."""
ENOUGH = 0.98
"""An input stays on the other side if the sum of squared differences falls below this part of what it was."""
MOST = 32
"""Inputs that change sides at most; of a million, far fewer are near enough."""


class Unit(NamedTuple):
    """One input of a ReLU.

    Attributes:
        call: which ReLU of the forward pass, counted from 0.
        place: in its flattened input.
    """

    call: int
    place: int


@dataclass(frozen=True)
class Settled:
    """What remains of a difference.

    Attributes:
        flipped: inputs that were put on the other side of zero.
        gradients: with these there.
    """

    flipped: tuple[Unit, ...]
    gradients: Float[Tensor, "P V"]


class _Relu:
    """What one ReLU let through, and what could have fallen on the other side."""

    def __init__(self, inputs: Tensor) -> None:
        size = inputs.abs()
        self.passes = inputs > 0
        self.nearness = torch.where(size > 0, size / size.max(), torch.inf)
        self.reached = torch.zeros_like(self.passes)

    def near(self, nearness: float) -> list[int]:
        """Places of inputs so near to zero that a gradient reaches, after a backward pass."""
        return ((self.nearness <= nearness) & self.reached).flatten().nonzero().flatten().tolist()


class _Passing(torch.autograd.Function):
    """A ReLU whose backward pass looks up again what passes: the outputs are the same, to a rounding."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, relu: _Relu) -> Tensor:
        ctx.relu = relu
        return inputs * relu.passes

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (gradient,) = gradients
        ctx.relu.reached |= gradient != 0
        return gradient * ctx.relu.passes, None


class _Relus(TorchFunctionMode):
    """Notes every ReLU of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Relu] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func not in RELUS:
            return func(*args, **(kwargs or {}))
        relu = _Relu(args[0].detach())
        self.calls.append(relu)
        return _Passing.apply(args[0], relu)

    def near(self, nearness: float) -> list[Unit]:
        return [Unit(call, place) for call, relu in enumerate(self.calls) for place in relu.near(nearness)]

    def turn(self, units: Sequence[Unit]) -> None:
        """Puts the units on the other side; a second time, back."""
        for unit in units:
            passes = self.calls[unit.call].passes
            passes[torch.unravel_index(torch.tensor(unit.place), passes.shape)] ^= True


def settle(
    loss: Callable[[], Float[Tensor, ""]],
    gradients: Callable[[Float[Tensor, ""]], Float[Tensor, "P V"]],
    wanted: Float[Tensor, "P V"],
    *,
    limit: float,
) -> Settled:
    """Puts inputs near zero on the other side, one by one, while that brings the gradients nearer to the wanted ones.

    Args:
        loss: a forward pass.
        gradients: a backward pass of it that keeps the graph; returns P x V numbers that stand for the gradients.
        wanted: the other program's.
        limit: no search where no number differs by more.
    """
    with _Relus() as relus:
        total = loss()
    search = _Search(relus, lambda: gradients(total), wanted)
    for nearness in NEARNESS:
        if search.worst() <= limit:
            break
        search.add(relus.near(nearness))
    return Settled(tuple(search.flipped), search.now)


class _Search:
    """Takes, of the units not yet turned, the one that promises most, until none helps."""

    def __init__(self, relus: _Relus, gradients: Callable[[], Tensor], wanted: Tensor) -> None:
        self.relus, self.gradients, self.wanted = relus, gradients, wanted
        self.start = self.now = gradients()
        self.flipped: list[Unit] = []
        self.effects: dict[Unit, Tensor] = {}

    def worst(self) -> float:
        return float((self.now - self.wanted).abs().max())

    def add(self, units: Sequence[Unit]) -> None:
        self.relus.turn(self.flipped)  # every effect is measured from the start, and the search begins again
        self.flipped, self.now = [], self.start
        for unit in units:
            if unit not in self.effects:
                self.effects[unit] = self._with([unit]) - self.start
        left = dict(self.effects)
        while left and len(self.flipped) < MOST:
            expected = {unit: self._off(self.now + effect) for unit, effect in left.items()}
            best = min(expected, key=expected.__getitem__)
            del left[best]
            trial = self._with([best])  # effects of two inputs in one path do not add up exactly
            if self._off(trial) > ENOUGH * self._off(self.now):
                break
            self.flipped.append(best)
            self.relus.turn([best])
            self.now = trial

    def _with(self, units: Sequence[Unit]) -> Tensor:
        self.relus.turn(units)
        found = self.gradients()
        self.relus.turn(units)
        return found

    def _off(self, gradients: Tensor) -> float:
        return float((gradients - self.wanted).square().sum())
