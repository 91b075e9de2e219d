"""Classes that were not looked for in an image: no loss makes negatives of them, and the others stay as they are."""

import dataclasses
from typing import Any

import pytest
import torch

from tailseg.losses import LOSSES, GumbelCEConfig, SigmoidCEConfig, hide_unverified, stack_unverified
from tailseg.losses.settings import DropLossConfig, LDAMLossConfig, PCBLossConfig
from tailseg.structures import ClassFrequency

C = 6
FREQUENCY = ClassFrequency.from_counts(
    torch.tensor([900, 150, 40, 9, 3, 1]), torch.tensor([3000, 300, 60, 9, 4, 1]), 1000
)
CONFIGS = {
    **LOSSES,
    "gumbel, published": GumbelCEConfig(published="2022"),
    "sigmoid, background": SigmoidCEConfig(background=True),
    "droploss, normal": DropLossConfig(tail="rc", link="normal"),
    "ldam, reweighted": LDAMLossConfig(scale=3.0, reweight_after=0),
}
every_loss = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())

UNVERIFIED = torch.tensor([[0, 1, 0, 0, 1, 1], [0] * 6, [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
LABELS = torch.tensor([0, 6, 3, 4, 6, 2, 5, 6, 1])
"""Region 3 has the label 4, which is not verified in its image; it is an object of that class all the same."""
IMAGES = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])


def make(config: Any, frequency: ClassFrequency = FREQUENCY) -> Any:
    return dataclasses.replace(config, weight=1.0).build(frequency)


def make_logits(loss: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (2 * torch.randn(len(LABELS), loss.num_logits, generator=generator)).to(dtype).requires_grad_()


def compute(loss: Any, logits: torch.Tensor, labels: torch.Tensor = LABELS) -> torch.Tensor:
    torch.manual_seed(0)
    return sum(loss(logits, labels).values())


def find_hidden() -> torch.Tensor:
    hidden = UNVERIFIED[IMAGES].clone()
    for region, label in enumerate(LABELS.tolist()):
        if label < C:
            hidden[region, label] = False
    return hidden


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_unverified_class_gets_no_gradient_and_the_value_does_not_depend_on_it(
    config: Any, dtype: torch.dtype
) -> None:
    loss, hidden = make(config), find_hidden()
    logits = make_logits(loss, dtype)
    value = compute(loss, hide_unverified(logits, LABELS, UNVERIFIED, IMAGES))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (gradient[:, :C][hidden] == 0).all()
    assert gradient[:, :C][~hidden].count_nonzero() > 0
    # A soft target may lie below the score.
    assert isinstance(config, PCBLossConfig) or gradient[3, 4] < 0, "an object raises its own class"
    changed = torch.where(torch.nn.functional.pad(hidden, (0, loss.num_logits - C)), 7.0, logits.detach().float())
    again = make(config)  # EQLv2 and Seesaw count what they have seen
    other = compute(again, hide_unverified(changed.to(dtype), LABELS, UNVERIFIED, IMAGES))
    assert torch.equal(value, other)


REDUCED = [
    "gumbel",
    "gumbel, published",
    "sigmoid",
    "sigmoid, background",
    "softmax",
    "eql",
    "eqlv2",
    "seesaw",
    "focal",
]
"""Losses whose settings for a class do not depend on which other classes there are, and which draw nothing."""


@pytest.mark.parametrize("name", REDUCED)
def test_the_rest_is_the_loss_of_the_problem_without_these_classes(name: str) -> None:
    """In each image alone: a loss of the verified classes only, with the same logits."""
    kept = torch.tensor([0, 2, 3])
    reduced = ClassFrequency.from_counts(FREQUENCY.image_counts[kept], FREQUENCY.instance_counts[kept], 1000)
    whole, small = make(CONFIGS[name]), make(CONFIGS[name], reduced)
    rows = torch.tensor([0, 1, 2])  # the regions of image 0 with verified labels
    logits = make_logits(whole)
    columns = torch.cat([kept, torch.arange(C, whole.num_logits)])
    labels = torch.tensor([0, 3, 2])  # 0, background and 3 in the small problem
    value = compute(whole, hide_unverified(logits, LABELS, UNVERIFIED, IMAGES)[rows], LABELS[rows])
    expected = compute(small, logits[rows][:, columns], labels)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, logits)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, expected_gradient)


def test_images_without_a_list_have_all_classes_verified() -> None:
    device = torch.device("cpu")
    assert stack_unverified([None, None], [2, 1], C, device) is None
    stacked = stack_unverified([None, UNVERIFIED[0]], [2, 1], C, device)
    assert stacked is not None
    rows, images = stacked
    assert images.tolist() == [0, 0, 1]
    assert rows.tolist() == [[False] * C, UNVERIFIED[0].tolist()]


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_background_and_objectness_are_never_hidden(extra: int) -> None:
    logits = torch.zeros(2, C + extra)
    hidden = hide_unverified(
        logits, torch.tensor([C, C - 1]), torch.ones(1, C, dtype=torch.bool), torch.zeros(2).long()
    )
    assert (hidden[0, :C] == -1e4).all()
    assert (hidden[1, : C - 1] == -1e4).all()
    assert (hidden[:, C:] == 0).all()
    assert hidden[1, C - 1] == 0
