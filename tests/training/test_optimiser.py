"""The published schedule, by hand."""

import pytest
import torch
from torch import nn

from tailseg.models import SwinConfig
from tailseg.models.swin import Swin
from tailseg.recipes.recipe import AdamWConfig, SGDConfig
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


def owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def test_adamw_decays_all_but_norms_and_tables_of_positions():
    """Swin's names; mmdetection spares whatever has `norm` or `relative_position_bias_table` in its name."""
    model = Swin(SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=3, weights="none"))
    optimizer = build_optimizer(model, AdamWConfig())
    assert isinstance(optimizer, torch.optim.AdamW)
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"], decayed["betas"]) == (0.05, 0.0, (0.9, 0.999))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared_names = {names[id(parameter)] for parameter in spared["params"]}
    assert spared_names == {
        name
        for name, parameter in model.named_parameters()
        if "relative_position_bias_table" in name or isinstance(owner(model, name), nn.LayerNorm)
    }
    assert len(spared["params"]) + len(decayed["params"]) == len(names)
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert any(name.endswith("qkv.bias") for name in decayed_names)  # biases of layers decay, as in mmdetection


def test_the_rate_of_adamw_reaches_every_group():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    optimizer = build_optimizer(model, AdamWConfig())
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-4]
    rate = learning_rate(AdamWConfig(), step=1000, epoch=0, batch_size=8)
    assert rate == pytest.approx(5e-5, rel=1e-12)  # warm-up is over; half the batch, half the rate


def test_nothing_to_train_is_an_error():
    model = nn.Linear(1, 1).requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="frozen_stages"):
        build_optimizer(model, PUBLISHED)
