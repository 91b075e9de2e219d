"""GumbelCE and the baselines against the published code's formulas, measurements and golden files.

The published formula is written out here on its own; what it measured is section 6 of the reference.
"""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tailseg.losses import EQL, ClassRelativeLoss, DropLoss, GumbelCE, SigmoidCE, SoftmaxCE
from tailseg.structures import ClassFrequency

RANGES = pytest.mark.parametrize("low_high", [(-8.0, 14.0), (-3.0, 1.0)], ids=["dead zones included", "alive"])


def published_gumbel(logits: torch.Tensor) -> torch.Tensor:
    """Clamp, activate."""
    q = torch.clamp(logits, min=-4, max=10)
    return 1 / (torch.exp(torch.exp(-q)))


def published(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Clamp, activate, binary cross entropy with every label weight 1, average, clamp."""
    p = published_gumbel(logits)
    target = torch.zeros_like(logits)
    target[torch.arange(len(labels)), labels] = 1
    loss = F.binary_cross_entropy(p, target, reduction="none").sum() / len(labels)
    return torch.clamp(loss, 0, 20)


def published_costs(logits: torch.Tensor, labels: torch.Tensor, *, link: str) -> torch.Tensor:
    """The cost of each entry; background is no class here, so its rows are all zero."""
    target = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].float()
    if link == "sigmoid":
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return F.binary_cross_entropy(published_gumbel(logits), target, reduction="none")


def published_eql(logits: torch.Tensor, labels: torch.Tensor, tail: torch.Tensor, *, link: str) -> torch.Tensor:
    """weight = 1 - [foreground region] [tail class] (1 - y); the mean over the regions, without a last clamp."""
    weight = torch.ones_like(logits)
    for i, label in enumerate(labels.tolist()):
        if label < logits.shape[1]:
            weight[i] = 1 - tail.float()
            weight[i, label] = 1
    return (weight * published_costs(logits, labels, link=link)).sum() / len(labels)


def published_class_relative(logits: torch.Tensor, labels: torch.Tensor, frequent: torch.Tensor) -> torch.Tensor:
    """The normal CDF of q in [-5, 5] for frequent classes, Gumbel's for the others and background; at most 25."""
    cdf = torch.distributions.Normal(0, 1).cdf(logits.clamp(-5, 5))
    p = torch.where(torch.cat([frequent, torch.tensor([False])]), cdf, published_gumbel(logits))
    target = F.one_hot(labels, logits.shape[1]).float()
    return (F.binary_cross_entropy(p, target, reduction="none").sum() / len(labels)).clamp(0, 25)


def grad(function, logits, labels):
    logits = logits.clone().requires_grad_()
    value = function(logits, labels)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def ours(loss):
    return lambda logits, labels: loss(logits, labels)["loss_cls"]


@RANGES
def test_published_equals_the_published_formula(low_high):
    low, high = low_high
    generator = torch.Generator().manual_seed(0)
    logits = low + (high - low) * torch.rand(64, 12, generator=generator)
    labels = torch.randint(0, 12, (64,), generator=generator)
    value, gradient = grad(ours(GumbelCE(11, published="2022")), logits, labels)
    expected, expected_gradient = grad(published, logits, labels)
    # Sums may be taken in another order, which moves the last bits of the total but of no gradient.
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=0)


FREQUENCY = ClassFrequency.from_counts(torch.tensor([900, 300, 101, 100, 40, 5, 1]), torch.full((7,), 1000), 10_000)
TAIL = FREQUENCY.image_counts / 10_000 < 0.0011


def draw_regions(low_high, *, logits, objects=48, background=16):
    generator = torch.Generator().manual_seed(1)
    low, high = low_high
    labels = torch.cat([torch.randint(0, 7, (objects,), generator=generator), torch.full((background,), 7)])
    return low + (high - low) * torch.rand(len(labels), logits, generator=generator), labels


@RANGES
@pytest.mark.parametrize("link", ["gumbel", "sigmoid"])
def test_published_eql_equals_the_published_formula(low_high, link):
    assert TAIL.tolist() == [False] * 5 + [True] * 2
    logits, labels = draw_regions(low_high, logits=7)
    loss = EQL(FREQUENCY, tail=0.0011, link=link, published="2022")
    value, gradient = grad(ours(loss), logits, labels)
    expected, expected_gradient = grad(lambda q, y: published_eql(q, y, TAIL, link=link), logits, labels)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=2e-6, atol=2e-9)  # p - 1 of the sigmoid in float32


@RANGES
@pytest.mark.parametrize("link", ["gumbel", "sigmoid"])
def test_published_droploss_without_background_equals_published_eql(low_high, link):
    """Only background regions draw numbers."""
    logits, labels = draw_regions(low_high, logits=7, background=0)
    loss = DropLoss(FREQUENCY, tail=0.0011, link=link, published="2022")
    value, gradient = grad(ours(loss), logits, labels)
    expected, expected_gradient = grad(lambda q, y: published_eql(q, y, TAIL, link=link), logits, labels)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=2e-6, atol=2e-9)  # p - 1 of the sigmoid in float32


@pytest.mark.parametrize("low_high", [(-8.0, 14.0), (-3.0, 1.0)], ids=["above the limit of 25", "alive"])
def test_published_class_relative_equals_the_published_formula(low_high):
    logits, labels = draw_regions(low_high, logits=8)
    loss = ClassRelativeLoss(FREQUENCY, published="2022")
    value, gradient = grad(ours(loss), logits, labels)
    frequent = FREQUENCY.image_counts > 100
    expected, expected_gradient = grad(lambda q, y: published_class_relative(q, y, frequent), logits, labels)
    assert (expected == 25) == (low_high[0] == -8)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    ("q", "published_gradient", "tolerance"),
    [(-3.3, -27.1, 0.05), (-3.4, -2.9, 0.05), (-3.6, -0.005, 5e-4), (-4.0, 0.0, 1e-12)],
)
def test_published_reproduces_the_measured_death_of_the_positive_gradient(q, published_gradient, tolerance):
    # Ten regions of no cost dilute the one measured, or the clamp at 20 would hide it; their factor is undone.
    logits = torch.full((10, 2), -4.0)
    logits[:, 1] = 10.0
    logits[0, 0] = q
    labels = torch.ones(10, dtype=torch.int64)
    labels[0] = 0
    logits[0, 1] = -4.0
    _, gradient = grad(ours(GumbelCE(1, published="2022")), logits, labels)
    assert 10 * gradient[0, 0].item() == pytest.approx(published_gradient, abs=tolerance)
    _, exact = grad(ours(GumbelCE(1)), logits, labels)
    assert 10 * exact[0, 0].item() == pytest.approx(-torch.tensor(-q).exp().item(), rel=1e-6)


def test_published_keeps_the_dead_negatives_above_ten_and_exact_does_not():
    logits = torch.tensor([[10.5, 3.0]])
    labels = torch.tensor([1])
    assert grad(ours(GumbelCE(1, published="2022")), logits, labels)[1][0, 0] == 0
    assert grad(ours(GumbelCE(1)), logits, labels)[1][0, 0] == pytest.approx(1, rel=1e-4)


def test_published_loses_every_gradient_above_a_loss_of_twenty_and_exact_does_not():
    logits = torch.full((2, 30), 2.0)
    labels = torch.tensor([0, 1])
    value, gradient = grad(ours(GumbelCE(29, published="2022")), logits, labels)
    assert value == 20
    assert (gradient == 0).all()
    value, gradient = grad(ours(GumbelCE(29)), logits, labels)
    assert value > 20
    assert (gradient != 0).all()


def test_both_modes_agree_where_the_published_one_is_sound():
    generator = torch.Generator().manual_seed(0)
    logits = -3 + 4 * torch.rand(16, 6, generator=generator)
    labels = torch.randint(0, 6, (16,), generator=generator)
    value, gradient = grad(ours(GumbelCE(5)), logits, labels)
    published, published_gradient = grad(ours(GumbelCE(5, published="2022")), logits, labels)
    torch.testing.assert_close(value, published, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, published_gradient, rtol=1e-4, atol=1e-7)  # float32's 1 - p


def test_published_is_computed_in_float32_whatever_comes():
    logits = torch.full((4, 3), -3.5, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    loss = GumbelCE(2, published="2022")
    assert torch.equal(loss(logits, labels)["loss_cls"], loss(logits.float(), labels)["loss_cls"])


def test_scores_are_the_unclamped_activation_without_background():
    q = torch.linspace(-8, 14, 221, dtype=torch.float64)
    for published in (None, "2022"):
        loss = GumbelCE(221, published=published)
        scores = loss.scores(torch.cat([q, torch.zeros(1, dtype=torch.float64)])[None])[0]
        torch.testing.assert_close(scores, torch.exp(-torch.exp(-q)), rtol=1e-14, atol=0)
    # Defect 6: float32 ties at exactly 0, far below the threshold 1e-4 (q = -2.22) that detections must pass.
    low = GumbelCE(2).scores(torch.tensor([[-4.7, -5.5, 0.0]]))
    assert low.tolist() == [[0.0, 0.0]]
    assert GumbelCE(1).scores(torch.tensor([[-2.22, 0.0]])).item() == pytest.approx(1e-4, rel=0.01)


def test_sigmoid_equals_torch_with_a_one_hot_target():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(32, 9, generator=generator)
    labels = torch.randint(0, 10, (32,), generator=generator)
    target = F.one_hot(labels, 10)[:, :9].float()
    value, gradient = grad(ours(SigmoidCE(9)), logits, labels)
    expected, expected_gradient = grad(
        lambda q, _: F.binary_cross_entropy_with_logits(q, target, reduction="sum") / 32, logits, labels
    )
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("a3_mask_rcnn_gumbel", GumbelCE(7)),
        ("a3_mask_rcnn_gumbel", GumbelCE(7, published="2022")),
        ("a_mask_rcnn", SoftmaxCE(7)),
    ],
    ids=["gumbel", "gumbel-published", "softmax"],
)
def test_golden_training_loss(shared, name, loss):
    golden = load_file(shared / "golden" / f"{name}.safetensors")
    logits, labels = golden["train.roi.0.cls_score"], golden["train.roi.0.labels"]
    # No target logit of the golden file lies in the published dead zone, so that both modes must give its value.
    torch.testing.assert_close(loss(logits, labels)["loss_cls"], golden["train.loss.loss_cls"][0], rtol=1e-5, atol=0)
