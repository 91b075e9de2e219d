"""Settings of the data, without torch."""

from dataclasses import dataclass
from typing import Annotated

from tailseg.ranges import Range, SettingError, Settings


@dataclass(frozen=True)
class CropConfig(Settings, at="data.crop"):
    """Multi-scale crops: a part of the training images is resized, cropped, and then resized like the others.

    The defaults are those of DETR, published for Swin as well.

    Raises:
        SettingError: a number is out of its range, or ``least`` above ``most``.
    """

    probability: Annotated[float, Range(ge=0, le=1)] = 0.5
    """The share of the images that are cropped."""
    short_sides: Annotated[tuple[int, ...], Range(ge=1, some=True)] = (400, 500, 600)
    """Before the crop the short side is resized to one of these, drawn for each image."""
    least: Annotated[int, Range(ge=1)] = 384
    """Least height and least width of a crop; a smaller image is not cropped."""
    most: Annotated[int, Range(ge=1)] = 600
    """Greatest height and greatest width of a crop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least > self.most:
            raise SettingError(f"a crop's sides want 1 <= least <= most, got {self.least} and {self.most}")
