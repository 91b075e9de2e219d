"""What every classification loss promises: shapes, values, gradients, precision, refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailseg.losses import (
    ClassificationLoss,
    GumbelCE,
    GumbelCEConfig,
    SigmoidCE,
    SigmoidCEConfig,
    SoftmaxCE,
    SoftmaxCEConfig,
    build_loss,
)
from tailseg.structures import ClassFrequency

LOSSES = {
    "gumbel": GumbelCE,
    "gumbel-published": lambda num_classes, **kwargs: GumbelCE(num_classes, published="2022", **kwargs),
    "sigmoid": SigmoidCE,
    "sigmoid-background": lambda num_classes, **kwargs: SigmoidCE(num_classes, background=True, **kwargs),
    "softmax": SoftmaxCE,
}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES.keys())
every_exact_loss = pytest.mark.parametrize(
    "make",
    [LOSSES[name] for name in ("gumbel", "sigmoid", "sigmoid-background", "softmax")],
    ids=["gumbel", "sigmoid", "sigmoid-background", "softmax"],
)


def problem(loss: ClassificationLoss, num_regions: int, seed: int = 0, scale: float = 3.0):
    """Random logits and labels, background included."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_regions, loss.num_logits, generator=generator)
    labels = torch.randint(0, loss.num_classes + 1, (num_regions,), generator=generator)
    return logits, labels


def value_and_gradient(loss: ClassificationLoss, logits, labels):
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)["loss_cls"]
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def literal(loss: ClassificationLoss, logits, labels):
    """Each loss as its formula is written, in float64, for moderate logits."""
    q = logits.double()
    if isinstance(loss, SoftmaxCE):
        return -(q.exp() / q.exp().sum(1, keepdim=True)).log()[torch.arange(len(q)), labels].mean()
    p = torch.exp(-torch.exp(-q)) if isinstance(loss, GumbelCE) else 1 / (1 + torch.exp(-q))
    y = torch.eye(loss.num_classes + 1, dtype=torch.float64)[labels][:, : loss.num_logits]
    return -(y * p.log() + (1 - y) * (1 - p).log()).sum() / len(q)


@every_exact_loss
@pytest.mark.parametrize("num_classes", [1, 5, 1203])
def test_agrees_with_the_literal_formula_in_float64(make, num_classes):
    loss = make(num_classes)
    logits, labels = problem(loss, 16, scale=1.5)
    logits = logits.double().clamp(-5, 12)  # where the literal formula keeps its digits
    value, gradient = value_and_gradient(loss, logits, labels)
    logits.requires_grad_()
    expected = literal(loss, logits, labels)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=0)
    # 1 - p at q = 12 has lost 5 of 16 digits in the literal formula.
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@every_exact_loss
def test_gradcheck_of_both_orders(make):
    loss = make(4)
    logits, labels = problem(loss, 7)
    labels[0] = loss.num_classes
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels)["loss_cls"], logits)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, labels)["loss_cls"], logits)


@every_loss
def test_is_the_mean_over_regions_times_its_weight(make):
    loss = make(5)
    logits, labels = problem(loss, 6, scale=0.5)
    whole = loss(logits, labels)["loss_cls"]
    rows = torch.stack([loss(logits[i : i + 1], labels[i : i + 1])["loss_cls"] for i in range(6)])
    torch.testing.assert_close(whole, rows.mean())
    torch.testing.assert_close(make(5, weight=2.5)(logits, labels)["loss_cls"], 2.5 * whole)


@every_loss
def test_permuting_the_classes_changes_nothing(make):
    loss = make(5)
    logits, labels = problem(loss, 8, scale=1.0)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    columns = torch.cat([order, torch.arange(5, loss.num_logits)])
    position = torch.cat([order.argsort(), torch.tensor([5])])
    permuted = loss(logits[:, columns], position[labels])["loss_cls"]
    torch.testing.assert_close(permuted, loss(logits, labels)["loss_cls"])
    torch.testing.assert_close(loss.scores(logits[:, columns]), loss.scores(logits)[:, order])


@every_loss
@pytest.mark.parametrize("num_classes", [1, 1203])
def test_no_regions_cost_nothing_and_keep_the_graph(make, num_classes):
    loss = make(num_classes)
    logits = torch.zeros(0, loss.num_logits, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.int64))["loss_cls"]
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert loss.scores(logits).shape == (0, num_classes)


@every_loss
@pytest.mark.parametrize("num_classes", [1, 1203])
def test_background_alone_is_a_loss_like_any_other(make, num_classes):
    loss = make(num_classes)
    value, gradient = value_and_gradient(
        loss, torch.zeros(3, loss.num_logits), torch.full((3,), num_classes, dtype=torch.int64)
    )
    assert value > 0
    # Descent lowers every class (by a gradient above 0), unless the published clamp at 20 has killed it (defect 4).
    if value < 20:
        assert (gradient[:, :num_classes] > 0).all()


@every_loss
def test_shapes_bias_and_scores(make):
    loss = make(5, init_bias=-1.25)
    extra = 0 if make is SigmoidCE else 1
    assert loss.num_logits == 5 + extra
    torch.testing.assert_close(loss.init_bias(), torch.full((5 + extra,), -1.25))
    logits, _ = problem(loss, 9)
    scores = loss.scores(logits)
    assert scores.shape == (9, 5)
    assert ((scores >= 0) & (scores <= 1)).all()


@every_loss
@pytest.mark.parametrize("label", [-1, 6, 10**9])
def test_labels_out_of_range_are_refused(make, label):
    loss = make(5)
    with pytest.raises(ValueError, match=r"0 \.\. 5 \(5 is background\).*contiguous labels"):
        loss(torch.zeros(2, loss.num_logits), torch.tensor([0, label]))


@every_loss
def test_shapes_and_types_that_disagree_are_refused(make):
    loss = make(5)
    wrong_width = torch.zeros(2, loss.num_logits + 1)
    with pytest.raises(ValueError, match="5 classes expects logits"):
        loss(wrong_width, torch.tensor([0, 1]))
    # By `check`: forward's shapes are checked before it in tests alone.
    with pytest.raises(ValueError, match="labels \\[3\\]"):
        loss.check(torch.zeros(2, loss.num_logits), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="must be int64"):
        loss.check(torch.zeros(1, loss.num_logits), torch.tensor([0.0]))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("extreme", [80.0, 1e4])
def test_extreme_logits_stay_finite(make, dtype, extreme):
    loss = make(3)
    rows = torch.tensor([[extreme], [-extreme]]).expand(2, loss.num_logits)
    logits = torch.cat([rows, rows, rows * torch.tensor([1.0, -1, 1, -1])[: loss.num_logits]]).to(dtype)
    labels = torch.tensor([0, 1, 3, 3, 0, 2])
    value, gradient = value_and_gradient(loss, logits, labels)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    assert loss.scores(logits).isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_half_precision_logits_are_computed_in_float32(make, dtype, autocast):
    loss = make(20)
    logits, labels = problem(loss, 32, scale=1.0)
    half = logits.to(dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        value, gradient = value_and_gradient(loss, half, labels)
        scores = loss.scores(half)
    expected, expected_gradient = value_and_gradient(loss, half.float(), labels)
    assert value.dtype == scores.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient.to(dtype))
    assert torch.equal(scores, loss.scores(half.float()))


@every_exact_loss
def test_float32_is_within_1e_6_of_float64(make):
    loss = make(1203)
    logits, labels = problem(loss, 64)
    value, gradient = value_and_gradient(loss, logits, labels)
    expected, expected_gradient = value_and_gradient(loss, logits.double(), labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-9)


@every_exact_loss
def test_under_autocast_a_classifier_trains(make):
    loss = make(6)
    layer = torch.nn.Linear(8, loss.num_logits)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(layer(torch.ones(4, 8)), torch.tensor([0, 1, 5, 6]))["loss_cls"]
    value.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    num_classes=st.integers(1, 40),
    num_regions=st.integers(0, 12),
    scale=st.sampled_from([0.0, 1.0, 10.0, 80.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_scale_gives_a_finite_loss_and_gradient(name, num_classes, num_regions, scale, seed):
    loss = LOSSES[name](num_classes)
    logits, labels = problem(loss, num_regions, seed, scale)
    value, gradient = value_and_gradient(loss, logits, labels)
    assert value.isfinite()
    assert value >= 0
    assert gradient.isfinite().all()
    assert loss.scores(logits).shape == (num_regions, num_classes)


@every_loss
def test_not_a_number_reaches_the_loss(make):
    loss = make(3)
    logits = torch.zeros(2, loss.num_logits)
    logits[1, 0] = torch.nan
    assert loss(logits, torch.tensor([0, 3]))["loss_cls"].isnan()


@pytest.mark.parametrize(
    ("config", "kind"), [(SigmoidCEConfig(), SigmoidCE), (SoftmaxCEConfig(), SoftmaxCE), (GumbelCEConfig(), GumbelCE)]
)
def test_a_config_builds_its_loss_for_the_classes_of_a_frequency(config, kind):
    frequency = ClassFrequency.from_counts(torch.tensor([1, 20, 300]), torch.tensor([2, 40, 900]), 1000)
    loss = build_loss(config, frequency)
    assert type(loss) is kind
    assert loss.num_classes == 3
    assert torch.equal(loss.init_bias(), torch.full((loss.num_logits,), config.init_bias))


def test_a_config_passes_on_every_setting():
    frequency = ClassFrequency.from_counts(torch.tensor([1]), torch.tensor([1]), 1)
    loss = GumbelCEConfig(init_bias=-1.0, weight=0.5, published="2022").build(frequency)
    assert loss.config == GumbelCEConfig(init_bias=-1.0, weight=0.5, published="2022")


def test_the_published_initial_bias_gives_the_published_first_loss():
    """Gumbel at -2: 0.74 for the channels that say no (background among them), 7.39 for the one that says yes."""
    loss = GumbelCE(1203)
    logits = loss.init_bias().expand(4, -1)
    value = loss(logits, torch.tensor([1203, 0, 7, 1202]))["loss_cls"].item()
    p = math.exp(-math.exp(2))
    assert p == pytest.approx(6.2e-4, rel=0.01)
    assert value == pytest.approx(-1203 * math.log1p(-p) + math.exp(2), rel=1e-6)
    assert value == pytest.approx(0.74 + 7.39, abs=0.01)


def test_softmax_starts_uniform_and_sigmoid_at_its_published_probability():
    softmax, sigmoid = SoftmaxCE(1203), SigmoidCE(1203)
    background = torch.tensor([1203])
    start = softmax(softmax.init_bias()[None], background)["loss_cls"].item()
    assert start == pytest.approx(math.log(1204), rel=1e-5)
    start = sigmoid(sigmoid.init_bias()[None], background)["loss_cls"].item()
    assert start == pytest.approx(1203 * 1.5e-3, rel=0.01)
