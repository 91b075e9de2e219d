"""Copy-paste: objects of other images are pasted into a training image, and cover what is below them.

A pasted object covers the pixels of its mask. The masks of the objects below lose these pixels, and their boxes shrink
to the visible part. A mask that is not touched stays as annotated, polygons or run lengths; a mask that is touched is
rasterized in the rectangle around it, and is then kept as run lengths of this rectangle. So no bitmap of the whole
image is made for an object.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from pycocotools import mask as coco
from torch import Tensor
from torchvision.transforms.v2 import functional

from tailseg.data.cutouts import MIN_PIXELS, Cutouts
from tailseg.data.settings import CopyPasteConfig
from tailseg.ops.masks import Region, find_extents, rasterize, to_json
from tailseg.structures import Frame, RunLengths, Segmentation

BLUR: Final = (5, 1.0)
"""Width in pixels and sigma of the Gaussian filter of blurred edges."""


@dataclass(frozen=True)
class Scene:
    """A training image and its objects after the transform.

    Attributes:
        image: RGB.
        boxes: absolute xyxy, within the image.
        labels: of the objects.
        masks: of the objects, each in its own pixels.
        frames: maps the pixels of each mask to the image.
        ignore_boxes: crowd and ignore regions.
    """

    image: UInt8[Tensor, "3 h w"]
    boxes: Float[np.ndarray, "N 4"]
    labels: Int64[np.ndarray, " N"]
    masks: tuple[Segmentation, ...]
    frames: tuple[Frame, ...]
    ignore_boxes: Float[np.ndarray, "K 4"]


class Placement(NamedTuple):
    """A cut-out and its place in the image: ``left, top, right, bottom`` in whole pixels."""

    index: int
    region: Region
    flipped: bool


class CopyPaste:
    """Pastes cut-outs into images. All random numbers come from torch's default generator.

    Args:
        cutouts: the objects.
        config: the settings.
        class_weights: the probability of each class is in proportion to it; a class without cut-outs has none.

    Raises:
        ValueError: no class with cut-outs has a positive weight.
    """

    def __init__(self, cutouts: Cutouts, config: CopyPasteConfig, class_weights: Float[np.ndarray, " C"]) -> None:
        self.cutouts, self.config = cutouts, config
        members = np.flatnonzero(cutouts.areas > 0)
        counts = np.bincount(cutouts.labels[members], minlength=len(class_weights))
        weights = np.where(counts > 0, class_weights, 0.0)
        if not weights.sum() > 0:
            raise ValueError("data.paste: no object could be cut out of the images. Leave out --data.paste")
        self._members, self._counts = members, counts
        self._starts = np.cumsum(counts) - counts
        cumulative = np.cumsum(weights)
        self._cumulative = (cumulative / cumulative[-1]).tolist()
        # plain arrays: an index into a mapped one takes longer
        self._sizes = np.concatenate([cutouts.sizes, cutouts.image_sizes, cutouts.areas[:, None]], axis=1)
        self._labels = np.array(cutouts.labels)

    def __call__(self, scene: Scene) -> Scene:
        """Pastes objects into the image of a scene, with the probability of the settings.

        Args:
            scene: the pixels of its image are changed.

        Returns:
            The scene with the pasted objects after its own visible ones; the same scene if nothing was pasted.
        """
        height, width = scene.image.shape[-2:]
        placements = self.draw(height, width)
        return self.paste(scene, placements) if placements else scene

    def draw(self, height: int, width: int) -> list[Placement]:
        """Draws the objects for an image, and their places; the first one is the lowest.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.

        Returns:
            The placements, all within the image. Objects that would have fewer than ``MIN_PIXELS`` are left out.
        """
        numbers = torch.rand(2 + 6 * self.config.max_objects, dtype=torch.float64).tolist()
        if numbers[0] >= self.config.probability:
            return []
        placements = []
        for i in range(1 + int(numbers[1] * self.config.max_objects)):
            kind, member, scale, flip, top, left = numbers[2 + 6 * i : 8 + 6 * i]
            label = bisect_right(self._cumulative, kind)
            index = int(self._members[self._starts[label] + int(member * self._counts[label])])
            rows, columns, image_rows, image_columns, area = self._sizes[index].tolist()
            low, high = self.config.scale
            ratio = min(height / image_rows, width / image_columns) * (low + scale * (high - low))
            ratio = min(ratio, height / rows, width / columns)
            if area * ratio**2 < MIN_PIXELS:
                continue
            new_height, new_width = max(1, round(rows * ratio)), max(1, round(columns * ratio))
            y, x = int(top * (height - new_height + 1)), int(left * (width - new_width + 1))
            placements.append(Placement(index, (x, y, x + new_width, y + new_height), flip < 0.5))
        return placements

    def paste(self, scene: Scene, placements: Sequence[Placement]) -> Scene:
        """Pastes objects at given places.

        Args:
            scene: the pixels of its image are changed.
            placements: the objects; a later one covers an earlier one. At most 255.

        Returns:
            The scene with its own visible objects, and then the visible pasted ones.
        """
        canvas, config = scene.image.numpy(), self.config
        owners = np.zeros(canvas.shape[1:], np.uint8)
        counts = []
        for number, (index, region, flipped) in enumerate(placements, 1):
            left, top, right, bottom = region
            colors, mask = _resize(self.cutouts[index], bottom - top, right - left, flipped=flipped)
            _blend(canvas[:, top:bottom, left:right], colors, mask, blurred=config.edge == "blurred")
            owned = owners[top:bottom, left:right]
            owned ^= (owned ^ np.uint8(number)) & mask
            counts.append(int(np.count_nonzero(mask)))
        scene = cover(scene, owners, [placement.region for placement in placements], min_visible=config.min_visible)
        labels, pieces = [], []
        for number, ((index, region, _), count) in enumerate(zip(placements, counts, strict=True), 1):
            part = widen(region, owners.shape)
            piece = Piece.make(_encode(_take(owners, part) == number), part)
            if piece.is_visible(count, config.min_visible):
                labels.append(self._labels[index])
                pieces.append(piece)
        boxes = [piece.box for piece in pieces]
        return Scene(
            image=scene.image,
            boxes=np.concatenate([scene.boxes, np.array(boxes, np.float32).reshape(-1, 4)]),
            labels=np.concatenate([scene.labels, np.array(labels, np.int64)]),
            masks=(*scene.masks, *(to_json(piece.mask) for piece in pieces)),
            frames=(*scene.frames, *(piece.frame for piece in pieces)),
            ignore_boxes=scene.ignore_boxes,
        )


def _resize(
    rgba: UInt8[np.ndarray, "h w 4"], height: int, width: int, *, flipped: bool
) -> tuple[UInt8[np.ndarray, "3 H W"], UInt8[np.ndarray, "H W"]]:
    """The colors and the mask (0 or 255) of a cut-out at another size.

    A pixel belongs to the mask if half of it does.
    """
    stored = rgba.view(np.uint32)[:, ::-1].copy().view(np.uint8) if flipped else rgba.copy()  # mapped read-only
    planes = torch.from_numpy(stored).permute(2, 0, 1)[None]
    if stored.shape[:2] != (height, width):  # as functional.resize, which has more to check
        planes = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    values = planes[0].contiguous().numpy()
    return values[:3], np.negative(values[3] >> 7)


def _blend(
    canvas: UInt8[np.ndarray, "3 H W"],
    colors: UInt8[np.ndarray, "3 H W"],
    mask: UInt8[np.ndarray, "H W"],
    *,
    blurred: bool,
) -> None:
    """Writes the colors into the canvas where the mask is; at blurred edges, a mean of both. The colors are changed."""
    if not blurred:  # a third of the time of np.copyto with a mask, and without large temporary arrays
        colors ^= canvas
        colors &= mask
        canvas ^= colors
        return
    size, sigma = BLUR
    padded = torch.nn.functional.pad(torch.from_numpy(mask).float()[None] / 255, [size // 2] * 4)
    edge = slice(size // 2, -(size // 2))
    alpha = functional.gaussian_blur(padded, [size, size], [sigma, sigma])[:, edge, edge].numpy()
    canvas[:] = np.round(canvas + (colors - canvas.astype(np.float32)) * alpha).astype(np.uint8)


class Piece(NamedTuple):
    """The visible pixels of an object in a part of the image, which has an empty pixel around them where it can.

    Attributes:
        mask: run lengths of the part.
        box: the smallest xyxy box around the pixels, in the image.
        count: the number of pixels.
        frame: maps the pixels of the part to those of the image.
    """

    mask: RunLengths
    box: tuple[float, float, float, float]
    count: int
    frame: Frame

    @classmethod
    def make(cls, rle: RunLengths, part: Region) -> "Piece":
        """Measures the pixels of a part of the image, which pycocotools has encoded."""
        x, y, width, height = coco.toBbox(rle).tolist()
        left, top, _, _ = part
        box = (left + x, top + y, left + x + width, top + y + height)
        return cls(rle, box, int(coco.area(rle)), Frame(shift_x=float(left), shift_y=float(top)))

    def is_visible(self, whole: int, least: float) -> bool:
        """Whether enough of an object of ``whole`` pixels is visible: any pixel, and the share ``least`` of all."""
        return self.count > 0 and self.count >= least * whole


def cover(scene: Scene, owners: UInt8[np.ndarray, "h w"], regions: Sequence[Region], *, min_visible: float) -> Scene:
    """Takes covered pixels away from the objects and the ignored regions of a scene.

    A side of a box moves only if the mask no longer reaches as far as before; then it moves to the mask. An object
    without a mask, and an ignored region, is taken as a rectangle.

    Args:
        scene: a training image and its objects.
        owners: which pixels are covered: those that are not 0.
        regions: rectangles that have all of these pixels.
        min_visible: the least share of an object's pixels in the image that must stay visible.

    Returns:
        The scene with the visible objects, in the same order, and with the ignored regions that have a visible pixel.
    """
    masks, frames, boxes = list(scene.masks), list(scene.frames), scene.boxes.copy()
    kept = np.ones(len(masks), dtype=bool)
    parts = _find_parts(scene, owners.shape)
    for i in _find_touched(parts, regions):
        part = _to_region(parts[i])
        if not _take(owners, part).any():
            continue
        whole = rasterize(masks[i], frames[i], part) if masks[i] != () else _encode(_fill(scene.boxes[i], part))
        before, after = _uncover(whole, owners, part)
        if before.count == after.count:
            continue
        kept[i] = after.is_visible(before.count, min_visible)
        if kept[i]:
            boxes[i] = _shrink(boxes[i], before.box, after.box)
            if masks[i] != ():
                masks[i], frames[i] = to_json(after.mask), after.frame
    return Scene(
        image=scene.image,
        boxes=boxes[kept],
        labels=scene.labels[kept],
        masks=tuple(itertools.compress(masks, kept)),
        frames=tuple(itertools.compress(frames, kept)),
        ignore_boxes=_cover_rectangles(scene.ignore_boxes, owners, regions),
    )


def _encode(pixels: Bool[np.ndarray, "h w"]) -> RunLengths:
    """Run lengths as pycocotools has them."""
    return coco.encode(np.asfortranarray(pixels).view(np.uint8))


def _uncover(whole: RunLengths, owners: UInt8[np.ndarray, "h w"], part: Region) -> tuple[Piece, Piece]:
    """All pixels of an object, and those that are not covered."""
    free = _encode(_take(owners, part) == 0)
    return Piece.make(whole, part), Piece.make(coco.merge([whole, free], intersect=True), part)


def _find_parts(scene: Scene, shape: tuple[int, ...]) -> Int64[np.ndarray, "N 4"]:
    """The part of the image that has all pixels of each mask, and one more on each side."""
    extents = find_extents(scene.masks, scene.frames)
    if empty := [i for i, mask in enumerate(scene.masks) if mask == ()]:
        extents[empty] = scene.boxes[empty]
    return _to_parts(extents, shape)


def _to_parts(boxes: np.ndarray, shape: tuple[int, ...]) -> Int64[np.ndarray, "N 4"]:
    """The pixels of each box and one more on each side, within an image of this height and width."""
    height, width = shape
    outwards = np.concatenate([np.floor(boxes[:, :2]) - 1, np.ceil(boxes[:, 2:]) + 1], axis=1)
    return np.clip(outwards, 0, [width, height, width, height]).astype(np.int64)


def _find_touched(parts: Int64[np.ndarray, "N 4"], regions: Sequence[Region]) -> list[int]:
    """The positions of the parts that have a pixel in common with any of the regions."""
    rectangles = np.array(regions)
    low = np.maximum(parts[:, None, :2], rectangles[:, :2])
    high = np.minimum(parts[:, None, 2:], rectangles[:, 2:])
    return np.flatnonzero(np.any(np.all(high > low, axis=2), axis=1)).tolist()


def _fill(box: Float[np.ndarray, " 4"], part: Region) -> Bool[np.ndarray, "h w"]:
    """The pixels of a part of the image whose centers are in a box."""
    left, top, right, bottom = part
    columns, rows = np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5
    return ((rows >= box[1]) & (rows < box[3]))[:, None] & ((columns >= box[0]) & (columns < box[2]))


def _shrink(box: Float[np.ndarray, " 4"], before: Sequence[float], after: Sequence[float]) -> Float[np.ndarray, " 4"]:
    """The box of an object after some of its pixels were covered; it never grows.

    ``before`` and ``after`` are the smallest boxes around the pixels.
    """
    moved = [*np.maximum(box[:2], after[:2]), *np.minimum(box[2:], after[2:])]
    return np.where(np.equal(before, after), box, np.array(moved, np.float32))


def _cover_rectangles(
    boxes: Float[np.ndarray, "K 4"], owners: UInt8[np.ndarray, "h w"], regions: Sequence[Region]
) -> Float[np.ndarray, "V 4"]:
    """The visible part of ignored regions; those without a visible pixel are left out."""
    if not len(boxes):
        return boxes
    kept, boxes, parts = np.ones(len(boxes), dtype=bool), boxes.copy(), _to_parts(boxes, owners.shape)
    for i in _find_touched(parts, regions):
        part = _to_region(parts[i])
        before, after = _uncover(_encode(_fill(boxes[i], part)), owners, part)
        if before.count:
            kept[i] = after.count > 0
            boxes[i] = _shrink(boxes[i], before.box, after.box)
    return boxes[kept]


def _take(owners: UInt8[np.ndarray, "h w"], part: Region) -> UInt8[np.ndarray, "H W"]:
    left, top, right, bottom = part
    return owners[top:bottom, left:right]


def _to_region(part: Int64[np.ndarray, " 4"]) -> Region:
    left, top, right, bottom = part.tolist()
    return left, top, right, bottom


def widen(region: Region, shape: tuple[int, ...]) -> Region:
    """The region with one more pixel on each side, within an image of this height and width."""
    left, top, right, bottom = region
    height, width = shape
    return max(left - 1, 0), max(top - 1, 0), min(right + 1, width), min(bottom + 1, height)
