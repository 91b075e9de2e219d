"""APA as a link: its limits, its derivatives by q, lambda and kappa, and losses that learn it."""

import math

import mpmath
import pytest
import torch

from tailseg.losses import FocalLoss, FocalLossConfig, Gumbel, GumbelCE, Sigmoid, bce_with_logits
from tailseg.losses.drop_loss import DropLoss
from tailseg.losses.links import APA, find_link
from tailseg.structures import ClassFrequency

METHODS = ("probability", "log_probability", "log_complement", "log_probability_slope", "log_complement_slope")
Q = torch.linspace(-9, 30, 118, dtype=torch.float64)


def frequency(classes: int = 6) -> ClassFrequency:
    counts = torch.arange(1, classes + 1)
    return ClassFrequency.from_counts(counts, counts, 1000)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("lambda_", "limit"), [(0.0, Gumbel()), (1e-15, Gumbel()), (1.0, Sigmoid())])
def test_limits(lambda_, limit, method):
    for kappa in (1.0, 0.5):
        theirs = getattr(limit, method)(Q * kappa) * (kappa if method.endswith("slope") else 1)
        # Gumbel's own series loses 1e-6 between its terms; of lambda 1e-15, t^2 of it remains
        torch.testing.assert_close(getattr(APA(lambda_, kappa), method)(Q), theirs, rtol=2e-6, atol=1e-30)


def digits(q: float, lambda_: float, kappa: float, of_complement: bool) -> tuple[float, ...]:
    """The logarithm and its three derivatives in 60 digits."""
    with mpmath.workdps(60):

        def log(q, lambda_, kappa):
            p = (1 + lambda_ * mpmath.exp(-kappa * q)) ** (-1 / lambda_)
            return mpmath.log(1 - p) if of_complement else mpmath.log(p)

        at = (mpmath.mpf(q), mpmath.mpf(lambda_), mpmath.mpf(kappa))
        return float(log(*at)), *(float(mpmath.diff(log, at, n)) for n in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


@pytest.mark.parametrize("of_complement", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_derivatives_have_their_digits(dtype, of_complement):
    # 1e-4: the published least lambda, where the direct form of the derivative by lambda has no digits in float32
    rows = [(q, lam, 0.75) for q in (-8.0, -2.0, 0.0, 0.5, 4.0, 12.0) for lam in (1e-4, 0.03125, 0.5, 1.0, 3.0)]
    if of_complement:
        rows = [row for row in rows if row[0] > -4]  # p underflows below
    q, lambda_, kappa = (torch.tensor(column, dtype=dtype) for column in zip(*rows, strict=True))
    exact = zip(q.tolist(), lambda_.tolist(), kappa.tolist(), strict=True)
    expected = torch.tensor([digits(*row, of_complement) for row in exact])
    link = APA(lambda_, kappa, learns=True).to(dtype)
    q.requires_grad_()
    value = (link.log_complement if of_complement else link.log_probability)(q)
    raw = (link.get_parameter("raw_lambda_"), link.get_parameter("raw_kappa"))
    by_q, *by_raw = torch.autograd.grad(value.sum(), (q, *raw))
    # the derivatives by lambda and kappa, without that of softplus
    found = (value, by_q, *(by / parameter.sigmoid() for by, parameter in zip(by_raw, raw, strict=True)))
    for ours, theirs in zip(found, expected.T, strict=True):
        # in float32, the softplus of the parameter is 1e-7 from lambda, which t = exp(6) multiplies
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lambda_", [0.0, 1e-38, 1e-6, 1e-4, 0.5, 1.0, 10.0, 1e6])
def test_everything_is_finite(lambda_, dtype):
    most = torch.finfo(dtype).max
    q = torch.tensor([-min(most, 3e33), -1e4, -100, -11.5, -5, 0, 5, 100, 1e4, most], dtype=dtype, requires_grad=True)
    link = APA(lambda_)
    for method in ("probability", "log_probability", "log_complement"):
        value = getattr(link, method)(q)
        assert value.dtype == dtype
        assert (value.isfinite() | (value.abs() > most / 1e3)).all()
        assert torch.autograd.grad(value.sum(), q)[0].isfinite().all()
    p = link.probability(q.detach())
    assert ((p >= 0) & (p <= 1)).all()


@pytest.mark.parametrize("learns", [False, True])
def test_each_class_has_its_own_shape(learns):
    """The loss is the sum of each class's loss over its own link, also where a region has the label of the class."""
    torch.manual_seed(0)
    lambda_, kappa = torch.rand(6) + 0.1, torch.rand(6) + 0.5
    q, labels = torch.randn(9, 6, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, 5, 6, 6, 2])
    loss = DropLoss(frequency(), tail=0.0, link=APA(lambda_, kappa, learns=learns))
    value = loss(q, labels)["loss_cls"]
    each = [
        bce_with_logits(q[:, c], labels == c, reduction="sum", link=APA(float(lambda_[c]), float(kappa[c])))
        for c in range(6)
    ]
    expected = torch.stack(each).sum() / 9
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(total, q)[0] for total in (value, expected)), rtol=1e-4, atol=1e-7)
    assert [name for name, _ in loss.named_parameters()] == (["link.raw_lambda_", "link.raw_kappa"] if learns else [])


def test_a_learned_link_fits_the_shape_that_the_labels_have():
    """Logits and their probabilities by lambda 0.2 and kappa 1.5: both are found again."""
    torch.manual_seed(0)
    q = torch.linspace(-4, 6, 400)
    target = APA(0.2, 1.5).probability(q)
    link = APA(1.0, 1.0, learns=True)
    optimizer = torch.optim.Adam(link.parameters(), lr=0.1)
    for _ in range(120):
        optimizer.zero_grad()
        bce_with_logits(q, target, link=link).backward()
        optimizer.step()
    assert link.lambda_.item() == pytest.approx(0.2, abs=0.02)
    assert link.kappa.item() == pytest.approx(1.5, abs=0.03)


def test_the_first_bias_makes_a_probability_of_a_thousandth():
    for link in (APA(0.0), APA(1.0), APA(0.3, 2.0), APA(learns=True)):
        assert link.probability(torch.tensor(link.init_bias)).item() == pytest.approx(1e-3, rel=1e-4)
    assert APA(1.0).init_bias == pytest.approx(-6.907, abs=1e-3)
    assert DropLoss(frequency(), link=APA(0.0)).init_bias()[0] == pytest.approx(-math.log(-math.log(1e-3)))


def test_what_is_no_shape():
    for settings, message in (
        ({"lambda_": -0.1}, "lambda_ is at least 0, got -0.1"),
        ({"lambda_": 0.0, "learns": True}, "lambda_ is above 0"),
        ({"kappa": 0.0}, "kappa is above 0, got 0"),
        ({"lambda_": torch.ones(3), "kappa": torch.ones(4)}, "one number for each of"),
        ({"lambda_": torch.ones(3), "num_classes": 4}, "each of 4 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            APA(**settings)
    with pytest.raises(ValueError, match="APA has no form published in 2022"):
        DropLoss(frequency(), link=APA(), published="2022")
    assert GumbelCE(3).link.at_columns(torch.zeros(1, 1, dtype=torch.int64)).init_bias == Gumbel.init_bias


def test_an_unknown_link_is_refused_with_the_names():
    with pytest.raises(ValueError, match="link is gumbel, sigmoid, normal or a Link, got 'apa'"):
        find_link("apa")


def test_the_focal_losses_refuse_it_by_name():
    """Their settings hold the name of a link; in use, unlike here, nothing checks types before."""
    config = FocalLossConfig()
    vars(config)["link"] = APA(0.3)
    with pytest.raises(ValueError, match=r"FocalLoss takes a link by its name .*, got APA\("):
        vars(FocalLoss.__init__)["__wrapped__"](FocalLoss.__new__(FocalLoss), 3, config)


def test_its_parameters_may_be_plain_tensors():
    """As torch.func.functional_call makes them."""
    link, q = APA(0.3, learns=True), torch.randn(9)
    values = {name: value.detach() for name, value in link.named_parameters()}
    grads = torch.func.grad(lambda state: torch.func.functional_call(link, state, (q,)).sum())(values)
    link(q).sum().backward()
    for name, parameter in link.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad)


@pytest.mark.parametrize("learns", [False, True])
def test_on_the_meta_device(learns):
    with torch.device("meta"):
        link = APA(0.3, num_classes=4, learns=learns)
        assert link(torch.zeros(2, 4)).shape == (2, 4)
