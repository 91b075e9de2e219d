"""ROG's rank loss: value and gradient pair by pair (`naive.rank_regions`), and what special cases make of it."""

import dataclasses

import pytest
import torch

from tailseg.losses import LOSSES, ROGLossConfig
from tailseg.structures import ClassFrequency

from . import naive
from .memory import measure_kept
from .test_rivals import long_tail, problem

BASES = ("sigmoid", "softmax", "seesaw", "gumbel", "gol")
every_base = pytest.mark.parametrize("base", BASES)


def rank(loss, logits, labels):
    """The rank loss and its gradient."""
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)["loss_rank"]
    return value.detach(), torch.autograd.grad(value, logits)[0]


@every_base
@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_agrees_with_the_formula_pair_by_pair(base, gamma, scale):
    """In three steps, since the regions seen so far weigh the classes."""
    loss = ROGLossConfig(base=base, strength=0.3, gamma=gamma, weight=2.0).build(long_tail(5))
    seen = torch.zeros(5)
    for seed in range(3):
        logits, labels = problem(loss, 14, seed, scale)
        for label in labels[labels < 5].tolist():
            seen[label] += 1
        weights = 1 / seen.clamp(min=1).double() ** gamma
        weights = (weights / weights.sum() * 5).tolist()
        expected, gradient = naive.rank_regions(logits, labels, weights, 0.5)
        value, ours = rank(loss, logits, labels)
        assert value.item() == pytest.approx(0.6 * expected, rel=1e-12)
        torch.testing.assert_close(ours, 0.6 * gradient, rtol=1e-10, atol=1e-14)
        assert (ours[:, loss.num_classes :] == 0).all()
    assert loss.num_samples.tolist() == seen.tolist()


@pytest.mark.parametrize("delta", [0.01, 0.5, 3.0])
def test_the_gradient_sums_to_zero_and_its_positive_part_is_the_value(delta):
    loss = ROGLossConfig(delta=delta, strength=1.0).build(long_tail(6))
    logits, labels = problem(loss, 30)
    value, gradient = rank(loss, logits, labels)
    assert value > 0
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)
    assert gradient.clamp(min=0).sum().item() == pytest.approx(value.item())
    own = gradient[labels < 6].gather(1, labels[labels < 6][:, None])
    assert (own <= 0).all()


def test_by_hand():
    """One object at 0, another class's logits at 0.25 and -2: H is 3/4 and 0, the rank 1/2 + 3/4."""
    loss = ROGLossConfig(base="softmax", strength=1.0, gamma=0.0).build(long_tail(3))
    value, gradient = rank(loss, torch.tensor([[0.0, 0.25, -2.0, 9.0]]), torch.tensor([0]))
    assert value.item() == pytest.approx(0.75 / 1.25)
    assert gradient[0].tolist() == pytest.approx([-0.6, 0.6, 0.0, 0.0])


def test_a_perfect_order_costs_nothing():
    loss = ROGLossConfig().build(long_tail(4))
    logits, labels = torch.full((6, 4), -3.0), torch.tensor([0, 1, 1, 3, 4, 4])
    logits[torch.arange(4), labels[:4]] = 2.0
    value, gradient = rank(loss, logits, labels)
    assert value == 0
    assert not gradient.any()


def test_objects_of_another_class_are_no_negatives():
    """Two objects of two classes: each one's own logit is far above the other's, and nothing else is."""
    loss = ROGLossConfig(strength=1.0).build(long_tail(2))
    value, gradient = rank(loss, torch.tensor([[5.0, -9.0], [-9.0, 0.0]]), torch.tensor([0, 1]))
    assert value == 0
    assert not gradient.any()


@every_base
def test_the_other_terms_and_the_scores_are_those_of_the_other_loss(base):
    frequency = long_tail(6)
    loss, other = ROGLossConfig(base=base).build(frequency), LOSSES[base].build(frequency)
    logits, labels = problem(loss, 12)
    torch.manual_seed(1)
    ours = loss(logits, labels)
    torch.manual_seed(1)
    expected = other(logits, labels)
    assert ours.keys() == expected.keys() | {"loss_rank"}
    assert all(torch.equal(ours[name], value) for name, value in expected.items())
    assert torch.equal(loss.scores(logits), other.scores(logits))
    assert torch.equal(loss.init_bias(), other.init_bias())
    assert (loss.num_logits, loss.scores_are_exclusive) == (other.num_logits, other.scores_are_exclusive)


def test_settings_reach_the_other_loss():
    frequency = long_tail(6)
    loss = ROGLossConfig(init_bias=-1.0, weight=0.5, class_weights="inverse").build(frequency)
    other = dataclasses.replace(LOSSES["sigmoid"], init_bias=-1.0, weight=0.5, class_weights="inverse").build(frequency)
    logits, labels = problem(loss, 12)
    assert torch.equal(loss(logits, labels)["loss_cls"], other(logits, labels)["loss_cls"])
    assert torch.equal(loss.init_bias(), torch.full((6,), -1.0))


def test_a_class_weight_multiplies_the_share_of_its_class():
    loss = ROGLossConfig(class_weights=(1.0,) * 6).build(long_tail(6)).eval()
    logits, labels = problem(loss, 20)
    parts = []
    for unit in torch.eye(7):
        loss.label_weights = unit.double()
        parts.append(rank(loss, logits, labels)[0])
    loss.label_weights = torch.tensor([1.0, 2, 3, 4, 5, 6, 1]).double()
    weighed = rank(loss, logits, labels)[0]
    assert parts[-1] == 0
    torch.testing.assert_close(weighed, sum(weight * part for weight, part in enumerate(parts[:-1], 1)))


@pytest.mark.parametrize("labels", [[], [6, 6, 6]], ids=["no regions", "background alone"])
def test_without_objects_the_rank_costs_nothing_and_keeps_the_graph(labels):
    loss = ROGLossConfig().build(long_tail(6))
    logits = torch.zeros(len(labels), 6, requires_grad=True)
    value = loss(logits, torch.tensor(labels, dtype=torch.int64))["loss_rank"]
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    loss = ROGLossConfig().build(long_tail(20)).eval()
    logits, labels = problem(loss, 32)
    half = logits.to(dtype)
    with torch.autocast("cpu", dtype):
        value, gradient = rank(loss, half, labels)
    expected, expected_gradient = rank(loss, half.float(), labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("extreme", [0.0, 80.0, 1e4])
def test_extreme_logits_stay_finite(dtype, extreme):
    loss = ROGLossConfig(strength=1.0).build(long_tail(3))
    logits = (extreme * (-1.0) ** torch.arange(12).view(4, 3)).to(dtype)
    value, gradient = rank(loss, logits, torch.tensor([0, 1, 2, 3]))
    assert value.isfinite()
    assert value >= 0
    assert gradient.isfinite().all()


def test_float32_is_within_1e_6_of_float64():
    loss = ROGLossConfig().build(long_tail(1203)).eval()
    logits, labels = problem(loss, 64)
    logits = logits.float()
    value, gradient = rank(loss, logits, labels)
    expected, expected_gradient = rank(loss, logits.double(), labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-12)


def test_keeps_one_gradient_of_the_logits_size():
    loss = ROGLossConfig(base="softmax").build(long_tail(1203)).eval()
    logits, labels = problem(loss, 64)
    logits.requires_grad_()
    # The other loss keeps its logarithm.
    assert measure_kept(lambda: loss(logits, labels)["loss_rank"], logits) < 2.1


def test_permuting_the_classes_changes_nothing():
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    frequency = long_tail(6)
    permuted = ClassFrequency.from_counts(frequency.image_counts[order], frequency.instance_counts[order], 6000)
    loss, other = ROGLossConfig().build(frequency), ROGLossConfig().build(permuted)
    position = torch.cat([order.argsort(), torch.tensor([6])])
    for seed in range(3):
        logits, labels = problem(loss, 10, seed)
        torch.testing.assert_close(rank(other, logits[:, order], position[labels])[0], rank(loss, logits, labels)[0])


def test_training_goes_on_from_a_saved_state(tmp_path):
    loss = ROGLossConfig(base="seesaw").build(long_tail(6))
    for seed in range(2):
        loss(*problem(loss, 12, seed))
    torch.save(loss.state_dict(), tmp_path / "state.pt")
    assert loss.state_dict().keys() == {"num_samples", "base.cum_samples"}
    second = ROGLossConfig(base="seesaw").build(long_tail(6))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    logits, labels = problem(loss, 12, 2)
    again = second(logits, labels)
    assert all(torch.equal(again[name], value) for name, value in loss(logits, labels).items())


def test_evaluation_leaves_the_state_alone():
    loss = ROGLossConfig().build(long_tail(6)).eval()
    loss(*problem(loss, 12))
    assert not loss.num_samples.any()


@pytest.mark.parametrize(
    "setting", [{"strength": -0.1}, {"gamma": -1.0}, {"delta": 0.0}], ids=lambda setting: next(iter(setting))
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match=f"loss.{next(iter(setting))} "):
        ROGLossConfig(**setting)
