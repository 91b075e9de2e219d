"""The binary losses as functions, against their formulas; tests/parity compares with torch and torchvision."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from tailseg.losses import (
    APA,
    DropLoss,
    ECMLoss,
    EQLv2,
    EqualizedFocalLoss,
    FocalLoss,
    Gumbel,
    GumbelCE,
    SeesawLoss,
    bce_with_logits,
    focal_with_logits,
    gumbel_bce_with_logits,
)
from tailseg.losses.links import LINKS
from tailseg.structures import ClassFrequency

from . import naive


def problem(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.rand(shape, generator=generator, dtype=torch.float64)


def run(function, logits):
    logits = logits.clone().requires_grad_()
    value = function(logits)
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    return value.detach(), torch.autograd.grad((value * weights).sum(), logits)[0]


@pytest.mark.parametrize("link", LINKS)
def test_it_is_the_formula_of_every_link(link):
    logits, target = problem((6, 7))
    pos_weight = torch.rand(7, dtype=torch.float64)

    def formula(q):
        yes, no = naive.LINKS[link](q)
        return (-pos_weight * target * yes - (1 - target) * no).mean()

    expected = run(formula, logits)
    for chosen in (link, LINKS[link]):
        ours = run(lambda q, a=chosen: bce_with_logits(q, target, pos_weight=pos_weight, link=a), logits)
        torch.testing.assert_close(ours, expected)
    if link == "gumbel":
        ours = run(lambda q: gumbel_bce_with_logits(q, target, pos_weight=pos_weight), logits)
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("function", [gumbel_bce_with_logits, focal_with_logits])
def test_ignored_entries_cost_nothing_and_are_not_counted(function):
    logits, target = problem((5, 4))
    target = target.round()
    ignored = torch.rand(5, 4, generator=torch.Generator().manual_seed(1)) < 0.4
    expected = run(lambda q: function(q, target[~ignored]), logits[~ignored])
    marked = target.masked_fill(ignored, 255)
    poisoned = logits.masked_fill(ignored, torch.nan)
    for options in ({"ignored": ignored}, {"ignore_index": 255}):
        value, gradient = run(lambda q, o=options: function(q, marked, **o), poisoned)
        torch.testing.assert_close((value, gradient[~ignored]), expected)
        assert not gradient[ignored].any()
        costs, _ = run(lambda q, o=options: function(q, marked, reduction="none", **o), poisoned)
        assert not costs[ignored].any()
    assert function(logits, target, ignored=torch.ones(5, 4, dtype=torch.bool)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_half_precision_loses_no_more_than_the_logits(dtype, reduction):
    logits, target = problem((30, 4), dtype)
    value, gradient = run(lambda q: gumbel_bce_with_logits(q, target, reduction=reduction), logits)
    expected = run(lambda q: gumbel_bce_with_logits(q, target, reduction=reduction), logits.double())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=2 * torch.finfo(dtype).eps + 1e-5, atol=6e-8)


@pytest.mark.parametrize("function", [gumbel_bce_with_logits, focal_with_logits])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_gradcheck_of_both_orders(function, reduction):
    logits, target = problem((3, 2))
    for y in (target, target.round()):
        assert torch.autograd.gradcheck(lambda q, t=y: function(q, t, reduction=reduction), logits.requires_grad_())
        assert torch.autograd.gradgradcheck(lambda q, t=y: function(q, t, reduction=reduction), logits)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("link", [*LINKS, "apa", "learned apa"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_torch_func_sees_the_same_derivatives(link, reduction):
    logits, target = problem((3, 2))
    apas = {"apa": APA(torch.tensor([0.0, 0.5])), "learned apa": APA(torch.tensor([0.2, 0.5]), learns=True)}

    def cost(q, y):
        return bce_with_logits(q, y, link=apas.get(link, link), reduction=reduction).sum()

    def differentiate(q, y):
        q = q.clone().requires_grad_()
        return torch.autograd.grad(cost(q, y), q)[0]

    expected = differentiate(logits, target)
    torch.testing.assert_close(torch.func.grad(cost)(logits, target), expected)
    each = torch.stack([differentiate(q, y) for q, y in zip(logits, target, strict=True)])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(cost))(logits, target), each)
    _, slope = torch.func.jvp(lambda q: cost(q, target), (logits,), (torch.ones_like(logits),))
    torch.testing.assert_close(slope, expected.sum())
    if link in ("gumbel", "sigmoid"):
        hessian = torch.autograd.functional.hessian(lambda q: cost(q, target[0]), logits[0])
        torch.testing.assert_close(torch.func.hessian(cost)(logits[0], target[0]), hessian)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_targets_get_the_gradient_that_torch_gives_and_weights_get_theirs(reduction):
    logits, target = (each.requires_grad_() for each in problem((3, 2)))
    weight, pos_weight = torch.rand(2, 2, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(
            function(logits, target, weight, pos_weight=pos_weight, reduction=reduction).square().sum(),
            (logits, target),
        )
        for function in (bce_with_logits, F.binary_cross_entropy_with_logits)
    ]
    torch.testing.assert_close(*gradients)
    weights = (weight.requires_grad_(), pos_weight.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda w, p: gumbel_bce_with_logits(logits, target, w, pos_weight=p, reduction=reduction), weights
    )


def test_an_ignored_logit_that_is_no_number_has_no_gradient_in_torch_func():
    logits, target = problem((3, 2))
    logits[0, 0] = torch.nan

    def cost(q):
        return gumbel_bce_with_logits(q, target, ignored=logits.isnan())

    torch.testing.assert_close(torch.func.grad(cost)(logits), run(cost, logits)[1])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("make", [GumbelCE, DropLoss, ECMLoss, FocalLoss, EQLv2, EqualizedFocalLoss, SeesawLoss])
def test_torch_func_follows_the_losses_and_those_that_count_say_so(make):
    counts = torch.tensor([50, 9, 2])
    loss = make(ClassFrequency.from_counts(counts, counts, 60))
    logits, labels = torch.randn(4, loss.num_logits, dtype=torch.float64), torch.tensor([0, 1, 2, 3])

    def cost(q, label):
        return sum(loss(q[None], label[None]).values())

    def differentiate():
        return torch.func.vmap(torch.func.grad(cost), randomness="different")(logits, labels)

    if make in (EQLv2, EqualizedFocalLoss, SeesawLoss):
        with pytest.raises(RuntimeError, match="counts in training mode, and torch.func cannot follow that: call eval"):
            differentiate()
    gradients = []
    loss.eval()
    for q, label in zip(logits, labels, strict=True):
        row = q.clone().requires_grad_()
        gradients.append(torch.autograd.grad(cost(row, label), row)[0])
    try:
        found = differentiate()
    except RuntimeError as error:
        if make is DropLoss and "Batching rule not implemented for aten::view.dtype" in str(error):
            pytest.skip("this torch has no vmap of DropLoss's random numbers")
        raise
    if make is not DropLoss:  # it draws
        torch.testing.assert_close(found, torch.stack(gradients))
    assert found.isfinite().all()


def test_a_row_has_the_links_of_its_classes():
    logits, target = problem((1, 3))
    apa = APA(torch.tensor([0.2, 0.5, 2.0]))
    for reduction in ("none", "sum"):
        expected = bce_with_logits(logits, target, link=apa, reduction=reduction)
        row = bce_with_logits(logits[0], target[0], link=apa, reduction=reduction)
        torch.testing.assert_close(row.sum(), expected.sum())


def test_targets_of_any_type():
    logits, target = problem((6,))
    target = target > 0.5
    expected = gumbel_bce_with_logits(logits, target.double())
    for same in (target, target.long(), target.to(torch.uint8), target.float()):
        assert gumbel_bce_with_logits(logits, same) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(2)}, r"target has the shape of the logits \[3, 2\], got \[2\]"),
        ({"ignored": torch.zeros(3, dtype=torch.bool)}, r"ignored has the shape of the logits \[3, 2\], got \[3\]"),
        ({"weight": torch.zeros(3)}, r"weight broadcasts to the shape of the logits \[3, 2\], got \[3\]"),
        ({"pos_weight": torch.zeros(4, 1)}, r"pos_weight broadcasts to the shape of the logits \[3, 2\], got \[4, 1\]"),
        ({"reduction": "batchmean"}, r"reduction is none, mean, sum, got 'batchmean'"),
        ({"link": "softmax"}, r"link is gumbel, sigmoid, normal or a Link, got 'softmax'"),
    ],
)
def test_refusals(change, message):
    arguments = {"input": torch.zeros(3, 2), "target": torch.zeros(3, 2)} | change
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(bce_with_logits)(**arguments)  # without the tests' own checks of shapes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 2.0}, r"weight is a tensor, got float: give torch.tensor\(2.0\)"),
        ({"pos_weight": [1.0, 2.0]}, "pos_weight is a tensor, got list"),
        ({"target": [[0.0, 1.0]]}, "target is a tensor, got list"),
        ({"input": torch.zeros(3, 2).long()}, "got torch.int64: are input and target exchanged?"),
    ],
)
def test_refusals_of_types(change, message):
    arguments = {"input": torch.zeros(3, 2), "target": torch.zeros(3, 2)} | change
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(bce_with_logits)(**arguments)
    with pytest.raises(TypeError, match="target is a tensor, got int"):
        inspect.unwrap(focal_with_logits)(torch.zeros(3), 1)


# as_sigmoid_logits


@pytest.mark.parametrize("name", LINKS)
def test_the_sigmoid_of_the_converted_logits_is_the_links_probability(name):
    link = LINKS[name]
    q = torch.linspace(-6, 30, 2000, dtype=torch.float64)
    z = link.as_sigmoid_logits(q)
    torch.testing.assert_close(torch.sigmoid(z), link.probability(q), rtol=1e-12, atol=0)
    # The complement keeps its digits where p rounds to 1.
    torch.testing.assert_close(torch.sigmoid(-z), link.log_complement(q).exp(), rtol=1e-12, atol=0)
    assert (z.diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_converted_logits_are_finite_at_both_ends(dtype):
    """At -11 and below, where log p continues along its tangent, and where p is 1."""
    q = torch.tensor([-1e4, -100, -12, 1e4, -11, -5, 0, 5, 20, 80], dtype=dtype, requires_grad=True)
    z = Gumbel().as_sigmoid_logits(q)
    assert z.dtype == dtype
    assert z.isfinite().all()
    (slope,) = torch.autograd.grad(z.sum(), q)
    assert slope.isfinite().all()
    t = torch.exp(-q.detach().double()[4:])
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 0}
    expected = torch.where(t < 500, -torch.log(torch.expm1(t.clamp(max=500))), -t)
    torch.testing.assert_close(z.detach()[4:].double(), expected, **tolerance)
    torch.testing.assert_close(slope[4:].double(), t / -torch.expm1(-t), **tolerance)


def test_binary_cross_entropy_of_the_converted_logits_is_gumbels():
    logits, target = problem((50,))
    ours = run(lambda q: F.binary_cross_entropy_with_logits(Gumbel().as_sigmoid_logits(q), target), logits)
    torch.testing.assert_close(ours, run(lambda q: gumbel_bce_with_logits(q, target), logits))


def test_published_links_have_the_scores_of_the_exact_ones():
    q = torch.linspace(-8, 20, 50)
    for link in (LINKS["gumbel"], LINKS["normal"]):
        assert torch.equal(link.published("2022").as_sigmoid_logits(q), link.as_sigmoid_logits(q))
