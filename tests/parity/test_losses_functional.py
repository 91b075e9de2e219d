"""The binary losses as functions, with the sigmoid, against torch's and torchvision's own."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from tailseg.losses import bce_with_logits, focal_with_logits


def problem(shape):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return logits, torch.rand(shape, generator=generator, dtype=torch.float64)


def run(function, logits):
    logits = logits.clone().requires_grad_()
    value = function(logits)
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    return value.detach(), torch.autograd.grad((value * weights).sum(), logits)[0]


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 4, 5), (0, 3), (3, 0)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_with_the_sigmoid_it_is_torchs_own(shape, reduction):
    logits, target = problem(shape)
    weight, pos_weight = torch.rand(shape[-1:]) + 0.5, torch.rand(shape[-1:]) + 0.5
    for options in ({}, {"weight": weight}, {"pos_weight": pos_weight}, {"weight": weight, "pos_weight": pos_weight}):
        ours = run(lambda q, o=options: bce_with_logits(q, target, reduction=reduction, **o), logits)
        if reduction == "mean" and not logits.numel():
            assert ours[0] == 0  # torch: NaN
            continue
        theirs = run(
            lambda q, o=options: F.binary_cross_entropy_with_logits(q, target, reduction=reduction, **o), logits
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_weights_broadcast_over_any_dimension():
    """Such as weights of the channels of [B, C, H, W]."""
    logits, target = problem((2, 3, 4, 5))
    channels = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64).reshape(3, 1, 1)
    ours = run(lambda q: bce_with_logits(q, target, channels[:1], pos_weight=channels), logits)
    theirs = run(lambda q: F.binary_cross_entropy_with_logits(q, target, channels[:1], pos_weight=channels), logits)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("alpha", [0.25, None])
def test_the_focal_loss_is_torchvisions(reduction, alpha):
    logits, target = problem((5, 4))
    target = target.round()
    ours = run(lambda q: focal_with_logits(q, target, reduction=reduction, gamma=1.5, alpha=alpha), logits)
    theirs = run(
        lambda q: sigmoid_focal_loss(q, target, alpha=-1 if alpha is None else alpha, gamma=1.5, reduction=reduction),
        logits,
    )
    torch.testing.assert_close(ours, theirs)
