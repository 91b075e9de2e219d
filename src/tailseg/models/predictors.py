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
from tailseg.models.config import NormalizedConfig

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


class NormalizedLinear(nn.Linear):
    """The layer y = (T x / (norm(x)^p + eps)) W / (norm(W_c)^p + eps) + b, with eps = 1e-6 and a norm a class c.

    With p = 1 logits are T times the cosine of features and class weights, plus b. Weights start normal with standard
    deviation 0.01, the bias at 0. Parameters have a plain layer's names and shapes.

    Args:
        in_features: K.
        out_features: classes, or logits.
        config: temperature T and power p.
    """

    def __init__(self, in_features: int, out_features: int, config: NormalizedConfig) -> None:
        super().__init__(in_features, out_features)
        self.config = config
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "R K"]) -> Float[Tensor, "R C"]:  # noqa: A002 (nn.Linear's name)
        """Logits of each row, in the input's type."""
        power, temperature = self.config.power, self.config.temperature
        x = input * (temperature * inverse_norm(input, power=power))
        weight = self.weight * inverse_norm(self.weight, power=power)
        return F.linear(x.to(input.dtype), weight.to(self.weight.dtype), self.bias)


def normalized_class_map(
    x: Float[Tensor, "R P K"],
    weight: Float[Tensor, "C K"],
    bias: Float[Tensor, " C"],
    labels: Int64[Tensor, " R"],
    config: NormalizedConfig,
) -> Float[Tensor, "R P"]:
    """`class_map` with each position's channels and each class's weights normalized as in `NormalizedLinear`.

    The features' factor multiplies the one logit that comes of them, instead of all K channels.

    Args:
        x: P positions of K channels for each row.
        weight: weights of every class.
        bias: bias of every class.
        labels: class of each row.
        config: temperature and power.

    Returns:
        A logit of each position.
    """
    rows = F.embedding(labels, weight)
    rows = (rows * inverse_norm(rows, power=config.power)).to(weight.dtype)
    logits = (x @ rows.unsqueeze(2)) * (config.temperature * inverse_norm(x, power=config.power))
    return logits.squeeze(2) + bias[labels].unsqueeze(1)
