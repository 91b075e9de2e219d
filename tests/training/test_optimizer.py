"""The published schedule, by hand."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from tailseg.losses import LDAMLossConfig, PCBLossConfig
from tailseg.models import SwinConfig
from tailseg.models.swin import Swin
from tailseg.ranges import SettingError
from tailseg.recipes import RECIPES, get_recipe
from tailseg.recipes.recipe import AdamWConfig, ScheduleConfig, SGDConfig
from tailseg.training.optimizer import compute_decay, get_learning_rate, list_schedule_notes

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
    assert PUBLISHED.learning_rate(step=step, epoch=epoch, batch_size=16) == pytest.approx(expected, rel=1e-12)


def test_the_rate_is_proportional_to_the_batch():
    assert PUBLISHED.learning_rate(step=1000, epoch=0, batch_size=4) == pytest.approx(0.005, rel=1e-12)


def test_no_warmup():
    assert SGDConfig(warmup_iterations=0).learning_rate(step=0, epoch=0, batch_size=16) == 0.02


@pytest.mark.parametrize(("epochs", "steps", "warmup", "min_ratio"), [(3, 7, 5, 0.0), (2, 10, 0, 0.05), (4, 3, 1, 1.0)])
def test_the_cosine_is_that_of_torch(epochs, steps, warmup, min_ratio):
    """LinearLR, then CosineAnnealingLR, at every step of a run."""
    optim = SGDConfig(
        schedule="cosine", epochs=epochs, warmup_iterations=warmup, warmup_ratio=0.25, min_lr_ratio=min_ratio
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=optim.lr)
    cosine = CosineAnnealingLR(optimizer, T_max=epochs * steps - warmup, eta_min=optim.lr * min_ratio)
    schedule = cosine
    if warmup:
        linear = LinearLR(optimizer, start_factor=0.25, total_iters=warmup)
        schedule = SequentialLR(optimizer, [linear, cosine], milestones=[warmup])
    for step in range(epochs * steps):
        rate = optim.learning_rate(step=step, epoch=step // steps, batch_size=16, steps_per_epoch=steps)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15)
        optimizer.step()
        schedule.step()
    end = optim.learning_rate(step=10**6, epoch=epochs, batch_size=16, steps_per_epoch=steps)
    assert end == pytest.approx(optim.lr * min_ratio)


def test_a_warmup_of_epochs_is_one_of_as_many_steps():
    in_epochs, in_steps = SGDConfig(warmup_epochs=0.5, warmup_iterations=99), SGDConfig(warmup_iterations=20)
    for step in (0, 7, 19, 20, 21):
        rate = in_epochs.learning_rate(step=step, epoch=0, batch_size=8, steps_per_epoch=40)
        assert rate == in_steps.learning_rate(step=step, epoch=0, batch_size=8)
    assert SGDConfig(warmup_epochs=0.0).learning_rate(step=0, epoch=0, batch_size=16, steps_per_epoch=40) == 0.02


@pytest.mark.parametrize("optim", [SGDConfig(schedule="cosine", warmup_iterations=0), SGDConfig(warmup_epochs=1.0)])
def test_a_schedule_that_needs_the_length_of_an_epoch_says_so(optim):
    with pytest.raises(ValueError, match=r"optim\..* needs the number of steps of an epoch.*steps_per_epoch=N"):
        optim.learning_rate(step=1, epoch=0, batch_size=16)


def test_a_schedule_of_ones_own_may_leave_out_the_steps_of_an_epoch():
    @dataclass(frozen=True, kw_only=True)
    class ByEpoch(SGDConfig):
        def learning_rate(self, *, step, epoch, batch_size):
            return super().learning_rate(step=step, epoch=epoch, batch_size=batch_size) / 2

    @dataclass(frozen=True, kw_only=True)
    class ByStep(SGDConfig):
        def learning_rate(self, **given):
            return super().learning_rate(**given) / 2

    base = get_recipe("tiny_gumbel")  # 8 images a step
    where = {"step": 15, "epoch": 1, "steps_per_epoch": 10}
    by_epoch = replace(base, optim=ByEpoch(warmup_iterations=0))
    assert get_learning_rate(by_epoch, **where) == pytest.approx(0.005)
    by_step = replace(base, optim=ByStep(schedule="cosine", warmup_iterations=0, epochs=3))
    assert get_learning_rate(by_step, **where) == pytest.approx(0.0025)  # half of the run: half the rate


def test_sgd_decays_every_trainable_parameter_and_leaves_frozen_ones_out():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[0].weight.requires_grad_(requires_grad=False)
    optimizer = PUBLISHED.build(model)
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
    optimizer = AdamWConfig().build(model)
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
    optimizer = AdamWConfig().build(model)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-4]
    rate = AdamWConfig().learning_rate(step=1000, epoch=0, batch_size=8)
    assert rate == pytest.approx(5e-5, rel=1e-12)  # warm-up is over; half the batch, half the rate


def test_nothing_to_train_is_an_error():
    model = nn.Linear(1, 1).requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="frozen_stages"):
        PUBLISHED.build(model)


def test_the_average_forgets_the_first_weights_of_a_short_run():
    """Without the warm-up they would be 97.6 % of it after 120 steps."""
    assert round(0.9998**120, 3) == 0.976
    left = math.prod(compute_decay(0.9998, n) for n in range(120))
    assert left == pytest.approx(1 / math.comb(129, 9), rel=1e-12)
    assert compute_decay(0.9998, 10**6) == 0.9998
    assert compute_decay(0.9, 79) == pytest.approx(80 / 89)
    assert compute_decay(0.9, 80) == 0.9


def test_what_lies_beyond_the_last_step_is_said():
    recipe = get_recipe("tiny_gumbel")
    optim = replace(recipe.optim, epochs=3, milestones=(2, 3, 8), warmup_iterations=40, warmup_ratio=0.0)
    late, warm_up, weights = list_schedule_notes(
        replace(recipe, optim=optim, loss=LDAMLossConfig(reweight_after=30)), steps_per_epoch=10
    )
    assert late.endswith(
        "the run has 3 epochs of 10 steps, and ends before the learning rate is lowered after epochs 3 and 8"
    )
    assert "optim.warmup_iterations is 40" in warm_up
    assert warm_up.endswith("at 72% of the learning rate")  # 29 of 40 steps, to the even digit
    assert "loss.reweight_after is 30" in weights
    soft = replace(recipe, loss=PCBLossConfig(start_after=40), optim=replace(recipe.optim, warmup_iterations=5))
    (targets,) = list_schedule_notes(soft, steps_per_epoch=10)
    assert "loss.start_after is 40" in targets
    assert list_schedule_notes(replace(soft, loss=PCBLossConfig(start_after=39)), steps_per_epoch=10) == []
    cosine = replace(optim, schedule="cosine", warmup_epochs=3.0)
    (warm_up,) = list_schedule_notes(replace(recipe, optim=cosine), steps_per_epoch=10)  # it has no milestones
    assert warm_up.startswith("optim.warmup_epochs is 3: ")


@pytest.mark.parametrize("name", RECIPES)
def test_no_built_in_schedule_lies_beyond_the_last_step(name):
    assert list_schedule_notes(get_recipe(name), steps_per_epoch=1001) == []


def test_a_run_of_clean_epochs_only_says_so() -> None:
    """A short first try of a strong recipe would be without copy-paste otherwise, without a word."""
    recipe = get_recipe("custom_strong")
    short = replace(recipe, optim=replace(recipe.optim, epochs=recipe.data.clean_epochs))
    (note,) = list_schedule_notes(short, steps_per_epoch=100)
    assert note.startswith("data.clean_epochs is 4: the run has 4 epochs")
    assert "without data.jitter and data.color and data.paste" in note
    assert not list_schedule_notes(recipe, steps_per_epoch=100)
    plain = replace(recipe, data=replace(recipe.data, jitter=None, color=None, paste=None))
    assert list_schedule_notes(plain, steps_per_epoch=100) == [
        "data.clean_epochs has no effect: the images have no jitter, color and paste to leave out"
    ]


@dataclass(frozen=True, kw_only=True)
class WithoutBuild(ScheduleConfig):
    lr: float = 0.1


def test_an_optimizer_of_ones_own_is_checked():
    base = get_recipe("tiny_gumbel")
    with pytest.raises(SettingError, match=r"WithoutBuild has no method build\(model\)"):
        WithoutBuild()
    with pytest.raises(SettingError, match=r"data.source is an object of the class str, which is not a dataclass"):
        replace(base.data, source="photos")
    with pytest.raises(SettingError, match=r"metrics\[0\] is an object of the class int"):
        replace(base, metrics=(3,))


def test_a_schedule_of_ones_own_needs_no_milestones():
    @dataclass(frozen=True, kw_only=True)
    class Constant(SGDConfig):
        def learning_rate(self, *, step, epoch, batch_size):
            return self.lr

    base = get_recipe("tiny_gumbel")
    assert list_schedule_notes(replace(base, optim=SGDConfig(epochs=4)), 10)
    assert not list_schedule_notes(replace(base, optim=Constant(epochs=4)), 10)
