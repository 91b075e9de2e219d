"""GOL and its parts: DropLoss and EQL over any link, and class-relative activations, each against its formula."""

import dataclasses
import inspect
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailseg.losses import (
    EQL,
    BaseLossConfig,
    ClassRelativeLossConfig,
    DropLoss,
    DropLossConfig,
    EQLConfig,
    Gumbel,
    GumbelCE,
    GumbelCEConfig,
    Link,
    SigmoidCE,
    SigmoidCEConfig,
    SoftmaxCEConfig,
)
from tailseg.losses.tail import tail_classes
from tailseg.structures import ClassFrequency

from .memory import measure_kept

CONFIGS = {
    "GOL": DropLossConfig(),
    "DropLoss over the sigmoid": DropLossConfig(link="sigmoid"),
    "DropLoss over the normal": DropLossConfig(link="normal"),
    "DropLoss by group": DropLossConfig(tail="rc"),
    "EQL over Gumbel": EQLConfig(),
    "EQL over the sigmoid": EQLConfig(link="sigmoid"),
    "EQL over the normal, by group": EQLConfig(link="normal", tail="r"),
    "class-relative": ClassRelativeLossConfig(),
}
PUBLISHED = {
    f"{name}, published": dataclasses.replace(CONFIGS[name], published="2022")
    for name in ("GOL", "DropLoss over the sigmoid", "EQL over Gumbel", "class-relative")
}
every_exact_loss = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
every_loss = pytest.mark.parametrize("config", (CONFIGS | PUBLISHED).values(), ids=(CONFIGS | PUBLISHED).keys())


def long_tail(num_classes):
    """Counts from 3,000 images down to 1 of 6,000, evenly on a logarithmic scale."""
    steps = torch.linspace(1, 0, num_classes) if num_classes > 1 else torch.zeros(1)
    images = (3000**steps).round().long()
    return ClassFrequency.from_counts(images, 2 * images, 6000)


def problem(loss, num_regions, seed=0, scale=1.5):
    """Random logits in float64 within the literal formulas' reach, and labels, background included."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_regions, loss.num_logits, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, loss.num_classes + 1, (num_regions,), generator=generator)
    return logits, labels


def value_and_gradient(loss, logits, labels):
    torch.manual_seed(7)
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)["loss_cls"]
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


LITERAL_LINKS = {
    "gumbel": lambda q: torch.exp(-torch.exp(-q)),
    "sigmoid": lambda q: 1 / (1 + torch.exp(-q)),
    "normal": lambda q: (1 + torch.erf(q / math.sqrt(2))) / 2,
}


def literal_tail(config, frequency):
    images = frequency.image_counts.tolist()
    if config.tail == "r":
        return [n <= 10 for n in images]
    if config.tail == "rc":
        return [n <= 100 for n in images]
    return [n / frequency.num_images < config.tail for n in images]


def literal(config, frequency, logits, labels, drawn):
    """The formulas, one region after the other; ``drawn`` [R, C] is U > r, of which background rows alone are read."""
    num_classes = frequency.num_classes
    total = 0
    for i, label in enumerate(labels.tolist()):
        q, y = logits[i], torch.zeros(logits.shape[1], dtype=torch.float64)
        if label < len(y):
            y[label] = 1
        if isinstance(config, ClassRelativeLossConfig):
            frequent = torch.tensor([*(frequency.image_counts > 100).tolist(), False])
            p = torch.where(frequent, LITERAL_LINKS["normal"](q), LITERAL_LINKS["gumbel"](q))
            weight = 1
        else:
            p = LITERAL_LINKS[config.link](q)
            dropped = torch.tensor(literal_tail(config, frequency))
            if label == num_classes:
                dropped = dropped & drawn[i] if isinstance(config, DropLossConfig) else torch.zeros_like(dropped)
            weight = 1 - dropped.double() * (1 - y)
        total -= (weight * (y * torch.log(p) + (1 - y) * torch.log(1 - p))).sum()
    return total / len(labels)


@every_exact_loss
@pytest.mark.parametrize(("num_classes", "num_regions"), [(1, 12), (6, 40), (1203, 8), (21841, 4)])
def test_agrees_with_the_literal_formula_in_float64(config, num_classes, num_regions):
    frequency = long_tail(num_classes)
    loss = config.build(frequency)
    logits, labels = problem(loss, num_regions)
    labels[0], labels[1], labels[2] = num_classes, num_classes - 1, 0
    # Where p and 1 - p keep eight digits as they are written.
    low, high = {"gumbel": (-2.5, 12), "sigmoid": (-12, 12), "normal": (-4, 4)}[getattr(config, "link", "normal")]
    logits = logits.clamp(max(low, -2.5) if isinstance(config, ClassRelativeLossConfig) else low, high)
    torch.manual_seed(7)
    drawn = loss.spares_tail(labels) if isinstance(config, DropLossConfig) else None
    value, gradient = value_and_gradient(loss, logits, labels)
    logits.requires_grad_()
    expected = literal(config, frequency, logits, labels, drawn)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-8, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=0)


@every_exact_loss
def test_gradcheck_of_both_orders(config):
    loss = config.build(long_tail(5))
    logits, labels = problem(loss, 9, scale=3.0)
    labels[:3] = torch.tensor([loss.num_classes, 0, 4])

    def total(x):
        torch.manual_seed(7)
        return loss(x, labels)["loss_cls"]

    assert torch.autograd.gradcheck(total, logits.requires_grad_())
    assert torch.autograd.gradgradcheck(total, logits)


# Identities.


@pytest.mark.parametrize("kind", [DropLossConfig, EQLConfig])
@pytest.mark.parametrize("published", [None, "2022"])
def test_without_a_tail_it_is_sigmoid_cross_entropy(kind, published):
    loss = kind(tail=0.0, link="sigmoid", published=published).build(long_tail(30))
    logits, labels = problem(loss, 40)
    torch.testing.assert_close(
        value_and_gradient(loss, logits, labels), value_and_gradient(SigmoidCE(30), logits, labels), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", [DropLossConfig, EQLConfig])
@pytest.mark.parametrize("published", [None, "2022"])
def test_without_a_tail_it_is_gumbel_cross_entropy_but_for_the_background_channel(kind, published):
    loss = kind(tail=0.0, published=published).build(long_tail(30))
    logits, labels = problem(loss, 40, scale=0.7)
    labels[:10] = 30
    # A background channel at the ends of the published clamp: it costs exp(-10) on background, exp(-exp(4)) elsewhere.
    channel = torch.where(labels == 30, 10.0, -4.0).double().unsqueeze(1)
    value, gradient = value_and_gradient(loss, logits, labels)
    expected, expected_gradient = value_and_gradient(
        GumbelCE(30, published=published), torch.cat([logits, channel], dim=1), labels
    )
    background = (labels == 30).double().mean().item()
    assert background == 0.25
    assert expected < 20  # or the published clamp would cut it
    torch.testing.assert_close(value.double(), expected.double() - background * math.exp(-10), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient[:, :-1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("published", [None, "2022"])
def test_without_frequent_classes_class_relative_is_gumbel_cross_entropy(published):
    loss = ClassRelativeLossConfig(frequent_above=10**6, published=published).build(long_tail(30))
    logits, labels = problem(loss, 16, scale=0.7)
    expected = value_and_gradient(GumbelCE(30, published=published), logits, labels)
    assert expected[0] < 20
    torch.testing.assert_close(value_and_gradient(loss, logits, labels), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss.scores(logits), GumbelCE(30).scores(logits), rtol=0, atol=0)


def test_eql_is_droploss_when_every_object_is_of_the_tail():
    """r = 1: no background is dropped."""
    frequency = long_tail(6)
    drop, eql = DropLossConfig().build(frequency), EQLConfig().build(frequency)
    logits, _ = problem(drop, 20)
    labels = torch.tensor([4, 5, 5, 4] + [6] * 16)
    torch.testing.assert_close(
        value_and_gradient(drop, logits, labels), value_and_gradient(eql, logits, labels), rtol=0, atol=0
    )


# Which entries are dropped.

TAIL = [False] * 4 + [True] * 2  # of long_tail(6): 3,000, 605, 122, 25 images; 5 and 1


def test_the_tail_of_the_example():
    assert long_tail(6).image_counts.tolist() == [3000, 605, 122, 25, 5, 1]
    assert tail_classes(long_tail(6), 0.0011).tolist() == TAIL


@pytest.mark.parametrize(
    ("tail", "num_images", "last_inside"),
    [(0.0011, 99_388, 109), (0.00177, 56_740, 100)],
    ids=["LVIS v1", "LVIS v0.5"],
)
def test_the_published_thresholds_end_at_109_and_100_images(tail, num_images, last_inside):
    images = torch.tensor([0, 1, last_inside, last_inside + 1])
    frequency = ClassFrequency.from_counts(images, images, num_images)
    assert tail_classes(frequency, tail).tolist() == [True, True, True, False]


def test_the_tail_by_threshold_is_strict_and_by_group_is_the_data_sets():
    images = torch.tensor([10, 11, 100, 101])
    frequency = ClassFrequency.from_counts(images, images, 1000)
    assert tail_classes(frequency, 0.0).tolist() == [False] * 4
    assert tail_classes(frequency, 0.01).tolist() == [False] * 4
    assert tail_classes(frequency, 0.0101).tolist() == [True, False, False, False]
    assert tail_classes(frequency, 1.0).tolist() == [True] * 4
    assert tail_classes(frequency, "r").tolist() == [True, False, False, False]
    assert tail_classes(frequency, "rc").tolist() == [True, True, True, False]
    own = ClassFrequency.from_counts(images, images, 1000, groups=("f", "r", "c", "f"))
    assert tail_classes(own, "r").tolist() == [False, True, False, False]


@pytest.mark.parametrize("kind", [DropLossConfig, EQLConfig])
@pytest.mark.parametrize("tail", [-0.1, 1.5, math.nan])
def test_a_threshold_that_is_no_share_is_refused(kind, tail):
    with pytest.raises(ValueError, match=r"loss\.tail is in \[0, 1\], r, or rc"):
        kind(tail=tail).build(long_tail(3))


@pytest.mark.parametrize("word", ["f", "common", ""])
def test_a_tail_by_another_word_is_refused(word):
    """By the bare function: that the word is one of two is checked before it in tests alone."""
    with pytest.raises(ValueError, match=f"r .rare classes. or rc .rare and common classes., got '{word}'"):
        inspect.unwrap(tail_classes)(long_tail(3), word)


def test_eql_drops_the_tail_on_objects_alone():
    loss = EQLConfig().build(long_tail(6))
    dropped = loss.spares_tail(torch.tensor([0, 5, 6])) & loss.tail
    assert dropped.tolist() == [TAIL, TAIL, [False] * 6]


def test_droploss_drops_the_tail_on_objects_and_one_less_r_of_it_on_background():
    """Of 16 objects 4 are of the tail: r = 1/4. 8,000 draws at 3/4 stray by 0.5 %; four times that is allowed."""
    loss = DropLossConfig().build(long_tail(6))
    labels = torch.tensor([0] * 10 + [3] * 2 + [4, 4, 5, 5] + [6] * 4000)
    torch.manual_seed(0)
    dropped = loss.spares_tail(labels) & loss.tail
    assert dropped[:16].tolist() == [TAIL] * 16
    background = dropped[16:].double()
    assert (background[:, :4] == 0).all()
    assert background[:, 4:].mean().item() == pytest.approx(0.75, abs=0.02)
    # Entries are drawn apart: both classes of a row are dropped in 9/16 of the rows, which stray by 0.8 %.
    assert background[:, 4:].prod(1).mean().item() == pytest.approx(9 / 16, abs=0.035)


@pytest.mark.parametrize(
    ("objects", "share"), [([], 0), ([4, 5], 0), ([0, 1], 1)], ids=["no objects", "all of the tail", "none of it"]
)
def test_droploss_on_background_at_its_limits(objects, share):
    """Without objects nothing is dropped: the published r is not a number, and U > r is false (defect 8)."""
    loss = DropLossConfig().build(long_tail(6))
    dropped = (loss.spares_tail(torch.tensor(objects + [6] * 200)) & loss.tail)[len(objects) :]
    assert (dropped[:, 4:] == bool(share)).all()
    assert not dropped[:, :4].any()


def test_the_label_of_a_tail_class_is_never_dropped():
    for config in (DropLossConfig(), EQLConfig()):
        loss = config.build(long_tail(6))
        _, gradient = value_and_gradient(loss, torch.zeros(1, 6, dtype=torch.float64), torch.tensor([5]))
        # Gumbel at 0: -1 for the label, 1 / (e - 1) for the four negatives that count, 0 for the one dropped.
        no = 1 / (math.e - 1)
        torch.testing.assert_close(gradient[0].tolist(), [no, no, no, no, 0.0, -1.0])


def test_every_call_draws_again_and_a_seed_repeats_it():
    loss = DropLossConfig().build(long_tail(40))
    logits, labels = problem(loss, 40)
    labels[:20] = 40
    torch.manual_seed(0)
    values = [loss(logits, labels)["loss_cls"].item() for _ in range(10)]
    assert len(set(values)) == 10
    torch.manual_seed(0)
    assert [loss(logits, labels)["loss_cls"].item() for _ in range(10)] == values


# What every loss promises.


@every_loss
def test_a_seed_repeats_the_loss_to_the_bit(config):
    first, second = (config.build(long_tail(40)) for _ in range(2))
    logits, labels = problem(first, 16)
    for ours, theirs in zip(*(value_and_gradient(x, logits, labels) for x in (first, second)), strict=True):
        assert torch.equal(ours, theirs)


@every_loss
def test_permuting_the_classes_changes_nothing(config):
    frequency = long_tail(6)
    order = torch.tensor([3, 5, 0, 4, 1, 2])
    images = frequency.image_counts[order]
    loss, other = config.build(frequency), config.build(ClassFrequency.from_counts(images, 2 * images, 6000))
    logits, labels = problem(loss, 10, scale=0.7)
    labels[labels == 6] = 5  # draws for background belong to columns, and do not move with the classes
    columns = torch.cat([order, torch.arange(6, loss.num_logits)])
    value, gradient = value_and_gradient(loss, logits, labels)
    permuted, permuted_gradient = value_and_gradient(other, logits[:, columns], order.argsort()[labels])
    torch.testing.assert_close(permuted, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(permuted_gradient, gradient[:, columns], rtol=1e-6, atol=0)
    torch.testing.assert_close(other.scores(logits[:, columns]), loss.scores(logits)[:, order])


@every_exact_loss
def test_is_the_mean_over_regions_times_its_weight(config):
    loss = config.build(long_tail(6))
    logits, labels = problem(loss, 6)
    labels[labels == 6] = 4  # r belongs to the whole batch
    rows = torch.stack([loss(logits[i : i + 1], labels[i : i + 1])["loss_cls"] for i in range(6)])
    value, _ = value_and_gradient(loss, logits, labels)
    torch.testing.assert_close(value, rows.mean())
    heavier = dataclasses.replace(config, weight=2.5).build(long_tail(6))
    torch.testing.assert_close(value_and_gradient(heavier, logits, labels)[0], 2.5 * value)


@every_loss
@pytest.mark.parametrize("num_classes", [1, 1203, 21841])
def test_no_regions_cost_nothing_and_keep_the_graph(config, num_classes):
    loss = config.build(long_tail(num_classes))
    logits = torch.zeros(0, loss.num_logits, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.int64))["loss_cls"]
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert loss.scores(logits).shape == (0, num_classes)


@every_loss
@pytest.mark.parametrize("num_classes", [1, 1203])
def test_background_alone_pushes_every_class_down(config, num_classes):
    """All of them: without objects nothing is dropped."""
    loss = config.build(long_tail(num_classes))
    start = loss.init_bias().repeat(3, 1)
    value, gradient = value_and_gradient(loss, start, torch.full((3,), num_classes))
    assert value > 0
    assert (gradient[:, :num_classes] > 0).all()


@every_loss
@pytest.mark.parametrize("label", [-1, 7, 10**9])
def test_labels_out_of_range_are_refused(config, label):
    loss = config.build(long_tail(6))
    with pytest.raises(ValueError, match=r"0 \.\. 6 \(6 is background\).*contiguous labels"):
        loss(torch.zeros(2, loss.num_logits), torch.tensor([0, label]))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("extreme", [80.0, 1e4])
def test_extreme_logits_stay_finite(config, dtype, extreme):
    loss = config.build(long_tail(3))
    alternating = extreme * (-1.0) ** torch.arange(loss.num_logits)
    rows = [torch.full_like(alternating, extreme), torch.full_like(alternating, -extreme), alternating, -alternating]
    logits = torch.stack(rows).repeat_interleave(4, dim=0).to(dtype)
    value, gradient = value_and_gradient(loss, logits, torch.arange(4).repeat(4))
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    scores = loss.scores(logits)
    assert scores.dtype == torch.float32
    assert ((scores >= 0) & (scores <= 1)).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_half_precision_logits_are_computed_in_float32(config, dtype, autocast):
    """Their error against float64 is therefore float32's, which the next test states."""
    loss = config.build(long_tail(20))
    logits, labels = problem(loss, 32)
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_within_1e_6_of_float64(config, dtype):
    """For the same logits; a gradient in half precision is rounded to its own type as well, by 2^-8 or 2^-11."""
    loss = config.build(long_tail(1203))
    logits, labels = problem(loss, 64, scale=3.0)
    logits = logits.to(dtype)
    value, gradient = value_and_gradient(loss, logits, labels)
    expected, expected_gradient = value_and_gradient(loss, logits.double(), labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    least = {torch.float16: 2**-24}.get(dtype, 1e-9)  # float16 has no smaller step than this
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=rounding + 1e-5, atol=least)


@every_exact_loss
def test_keeps_less_than_half_a_tensor_of_the_logits_size_for_the_backward_pass(config):
    """A mask of bytes where entries are dropped; class-relative activations keep the logits in another order."""
    loss = config.build(long_tail(1203))
    logits, labels = problem(loss, 64)
    logits = logits.float().requires_grad_()
    limit = 1.1 if isinstance(config, ClassRelativeLossConfig) else 0.5
    assert measure_kept(lambda: loss(logits, labels), logits) < limit


@every_loss
def test_not_a_number_reaches_the_loss(config):
    loss = config.build(long_tail(3))
    logits = torch.zeros(4, loss.num_logits)
    logits[1, 0] = torch.nan
    assert loss(logits, torch.tensor([0, 3, 1, 2]))["loss_cls"].isnan()


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(CONFIGS | PUBLISHED)),
    num_classes=st.integers(1, 40),
    num_regions=st.integers(0, 12),
    scale=st.sampled_from([0.0, 1.0, 10.0, 80.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_scale_gives_a_finite_loss_and_gradient(name, num_classes, num_regions, scale, seed):
    loss = (CONFIGS | PUBLISHED)[name].build(long_tail(num_classes))
    logits, labels = problem(loss, num_regions, seed, scale)
    value, gradient = value_and_gradient(loss, logits.float(), labels)
    assert value.isfinite()
    assert value >= 0
    assert gradient.isfinite().all()
    scores = loss.scores(logits)
    assert scores.shape == (num_regions, num_classes)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.slow
def test_compiles_without_a_graph_break(tmp_path):
    """In a process of its own: the tests' checks of shapes are no code to compile."""
    plain = {"gumbel": GumbelCEConfig(), "sigmoid": SigmoidCEConfig(), "softmax": SoftmaxCEConfig()}
    published = {"gumbel, published": GumbelCEConfig(published="2022")}
    losses = CONFIGS | PUBLISHED | plain | published
    configs = tmp_path / "configs.pkl"
    configs.write_bytes(pickle.dumps((losses, long_tail(6))))
    outcome = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compiled.py")), str(configs)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines() == list(losses)


# Settings.


@pytest.mark.parametrize("kind", [DropLossConfig, EQLConfig])
@pytest.mark.parametrize(("link", "bias"), [("gumbel", -2.0), ("sigmoid", -6.9), ("normal", -3.0)])
def test_the_initial_bias_is_the_links_published_one_unless_given(kind, link, bias):
    assert torch.equal(kind(link=link).build(long_tail(6)).init_bias(), torch.full((6,), bias))
    given = kind(link=link, init_bias=0.0).build(long_tail(6))
    assert torch.equal(given.init_bias(), torch.zeros(6))


def test_class_relative_starts_at_minus_three():
    assert torch.equal(ClassRelativeLossConfig().build(long_tail(6)).init_bias(), torch.full((7,), -3.0))


SHARED = {field.name for field in dataclasses.fields(BaseLossConfig)}
VARIED = {
    DropLossConfig(): {"tail": "rc", "link": "sigmoid", "published": "2022"},
    EQLConfig(): {"tail": "rc", "link": "sigmoid", "published": "2022"},
    ClassRelativeLossConfig(): {"frequent_above": 10, "published": "2022"},
}


@pytest.mark.parametrize("config", VARIED, ids=lambda config: type(config).__name__)
def test_every_setting_of_a_config_has_its_effect(config):
    fields = {field.name for field in dataclasses.fields(config)}
    assert fields == VARIED[config].keys() | SHARED

    def value(config):
        loss = config.build(long_tail(40))
        return value_and_gradient(loss, *problem(loss, 20, scale=4.0))[0].item()

    for name, setting in VARIED[config].items():
        assert value(dataclasses.replace(config, **{name: setting})) != pytest.approx(value(config), rel=1e-6), name


class Steep(Link):
    """A link from outside: a sigmoid twice as steep."""

    init_bias = -3.45

    def probability(self, q):
        return torch.sigmoid(2 * q)

    def log_probability(self, q):
        return torch.nn.functional.logsigmoid(2 * q)

    def log_complement(self, q):
        return torch.nn.functional.logsigmoid(-2 * q)


@pytest.mark.parametrize("kind", [DropLoss, EQL])
def test_takes_any_link(kind):
    loss, sigmoid = (kind(long_tail(6), tail=0.0, link=link) for link in (Steep(), Gumbel()))
    logits, labels = problem(loss, 9)
    torch.testing.assert_close(
        value_and_gradient(loss, logits, labels)[0], value_and_gradient(SigmoidCE(6), 2 * logits, labels)[0]
    )
    assert loss.init_bias()[0] == pytest.approx(-3.45)
    assert sigmoid.init_bias()[0] == -2
    with pytest.raises(ValueError, match="Steep has no form published in 2022"):
        kind(long_tail(6), tail=0.0, link=Steep(), published="2022")


def test_the_tail_follows_the_loss_to_its_device_but_not_into_a_checkpoint():
    loss = DropLossConfig().build(long_tail(6))
    assert loss.state_dict() == {}
    assert not dict(loss.named_buffers())
    assert loss.to("meta").tail.device.type == "meta"


def test_class_relative_scores_by_frequency():
    loss = ClassRelativeLossConfig().build(long_tail(6))
    scores = loss.scores(torch.full((1, 7), 0.5, dtype=torch.float64))[0].tolist()
    normal, gumbel = (1 + math.erf(0.5 / math.sqrt(2))) / 2, math.exp(-math.exp(-0.5))
    assert scores == pytest.approx([normal] * 3 + [gumbel] * 3, rel=1e-12)
