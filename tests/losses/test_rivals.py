"""The rivals of GOL: each against its formula written out (`naive`), and against what special cases make of it."""

import dataclasses
import functools
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tailseg import losses
from tailseg.losses import (
    BAGSLossConfig,
    BaseLossConfig,
    ECMLossConfig,
    EQLv2Config,
    EqualizedFocalLossConfig,
    EquilibriumLossConfig,
    FederatedLossConfig,
    FocalLossConfig,
    LDAMLossConfig,
    LogitAdjustedSoftmaxConfig,
    PCBLossConfig,
    SeesawLossConfig,
    SigmoidCE,
    SoftmaxCE,
    VarifocalLossConfig,
)
from tailseg.structures import ClassFrequency

from . import naive
from .memory import measure_kept

ALL = 10**6  # samples everything
CONFIGS = {
    "focal": FocalLossConfig(),
    "focal, gamma 0.5, no alpha": FocalLossConfig(gamma=0.5, alpha=None),
    "focal, Gumbel": FocalLossConfig(link="gumbel"),
    "EFL": EqualizedFocalLossConfig(),
    "EFL, Gumbel, no alpha": EqualizedFocalLossConfig(gamma=1.5, alpha=None, scale=3.0, link="gumbel"),
    "varifocal": VarifocalLossConfig(),
    "varifocal, normal": VarifocalLossConfig(gamma=0.5, alpha=1.0, link="normal"),
    "EQLv2": EQLv2Config(),
    "Seesaw": SeesawLossConfig(),
    "BAGS": BAGSLossConfig(beta=ALL),
    "federated": FederatedLossConfig(num_sampled=ALL),
    "balanced softmax": LogitAdjustedSoftmaxConfig(),
    "logit adjustment, tau 0.4": LogitAdjustedSoftmaxConfig(tau=0.4),
    "ECM": ECMLossConfig(),
    "LDAM": LDAMLossConfig(),
    "LDAM-DRW": LDAMLossConfig(max_margin=0.3, scale=2.0, reweight_after=1, beta=0.99),
    "PCB": PCBLossConfig(momentum=0.7),
    "PCB, late": PCBLossConfig(alpha=0.2, start_after=1),
    "PCB, Seesaw": PCBLossConfig(base="seesaw", alpha=0.3, momentum=0.5),
    "EBL": EquilibriumLossConfig(),
}
SAMPLED = {"BAGS, sampled": BAGSLossConfig(beta=0.5), "federated, sampled": FederatedLossConfig(num_sampled=2)}
STATE = {
    "EQLv2": {"gradient_sums"},
    "EFL": {"gradient_sums"},
    "EFL, Gumbel, no alpha": {"gradient_sums"},
    "Seesaw": {"cum_samples"},
    "LDAM": {"steps"},
    "LDAM-DRW": {"steps"},
    "PCB": {"confusion", "steps"},
    "PCB, late": {"confusion", "steps"},
    "PCB, Seesaw": {"confusion", "steps", "seesaw.cum_samples"},
    "EBL": {"mean_scores"},
}


def make_pcb(frequency, base, alpha, **settings):
    seesaw = naive.Seesaw(frequency, 0.8, 2.0, 1e-2) if base == "seesaw" else None
    return naive.PCB(frequency, 0.4 if alpha is None else alpha, seesaw=seesaw, **settings)


def literal(config, frequency):
    """The naive formula with the config's settings."""
    kind = {
        FocalLossConfig: naive.Focal,
        EqualizedFocalLossConfig: naive.EqualizedFocal,
        VarifocalLossConfig: naive.Varifocal,
        EQLv2Config: naive.EQLv2,
        SeesawLossConfig: naive.Seesaw,
        BAGSLossConfig: naive.BAGS,
        FederatedLossConfig: naive.Federated,
        LogitAdjustedSoftmaxConfig: naive.LogitAdjusted,
        ECMLossConfig: naive.ECM,
        LDAMLossConfig: naive.LDAM,
        PCBLossConfig: make_pcb,
        EquilibriumLossConfig: naive.Equilibrium,
    }[type(config)]
    settings = dataclasses.asdict(config)
    unused = {field.name for field in dataclasses.fields(BaseLossConfig)} | ({"beta"} if kind is naive.BAGS else set())
    if kind is naive.Federated:
        unused |= {"num_sampled", "power"}
    unused |= {naive.EQLv2: {"background"}, naive.Varifocal: {"on_positives", "constant_factor"}}.get(kind, set())
    return kind(frequency, **{key: value for key, value in settings.items() if key not in unused})


every_formula = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
every_loss = pytest.mark.parametrize("config", (CONFIGS | SAMPLED).values(), ids=(CONFIGS | SAMPLED).keys())
every_state = pytest.mark.parametrize("name", STATE)


def long_tail(num_classes):
    """Counts from 5,000 objects down to 1, evenly on a logarithmic scale; about 0.6 images an object."""
    steps = torch.linspace(1, 0, num_classes) if num_classes > 1 else torch.ones(1)
    objects = (5000**steps).round().long()
    return ClassFrequency.from_counts((0.6 * objects).ceil().long(), objects, 6000)


def problem(loss, num_regions, seed=0, scale=1.5):
    """Random logits in float64 within the naive formulas' reach, and labels, background included."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_regions, loss.num_logits, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, loss.num_classes + 1, (num_regions,), generator=generator)
    return logits, labels


def total(loss, logits, labels):
    """All terms of the loss together, its draws repeatable."""
    torch.manual_seed(7)
    return sum(loss(logits, labels).values())


def value_and_gradient(function, logits, labels):
    logits = logits.clone().requires_grad_()
    value = function(logits, labels)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def of(loss):
    return lambda logits, labels: total(loss, logits, labels)


def warmed(config, num_classes, steps=2):
    """The loss after some training, in evaluation mode: its state stays as it is."""
    loss = config.build(long_tail(num_classes))
    for seed in range(steps):
        total(loss, *problem(loss, 12, seed=100 + seed))
        loss.step_taken()
    return loss.eval()


def assert_equal(ours, theirs, rtol=1e-9):
    """Values and gradients agree; entries that cancel to nearly 0 are held to the largest gradient's digits."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=rtol, atol=0)
    torch.testing.assert_close(ours[1], theirs[1], rtol=rtol, atol=1e-3 * rtol * float(theirs[1].abs().max()))


@every_formula
@pytest.mark.parametrize(
    ("num_classes", "num_regions"), [(1, 12), (6, 12), (1203, 6), pytest.param(21841, 3, marks=pytest.mark.slow)]
)
def test_agrees_with_the_literal_formula_step_after_step(config, num_classes, num_regions):
    frequency = long_tail(num_classes)
    loss, formula = config.build(frequency), literal(config, frequency)
    for seed in range(3):
        logits, labels = problem(loss, num_regions, seed)
        labels[0] = num_classes - 1
        # ECM's log((1 + a) / a), a up to 2e8, has eight digits as it is written.
        assert_equal(value_and_gradient(of(loss), logits, labels), value_and_gradient(formula, logits, labels), 1e-8)
        loss.step_taken()


@every_loss
def test_gradcheck_of_both_orders(config):
    if isinstance(config, SeesawLossConfig):  # its compensation is without gradient on purpose
        config = dataclasses.replace(config, q=0.0)
    loss = warmed(config, 4)
    if getattr(loss, "seesaw", None):
        loss.seesaw = SeesawLossConfig(q=0.0).build(long_tail(4)).eval()
    logits, labels = problem(loss, 7, scale=3.0)
    labels[0] = loss.num_classes
    assert torch.autograd.gradcheck(lambda x: total(loss, x, labels), logits.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: total(loss, x, labels), logits)


@every_loss
def test_weight_multiplies_the_loss(config):
    loss, heavier = (dataclasses.replace(config, weight=w).build(long_tail(6)) for w in (1.0, 2.5))
    logits, labels = problem(loss, 9)
    torch.testing.assert_close(total(heavier, logits, labels), 2.5 * total(loss, logits, labels))


@every_formula
def test_is_the_mean_over_regions(config):
    loss = warmed(config, 6)
    logits, labels = problem(loss, 6)
    if isinstance(config, BAGSLossConfig):
        labels[:] = 2  # a group without regions of its own costs nothing: rows differ in their groups otherwise
    if isinstance(config, FederatedLossConfig):
        labels[:] = 0
    rows = torch.stack([total(loss, logits[i : i + 1], labels[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(total(loss, logits, labels), rows.mean())


@every_formula
def test_permuting_the_classes_changes_nothing(config):
    """Neither in a loss's first step nor in its third."""
    num_classes = 6
    frequency = long_tail(num_classes)
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(1))
    position = torch.cat([order.argsort(), torch.tensor([num_classes])])
    permuted = ClassFrequency.from_counts(frequency.image_counts[order], frequency.instance_counts[order], 6000)
    loss, other = config.build(frequency), config.build(permuted)
    columns = torch.cat([order, torch.arange(num_classes, loss.num_logits)])
    for seed in range(3):
        logits, labels = problem(loss, 10, seed)
        torch.testing.assert_close(total(other, logits[:, columns], position[labels]), total(loss, logits, labels))
    torch.testing.assert_close(other.scores(logits[:, columns]), loss.scores(logits)[:, order])


@every_loss
@pytest.mark.parametrize("num_classes", [1, 1203])
def test_no_regions_cost_nothing_keep_the_graph_and_teach_nothing(config, num_classes):
    loss = warmed(config, num_classes).train()
    before = {key: value.clone() for key, value in loss.state_dict().items() if key != "steps"}
    logits = torch.zeros(0, loss.num_logits, requires_grad=True)
    value = total(loss, logits, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert loss.scores(logits).shape == (0, num_classes)
    for key, former in before.items():
        assert torch.equal(loss.state_dict()[key], former)


@every_loss
@pytest.mark.parametrize("num_classes", [1, 1203])
def test_background_alone_never_raises_a_class(config, num_classes):
    loss = warmed(config, num_classes)
    labels = torch.full((5,), num_classes)
    value, gradient = value_and_gradient(of(loss), problem(loss, 5)[0], labels)
    assert value > 0
    assert (gradient[:, :num_classes] >= 0).all()
    # Descent lowers some scores, be it through the classes' logits or through the objectness.
    logits, _ = problem(loss, 5)
    assert (loss.scores(logits - 1e-3 * gradient).sum() < loss.scores(logits).sum()).item()


@every_loss
@pytest.mark.parametrize("label", [-1, 7, 10**9])
def test_labels_out_of_range_are_refused_and_leave_the_state_alone(config, label):
    loss = config.build(long_tail(6))
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    with pytest.raises(ValueError, match=r"0 \.\. 6 \(6 is background\).*contiguous labels"):
        loss(torch.zeros(2, loss.num_logits), torch.tensor([0, label]))
    for key, value in before.items():
        assert torch.equal(loss.state_dict()[key], value)


@every_loss
def test_logits_of_the_wrong_width_are_refused(config):
    loss = config.build(long_tail(6))
    with pytest.raises(ValueError, match="6 classes expects logits"):
        loss(torch.zeros(2, loss.num_logits + 1), torch.tensor([0, 1]))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("extreme", [80.0, 1e4])
def test_extreme_logits_stay_finite(config, dtype, extreme):
    loss = config.build(long_tail(3))
    alternating = extreme * (-1.0) ** torch.arange(loss.num_logits)
    rows = [torch.full_like(alternating, extreme), torch.full_like(alternating, -extreme), alternating, -alternating]
    logits = torch.stack(rows).repeat_interleave(4, dim=0).to(dtype)
    labels = torch.arange(4).repeat(4)
    for _ in range(3):  # the second step and the third use a state that saw these logits
        value, gradient = value_and_gradient(of(loss), logits, labels)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()
    scores = loss.scores(logits)
    assert scores.dtype == torch.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert all(value.isfinite().all() for value in loss.state_dict().values())


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_half_precision_logits_are_computed_in_float32(config, dtype, autocast):
    loss = warmed(config, 20)
    logits, labels = problem(loss, 32)
    half = logits.to(dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        value, gradient = value_and_gradient(of(loss), half, labels)
        scores = loss.scores(half)
    expected, expected_gradient = value_and_gradient(of(loss), half.float(), labels)
    assert value.dtype == scores.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient.to(dtype))
    assert torch.equal(scores, loss.scores(half.float()))


@every_loss
def test_float32_is_within_1e_6_of_float64(config):
    loss = warmed(config, 1203)
    logits, labels = problem(loss, 64, scale=3.0)
    logits = logits.float()
    value, gradient = value_and_gradient(of(loss), logits, labels)
    expected, expected_gradient = value_and_gradient(of(loss), logits.double(), labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-9)


@every_loss
def test_keeps_one_tensor_of_the_logits_size_for_the_backward_pass_at_most(config):
    """The logits are the caller's; softmaxes also keep their logarithm, ECM its shifted logits, PCB its target.

    PCB over Seesaw keeps two, the target and the shifted logits.
    """
    loss = warmed(config, 1203)
    allowed = 2.1 if getattr(config, "base", None) == "seesaw" else 1.1
    logits, labels = problem(loss, 64)
    logits.requires_grad_()
    assert measure_kept(lambda: total(loss, logits, labels), logits) < allowed


@pytest.mark.slow
def test_compiles_without_a_graph_break(tmp_path):
    """In a process of its own: the tests' checks of shapes are no code to compile."""
    configs = tmp_path / "configs.pkl"
    configs.write_bytes(pickle.dumps((CONFIGS | SAMPLED, long_tail(6))))
    outcome = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compiled.py")), str(configs)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines() == list(CONFIGS | SAMPLED)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(CONFIGS | SAMPLED)),
    num_classes=st.integers(1, 40),
    num_regions=st.integers(0, 12),
    scale=st.sampled_from([0.0, 1.0, 10.0, 80.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_scale_gives_a_finite_loss_and_gradient(name, num_classes, num_regions, scale, seed):
    loss = (CONFIGS | SAMPLED)[name].build(long_tail(num_classes))
    for step in range(2):
        logits, labels = problem(loss, num_regions, seed + step, scale)
        value, gradient = value_and_gradient(of(loss), logits.float(), labels)
        assert value.isfinite()
        assert value >= 0
        assert gradient.isfinite().all()
    scores = loss.scores(logits)
    assert scores.shape == (num_regions, num_classes)
    assert ((scores >= 0) & (scores <= 1)).all()


@every_loss
def test_classes_without_images_are_no_trouble(config):
    frequency = ClassFrequency.from_counts(torch.tensor([0, 3, 0]), torch.tensor([0, 9, 0]), 3)
    loss = config.build(frequency)
    logits, labels = problem(loss, 8)
    value, gradient = value_and_gradient(of(loss), logits, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_not_a_number_reaches_the_loss(config):
    loss = config.build(long_tail(3))
    logits = torch.zeros(4, loss.num_logits)
    logits[1, 0] = torch.nan
    assert total(loss, logits, torch.tensor([0, 3, 1, 2])).isnan()


@every_loss
def test_a_seed_repeats_the_loss_to_the_bit(config):
    first, second = config.build(long_tail(40)), config.build(long_tail(40))
    for seed in range(3):
        logits, labels = problem(first, 16, seed)
        for ours, theirs in zip(*(value_and_gradient(of(x), logits, labels) for x in (first, second)), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("config", SAMPLED.values(), ids=SAMPLED.keys())
def test_without_a_seed_each_call_draws_again(config):
    loss = config.build(long_tail(40))
    logits, labels = problem(loss, 16)
    labels[:] = loss.num_classes
    labels[:2] = 39  # leaves one other region to draw in its group, and one other class
    torch.manual_seed(0)
    values = {sum(loss(logits, labels).values()).item() for _ in range(10)}
    assert len(values) > 5


@every_loss
def test_the_initial_bias_has_an_entry_a_logit(config):
    loss = dataclasses.replace(config, init_bias=-1.25).build(long_tail(6))
    assert torch.equal(loss.init_bias(), torch.full((loss.num_logits,), -1.25))


SHARED = {field.name for field in dataclasses.fields(BaseLossConfig)}
VARIED = {
    FocalLossConfig(): {"gamma": 1.0, "alpha": 0.5, "link": "gumbel"},
    EqualizedFocalLossConfig(): {"gamma": 1.0, "alpha": 0.5, "scale": 4.0, "link": "gumbel"},
    EQLv2Config(): {"gamma": 6.0, "mu": 0.1, "alpha": 1.0, "background": False},
    SeesawLossConfig(): {"p": 0.1, "q": 1.0, "eps": 0.1},
    BAGSLossConfig(): {"edges": (50,), "beta": 0.1},
    FederatedLossConfig(num_sampled=30): {"num_sampled": 25, "power": 2.0},
    LogitAdjustedSoftmaxConfig(): {"tau": 0.5},
    ECMLossConfig(): {"background_ratio": 1.0},
    LDAMLossConfig(reweight_after=1): {"max_margin": 0.1, "scale": 2.0, "reweight_after": None, "beta": 0.5},
    PCBLossConfig(): {"base": "seesaw", "alpha": 0.1, "momentum": 0.5, "start_after": 5},
    EquilibriumLossConfig(): {"momentum": 0.5, "first_score": 0.2, "background_score": 0.2},
}


@pytest.mark.parametrize("config", VARIED, ids=lambda config: type(config).__name__)
def test_every_setting_of_a_config_has_its_effect(config):
    fields = {field.name for field in dataclasses.fields(config)}
    assert fields == VARIED[config].keys() | SHARED

    def trained_value(config):
        loss = warmed(config, 40)
        return total(loss, *problem(loss, 20, scale=4.0)).item()

    usual = trained_value(config)
    for name, value in VARIED[config].items():
        assert trained_value(dataclasses.replace(config, **{name: value})) != pytest.approx(usual, rel=1e-6), name


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (FocalLossConfig, {"gamma": -1.0}),
        (FocalLossConfig, {"alpha": 1.5}),
        (FederatedLossConfig, {"num_sampled": 0}),
        (ECMLossConfig, {"background_ratio": 0.0}),
        (LDAMLossConfig, {"max_margin": -0.1}),
        (LDAMLossConfig, {"scale": 0.0}),
        (LDAMLossConfig, {"beta": 1.0}),
        (PCBLossConfig, {"alpha": 1.5}),
        (PCBLossConfig, {"momentum": 1.0}),
        (EquilibriumLossConfig, {"first_score": 0.0}),
        (EquilibriumLossConfig, {"background_score": 1.5}),
        (BAGSLossConfig, {"edges": (100, 10)}),
        (BAGSLossConfig, {"beta": -1.0}),
        (SeesawLossConfig, {"p": -0.1}),
        (SeesawLossConfig, {"q": -0.1}),
        (SeesawLossConfig, {"eps": 0.0}),
        (EQLv2Config, {"gamma": -1.0}),
        (EQLv2Config, {"alpha": -1.0}),
    ],
)
def test_settings_out_of_range_are_refused(config, settings):
    """By the config, and by the loss itself for those who make it without one."""
    for make in (config, functools.partial(getattr(losses, config.loss), long_tail(3))):
        with pytest.raises(ValueError, match=f"loss.{next(iter(settings))} "):
            make(**settings)


# What each becomes in special cases.


def equal_counts(num_classes):
    counts = torch.full((num_classes,), 30)
    return ClassFrequency.from_counts(counts, 2 * counts, 1000)


def softmax_ce(logits, labels):
    return SoftmaxCE(logits.shape[1] - 1)(logits, labels)["loss_cls"]


def sigmoid_ce(logits, labels):
    return SigmoidCE(logits.shape[1])(logits, labels)["loss_cls"]


SPECIAL_CASES = {
    "focal, gamma 0 and no alpha": (FocalLossConfig(gamma=0.0, alpha=None), long_tail, sigmoid_ce),
    "focal, gamma 0 and alpha 1/2": (
        FocalLossConfig(gamma=0.0, alpha=0.5),
        long_tail,
        lambda logits, labels: sigmoid_ce(logits, labels) / 2,
    ),
    "federated over all classes": (FederatedLossConfig(num_sampled=ALL), long_tail, sigmoid_ce),
    "EQLv2's first step": (
        EQLv2Config(),
        long_tail,
        lambda logits, labels: (
            F.binary_cross_entropy_with_logits(
                logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype), reduction="sum"
            )
            / len(labels)
        ),
    ),
    "balanced softmax with equal counts": (LogitAdjustedSoftmaxConfig(), equal_counts, softmax_ce),
    "logit adjustment with tau 0": (LogitAdjustedSoftmaxConfig(tau=0.0), long_tail, softmax_ce),
    "PCB with alpha 0": (PCBLossConfig(alpha=0.0), long_tail, softmax_ce),
    "PCB before it starts": (PCBLossConfig(start_after=1), long_tail, softmax_ce),
    "EBL before it saw a class": (EquilibriumLossConfig(momentum=1 - 1e-12), long_tail, softmax_ce),
    "LDAM without margin": (LDAMLossConfig(max_margin=0.0), long_tail, softmax_ce),
    "LDAM-DRW without margin and with equal counts": (
        LDAMLossConfig(max_margin=0.0, reweight_after=0),
        equal_counts,
        softmax_ce,
    ),
    "Seesaw with p = q = 0": (
        SeesawLossConfig(p=0.0, q=0.0),
        long_tail,
        lambda logits, labels: (
            (
                F.cross_entropy(logits[labels < 5, :-2], labels[labels < 5], reduction="sum")
                + F.cross_entropy(logits[:, -2:], (labels == 5).long(), reduction="sum")
            )
            / len(labels)
        ),
    ),
    "BAGS with one group": (
        BAGSLossConfig(edges=(), beta=ALL),
        long_tail,
        lambda logits, labels: (
            F.cross_entropy(logits[:, :-2], labels) + F.cross_entropy(logits[:, -2:], (labels == 5).long())
        ),
    ),
}


@pytest.mark.parametrize(("config", "counts", "plain"), SPECIAL_CASES.values(), ids=SPECIAL_CASES.keys())
def test_becomes_plain_cross_entropy(config, counts, plain):
    loss = config.build(counts(5))
    logits, labels = problem(loss, 16, scale=3.0)
    assert_equal(value_and_gradient(of(loss), logits, labels), value_and_gradient(plain, logits, labels))


def test_ecm_without_imbalance_is_binary_cross_entropy_of_twice_the_logit():
    """One class as frequent as background: no margin, and lambda = log 2."""
    loss = ECMLossConfig(background_ratio=1.0).build(equal_counts(1))
    logits, labels = problem(loss, 16)

    def plain(logits, labels):
        target = F.one_hot(labels, 2).double()
        return math.log(2) * F.binary_cross_entropy_with_logits(2 * logits, target, reduction="sum") / len(labels)

    assert_equal(value_and_gradient(of(loss), logits, labels), value_and_gradient(plain, logits, labels))


def test_bags_scores_with_one_group_are_a_softmax_times_the_objectness():
    loss = BAGSLossConfig(edges=()).build(long_tail(5))
    logits, _ = problem(loss, 7)
    expected = logits[:, :-2].softmax(1)[:, :-1] * torch.sigmoid(logits[:, -2] - logits[:, -1])[:, None]
    torch.testing.assert_close(loss.scores(logits), expected)


# Scores, by hand.


def test_scores_by_hand():
    """One class; every logit 0 but the last, whose odds are 3 to 1 for background."""
    frequency = long_tail(1)
    last = math.log(3)
    expected = {
        "focal": ([last], 3 / 4),
        "federated": ([last], 3 / 4),
        "EQLv2": ([0.0, last], 1 / 2 * 1 / 4),
        "ECM": ([0.0, last], 1 / 2 * 1 / 4),
        "balanced softmax": ([0.0, last], 1 / 4),
        "LDAM": ([0.0, last], 1 / 4),
        "LDAM-DRW": ([0.0, last], 1 / 10),  # scale 2: odds 9 to 1
        "PCB": ([0.0, last], 1 / 4),
        "PCB, Seesaw": ([0.0, 0.0, last], 1 * 1 / 4),
        "EBL": ([0.0, last], 1 / 4),
        "Seesaw": ([0.0, 0.0, last], 1 * 1 / 4),
        "BAGS": ([0.0, 0.0, 0.0, last], 1 / 2 * 1 / 4),
    }
    for name, (logits, score) in expected.items():
        loss = CONFIGS[name].build(frequency)
        assert loss.scores(torch.tensor([logits])).item() == pytest.approx(score), name


# What each is for.


def test_eqlv2_spares_a_class_that_only_ever_was_negative():
    loss = EQLv2Config().build(long_tail(3))
    labels = torch.tensor([0, 1, 3, 3])
    for _ in range(5):
        total(loss, torch.zeros(4, 4), labels)
    positive, negative = loss.class_weights()
    starved = 1 / (1 + math.exp(12 * 0.8))
    assert negative[2].item() == pytest.approx(starved)
    assert positive[2].item() == pytest.approx(1 + 4 * (1 - starved))
    assert (negative[3], positive[3]) == (1, 1)
    assert starved < negative[0] < 1


def test_seesaw_mitigates_by_hand():
    """900 regions of class 0 and 9 of class 1: class 0 pushes class 1 by 0.01^0.5 = a tenth; the reverse is whole."""
    loss = SeesawLossConfig(p=0.5, q=0.0).build(long_tail(2)).eval()
    loss.cum_samples.copy_(torch.tensor([900, 9, 5000]))
    logits = torch.zeros(1, 4)
    frequent = loss(logits, torch.tensor([0]))["loss_cls"].item()
    rare = loss(logits, torch.tensor([1]))["loss_cls"].item()
    assert frequent == pytest.approx(math.log(1 + 0.1))
    assert rare == pytest.approx(math.log(1 + 1))


def test_seesaw_compensates_by_hand():
    """Scores 3/4 and 1/4: the wrong class weighs (3 / 1)^2 = 9 times its 3."""
    loss = SeesawLossConfig(p=0.8, q=2.0).build(long_tail(2)).eval()
    logits = torch.tensor([[math.log(3), 0.0, 0.0, 0.0]])
    assert loss(logits, torch.tensor([1]))["loss_cls"].item() == pytest.approx(math.log(1 + 9 * 3))
    assert loss(logits, torch.tensor([0]))["loss_cls"].item() == pytest.approx(math.log(1 + 1 / 3))


def test_seesaw_counts_every_region_exactly():
    loss = SeesawLossConfig().build(long_tail(3))
    loss.cum_samples.fill_(2**24)  # where float32 stops counting
    total(loss, torch.zeros(5, 5), torch.tensor([0, 0, 1, 3, 3]))
    assert (loss.cum_samples - 2**24).tolist() == [2, 1, 0, 2]


def test_federated_asks_about_the_classes_present_and_enough_others():
    frequency = ClassFrequency.from_counts(torch.tensor([5, 0, 9, 0, 4, 7, 1, 2]), torch.full((8,), 9), 100)
    loss = FederatedLossConfig(num_sampled=4).build(frequency)
    logits = torch.zeros(3, 8, requires_grad=True)
    for seed in range(50):
        torch.manual_seed(seed)
        chosen = loss.sample(torch.tensor([1, 8, 2]))
        assert chosen.sum() == 4
        assert chosen[[1, 2]].all()
        assert not chosen[3]
        torch.manual_seed(seed)
        (gradient,) = torch.autograd.grad(loss(logits, torch.tensor([1, 8, 2]))["loss_cls"], logits)
        assert torch.equal((gradient != 0).any(0), chosen)
    many = torch.tensor([0, 1, 2, 3, 4, 5])
    assert loss.sample(many).nonzero().squeeze(1).tolist() == many.tolist()


def test_federated_draws_by_the_root_of_the_image_count():
    frequency = ClassFrequency.from_counts(torch.tensor([1, 16, 0, 4]), torch.full((4,), 9), 100)
    loss = FederatedLossConfig(num_sampled=1).build(frequency)
    torch.manual_seed(0)
    draws = 4000
    counts = sum(loss.sample(torch.tensor([4])).double() for _ in range(draws))
    expected = torch.tensor([1.0, 4, 0, 2], dtype=torch.float64) / 7
    # Four standard deviations of a binomial.
    assert ((counts / draws - expected).abs() <= 4 * (expected * (1 - expected) / draws).sqrt()).all()


def test_bags_groups_by_objects_and_draws_others_in_proportion():
    """Classes of 5, 10, 99 and 1,000 objects make three groups, [5], [10, 99], [1000]; 0.5 others for each region."""
    frequency = ClassFrequency.from_counts(torch.ones(4), torch.tensor([5, 10, 99, 1000]), 100)
    loss = BAGSLossConfig(beta=0.5).build(frequency)
    assert loss.num_logits == 4 + 3 + 2
    labels = torch.tensor([0, 1, 2, 2, 1, 4, 4, 4, 4, 4])
    torch.manual_seed(0)
    drawn = torch.stack([loss.sample(labels) for _ in range(500)])
    # One region of group 0 allows no other (0.5 is rounded down), four of group 1 two; group 2 has no region.
    assert (drawn.sum(2) == torch.tensor([1, 6, 0])).all()
    assert drawn[:, 0, 0].all()
    assert drawn[:, 1, 1:5].all()
    others = drawn[:, 1, [0, 5, 6, 7, 8, 9]].double().mean(0)
    # Each of the six is drawn with probability 1/3; four standard deviations.
    assert ((others - 1 / 3).abs() < 4 * math.sqrt(2 / 9 / 500)).all()


def test_bags_sampled_is_the_mean_over_its_sample():
    loss = BAGSLossConfig(edges=(), beta=1.0).build(long_tail(3))
    logits, labels = problem(loss, 10)
    labels = torch.tensor([0, 1, 2, 3, 3, 3, 3, 3, 3, 3])
    torch.manual_seed(3)
    chosen = loss.sample(labels)[0]
    torch.manual_seed(3)
    value = loss(logits, labels)["loss_cls"]
    expected = F.cross_entropy(logits[chosen, :-2], labels[chosen])
    expected = expected + F.cross_entropy(logits[:, -2:], (labels == 3).long())
    assert chosen.sum() == 6
    torch.testing.assert_close(value, expected)


def test_ldam_takes_its_margin_from_the_label_alone():
    """Counts 1 and 16: margins 0.5 and 0.25, none for background."""
    frequency = ClassFrequency.from_counts(torch.tensor([1, 9]), torch.tensor([1, 16]), 100)
    loss = LDAMLossConfig().build(frequency)
    for label, margin in enumerate([0.5, 0.25, 0.0]):
        value = loss(torch.zeros(1, 3), torch.tensor([label]))["loss_cls"].item()
        assert value == pytest.approx(math.log(1 + 2 * math.exp(margin)))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_ldam_counts_steps_whatever_they_are_made_of(parts):
    """Class weights set in after two steps, whether a step's regions come at once or in parts."""
    frequency = ClassFrequency.from_counts(torch.tensor([500, 3]), torch.tensor([900, 3]), 600)
    loss = LDAMLossConfig(reweight_after=2).build(frequency)
    logits, labels = torch.zeros(4, 3), torch.tensor([0, 1, 2, 2])
    values = []
    for _ in range(3):
        pieces = zip(logits.chunk(parts), labels.chunk(parts), strict=True)
        values.append(sum(loss(*piece)["loss_cls"].item() for piece in pieces) / parts)
        loss.step_taken()
    assert int(loss.steps) == 3
    unweighed = LDAMLossConfig().build(frequency)(logits, labels)["loss_cls"].item()
    weighed = LDAMLossConfig(reweight_after=0).build(frequency)(logits, labels)["loss_cls"].item()
    assert values == pytest.approx([unweighed, unweighed, weighed])
    assert weighed != pytest.approx(unweighed)


def test_pcb_gives_a_part_to_the_classes_that_are_taken_for_the_label():
    """Objects of class 0 score 3/4 and 1/4, those of class 1 1/2 each: of class 1's column, class 0 has 1/3."""
    loss = PCBLossConfig(alpha=0.6).build(long_tail(2))
    logits = torch.tensor([[math.log(3), 0.0, -5.0], [0.0, 0.0, -5.0]])
    value = loss(logits, torch.tensor([0, 1]))["loss_cls"].item()
    torch.testing.assert_close(loss.confusion, torch.tensor([[3 / 4, 1 / 4], [1 / 2, 1 / 2]]).double())
    p = logits.log_softmax(1)
    own = torch.stack([0.4 * p[0, 0] + 0.6 * (3 / 5 * p[0, 0] + 2 / 5 * p[0, 1])])
    other = torch.stack([0.4 * p[1, 1] + 0.6 * (1 / 3 * p[1, 0] + 2 / 3 * p[1, 1])])
    assert value == pytest.approx(-(own + other).item() / 2)


def test_pcb_gives_what_a_hidden_class_would_get_to_the_label():
    loss = PCBLossConfig(alpha=1.0).build(long_tail(3)).eval()
    loss.confusion.copy_(torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]))
    hidden = torch.tensor([[0.0, 0.0, losses.unverified.HIDDEN, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(hidden, torch.tensor([0]))["loss_cls"], hidden)
    # Class 0's column is 0.5, 0.25, 0.5; class 2 is hidden.
    assert gradient[0].tolist() == pytest.approx([1 / 3 - 4 / 5, 1 / 3 - 1 / 5, 0.0, 1 / 3])


def test_ebl_margin_is_the_ratio_of_the_mean_scores():
    """Class 0 is well known, class 1 is not: the margin of class 1 against class 0 is log 9."""
    loss = EquilibriumLossConfig(background_score=0.1).build(long_tail(2)).eval()
    loss.mean_scores.copy_(torch.tensor([0.9, 0.1]))
    for label, mean in enumerate([0.9, 0.1, 0.1]):
        value = loss(torch.zeros(1, 3), torch.tensor([label]))["loss_cls"].item()
        assert value == pytest.approx(math.log(1.1 / mean))


def test_ebl_moves_the_mean_score_once_a_call_by_the_mean_over_regions():
    loss = EquilibriumLossConfig().build(long_tail(2))
    logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(8), 0.0, 0.0], [0.0, 0.0, 0.0]])
    loss(logits, torch.tensor([0, 0, 2]))
    assert loss.mean_scores.tolist() == pytest.approx([0.9 * 0.01 + 0.1 * (1 / 3 + 8 / 10) / 2, 0.01])


# State.


@every_loss
def test_the_state_dict_holds_the_state_and_no_table(config):
    names = {name for name, other in (CONFIGS | SAMPLED).items() if other is config}
    assert config.build(long_tail(6)).state_dict().keys() == STATE.get(names.pop(), set())


@every_state
def test_training_goes_on_from_a_saved_state(name, tmp_path):
    first = CONFIGS[name].build(long_tail(6))
    for seed in range(2):
        total(first, *problem(first, 12, seed))
        first.step_taken()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = CONFIGS[name].build(long_tail(6))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in (2, 3):
        logits, labels = problem(first, 12, seed)
        assert torch.equal(total(second, logits, labels), total(first, logits, labels))
        first.step_taken()
        second.step_taken()
    assert all(torch.equal(second.state_dict()[key], value) for key, value in first.state_dict().items())


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_type_changes_no_table_and_no_state(config, dtype):
    """float16 holds no sum of gradients above 65,504, and bfloat16 two digits of a margin."""
    loss, moved = (config.build(long_tail(6)) for _ in range(2))
    for seed in range(2):
        logits, labels = problem(loss, 12, seed)
        torch.nn.Sequential(moved).to(dtype)
        assert torch.equal(total(moved, logits, labels), total(loss, logits, labels))
        moved.step_taken()
        loss.step_taken()
    assert [b.dtype for b in moved.buffers()] == [b.dtype for b in loss.buffers()]
    constants = [getattr(moved, name) for name in moved.constant_names]
    assert [c.dtype for c in constants] == [getattr(loss, name).dtype for name in loss.constant_names]
    moved.to("meta")
    assert {buffer.device.type for buffer in moved.buffers()} <= {"meta"}
    assert {getattr(moved, name).device.type for name in moved.constant_names} <= {"meta"}
    assert moved.state_dict().keys() == loss.state_dict().keys()


@every_loss
@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)])
def test_an_average_of_models_scores_as_the_models_do(config, average):
    """Averages compute with buffers: rounded indices of classes would be other classes."""
    loss = config.build(long_tail(12))
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), loss)
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    for _ in range(20):
        averaged.update_parameters(model)
    other = averaged.module[1]
    logits, labels = problem(loss, 12)
    assert torch.equal(other.scores(logits), loss.scores(logits))
    assert all(torch.equal(getattr(other, name), getattr(loss, name)) for name in loss.constant_names)
    assert total(other, logits, labels).isfinite()


@every_state
def test_evaluation_leaves_the_state_alone(name):
    loss = warmed(CONFIGS[name], 6)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    total(loss, *problem(loss, 12, seed=5))
    assert all(torch.equal(loss.state_dict()[key], value) for key, value in before.items())
    total(loss.train(), *problem(loss, 12, seed=5))
    loss.step_taken()
    assert not all(torch.equal(loss.state_dict()[key], value) for key, value in before.items())
