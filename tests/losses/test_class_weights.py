"""Class weights: each loss is the weighted sum over its regions; the weights themselves against their formulas."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from tailseg.losses import LOSSES, BAGSLossConfig, FederatedLossConfig, GumbelCE, GumbelCEConfig, SigmoidCEConfig
from tailseg.losses.class_weights import compute_label_weights
from tailseg.losses.settings import DropLossConfig, LDAMLossConfig, ROGLossConfig
from tailseg.ranges import SettingError
from tailseg.recipes import RECIPES
from tailseg.recipes.saved import from_plain, to_plain
from tailseg.structures import ClassFrequency

C = 6
OBJECTS = [3000, 300, 60, 9, 4, 1]
FREQUENCY = ClassFrequency.from_counts(torch.tensor([900, 150, 40, 9, 3, 1]), torch.tensor(OBJECTS), 1000)
WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
ALL = 10**6
CONFIGS = {
    **LOSSES,
    "gumbel, published": GumbelCEConfig(published="2022"),
    "sigmoid, background": SigmoidCEConfig(background=True),
    "droploss, normal": DropLossConfig(tail="rc", link="normal"),
    "ldam, reweighted": LDAMLossConfig(reweight_after=0, max_margin=0.3),
    "bags": BAGSLossConfig(beta=ALL),  # takes every region into each group
    "federated": FederatedLossConfig(num_sampled=ALL),
}
every_loss = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def find_weights(config: Any) -> list[float]:
    """The definition, class by class."""
    if config.class_weights == "inverse":
        values = [1 / n for n in OBJECTS]
    elif config.class_weights == "effective":
        values = [(1 - config.class_weight_beta) / (1 - config.class_weight_beta**n) for n in OBJECTS]
    else:
        values = list(config.class_weights)
    values = [value**config.class_weight_exponent for value in values]
    mean = sum(n * value for n, value in zip(OBJECTS, values, strict=True)) / sum(OBJECTS)
    return [value / mean for value in values] + [1.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"class_weights": "inverse"},
        {"class_weights": "inverse", "class_weight_exponent": 0.5},
        {"class_weights": "inverse", "class_weight_exponent": 0.0},
        {"class_weights": "effective"},
        {"class_weights": "effective", "class_weight_beta": 0.99, "class_weight_exponent": 2.0},
        {"class_weights": "effective", "class_weight_beta": 0.0},
        {"class_weights": WEIGHTS, "class_weight_exponent": 0.5},
    ],
    ids=str,
)
def test_weights_are_those_of_the_definition(settings: dict[str, Any]) -> None:
    config = GumbelCEConfig(**settings)
    weights = compute_label_weights(FREQUENCY, config)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor(find_weights(config), dtype=torch.float64), rtol=1e-12, atol=0)
    assert (weights[:-1] * torch.tensor(OBJECTS)).sum() / sum(OBJECTS) == pytest.approx(1)


def test_inverse_weights_make_all_classes_count_alike() -> None:
    weights = compute_label_weights(FREQUENCY, GumbelCEConfig(class_weights="inverse"))
    assert weights is not None
    torch.testing.assert_close(weights[:-1] * torch.tensor(OBJECTS), torch.full((C,), sum(OBJECTS) / C).double())


def test_a_class_without_objects_has_the_weight_of_one_object() -> None:
    frequency = ClassFrequency.from_counts(torch.tensor([4, 1, 0]), torch.tensor([4, 1, 0]), 5)
    weights = compute_label_weights(frequency, GumbelCEConfig(class_weights="inverse"))
    assert weights is not None
    assert weights[1] == weights[2] == 4 * weights[0]


def make_problem(loss: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = 1.5 * torch.randn(9, loss.num_logits, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 6, 5, 3, 6, 1, 4, 2, 0])


def compute(loss: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return sum(loss(logits, labels).values())


def compute_with(config: Any, weights: torch.Tensor | None, logits: torch.Tensor, labels: torch.Tensor) -> Any:
    """The value and the gradient of a new loss with these weights of the labels."""
    loss = dataclasses.replace(config, class_weights=None if weights is None else "inverse").build(FREQUENCY).eval()
    for module in loss.modules():  # ROG's other loss has them too
        if weights is not None and hasattr(module, "label_weights"):
            module.label_weights = weights.double()
    logits = logits.clone().requires_grad_()
    value = compute(loss, logits, labels)
    return value.detach().double(), torch.autograd.grad(value, logits)[0]


def assert_close(config: Any, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The published code's logarithms have float32's digits."""
    rtol = 1e-10 if getattr(config, "published", None) is None else 1e-6
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-14)


DRAWS = ("gol", "droploss_sigmoid", "droploss, normal", "bags", "rog")
"""Losses in which the cost of a region depends on the other regions."""


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in DRAWS])
def test_a_loss_is_the_weighted_mean_of_the_costs_of_its_regions(name: str) -> None:
    """A region's cost is that of the loss without weights on this region alone."""
    config = CONFIGS[name]
    logits, labels = make_problem(config.build(FREQUENCY))
    weights = torch.tensor(find_weights(GumbelCEConfig(class_weights=WEIGHTS)), dtype=torch.float64)
    value, gradient = compute_with(dataclasses.replace(config, class_weights=WEIGHTS), weights, logits, labels)
    rows = [compute_with(config, None, logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
    expected = sum(weights[label] * row[0] for label, row in zip(labels, rows, strict=True)) / len(labels)
    expected_gradient = torch.cat([weights[label] * row[1] for label, row in zip(labels, rows, strict=True)])
    assert_close(config, value, expected)
    assert_close(config, gradient, expected_gradient / len(labels))


@every_loss
def test_a_loss_is_linear_in_the_weights(config: Any) -> None:
    logits, labels = make_problem(config.build(FREQUENCY))
    plain = compute_with(config, None, logits, labels)
    parts = [compute_with(config, unit, logits, labels) for unit in torch.eye(C + 1)]
    weights = torch.tensor([*WEIGHTS, 1.0])
    weighted = compute_with(config, weights, logits, labels)
    for index in (0, 1):
        assert_close(config, sum(part[index] for part in parts), plain[index])
        expected = sum(weight * part[index] for weight, part in zip(weights.double(), parts, strict=True))
        assert_close(config, weighted[index], expected)
    for label, part in enumerate(parts):
        assert part[0] > 0, "every label occurs"
        if not isinstance(config, ROGLossConfig):  # it lowers what other regions score above an object
            assert (part[1][labels != label] == 0).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_in_training_from_the_config(config: Any, dtype: torch.dtype) -> None:
    """Two steps, since some losses keep state; no regions cost nothing; no weight is in the checkpoint."""
    loss = dataclasses.replace(config, class_weights="inverse", class_weight_exponent=0.5).build(FREQUENCY)
    logits, labels = make_problem(loss)
    for _ in range(2):
        small = logits.to(dtype).requires_grad_()
        value = compute(loss, small, labels)
        value.backward()
        assert small.grad is not None
        assert value.isfinite()
        assert small.grad.isfinite().all()
        assert value.dtype == torch.float32
        loss.step_taken()
    assert compute(loss, logits[:0].to(dtype), labels[:0]) == 0
    assert "label_weights" not in loss.state_dict()
    assert loss.state_dict().keys() == config.build(FREQUENCY).state_dict().keys()


@pytest.mark.parametrize("name", ["gumbel", "eqlv2", "focal"])
def test_second_derivatives(name: str) -> None:
    loss = dataclasses.replace(CONFIGS[name], class_weights=WEIGHTS).build(FREQUENCY).eval()
    logits, labels = make_problem(loss)
    logits, labels = logits[:3].requires_grad_(), labels[:3]
    assert torch.autograd.gradcheck(lambda x: compute(loss, x, labels), logits)
    assert torch.autograd.gradgradcheck(lambda x: compute(loss, x, labels), logits)


def test_eqlv2_counts_weighted_gradients() -> None:
    """A region of weight 2 counts as two regions."""
    config = dataclasses.replace(LOSSES["eqlv2"], class_weights="inverse")
    weighted, plain = config.build(FREQUENCY), LOSSES["eqlv2"].build(FREQUENCY)
    weighted.label_weights = torch.tensor([1.0, 1, 1, 1, 1, 2, 1]).double()
    logits, labels = make_problem(plain)
    twice = torch.cat([torch.arange(9), (labels == 5).nonzero()[:, 0]])
    compute(weighted, logits, labels)
    compute(plain, logits[twice], labels[twice])
    torch.testing.assert_close(weighted.gradient_sums, plain.gradient_sums)


def test_weights_that_do_not_fit_the_classes_are_refused() -> None:
    with pytest.raises(SettingError, match=r"loss.class_weights has 2 numbers, and the data has 6 classes: give one"):
        GumbelCEConfig(class_weights=(1.0, 2.0)).build(FREQUENCY)
    with pytest.raises(SettingError, match="built for 6 classes of unknown frequency: build it with a ClassFrequency"):
        GumbelCE(6, class_weights="inverse")
    with pytest.raises(SettingError, match=r"loss.class_weights is numbers, each above 0, inverse, effective, or None"):
        GumbelCEConfig(class_weights=(1.0, 0.0))


@pytest.mark.parametrize("weights", [None, "inverse", "effective", (0.5, 1.0, 2.0)])
def test_a_recipe_keeps_its_class_weights(weights: Any) -> None:
    recipe = RECIPES["tiny_gumbel"]()
    recipe = dataclasses.replace(recipe, loss=dataclasses.replace(recipe.loss, class_weights=weights))
    assert from_plain(json.loads(json.dumps(to_plain(recipe)))) == recipe
