"""Settings of the data, without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CropConfig:
    """Multi-scale crops: a part of the training images is resized, cropped, and then resized like the others.

    The defaults are those of DETR, published for Swin as well.

    Raises:
        ValueError: a side below 1, ``least`` above ``most``, or a probability outside ``[0, 1]``.
    """

    probability: float = 0.5
    """Share of the images that is cropped."""
    short_sides: tuple[int, ...] = (400, 500, 600)
    """Before the crop the short side is resized to one of these, drawn for each image."""
    least: int = 384
    """Least height and least width of a crop; a smaller image is not cropped."""
    most: int = 600
    """Greatest height and greatest width of a crop."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"the probability of a crop must lie in 0 .. 1, got {self.probability}")
        if not 1 <= self.least <= self.most:
            raise ValueError(f"a crop's sides want 1 <= least <= most, got {self.least} and {self.most}")
