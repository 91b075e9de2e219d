"""Settings of the sampling and of the augmentation. This module does not import torch."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from tailseg.ranges import Range, SettingError, Settings

Sampling = Literal["repeat", "instance_repeat", "exponential_repeat", "class_aware", "balanced"]
"""Which images are drawn more often than others, see `tailseg.data.epoch_plan.plan_epoch`."""
RepeatThreshold = float | Literal["auto"]
"""The share below which a class is repeated; ``auto`` is the median share of the classes."""
PUBLISHED_EXPONENTS: Final[dict[Sampling, float]] = {
    "repeat": 0.5,
    "instance_repeat": 0.5,
    "exponential_repeat": 2.0,
    "class_aware": 1.0,
    "balanced": 0.5,
}
"""The exponent of each kind of sampling, if ``data.repeat_exponent`` is None."""


@dataclass(frozen=True)
class CropConfig(Settings, at="data.crop"):
    """Multi-scale crops: some training images are resized, cropped, and then resized like the others.

    The defaults are those of DETR, which the published Swin recipes use as well.

    Raises:
        SettingError: a number is out of its range, or ``least`` is above ``most``.
    """

    probability: Annotated[float, Range(ge=0, le=1)] = 0.5
    """Share of the images that are cropped."""
    short_sides: Annotated[tuple[int, ...], Range(ge=1, some=True)] = (400, 500, 600)
    """Lengths in pixels. Before the crop, the short side is resized to one of them, chosen at random for each image."""
    least: Annotated[int, Range(ge=1)] = 384
    """Smallest height and width of a crop in pixels; a smaller image is not cropped."""
    most: Annotated[int, Range(ge=1)] = 600
    """Largest height and width of a crop in pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least > self.most:
            raise SettingError(f"data.crop: expected 1 <= least <= most, got least {self.least} and most {self.most}")
