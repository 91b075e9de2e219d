"""The binary losses through heads without regions: equal to those through regions, whatever form the targets have."""

import dataclasses
import inspect
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from tailseg.losses import (
    BinaryLoss,
    DropLossConfig,
    EQLConfig,
    EQLv2Config,
    EqualizedFocalLossConfig,
    FederatedLossConfig,
    FocalLossConfig,
    GumbelCEConfig,
    SigmoidCEConfig,
    VarifocalLossConfig,
)

from . import naive
from .test_rivals import long_tail

CLASSES = 6
CONFIGS = {
    "sigmoid": SigmoidCEConfig(),
    "Gumbel": GumbelCEConfig(background=False),
    "Gumbel, 2022": GumbelCEConfig(background=False, published="2022"),
    "GOL": DropLossConfig(tail="rc"),
    "DropLoss, sigmoid": DropLossConfig(tail="rc", link="sigmoid"),
    "EQL": EQLConfig(tail="rc"),
    "EQLv2": EQLv2Config(background=False),
    "federated": FederatedLossConfig(num_sampled=3),
    "focal": FocalLossConfig(),
    "focal, Gumbel": FocalLossConfig(link="gumbel"),
    "quality focal": FocalLossConfig(alpha=None),
    "EFL": EqualizedFocalLossConfig(),
    "EQFL, Gumbel": EqualizedFocalLossConfig(alpha=None, link="gumbel"),
    "varifocal": VarifocalLossConfig(),
    "IoU-aware, Gumbel": VarifocalLossConfig(alpha=1.0, on_positives="one", link="gumbel"),
    "RT-DETR's varifocal": VarifocalLossConfig(constant_factor=True),
    "class weights": GumbelCEConfig(background=False, class_weights="inverse"),
}
every_loss = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def problem(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(*shape, CLASSES, generator=generator, dtype=torch.float64) - 1
    labels = torch.randint(0, CLASSES + 1, shape, generator=generator)
    quality = torch.rand(shape, generator=generator, dtype=torch.float64)
    return logits, labels, quality


def run(function, logits):
    """The value and the gradient, with the same draws each time."""
    torch.manual_seed(3)
    logits = logits.clone().requires_grad_()
    value = function(logits)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def to_targets(labels, quality=None):
    one_hot = F.one_hot(labels, CLASSES + 1)[..., :-1].double()
    return one_hot if quality is None else one_hot * quality.unsqueeze(-1)


@every_loss
def test_it_is_the_loss_through_regions_step_after_step(config):
    regions, dense = config.build(long_tail(CLASSES)), config.build(long_tail(CLASSES))
    for seed in range(3):
        logits, labels, _ = problem((2, 3, 4), seed)
        value, gradient = run(lambda q, y=labels: dense.dense(q, y), logits)
        expected = run(lambda q, y=labels: regions(q, y.flatten())["loss_cls"], logits.flatten(0, 2))
        assert value == expected[0]
        assert torch.equal(gradient.flatten(0, 2), expected[1])
    for name, buffer in regions.state_dict().items():
        assert torch.equal(buffer, dense.state_dict()[name])


@every_loss
@pytest.mark.parametrize("soft", [False, True])
def test_indices_are_targets_by_entry(config, soft):
    by_index, by_entry = config.build(long_tail(CLASSES)), config.build(long_tail(CLASSES))
    for seed in range(2):
        logits, labels, quality = problem((3, 5), seed)
        quality = quality if soft else None
        ours = run(lambda q, y=labels, iou=quality: by_index.dense(q, y, quality=iou), logits)
        targets = to_targets(labels, quality)
        theirs = run(lambda q, y=targets: by_entry.dense(q, y), logits)
        rtol = 1e-6 if getattr(config, "published", None) else 1e-12  # the published link computes in float32
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-14)
    torch.testing.assert_close(by_index.state_dict(), by_entry.state_dict())


@pytest.mark.parametrize("link", ["sigmoid", "gumbel", "normal"])
def test_multi_label_targets(link):
    loss = FocalLossConfig(gamma=0.0, alpha=None, link=link).build(long_tail(CLASSES))
    logits, _, _ = problem((4,))
    targets = torch.rand(4, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.5

    def formula(q):
        yes, no = naive.LINKS[link](q)
        return -torch.where(targets, yes, no).sum() / 4

    torch.testing.assert_close(run(lambda q: loss.dense(q, targets), logits), run(formula, logits))


def test_quality_focal_loss_is_its_formula():
    """Li et al., Generalized Focal Loss, equation 2; the factor has a gradient."""
    loss = FocalLossConfig(alpha=None, gamma=1.5).build(long_tail(CLASSES))
    logits, labels, quality = problem((8,))
    y = to_targets(labels, quality)

    def formula(q):
        p = 1 / (1 + torch.exp(-q))
        return -((y - p).abs() ** 1.5 * (y * p.log() + (1 - y) * (1 - p).log())).sum() / 8

    torch.testing.assert_close(run(lambda q: loss.dense(q, labels, quality=quality), logits), run(formula, logits))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("on_positives", ["target", "one"])
def test_varifocal_and_iou_aware_losses_are_their_formulas(constant, on_positives):
    loss = VarifocalLossConfig(alpha=0.6, on_positives=on_positives, constant_factor=constant).build(long_tail(CLASSES))
    logits, labels, quality = problem((8,))
    y = to_targets(labels, quality)

    def formula(q):
        p = 1 / (1 + torch.exp(-q))
        factor = torch.where(y > 0, y if on_positives == "target" else 1.0, 0.6 * p**2)
        factor = factor.detach() if constant else factor
        return -(factor * (y * p.log() + (1 - y) * (1 - p).log())).sum() / 7

    ours = run(lambda q: loss.dense(q, labels, quality=quality, normalizer=7.0), logits)
    torch.testing.assert_close(ours, run(formula, logits))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("GOL", "DropLoss, sigmoid")])
@pytest.mark.parametrize("by_index", [True, False])
def test_ignored_rows_are_as_if_they_were_not_there(name, by_index):
    """Also in the state, and if their logits are no numbers. (DropLoss draws for all rows.)"""
    loss, other = CONFIGS[name].build(long_tail(CLASSES)), CONFIGS[name].build(long_tail(CLASSES))
    for seed in range(2):
        logits, labels, _ = problem((3, 5), seed)
        labels[0, 0], labels[0, 2] = 5, 0  # the only objects of their classes may be ignored ones
        ignored = torch.zeros(3, 5, dtype=torch.bool)
        ignored[0, 2] = ignored[1] = True
        targets = labels if by_index else to_targets(labels)
        expected = run(lambda q, y=targets[~ignored]: other.dense(q, y), logits[~ignored])
        logits[0, 2], logits[1, 1] = -math.inf, math.nan
        value, gradient = run(lambda q, y=targets, i=ignored: loss.dense(q, y, ignored=i), logits)
        torch.testing.assert_close((value, gradient[~ignored]), expected)
        assert not gradient[ignored].any()
    torch.testing.assert_close(loss.state_dict(), other.state_dict())


@pytest.mark.parametrize("by_index", [True, False])
def test_ignored_entries_cost_nothing(by_index):
    loss = GumbelCEConfig(background=False).build(long_tail(CLASSES))
    logits, labels, _ = problem((7,))
    ignored = torch.rand(7, CLASSES, generator=torch.Generator().manual_seed(2)) < 0.4
    y = to_targets(labels)

    def formula(q):
        yes, no = naive.log_gumbel(q)
        return -(torch.where(ignored, 0, y * yes + (1 - y) * no)).sum() / (~ignored).any(1).sum()

    ours = run(lambda q: loss.dense(q, labels if by_index else y, ignored=ignored), logits)
    torch.testing.assert_close(ours, run(formula, logits))


@every_loss
def test_weights_and_normalizer(config):
    """A weight of 2 is that row twice; weights of entries are those of rows where they agree; the sum is divided."""
    if isinstance(config, DropLossConfig):
        config = dataclasses.replace(config, tail=0.0)  # a row twice would change its draws
    if getattr(config, "published", None):
        config = dataclasses.replace(config, weight=1e-6)  # and the clamp of the sum
    loss = config.build(long_tail(CLASSES)).eval()
    logits, labels, _ = problem((5,))
    twice = torch.tensor([0, 1, 1, 2, 3, 4, 4])
    weights = torch.tensor([1.0, 2, 1, 1, 2])
    if getattr(config, "published", None) is None:
        expected = loss.dense(logits[twice], labels[twice], normalizer=3.0)
        torch.testing.assert_close(loss.dense(logits, labels, weights=weights, normalizer=torch.tensor(3.0)), expected)
    by_row = run(lambda q: loss.dense(q, labels, weights=weights), logits)
    for targets in (labels, to_targets(labels)):
        of_entries = weights.unsqueeze(1).expand(5, CLASSES).contiguous()
        by_entry = run(lambda q, y=targets, w=of_entries: loss.dense(q, y, weights=w), logits)
        torch.testing.assert_close(by_entry, by_row)


def test_weights_of_single_entries():
    loss = SigmoidCEConfig().build(long_tail(CLASSES))
    logits, labels, _ = problem((5,))
    weights = torch.rand(5, CLASSES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = to_targets(labels)
    expected = F.binary_cross_entropy_with_logits(logits, y, weights, reduction="sum") / 5
    torch.testing.assert_close(loss.dense(logits, labels, weights=weights), expected)
    torch.testing.assert_close(loss.dense(logits, y, weights=weights), expected)


def test_classes_of_a_row_with_several_labels_share_its_weight():
    loss = GumbelCEConfig(background=False, class_weights=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)).build(long_tail(CLASSES))
    plain = GumbelCEConfig(background=False).build(long_tail(CLASSES))
    logits, _, _ = problem((2,))
    y = torch.tensor([[1.0, 0, 1, 0, 0, 0], [0.0, 0, 0, 0, 0, 0]])
    of_labels = loss.label_weights
    row = torch.stack([(of_labels[0] + of_labels[2]) / 2, torch.tensor(1.0, dtype=torch.float64)])
    torch.testing.assert_close(loss.dense(logits, y), plain.dense(logits, y, weights=row))


def test_a_loss_with_a_logit_of_background_takes_indices():
    loss = GumbelCEConfig().build(long_tail(CLASSES))
    logits = torch.randn(2, 5, CLASSES + 1, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 6, 6, 2, 6]] * 2)
    assert loss.dense(logits, labels) == loss(logits.flatten(0, 1), labels.flatten())["loss_cls"]
    with pytest.raises(ValueError, match=r"GumbelCE has a logit of background, .* build the loss with background"):
        loss.dense(logits, torch.zeros(2, 5, CLASSES + 1))


@every_loss
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_one_row_and_no_rows(config, shape):
    loss = config.build(long_tail(CLASSES))
    logits, labels, _ = problem(shape)
    for targets in (labels, to_targets(labels)):
        value, gradient = run(
            lambda q, y=targets: loss.dense(q, y, ignored=torch.zeros_like(labels, dtype=bool)), logits
        )
        assert gradient.shape == logits.shape
        assert value.isfinite()
        assert bool(value > 0) == (shape == ())


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_no_more_than_the_logits(config, dtype):
    logits, labels, quality = problem((40,))
    logits, quality = logits.to(dtype), quality.to(dtype)
    ours, gradient = run(lambda q: config.build(long_tail(CLASSES)).dense(q, labels, quality=quality), logits)
    theirs, expected = run(
        lambda q: config.build(long_tail(CLASSES)).dense(q, labels, quality=quality.double()), logits.double()
    )
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("name", ["Gumbel", "focal", "EFL", "varifocal"])
def test_gradcheck_of_both_orders(name):
    loss = CONFIGS[name].build(long_tail(CLASSES)).eval()
    logits, labels, quality = problem((4,))
    for arguments in ((labels,), (to_targets(labels, quality),)):
        assert torch.autograd.gradcheck(lambda q, a=arguments: loss.dense(q, *a), logits.requires_grad_())
        assert torch.autograd.gradgradcheck(lambda q, a=arguments: loss.dense(q, *a), logits)


@pytest.mark.parametrize("name", ["Gumbel", "EFL", "varifocal", "federated"])
def test_one_tensor_of_the_logits_size_is_held_and_no_one_hot_target(name):
    loss = CONFIGS[name].build(long_tail(300)) if name != "federated" else FederatedLossConfig().build(long_tail(300))
    logits = torch.randn(1700, 300).requires_grad_()  # below the size that is compiled
    labels, quality = torch.randint(0, 301, (1700,)), torch.rand(1700)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss.dense(logits, labels, quality=quality).backward()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    held = max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))
    block = 12 * 4 * 65536 * torch.get_num_threads()  # what is computed in the cache
    assert held < 4 * logits.numel() + block


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3, 5)}, r"GumbelCE of 6 classes expects logits \[..., 6\], got \[3, 5\]"),
        ({"targets": torch.zeros(3, dtype=torch.int32)}, r"targets are int64 .* or float or bool .*, got torch.int32"),
        (
            {"targets": torch.zeros(4, dtype=torch.int64)},
            r"int64 targets for logits \[3, 6\] have the shape \[3\],",
        ),
        ({"targets": torch.zeros(3, 5)}, r"float32 targets for logits \[3, 6\] have the shape \[3, 6\], got \[3, 5\]"),
        ({"targets": torch.tensor([0, 7, 1])}, r"labels must lie in 0 .. 6 .*got 0 .. 7: use contiguous labels"),
        ({"targets": torch.tensor([0, -1, 1])}, r"labels must lie in 0 .. 6 .*got -1 .. 1"),
        ({"targets": torch.full((3, 6), 1.5)}, r"targets must lie in 0 .. 1, got 1.5 .. 1.5"),
        ({"targets": torch.full((3, 6), math.nan)}, r"targets must lie in 0 .. 1, got nan"),
        ({"logits": torch.full((3, 6), math.inf)}, r"GumbelCE expects finite logits, but 18 of 18 are infinite"),
        ({"targets": torch.zeros(3, 6, dtype=torch.int64)}, r"got \[3, 6\]: give one-hot targets as bool"),
        ({"normalizer": 0}, r"normalizer is above 0, got 0: give max\(number of objects, 1\)"),
        ({"normalizer": math.nan}, r"normalizer is above 0, got nan"),
        ({"quality": torch.zeros(4)}, r"quality is one number for each row \[3\] with int64 targets, got \[4\]"),
        ({"weights": torch.zeros(6)}, r"weights has the shape of the logits \[3, 6\] or of the rows \[3\], got \[6\]"),
        ({"ignored": torch.zeros(2).bool()}, r"ignored has the shape of the logits \[3, 6\] or of the rows \[3\]"),
    ],
)
def test_refusals(change, message):
    arguments = {"logits": torch.zeros(3, 6), "targets": torch.zeros(3, dtype=torch.int64)} | change
    loss = GumbelCEConfig(background=False).build(long_tail(CLASSES))
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(BinaryLoss.dense)(loss, **arguments)  # without the tests' own checks of shapes
