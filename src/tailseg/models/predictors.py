"""Predictors that compute only the class that counts.

A class-specific predictor of C classes is a stack of C small linear maps. Wherever the class of a row is known (the
ground truth in training, the predicted class at test) only that class's map is gathered and applied, instead of all C
of which one is selected.

Shapes: R rows, K input channels, C classes, O outputs of a class, P positions of a map.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def class_linear(
    x: Float[Tensor, "R K"], weight: Float[Tensor, "C O K"], bias: Float[Tensor, "C O"], labels: Int64[Tensor, " R"]
) -> Float[Tensor, "R O"]:
    """``W[labels[r]] @ x[r] + b[labels[r]]`` for each row r."""
    rows = F.embedding(labels, weight.flatten(1)).view(len(x), weight.shape[1], weight.shape[2])
    return torch.einsum("rok,rk->ro", rows, x) + F.embedding(labels, bias)


def class_map(
    x: Float[Tensor, "R K P"], weight: Float[Tensor, "C K"], bias: Float[Tensor, " C"], labels: Int64[Tensor, " R"]
) -> Float[Tensor, "R P"]:
    """``w[labels[r]] @ x[r] + b[labels[r]]`` for each row r: the class's channel of a 1x1 convolution."""
    rows = F.embedding(labels, weight).unsqueeze(1)
    return (rows @ x).squeeze(1) + bias[labels].unsqueeze(1)
