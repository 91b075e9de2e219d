"""Predictors that compute only the class of interest, and normalized predictors.

A class-specific predictor of C classes is a stack of C small linear maps. Wherever the class of a row is known (the
ground truth in training, the predicted class at test) only that class's map is gathered and applied, instead of all C
of which one is selected.

Shapes: R rows, K input channels, C classes, O outputs of a class, P positions of a map.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tailseg.losses.base import at_least_float32
from tailseg.models.config import NormalizedConfig, WrappedCauchyConfig

EPS = 1e-6
"""Added to a norm that divides, as published: the norm of features may be 0."""


def class_linear(
    x: Float[Tensor, "R K"], weight: Float[Tensor, "C O K"], bias: Float[Tensor, "C O"], labels: Int64[Tensor, " R"]
) -> Float[Tensor, "R O"]:
    """``W[labels[r]] @ x[r] + b[labels[r]]`` for each row r.

    Args:
        x: rows of features.
        weight: weights of every class.
        bias: biases of every class.
        labels: class of each row.

    Returns:
        O outputs of each row.
    """
    rows = F.embedding(labels, weight.flatten(1)).view(len(x), weight.shape[1], weight.shape[2])
    return torch.einsum("rok,rk->ro", rows, x) + F.embedding(labels, bias)


def class_map(
    x: Float[Tensor, "R P K"], weight: Float[Tensor, "C K"], bias: Float[Tensor, " C"], labels: Int64[Tensor, " R"]
) -> Float[Tensor, "R P"]:
    """``x[r] @ w[labels[r]] + b[labels[r]]`` for each row r: the class's channel of a 1x1 convolution.

    Args:
        x: P positions of K channels for each row.
        weight: weights of every class.
        bias: bias of every class.
        labels: class of each row.

    Returns:
        A logit of each position.
    """
    rows = F.embedding(labels, weight).unsqueeze(2)
    return (x @ rows).squeeze(2) + bias[labels].unsqueeze(1)


def inverse_norm(x: Float[Tensor, "*S K"], *, power: float) -> Float[Tensor, "*S 1"]:
    """1 / (norm^power + 1e-6), the Euclidean norm over the channels, the last dimension.

    In float32 or wider: squares overflow float16 at 256, and the result does where a norm is 0.
    """
    return (torch.linalg.vector_norm(at_least_float32(x), dim=-1, keepdim=True) ** power + EPS).reciprocal()


def make_temperature(config: NormalizedConfig | None) -> nn.Parameter | None:
    """The parameter whose square is a learned temperature; None if the temperature is fixed, or there is none."""
    return nn.Parameter(torch.tensor(config.temperature).sqrt()) if config is not None and config.learned else None


def get_temperature(config: NormalizedConfig, parameter: Tensor | None) -> float | Float[Tensor, ""]:
    """The temperature T that multiplies cosines: fixed, or the square of its parameter."""
    return config.temperature if parameter is None else at_least_float32(parameter).square()


class NormalizedLinear(nn.Linear):
    """The layer y = (T x / (norm(x)^p + eps)) W / (norm(W_c)^p + eps) + b, with eps = 1e-6 and a norm a class c.

    With p = 1 logits are T times the cosine of features and class weights, plus b. Weights start normal with standard
    deviation 0.01, the bias at 0. Parameters have a plain layer's names and shapes; a learned temperature is the square
    of the parameter ``temperature``.

    Args:
        in_features: K.
        out_features: classes, or logits.
        config: temperature T and power p.
    """

    def __init__(self, in_features: int, out_features: int, config: NormalizedConfig) -> None:
        super().__init__(in_features, out_features)
        self.config = config
        self.temperature = make_temperature(config)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "R K"]) -> Float[Tensor, "R C"]:  # noqa: A002 (nn.Linear's name)
        """Logits of each row, in the input's type."""
        power = self.config.power
        x = input * (get_temperature(self.config, self.temperature) * inverse_norm(input, power=power))
        weight = self.weight * inverse_norm(self.weight, power=power)
        return F.linear(x.to(input.dtype), weight.to(self.weight.dtype), self.bias)


def normalized_class_map(
    x: Float[Tensor, "R P K"],
    weight: Float[Tensor, "C K"],
    bias: Float[Tensor, " C"],
    labels: Int64[Tensor, " R"],
    config: NormalizedConfig,
    temperature: float | Float[Tensor, ""] | None = None,
) -> Float[Tensor, "R P"]:
    """`class_map` with each position's channels and each class's weights normalized as in `NormalizedLinear`.

    The features' factor multiplies the one logit that comes of them, instead of all K channels.

    Args:
        x: P positions of K channels for each row.
        weight: weights of every class.
        bias: bias of every class.
        labels: class of each row.
        config: temperature and power.
        temperature: a learned one, in place of the config's.

    Returns:
        A logit of each position.
    """
    if temperature is None:
        temperature = config.temperature
    rows = F.embedding(labels, weight)
    rows = (rows * inverse_norm(rows, power=config.power)).to(weight.dtype)
    logits = (x @ rows.unsqueeze(2)) * (temperature * inverse_norm(x, power=config.power))
    return logits.squeeze(2) + bias[labels].unsqueeze(1)


class WrappedCauchyLinear(nn.Linear):
    """The densities of wrapped Cauchy distributions, one for each class, of the angle between features and weights.

    With c the cosine of features and class weights, each divided by its norm plus 1e-6, plus the bias, and
    gamma = sigmoid(g) of the class:

        y = scale / (2 * 3.14) * (1 - gamma^2) / (1 + gamma^2 - 2 gamma c)

    As published, 3.14 stands for pi, and the bias is added to the cosine. Weights start normal with standard deviation
    0.01, g at 1, the bias at 0. A learned scale is the parameter ``scale``.

    Args:
        in_features: K.
        out_features: classes, or logits.
        config: the scale.

    Source: the code of Alexandridis et al. 2024, "Adaptive Parametric Activation", for V3Det.
    """

    def __init__(self, in_features: int, out_features: int, config: WrappedCauchyConfig) -> None:
        super().__init__(in_features, out_features)
        self.config = config
        self.g = nn.Parameter(torch.ones(out_features))
        self.scale = nn.Parameter(torch.tensor(config.scale)) if config.learned else None
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "R K"]) -> Float[Tensor, "R C"]:  # noqa: A002 (nn.Linear's name)
        """Logits of each row, in float32 or wider: they reach 200 and more."""
        x = at_least_float32(input)
        weight = at_least_float32(self.weight)
        c = F.linear(x * inverse_norm(x, power=1), weight * inverse_norm(weight, power=1), self.bias.to(weight.dtype))
        gamma = at_least_float32(self.g).sigmoid()
        scale = self.config.scale if self.scale is None else at_least_float32(self.scale)
        return scale / (2 * 3.14) * (1 - gamma.square()) / (1 + gamma.square() - 2 * gamma * c)
