"""Classes that were not looked for get no gradient in any stage of any detector."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tailseg.losses import LOSSES
from tailseg.models import CascadeConfig, Detector, HTCConfig, ModelConfig, NormalizedConfig
from tailseg.structures import ClassFrequency, Target

COUNTS = torch.tensor([900, 150, 40, 9, 3, 1])
UNVERIFIED = torch.tensor([0, 0, 0, 1, 1, 0], dtype=torch.bool)
"""No object in the images has these labels."""


def vary(config: ModelConfig, kind: str) -> ModelConfig:
    agnostic = replace(config.box, class_agnostic=True)
    return {
        "faster": replace(config, mask=None),
        "mask": config,
        "normalized": replace(config, box=replace(config.box, normalized=NormalizedConfig())),
        "cascade": replace(config, box=agnostic, cascade=CascadeConfig()),
        "htc": replace(config, box=agnostic, cascade=HTCConfig()),
    }[kind]


@pytest.mark.parametrize("kind", ["faster", "mask", "normalized", "cascade", "htc"])
@pytest.mark.parametrize(("loss", "bfloat16"), [("gol", False), ("softmax", True), ("seesaw", False)])
def test_rows_of_unverified_classes_have_no_gradient(
    kind: str,
    loss: str,
    bfloat16: bool,
    small_config: ModelConfig,
    build: Callable[..., Detector],
    make_image: Callable[..., Tensor],
    make_target: Callable[..., Target],
) -> None:
    model = build(vary(small_config, kind), LOSSES[loss].build(ClassFrequency.from_counts(COUNTS, COUNTS, 1000)))
    targets = [
        replace(make_target((5, 5, 45, 40), (30, 20, 60, 62)), unverified=UNVERIFIED),
        replace(make_target((2, 40, 20, 60)), unverified=UNVERIFIED),
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        losses: Any = model([make_image(64, 64), make_image(64, 64, 1)], targets)
    torch.stack(list(losses.values())).sum().backward()
    parameters = {name: p for name, p in model.named_parameters() if ".classifier." in name}
    assert len(parameters) == (6 if kind in ("cascade", "htc") else 2)
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        assert (parameter.grad[:6][UNVERIFIED] == 0).all(), name
        if name.endswith("bias"):
            assert (parameter.grad[:2] != 0).all(), name


def test_an_image_with_all_classes_verified_is_as_without_a_list(
    small_config: ModelConfig,
    build: Callable[..., Detector],
    make_image: Callable[..., Tensor],
    make_target: Callable[..., Target],
) -> None:
    values = []
    for unverified in (None, torch.zeros(6, dtype=torch.bool)):
        target = replace(make_target((5, 5, 45, 40)), seed=1, unverified=unverified)
        losses: Any = build(small_config)([make_image(64, 64)], [target])
        values.append(losses["loss_cls"])
    assert torch.equal(*values)
