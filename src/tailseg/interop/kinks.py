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
NEARNESS = (3e-6, 1e-5)
"""How near to zero an input is tried, of its map's largest: what float32 leaves after fifty layers, nearest first."""
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
        gradients: with these there, as the function returns them.
    """

    flipped: tuple[Unit, ...]
    gradients: Float[Tensor, "P V"]


class _Sides(TorchFunctionMode):
    """ReLUs that treat some inputs as if they had the other sign, and note inputs near zero that a gradient reaches."""

    def __init__(self, flipped: Sequence[Unit], nearness: float = -1.0) -> None:
        super().__init__()
        self.flipped, self.nearness = flipped, nearness
        self.calls = 0
        self.near: list[Unit] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func not in RELUS:
            return func(*args, **(kwargs or {}))
        inputs, call = args[0], self.calls
        self.calls += 1
        passes = inputs.detach() > 0
        for unit in self.flipped:
            if unit.call == call:
                passes.view(-1)[unit.place] ^= True
        outputs = inputs * passes
        if self.nearness >= 0 and outputs.requires_grad:
            size = inputs.detach().abs()
            near = ((size <= self.nearness * size.max()) & (size > 0)).flatten()
            outputs.register_hook(lambda gradient: self._note(call, near & (gradient.flatten() != 0)))
        return outputs

    def _note(self, call: int, units: Tensor) -> None:
        self.near += [Unit(call, place) for place in units.nonzero().flatten().tolist()]


def settle(gradients: Callable[[], Float[Tensor, "P V"]], wanted: Float[Tensor, "P V"], *, limit: float) -> Settled:
    """Puts inputs near zero on the other side, one by one, while that brings the gradients nearer to the wanted ones.

    Args:
        gradients: a forward and a backward pass; returns P x V numbers that stand for the gradients.
        wanted: the other program's.
        limit: no search where no number differs by more.
    """
    settled = Settled((), _run(gradients, ())[0])
    for nearness in NEARNESS:
        if _worst(settled.gradients, wanted) <= limit:
            break
        settled = _search(gradients, wanted, nearness)
    return settled


def _search(gradients: Callable[[], Tensor], wanted: Tensor, nearness: float) -> Settled:
    start, units = _run(gradients, (), nearness)
    effects = {unit: _run(gradients, (unit,))[0] - start for unit in units}
    flipped: tuple[Unit, ...] = ()
    now = start
    while effects and len(flipped) < MOST:
        expected = {unit: _distance(now + effect, wanted) for unit, effect in effects.items()}
        best = min(expected, key=expected.__getitem__)
        del effects[best]
        trial = _run(gradients, (*flipped, best))[0]  # effects of two inputs in one path do not add up exactly
        if _distance(trial, wanted) > ENOUGH * _distance(now, wanted):
            break
        flipped, now = (*flipped, best), trial
    return Settled(flipped, now)


def _run(gradients: Callable[[], Tensor], flipped: Sequence[Unit], nearness: float = -1.0) -> tuple[Tensor, list[Unit]]:
    with _Sides(flipped, nearness) as sides:
        found = gradients()
    return found, sides.near


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).square().sum())


def _worst(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())
