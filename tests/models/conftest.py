"""A detector small enough to run in milliseconds, and images with square objects."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tailseg.losses import GumbelCE
from tailseg.losses.base import ClassificationLoss
from tailseg.models import (
    BoxHeadConfig,
    Detector,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
    RPNConfig,
    build_detector,
)
from tailseg.structures import Frame, Target

NUM_CLASSES = 6


@pytest.fixture
def small_config() -> ModelConfig:
    return ModelConfig(
        backbone=ResNetConfig(depth=18, base_width=8, weights="none"),
        fpn=FPNConfig(channels=16),
        rpn=RPNConfig(anchors_per_image=64, train_pre_nms=100, train_post_nms=50, test_pre_nms=100, test_post_nms=50),
        box=BoxHeadConfig(hidden=32, rois_per_image=32),
        mask=MaskHeadConfig(channels=16, num_convs=1),
    )


@pytest.fixture
def build() -> Callable[..., Detector]:
    def make(config: ModelConfig, loss: ClassificationLoss | None = None) -> Detector:
        torch.manual_seed(0)
        return build_detector(config, loss or GumbelCE(NUM_CLASSES))

    return make


@pytest.fixture
def make_image() -> Callable[..., Tensor]:
    def make(height: int, width: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)

    return make


@pytest.fixture
def make_target() -> Callable[..., Target]:
    def make(*boxes: tuple[float, float, float, float], ignore: list[tuple[float, ...]] | None = None) -> Target:
        masks = tuple(
            (np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64),) for x1, y1, x2, y2 in boxes
        )
        labels = torch.arange(len(boxes)) % NUM_CLASSES
        return Target(
            torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            labels,
            masks,
            Frame(),
            torch.tensor(ignore or [], dtype=torch.float32).view(-1, 4),
        )

    return make
