"""The published schedule, by hand."""

import pytest
import torch
from torch import nn

from tailseg.recipes.recipe import SGDConfig
from tailseg.training.optimiser import build_optimizer, learning_rate

PUBLISHED = SGDConfig()  # lr 0.02 for 16 images, 500 steps of warm-up from 0.001, x 0.1 after epochs 8 and 11


@pytest.mark.parametrize(
    ("step", "epoch", "expected"),
    [
        (0, 0, 0.02 * 0.001),
        (250, 0, 0.02 * (0.001 + 0.999 / 2)),
        (499, 0, 0.02 * (1 - 0.999 / 500)),
        (500, 0, 0.02),
        (40_000, 7, 0.02),
        (50_000, 8, 0.002),
        (60_000, 10, 0.002),
        (70_000, 11, 0.0002),
    ],
)
def test_published_schedule(step, epoch, expected):
    assert learning_rate(PUBLISHED, step=step, epoch=epoch, batch_size=16) == pytest.approx(expected, rel=1e-12)


def test_the_rate_is_proportional_to_the_batch():
    assert learning_rate(PUBLISHED, step=1000, epoch=0, batch_size=4) == pytest.approx(0.005, rel=1e-12)


def test_no_warmup():
    assert learning_rate(SGDConfig(warmup_iterations=0), step=0, epoch=0, batch_size=16) == 0.02


def test_sgd_decays_every_trainable_parameter_and_leaves_frozen_ones_out():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[0].weight.requires_grad_(requires_grad=False)
    optimizer = build_optimizer(model, PUBLISHED)
    (group,) = optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(model[0].bias), id(model[1].weight), id(model[1].bias)}
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)
    # One step without a loss gradient moves a parameter by -lr * weight_decay * value.
    model[1].bias.data.fill_(2.0)
    model[1].bias.grad = torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(model[1].bias.data, torch.full((3,), 2.0 - 0.02 * 1e-4 * 2.0))


def test_nothing_to_train_is_an_error():
    model = nn.Linear(1, 1).requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="frozen_stages"):
        build_optimizer(model, PUBLISHED)
