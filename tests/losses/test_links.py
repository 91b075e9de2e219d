"""Links against mpmath's 60 digits: values and gradients, from float64 down to float16."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailseg.losses import Gumbel, Link, NormalCDF, Sigmoid

mpmath.mp.dps = 60

METHODS = ("probability", "log_probability", "log_complement")


def true_gumbel(q: float) -> dict[str, tuple[float, float]]:
    """(value, derivative) of each method in 60 digits."""
    t = mpmath.exp(-mpmath.mpf(q))
    p = mpmath.exp(-t)
    # log(1 - p) needs its own form where p is below 1e-60.
    log_complement = mpmath.log(1 - p) if p > 1e-30 else -p
    return {
        "probability": (float(p), float(p * t)),
        "log_probability": (float(-t), float(t)),
        "log_complement": (float(log_complement), float(-t * p / (1 - p))),
    }


def true_sigmoid(q: float) -> dict[str, tuple[float, float]]:
    p = 1 / (1 + mpmath.exp(-mpmath.mpf(q)))
    return {
        "probability": (float(p), float(p * (1 - p))),
        "log_probability": (float(mpmath.log(p)), float(1 - p)),
        "log_complement": (float(mpmath.log(1 - p)), float(-p)),
    }


def true_normal(q: float) -> dict[str, tuple[float, float]]:
    x = mpmath.mpf(q)
    p, complement = (mpmath.erfc(side * x / mpmath.sqrt(2)) / 2 for side in (-1, 1))
    density = mpmath.npdf(x)
    return {
        "probability": (float(p), float(density)),
        "log_probability": (float(mpmath.log1p(-complement) if q > 0 else mpmath.log(p)), float(density / p)),
        "log_complement": (
            float(mpmath.log1p(-p) if q < 0 else mpmath.log(complement)),
            float(-density / complement),
        ),
    }


LINKS = [
    pytest.param(Gumbel(), true_gumbel, id="gumbel"),
    pytest.param(Sigmoid(), true_sigmoid, id="sigmoid"),
    pytest.param(NormalCDF(), true_normal, id="normal"),
]
every_link = pytest.mark.parametrize("link", [Gumbel(), Sigmoid(), NormalCDF()], ids=["gumbel", "sigmoid", "normal"])


def value_and_gradient(link: Link, method: str, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    q = q.clone().requires_grad_()
    value = getattr(link, method)(q)
    (gradient,) = torch.autograd.grad(value.sum(), q)
    return value.detach(), gradient


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("link", "truth"), LINKS)
def test_float64_is_exact_to_1e_6_relative_from_minus_10_to_30(link, truth, method):
    q = torch.linspace(-10, 30, 401, dtype=torch.float64)
    value, gradient = value_and_gradient(link, method, q)
    expected = torch.tensor([truth(float(x))[method] for x in q], dtype=torch.float64)
    # Below 1e-300 float64 itself has no digits left; everything above is relative.
    torch.testing.assert_close(value, expected[:, 0], rtol=1e-6, atol=1e-300)
    if (type(link), method) != (Sigmoid, "probability"):  # torch's own p * (1 - p), on which no loss depends
        torch.testing.assert_close(gradient, expected[:, 1], rtol=1e-6, atol=1e-300)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("link", "truth"), LINKS)
def test_float32_is_exact_up_to_its_conditioning(link, truth, method):
    q = torch.linspace(-10, 30, 401)
    value, gradient = value_and_gradient(link, method, q)
    expected = torch.tensor([truth(float(x))[method] for x in q], dtype=torch.float64)
    # exp(-t) with t = exp(-q) multiplies t's rounding (6e-8 relative) by t: the relative error grows with t, and the
    # result is below float32's range (1e-37) where t passes 85.
    # The normal's tails go like exp(-q^2 / 2), which multiplies q's rounding by q^2.
    condition = q.double() ** 2 if isinstance(link, NormalCDF) else torch.exp(-q.double())
    tolerance = 5e-7 * (1 + condition)
    assert torch.all((value.double() - expected[:, 0]).abs() <= tolerance * expected[:, 0].abs() + 1e-37)
    if (type(link), method) != (Sigmoid, "probability"):
        assert torch.all((gradient.double() - expected[:, 1]).abs() <= tolerance * expected[:, 1].abs() + 1e-37)


@pytest.mark.parametrize("method", METHODS)
@every_link
def test_gradcheck(link, method):
    # Both sides of the places where the formula changes: -11, -log(log 2) = 0.37, 60.
    # And of the normal's bound of 10,000.
    q = [-11e3, -9e3, -30.0, -11.5, -10.5, -4, -1, 0.3, 0.4, 2, 15, 59, 61, 300, 9e3, 11e3]
    q = torch.tensor(q, dtype=torch.float64)
    # An absolute tolerance would drown in log p's 60,000 near the floor.
    scale = (1 + getattr(link, method)(q).abs()).reciprocal()
    assert torch.autograd.gradcheck(lambda x: getattr(link, method)(x) * scale, q.requires_grad_(), atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_finite_bounded_and_in_range_for_every_finite_float32(q):
    for link in (Gumbel(), Sigmoid(), NormalCDF()):
        bound = {"probability": 1, "log_probability": math.exp(11) * 1.001, "log_complement": 1}
        if isinstance(link, NormalCDF):
            bound = dict.fromkeys(METHODS, 10_001)
        for method in METHODS:
            value, gradient = value_and_gradient(link, method, torch.tensor([q]))
            # log p is about 60,000 q at the far left, so -3e38 may pass float32's range: the gradient never does.
            falling = {"log_probability": -q, "log_complement": q if isinstance(link, NormalCDF) else 0}
            assert value.isfinite() or falling.get(method, 0) > 1e33
            assert gradient.abs() <= bound[method]
        p = link.probability(torch.tensor([q]))
        assert 0 <= p <= 1


def test_gumbel_continues_along_its_tangent_below_the_floor():
    q = torch.tensor([-11.0, -12.0, -80.0, -1e4], dtype=torch.float64)
    value, gradient = value_and_gradient(Gumbel(), "log_probability", q)
    slope = math.exp(11)
    torch.testing.assert_close(value, -slope * (1 + (-11 - q)), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, torch.full_like(q, slope), rtol=1e-12, atol=0)
    assert slope < torch.finfo(torch.float16).max


def test_normal_is_exact_in_the_tails_and_continues_along_its_tangent_at_ten_thousand():
    q = torch.tensor([-50.0, -1e3, -1e4])
    value, gradient = value_and_gradient(NormalCDF(), "log_probability", q)
    # Phi(q) = phi(q) / abs(q) (1 - 1 / q^2 + 3 / q^4 - ...)
    x = q.double()
    series = -(x**2) / 2 - math.log(2 * math.pi) / 2 - (-x).log() + torch.log1p(-(x**-2) + 3 * x**-4)
    torch.testing.assert_close(value.double(), series, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), -x - 1 / x + 2 / x**3, rtol=1e-6, atol=0)
    beyond, slope = value_and_gradient(NormalCDF(), "log_probability", torch.tensor([-1e4, -2e4, -1e6]))
    torch.testing.assert_close(beyond, beyond[0] - 1e4 * torch.tensor([0, 1e4, 99e4]), rtol=1e-6, atol=0)
    torch.testing.assert_close(slope, torch.full((3,), 1e4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["log_probability", "log_complement"])
@pytest.mark.parametrize(("link", "clamp"), [(Gumbel(), (-4.0, 10.0)), (NormalCDF(), (-5.0, 5.0))])
def test_a_published_link_is_sound_within_and_dead_outside_its_clamp(link, clamp, method):
    low, high = clamp
    q = torch.linspace(-3, 3, 61)
    for ours, theirs in zip(
        value_and_gradient(link.published(), method, q), value_and_gradient(link, method, q), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=0)  # float32's 1 - p
    value, gradient = value_and_gradient(link.published(), method, torch.tensor([low - 1, low - 9, high + 1, high + 9]))
    assert value[0] == value[1]
    assert value[2] == value[3]
    assert (gradient == 0).all()
    assert torch.equal(link.published().probability(q), link.probability(q))


def test_published_links_pass_not_a_number_on():
    for link in (Gumbel().published(), NormalCDF().published()):
        for method in METHODS:
            value, gradient = value_and_gradient(link, method, torch.tensor([torch.nan, 0.5]))
            assert value.isnan().tolist() == [True, False]
            assert gradient[1].isfinite()


def test_a_link_without_published_code_says_so():
    class Cauchy(Sigmoid):
        published = Link.published

    assert Sigmoid().published().probability(torch.zeros(1)) == 0.5
    with pytest.raises(ValueError, match="Cauchy has no form published in 2022"):
        Cauchy().published()


@every_link
def test_training_starts_near_one_in_a_thousand(link):
    p = link.probability(torch.tensor(link.init_bias))
    assert 5e-4 < p < 2e-3


def test_gumbel_log_complement_becomes_minus_q():
    q = torch.tensor([59.0, 60.0, 61.0, 80.0, 1e4, 1e30])
    value, gradient = value_and_gradient(Gumbel(), "log_complement", q)
    torch.testing.assert_close(value, -q, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, -torch.ones_like(q), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", METHODS)
@every_link
def test_not_a_number_is_passed_on(link, method):
    value, gradient = value_and_gradient(link, method, torch.tensor([float("nan"), 0.0]))
    assert value.isnan().tolist() == [True, False]
    assert gradient[1].isfinite()
