"""Activations that learn their shape: APA, a gate in (0, 1), and AGLU, the input times that gate.

K. P. Alexandridis et al., "Adaptive Parametric Activation", ECCV 2024. Both keep only their input for the backward
pass, as SiLU does, and work in blocks or in one compiled kernel.

    from tailseg.models.activations import AGLU

    layer = nn.Sequential(nn.Conv2d(3, 64, 3), AGLU())

Shapes: ``*S`` is any shape, ``[B, C, ...]`` for one lambda and kappa for each channel.
"""

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn import functional as F

from tailseg.losses.binary import BLOCK, call_compiled, will_compile
from tailseg.losses.links import is_transformed, subtract_from_log

LEAST_LAMBDA = 1e-4
"""The published least lambda."""
Positive = Literal["softplus", "clamp"]
"""The map from the parameter to lambda, see `AGLU`."""


def apa(z: Float[Tensor, "*S"], lambda_: Float[Tensor, "*L"], kappa: Float[Tensor, "*L"]) -> Float[Tensor, "*S"]:
    """Computes APA(z) = (1 + lambda exp(-kappa z))^(-1 / lambda), with all three derivatives.

    Computed as exp(log sigmoid(u) / lambda), u = kappa z - log lambda, in float32 or wider; the result has the type of
    z, also under autocast. Nothing overflows. kappa may have any sign; at 0 the result is constant.

    Args:
        z: the input. It alone is kept for the backward pass.
        lambda_: above 0; one number, or a shape that broadcasts with the input's.
        kappa: of the same shape.

    Returns:
        Values in [0, 1].

    Raises:
        TypeError: z holds whole numbers.
    """
    return _apply(z, lambda_, kappa, False)


def aglu(z: Float[Tensor, "*S"], lambda_: Float[Tensor, "*L"], kappa: Float[Tensor, "*L"]) -> Float[Tensor, "*S"]:
    """Computes AGLU(z) = z APA(z); lambda = kappa = 1 is SiLU.

    Args:
        z: the input.
        lambda_: above 0, as for `apa`.
        kappa: of the same shape.

    Returns:
        The gated input.

    Raises:
        TypeError: z holds whole numbers.
    """
    return _apply(z, lambda_, kappa, True)


class _Adaptive(nn.Module):
    """The parameters that `AGLU` and `APA` share."""

    def __init__(
        self,
        num_parameters: int,
        positive: Positive,
        lambda_range: tuple[float, float],
        kappa_range: tuple[float, float],
    ) -> None:
        super().__init__()
        if num_parameters < 1 or positive not in ("softplus", "clamp"):
            raise ValueError(
                f"num_parameters is at least 1 and positive is softplus or clamp, got {num_parameters}, {positive!r}"
            )
        low, high = lambda_range
        if not LEAST_LAMBDA <= low <= high:
            raise ValueError(f"lambda_range is two numbers that increase from {LEAST_LAMBDA}, got {low}, {high}")
        self.positive = positive
        start = torch.empty(num_parameters).uniform_(low, high)
        if positive == "softplus":  # the inverse
            start = (start - LEAST_LAMBDA).clamp(min=1e-6).expm1().log()
        self.raw_lambda = nn.Parameter(start)
        self.kappa = nn.Parameter(torch.empty(num_parameters).uniform_(*kappa_range))

    @property
    def lambda_(self) -> Float[Tensor, " P"]:
        """The effective lambda, at least 1e-4."""
        if self.positive == "clamp":
            return self.raw_lambda.clamp(min=LEAST_LAMBDA)
        return F.softplus(self.raw_lambda) + LEAST_LAMBDA

    def no_weight_decay(self) -> set[str]:
        """Both parameters: weight decay would pull them towards the Gumbel gate and a constant."""
        return {"raw_lambda", "kappa"}

    def _shape_parameters(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """lambda and kappa in a shape that broadcasts with ``[B, C, ...]``."""
        lambda_, kappa = self.lambda_, self.kappa
        if len(kappa) == 1:
            return lambda_, kappa
        if z.ndim < 2 or z.shape[1] != len(kappa):
            raise ValueError(
                f"{type(self).__name__} has {len(kappa)} lambdas and expects {len(kappa)} channels [B, C, ...], got "
                f"{list(z.shape)}"
            )
        shape = (-1, *[1] * (z.ndim - 2))
        return lambda_.view(shape), kappa.view(shape)

    def extra_repr(self) -> str:
        """The number of parameters and the map of lambda."""
        return f"num_parameters={len(self.kappa)}, positive={self.positive!r}"


class AGLU(_Adaptive):
    """The adaptive gated linear unit z APA(z), a replacement for ReLU, SiLU and GELU with two learned numbers.

    See `apa` for the formula. With lambda = kappa = 1 it is SiLU.

    Args:
        num_parameters: 1, or C for a lambda and a kappa for each channel of ``[B, C, ...]``.
        positive: ``"softplus"``: lambda = softplus(raw_lambda) + 1e-4, which always has a gradient. ``"clamp"``:
            lambda = max(raw_lambda, 1e-4), as published; a raw_lambda below 1e-4 never moves again but by weight decay.
        lambda_range: of the uniform start of lambda.
        kappa_range: of the uniform start of kappa.

    Raises:
        ValueError: a setting is out of range, or an input has another number of channels.

    Source: Alexandridis et al. 2024; (0, 1) and (1, 1.3) are the published ranges in detectors.
    """

    def __init__(
        self,
        num_parameters: int = 1,
        *,
        positive: Positive = "softplus",
        lambda_range: tuple[float, float] = (LEAST_LAMBDA, 1.0),
        kappa_range: tuple[float, float] = (1.0, 1.3),
    ) -> None:
        super().__init__(num_parameters, positive, lambda_range, kappa_range)

    def forward(self, z: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """z APA(z), in the type of z."""
        return aglu(z, *self._shape_parameters(z))


class APA(_Adaptive):
    """The adaptive gate APA(z) in (0, 1), a replacement for the sigmoid of a gate.

    See `apa` for the formula, and `tailseg.losses.links.APA` for the link of a classification loss.

    Args:
        num_parameters: 1, or C for a lambda and a kappa for each channel of ``[B, C, ...]``.
        positive: the map from the parameter to lambda, see `AGLU`.
        lambda_range: of the uniform start of lambda.
        kappa_range: of the uniform start of kappa. As published, a gate starts falling.

    Raises:
        ValueError: a setting is out of range, or an input has another number of channels.
    """

    def __init__(
        self,
        num_parameters: int = 1,
        *,
        positive: Positive = "softplus",
        lambda_range: tuple[float, float] = (LEAST_LAMBDA, 1.0),
        kappa_range: tuple[float, float] = (-1.0, 0.0),
    ) -> None:
        super().__init__(num_parameters, positive, lambda_range, kappa_range)

    def forward(self, z: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """APA(z), in the type of z."""
        return apa(z, *self._shape_parameters(z))


class InPlaceReLU(nn.Module):
    """ReLU that overwrites its input, which must not be needed any more."""

    def forward(self, z: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """max(z, 0), in the memory of z."""
        return z.relu_()


def build_activation(name: Literal["relu", "silu", "aglu"]) -> nn.Module:
    """Builds an activation for a place where nothing else needs its input. AGLU's lambda is clamped, as published."""
    return {"relu": InPlaceReLU, "silu": nn.SiLU, "aglu": lambda: AGLU(positive="clamp")}[name]()


def _apply(z: Tensor, lambda_: Tensor, kappa: Tensor, gated: bool) -> Tensor:
    if not z.is_floating_point():  # the result has the type of z, and would be rounded
        raise TypeError(f"AGLU and APA take floating point numbers, got {z.dtype}")
    if is_transformed() or torch.jit.is_tracing():  # which follow plain operations alone
        return _compute_value(z, lambda_, kappa, gated).to(z.dtype)
    return cast(Tensor, _AdaptiveFunction.apply(z, lambda_, kappa, gated))


class _AdaptiveFunction(torch.autograd.Function):
    """APA, or the input times it. Only the input and the parameters are kept."""

    @staticmethod
    def forward(ctx: BackwardCFunction, z: Tensor, lambda_: Tensor, kappa: Tensor, gated: bool) -> Tensor:
        ctx.save_for_backward(z, lambda_, kappa)
        cast(Any, ctx).gated = gated
        if torch.compiler.is_compiling():  # the caller's compiler makes the kernel
            return _compute_value(z, lambda_, kappa, gated).to(z.dtype)
        dense = _densify(z)
        out = torch.empty_like(dense)
        for z_part, out_part in _split(lambda_, dense, out):
            if not call_compiled(_write_value, z_part, out_part, z_part, lambda_, kappa, gated):
                _write_value(out_part, z_part, lambda_, kappa, gated)
        return out

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        z, lambda_, kappa = cast(Any, ctx).saved_tensors
        gated, learns = cast(Any, ctx).gated, any(cast(Any, ctx).needs_input_grad[1:])
        if torch.compiler.is_compiling():
            grad = grads[0].clone()
            by_lambda, by_kappa = _replace_gradient(grad, z, lambda_, kappa, gated, learns, True)
            return grad, by_lambda, by_kappa, None
        if torch.is_grad_enabled():  # create_graph: the second derivative needs the graph of the first
            value = _compute_value(z, lambda_, kappa, gated)
            inputs = [each for each in (z, lambda_, kappa) if each.requires_grad]
            found = iter(torch.autograd.grad(value, inputs, grads[0].to(value.dtype), create_graph=True))
            by_z, by_lambda, by_kappa = (next(found) if each.requires_grad else None for each in (z, lambda_, kappa))
            return cast(Tensor, by_z), by_lambda, by_kappa, None
        dense = _densify(z)
        grad = torch.empty_like(dense).copy_(grads[0])  # in the same order of memory
        has_numbers = type(lambda_) in (Tensor, nn.Parameter)  # fake tensors have shapes alone
        cancels = z.device.type != "cpu" or not has_numbers or bool(lambda_.min() < 0.1)
        sums: list[tuple[Tensor, Tensor]] = []
        for z_part, grad_part in _split(lambda_, dense, grad):
            arguments = (grad_part, z_part, lambda_, kappa, gated, learns, cancels)
            sums.extend(call_compiled(_replace_gradient, z_part, *arguments) or [_replace_gradient(*arguments)])
        by_lambda, by_kappa = (torch.stack(parts).sum(0) for parts in zip(*sums, strict=True))
        return grad, by_lambda, by_kappa, None


def _densify(z: Tensor) -> Tensor:
    """The tensor itself if its elements fill its memory, in any order; else a copy."""
    is_dense = z.is_contiguous() or (z.ndim == 4 and z.is_contiguous(memory_format=torch.channels_last))
    return z if is_dense else z.contiguous()


def _split(lambda_: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of dense tensors of one shape: of elements in memory, or of images if lambda depends on the channel.

    A CPU works on a block in its cache, unless it has a compiled kernel; other devices get one block.
    """
    size = tensors[0].numel()
    whole = tensors[0].device.type != "cpu" or will_compile(tensors[0])
    if lambda_.numel() > 1:
        whole = whole or (lambda_.ndim == tensors[0].ndim and len(lambda_) > 1)
        yield from zip(*(tensor.split(len(tensor) if whole else 1) for tensor in tensors), strict=True)
        return
    step = max(size if whole else BLOCK * torch.get_num_threads(), 1)
    flat = [tensor.as_strided((size,), (1,)) for tensor in tensors]
    yield from zip(*(tensor.split(step) for tensor in flat), strict=True)


def _compute_value(z: Tensor, lambda_: Tensor, kappa: Tensor, gated: bool) -> Tensor:
    dtype = torch.promote_types(z.dtype, torch.float32)
    z, lambda_, kappa = z.to(dtype), lambda_.to(dtype), kappa.to(dtype)
    p = (F.logsigmoid(z * kappa - lambda_.log()) / lambda_).exp()
    return z * p if gated else p


def _write_value(out: Tensor, z: Tensor, lambda_: Tensor, kappa: Tensor, gated: bool) -> None:
    out.copy_(_compute_value(z, lambda_, kappa, gated))


def _replace_gradient(
    grad: Tensor, z: Tensor, lambda_: Tensor, kappa: Tensor, gated: bool, learns: bool, cancels: bool
) -> tuple[Tensor, Tensor]:
    """Replaces the gradient of the output by that of the input, in place; returns those of lambda and kappa.

    With s = sigmoid(-u) and p = APA: dp/dz = p kappa s / lambda, dp/dkappa = p z s / lambda and
    dp/dlambda = p (-log sigmoid(u) - s) / lambda^2, never negative. The last difference loses its digits where s is
    small; divided by a lambda^2 of 0.01 or more, what is lost stays below 1e-5, so then it may be formed directly.
    """
    dtype = torch.promote_types(z.dtype, torch.float32)
    z, wide, shape, slope = z.to(dtype), grad.to(dtype), lambda_.to(dtype), kappa.to(dtype)
    u = z * slope - shape.log()
    log, s = F.logsigmoid(u), torch.sigmoid(-u)
    wide = wide * (log / shape).exp()  # every derivative has p as a factor
    rate = s / shape
    by_z = wide * (1 + z * slope * rate) if gated else wide * slope * rate
    if not learns:
        grad.copy_(by_z)
        return torch.zeros_like(lambda_), torch.zeros_like(kappa)
    if gated:
        wide = wide * z
    difference = subtract_from_log(s, -log) if cancels else -log - s
    by_lambda = (wide * difference / shape.square()).sum_to_size(lambda_.shape)
    by_kappa = (wide * z * rate).sum_to_size(kappa.shape)
    grad.copy_(by_z)
    return by_lambda.to(lambda_.dtype), by_kappa.to(kappa.dtype)
