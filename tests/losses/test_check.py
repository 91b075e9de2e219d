"""Mistakes in a loss of the user's own are named before the training."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from tailseg.losses import BaseLossConfig, ClassificationLoss, ConfiguredLoss, SeesawLossConfig, build_loss
from tailseg.losses.check import check_own_loss
from tailseg.recipes import get_recipe
from tailseg.structures import ClassFrequency


class Right(ClassificationLoss):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = self.num_logits = num_classes

    def init_bias(self):
        return torch.zeros(self.num_logits)

    def forward(self, logits, labels):
        return {"loss_cls": logits.sum() * 0}

    def scores(self, logits):
        return logits.sigmoid()


class BackgroundColumn(Right):
    def scores(self, logits):
        return torch.cat([logits, logits[:, :1]], dim=1).sigmoid()


class Scalar(Right):
    def forward(self, logits, labels):
        return logits.sum()


class OneForEachRegion(Right):
    def forward(self, logits, labels):
        return {"loss_cls": logits.sum(1)}


class ShortBias(Right):
    def init_bias(self):
        return torch.zeros(1)


class NoNumbers(Right):
    def __init__(self, num_classes: int) -> None:
        nn.Module.__init__(self)


class Weighed(ConfiguredLoss):
    def forward(self, logits, labels):
        costs = logits.logsumexp(1)
        weights = self.weigh_regions(logits, labels)
        return {"loss_cls": (costs if weights is None else costs * weights).sum()}

    def scores(self, logits):
        return logits.sigmoid()


class Unweighed(Weighed):
    def forward(self, logits, labels):
        return {"loss_cls": logits.logsumexp(1).sum()}


@pytest.mark.parametrize("weights", [None, "inverse", (2.0, 1.0, 1.0, 1.0)])
def test_class_weights_without_effect_are_refused(weights):
    config = BaseLossConfig(class_weights=weights)
    counts = torch.tensor([9, 3, 1, 1])
    frequency = ClassFrequency.from_counts(counts, counts, 14)
    loss = Weighed(frequency, config)
    before = None if weights is None else loss.label_weights.clone()
    check_own_loss(loss, config)
    assert weights is None or torch.equal(loss.label_weights, before)
    if weights is None:
        check_own_loss(Unweighed(frequency, config), config)
        return
    with pytest.raises(ValueError, match=r"loss.class_weights has no effect on Unweighed: .* self.weigh_regions"):
        check_own_loss(Unweighed(frequency, config), config)


class Plain(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()


@dataclass(frozen=True)
class OwnConfig:
    kind: Any = Right

    def build(self, frequency):
        return self.kind(frequency.num_classes)


@pytest.fixture
def frequency():
    return ClassFrequency.from_counts(torch.tensor([5, 3, 1]), torch.tensor([5, 3, 1]), num_images=6)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            BackgroundColumn,
            r"BackgroundColumn.scores is a tensor of shape \[2, 4\]: expected .*\[2, 3\].*no background",
        ),
        (Scalar, r"Scalar.forward returned a tensor of shape \[\]: return a dictionary"),
        (OneForEachRegion, r"forward: 'loss_cls' is a tensor of shape \[2\]: expected .* a scalar"),
        (ShortBias, r"init_bias\(\) is a tensor of shape \[1\]: expected a tensor of shape \[3\]"),
        (NoNumbers, "NoNumbers has no attribute num_classes"),
        (Plain, r"OwnConfig.build\(frequency\) returned an object of the class Plain: derive"),
    ],
)
def test_a_mistake_is_named(kind, message, frequency):
    with pytest.raises(ValueError, match=message):
        build_loss(OwnConfig(kind), frequency)


def test_a_right_loss_passes(frequency):
    assert isinstance(build_loss(OwnConfig(), frequency), Right)


def test_the_look_leaves_no_trace_in_a_loss_with_state(frequency):
    loss = SeesawLossConfig().build(frequency)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    check_own_loss(loss, SeesawLossConfig())
    assert before
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())
    assert loss.training


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Right(3), r"loss is an object of the class Right, which is not a dataclass: give a config"),
        (OwnConfig, r"loss is the class OwnConfig: give an object of the class, OwnConfig\(...\)"),
    ],
)
def test_a_recipe_takes_a_config(loss, message):
    recipe = replace(get_recipe("tiny_gumbel"))
    object.__setattr__(recipe, "loss", loss)  # the tests' type checker lets nothing without `build` through
    with pytest.raises(ValueError, match=message):
        recipe.__post_init__()
