"""Augmentation on torchvision.transforms.v2.

A transform takes an image and a target, and returns both, as torchvision's references do: any chain of v2 that resizes,
flips, crops, pads or changes colors is one. So is a function of yours, ``(image, target) -> (image, target)``.

    image             tv_tensors.Image, uint8 RGB [3, h, w]
    target["boxes"]   tv_tensors.BoundingBoxes, XYXY [N, 4]: the objects
    target["ignore"]  tv_tensors.BoundingBoxes, XYXY [K, 4]: crowd and ignore regions
    target["frame"]   tv_tensors.BoundingBoxes, XYXY [2, 4]: markers, the whole image and a part of it

Boxes are neither dropped nor clamped: those outside the image are left out afterwards. A transform draws from torch's
default generator; only then does a resumed run see the same images. An augmentation of your own is a config:

    @dataclass(frozen=True)
    class ColorConfig:
        brightness: float = 0.3

        def build(self, data):
            built_in = train_transform(data.short_sides, data.max_long_side, data.flip, crop=data.crop)
            return v2.Compose([v2.ColorJitter(brightness=self.brightness), built_in])

Masks are not part of the target: they stay as annotated. The markers after the transform say how the pixels of the file
map to the transformed image (`compute_frame`), for any chain of resizing, flipping, cropping and padding. (KeyPoints of
tv_tensors would be the natural markers, but their flip is ``w - 1 - x``, half a pixel from the flip of boxes.)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tailseg.data.settings import ColorConfig, CropConfig, JitterConfig
from tailseg.structures import Frame

TransformSample = dict[str, tv_tensors.TVTensor]
Transform = Callable[..., Any]
"""Takes an image and a target and returns both, see above."""

PADDING: Final = 128
"""Value of the pixels that pad a jittered image, as in detectron2's large-scale jitter."""


def apply_transform(
    transform: Transform, image: tv_tensors.TVTensor, target: TransformSample
) -> tuple[Tensor, TransformSample]:
    """Applies a transform, and checks its result.

    Args:
        transform: a transform of torchvision's v2, or the user's own.
        image: see above.
        target: see above.

    Returns:
        The transformed image and target.

    Raises:
        ValueError: the transform fails, or does not return an image of uint8 and a target with all boxes.
    """
    try:
        result = transform(image, target)
    except Exception as error:  # the user's code can raise any
        raise ValueError(f"the transform failed: {type(error).__name__}: {error}") from error
    if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], dict)):
        raise ValueError(f"a transform must return a tuple (image, target), got {type(result).__name__}")
    moved_image, moved = result
    if not isinstance(moved_image, Tensor):
        raise ValueError(f"a transform must return an image of uint8 [3, h, w], got {type(moved_image).__name__}")
    if moved_image.ndim != 3 or moved_image.dtype != torch.uint8:
        raise ValueError(
            f"a transform must return an image of uint8 [3, h, w], got {moved_image.dtype} {[*moved_image.shape]}: "
            "leave out ToDtype and Normalize, the network normalizes by itself"
        )
    if lacking := target.keys() - moved.keys():
        raise ValueError(f"a transform must return a target with {', '.join(sorted(lacking))} as it got one")
    if (count := len(moved["boxes"])) != len(target["boxes"]):
        raise ValueError(
            f"a transform must keep all boxes, got {count} of {len(target['boxes'])}: leave out "
            "SanitizeBoundingBoxes, boxes outside the image are dropped afterwards"
        )
    return moved_image, moved


def make_sample(
    image: UInt8[Tensor, "3 h w"], boxes: Float32[Tensor, "N 4"], ignore: Float32[Tensor, "K 4"]
) -> TransformSample:
    """Makes the image and the target of a transform, in one dictionary. Boxes are not clamped, so crops are exact.

    Args:
        image: RGB.
        boxes: the boxes of the objects, x1, y1, x2, y2.
        ignore: the boxes of crowd and ignore regions.

    Returns:
        ``image``, ``boxes``, ``ignore`` and ``frame``, see above.
    """
    height, width = image.shape[-2:]
    markers = torch.tensor([[0.0, 0.0, width, height], [0.0, 0.0, width / 4, height / 2]])

    def wrapped(data: Tensor) -> tv_tensors.BoundingBoxes:
        size = (height, width)
        return tv_tensors.BoundingBoxes(  # ty: ignore[no-matching-overload] - it has a __new__ of its own
            data, format="XYXY", canvas_size=size, clamping_mode=None
        )

    return {
        "image": tv_tensors.Image(image),
        "boxes": wrapped(boxes),
        "ignore": wrapped(ignore),
        "frame": wrapped(markers),
    }


def compute_frame(markers: Float32[Tensor, "2 4"], height: int, width: int) -> Frame:
    """Computes how the pixels of the file map to the transformed image, from the transformed markers.

    Args:
        markers: ``target["frame"]`` after the transform.
        height: the height of the image before the transform.
        width: the width of the image before the transform.

    Returns:
        The scale and the shift along both axes.

    Raises:
        ValueError: the transform did more than resizing, flipping, cropping and padding, such as a rotation.
    """
    (x1, y1, x2, y2), (u1, v1, u2, v2_) = markers.double().tolist()
    scale_x, shift_x = _axis((x1, x2), (u1, u2), 0.25, width)
    scale_y, shift_y = _axis((y1, y2), (v1, v2_), 0.5, height)
    return Frame(scale_x, scale_y, shift_x, shift_y)


def _axis(whole: tuple[float, float], part: tuple[float, float], share: float, side: int) -> tuple[float, float]:
    """Scale and shift along one axis: a marker spans the image's ``side``, the other its first ``share``."""
    length = whole[1] - whole[0]
    tolerance = 1e-4 * max(1.0, abs(length))
    starts, ends = abs(part[0] - whole[0]) < tolerance, abs(part[1] - whole[1]) < tolerance
    if starts == ends or abs(part[1] - part[0] - share * length) > tolerance:
        raise ValueError(
            "a transform must be a chain of resizing, flipping, cropping and padding: masks stay in the file's pixels "
            "and follow the boxes. Use a transform that neither rotates nor shears"
        )
    return (length / side, whole[0]) if starts else (-length / side, whole[1])


class ResizeShortSide(v2.Transform):
    """Resizes the short side to one of ``short_sides``, but the long side to at most ``max_long_side``.

    scale = min(short / min(h, w), max_long_side / max(h, w)), new side = int(side * scale + 0.5), as in mmdetection;
    boxes follow the sides as rounded. Bilinear with antialiasing, which Detectron2 (through Pillow) has and
    mmdetection (through OpenCV) lacks; the two agree when an image grows, as most of COCO's do.

    Args:
        short_sides: in pixels; one is chosen at random for each image.
        max_long_side: in pixels.

    Raises:
        ValueError: no side is given, or a side is below 1.
    """

    def __init__(self, short_sides: Sequence[int], *, max_long_side: int) -> None:
        super().__init__()
        if not short_sides or min(*short_sides, max_long_side) < 1:
            raise ValueError(
                f"image sides must be positive numbers of pixels, got short sides {tuple(short_sides)} and a longest "
                f"side of {max_long_side}"
            )
        self.short_sides = tuple(short_sides)
        self.max_long_side = max_long_side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        short = self.short_sides[int(torch.randint(len(self.short_sides), ()))]
        scale = min(short / min(height, width), self.max_long_side / max(height, width))
        return {"size": [max(1, int(side * scale + 0.5)) for side in (height, width)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401 - torchvision's signature
        return self._call_kernel(functional.resize, inpt, params["size"], antialias=True)


class RandomSizeCrop(v2.Transform):
    """Crops to a random height and width in ``least .. most``, at a random position in the image.

    Boxes are shifted; they may extend beyond the crop or lie outside.

    Args:
        least: in pixels; a side shorter than this is not cropped.
        most: in pixels.
    """

    def __init__(self, least: int, most: int) -> None:
        super().__init__()
        self.least, self.most = least, most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        new_height, new_width = (_draw_integer(min(side, self.least), min(side, self.most)) for side in (height, width))
        return {
            "top": _draw_integer(0, height - new_height),
            "left": _draw_integer(0, width - new_width),
            "height": new_height,
            "width": new_width,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401 - torchvision's signature
        return self._call_kernel(functional.crop, inpt, **params)


def _draw_integer(low: int, high: int) -> int:
    """Draws a whole number in ``low .. high``, both included."""
    return int(torch.randint(low, high + 1, ()))


class LargeScaleJitter(v2.Transform):
    """Resizes an image by a random factor, and crops or pads it to a square of ``size`` pixels.

        r = size / max(h, w) * u,    u uniform in scale

    If the resized image is larger than the square along an axis, a random part of it is taken; else the image is padded
    on the right and at the bottom. The part is cut from the original image, at whole pixels, and then resized: the
    pixels that the crop would drop are not computed. Torchvision's ScaleJitter and RandomCrop, one after the other, do
    the same with more work.

    Args:
        scale: the range of the factor u.
        size: side of the square in pixels.

    Raises:
        ValueError: a number is not positive.

    Source: Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation";
    padding as in detectron2's ResizeScale and FixedSizeCrop.
    """

    def __init__(self, scale: tuple[float, float], size: int) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1] or size < 1:
            raise ValueError(
                f"expected a range of positive factors and a positive number of pixels, got {scale} and {size}"
            )
        self.scale, self.size = scale, size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        factor, top, left = torch.rand(3).tolist()
        ratio = self.size / max(height, width) * (self.scale[0] + factor * (self.scale[1] - self.scale[0]))
        crop = [min(side, math.ceil(self.size / ratio)) for side in (height, width)]
        return {
            "top": int(top * (height - crop[0] + 1)),
            "left": int(left * (width - crop[1] + 1)),
            "height": crop[0],
            "width": crop[1],
            "size": [min(self.size, max(1, int(side * ratio + 0.5))) for side in crop],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401 - torchvision's signature
        height, width = params["size"]
        resized = self._call_kernel(functional.resized_crop, inpt, **params, antialias=True)
        padding = [0, 0, self.size - width, self.size - height]
        return self._call_kernel(functional.pad, resized, padding, fill=PADDING) if any(padding) else resized


def choose_jitter_size(short_sides: Sequence[int], max_long_side: int) -> int:
    """Returns the side of the square for images of these sizes: of the same area, a multiple of 32 pixels.

    1024 for 800 and 1333, the published sizes.
    """
    return max(32, 32 * round(math.sqrt(max(short_sides) * max_long_side) / 32))


def train_transform(
    short_sides: Sequence[int],
    max_long_side: int,
    flip: float,
    *,
    crop: CropConfig | None = None,
    jitter: JitterConfig | None = None,
) -> v2.Transform:
    """Builds the built-in augmentation: crop some images, resize to one of ``short_sides``, flip some horizontally.

    Args:
        short_sides: in pixels; one is chosen at random for each image.
        max_long_side: in pixels; no resized image is longer.
        flip: the probability of a flip.
        crop: the settings of the crop; None crops no image.
        jitter: the settings of large-scale jitter, which takes the place of resizing and crop; None has none.

    Returns:
        A transform: ``(image, target) -> (image, target)``.

    Raises:
        ValueError: a side below 1, or a probability outside ``[0, 1]``.
    """
    if not 0 <= flip <= 1:
        raise ValueError(f"the probability of a flip must lie in 0 .. 1, got {flip}")
    resize, flipped = ResizeShortSide(short_sides, max_long_side=max_long_side), v2.RandomHorizontalFlip(flip)
    if jitter is not None:
        # the flip comes first: the padding stays on the right and at the bottom, as that of a batch
        size = jitter.size or choose_jitter_size(short_sides, max_long_side)
        return v2.Compose([flipped, LargeScaleJitter(jitter.scale, size)])
    steps = [resize, flipped]
    if crop is not None:
        before = ResizeShortSide(crop.short_sides, max_long_side=max_long_side)
        steps.insert(0, v2.RandomApply([before, RandomSizeCrop(crop.least, crop.most)], p=crop.probability))
    return v2.Compose(steps)


def color_transform(color: ColorConfig) -> v2.Transform:
    """Builds the random changes of the colors of an image; they take the image alone."""
    jitter = v2.ColorJitter(color.brightness, color.contrast, color.saturation, color.hue)
    return v2.RandomApply([jitter], p=color.probability)


def evaluation_transform(short_side: int, max_long_side: int) -> v2.Transform:
    """Builds the transform of evaluation, which resizes to one short side.

    Raises:
        ValueError: a side below 1.
    """
    return ResizeShortSide([short_side], max_long_side=max_long_side)
