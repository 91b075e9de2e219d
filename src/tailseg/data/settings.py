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


@dataclass(frozen=True)
class JitterConfig(Settings, at="data.jitter"):
    """Large-scale jitter: each training image is resized by a random factor, then cropped or padded to one square.

    It takes the place of ``short_sides``, ``max_long_side`` and ``crop``. The defaults are those of Ghiasi et al.
    (2021).

    Raises:
        SettingError: a number is out of its range.
    """

    scale: Annotated[tuple[float, float], Range(gt=0, ascending=True)] = (0.1, 2.0)
    """Range of the factor. With 1 the image just fits into the square."""
    size: Annotated[int | None, Range(ge=1)] = None
    """Side of the square in pixels. None takes the largest short side and max_long_side, and makes a square of the same
    area: 1024 for 800 and 1333, as published. The side is a multiple of 32."""


@dataclass(frozen=True)
class ColorConfig(Settings, at="data.color"):
    """Random changes of the colors of training images, after all other steps, so that pasted objects change as well.

    The defaults are those of torchvision's and the usual ImageNet trainings, without the hue: a change of the hue takes
    as long as all other steps together.

    Raises:
        SettingError: a number is out of its range.
    """

    probability: Annotated[float, Range(ge=0, le=1)] = 0.5
    """Share of the images whose colors change."""
    brightness: Annotated[float, Range(ge=0, le=1)] = 0.4
    """The brightness is multiplied by a random factor in 1 - brightness .. 1 + brightness."""
    contrast: Annotated[float, Range(ge=0, le=1)] = 0.4
    """The contrast is multiplied by a random factor in 1 - contrast .. 1 + contrast."""
    saturation: Annotated[float, Range(ge=0, le=1)] = 0.4
    """The saturation is multiplied by a random factor in 1 - saturation .. 1 + saturation."""
    hue: Annotated[float, Range(ge=0, le=0.5)] = 0.0
    """The hue is rotated by a random share of the circle in -hue .. hue."""


@dataclass(frozen=True)
class CopyPasteConfig(Settings, at="data.paste"):
    """Copy-paste: objects of other training images are pasted into some training images.

    The class of an object is drawn with a probability in proportion to the repeat factor of the class,
    r_c = max(1, sqrt(t / f_c)), among all classes with cut-outs; then one of the cut-outs of the class. Pasted objects
    cover the objects below them, to the pixel. Source: Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data
    Augmentation Method for Instance Segmentation".

    Raises:
        SettingError: a number is out of its range.
    """

    probability: Annotated[float, Range(ge=0, le=1)] = 0.5
    """Share of the images that get objects."""
    max_objects: Annotated[int, Range(ge=1, le=100)] = 3
    """Largest number of objects for an image; each number from 1 on has the same probability."""
    scale: Annotated[tuple[float, float], Range(gt=0, ascending=True)] = (0.1, 2.0)
    """Range of the factor of an object's size. With 1 the object has the size that it would have if its own image were
    resized to fit into the training image. An object is never larger than the training image."""
    edge: Literal["plain", "blurred"] = "plain"
    """Edges of pasted objects: as cut out, or blended with a Gaussian filter. Masks are the same."""
    min_visible: Annotated[float, Range(ge=0, lt=1)] = 0.1
    """Least share of an object's pixels that must stay visible; an object below it is left out. 0 leaves out only
    objects without a visible pixel, as Ghiasi et al. do; others, such as mmdetection with 300 pixels, have a limit."""
    repeat_threshold: Annotated[RepeatThreshold | None, Range(ge=0, le=1)] = None
    """Threshold t of the repeat factors; auto is the median share of the classes. A larger one pastes rare classes more
    often; 0 gives all classes the same probability; None takes data.repeat_threshold."""
    objects_per_class: Annotated[int, Range(ge=1)] = 50
    """Largest number of cut-outs of a class. The cut-outs are kept in a file in the cache folder."""
    max_megabytes: Annotated[int, Range(ge=1)] = 512
    """Largest size of that file. Classes with many cut-outs get fewer if necessary."""
