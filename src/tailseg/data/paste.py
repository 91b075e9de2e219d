"""Copy-paste: objects of other images are pasted into a training image, and cover what is below them.

A pasted object covers the pixels of its mask. The masks of the objects below lose these pixels, and their boxes shrink
to the visible part. A mask that is not touched stays as annotated, polygons or run lengths; a mask that is touched is
rasterized in the rectangle around it, and is then kept as run lengths of this rectangle. So no bitmap of the whole
image is made for an object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional

from tailseg.data.cutouts import MIN_PIXELS, Cutouts
from tailseg.data.settings import CopyPasteConfig
from tailseg.ops.masks import Region, encode_mask, find_extents, rasterize
from tailseg.structures import Frame, Segmentation

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
    boxes: Float[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]
    masks: tuple[Segmentation, ...]
    frames: tuple[Frame, ...]
    ignore_boxes: Float[Tensor, "K 4"]


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
        self._cumulative = cumulative / cumulative[-1]

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
            label = int(np.searchsorted(self._cumulative, kind, side="right"))
            index = int(self._members[self._starts[label] + int(member * self._counts[label])])
            rows, columns = self.cutouts.sizes[index].tolist()
            image_rows, image_columns = self.cutouts.image_sizes[index].tolist()
            low, high = self.config.scale
            ratio = min(height / image_rows, width / image_columns) * (low + scale * (high - low))
            ratio = min(ratio, height / rows, width / columns)
            if self.cutouts.areas[index] * ratio**2 < MIN_PIXELS:
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
        pieces = []
        for number, (index, region, flipped) in enumerate(placements, 1):
            left, top, right, bottom = region
            colors, mask = _resize(self.cutouts[index], bottom - top, right - left, flipped=flipped)
            _blend(canvas[:, top:bottom, left:right], colors, mask, blurred=config.edge == "blurred")
            owners[top:bottom, left:right][mask] = number
            pieces.append((number, int(self.cutouts.labels[index]), widen(region, owners.shape), mask))
        scene = cover(scene, owners, [placement.region for placement in placements], min_visible=config.min_visible)
        labels, visible = [], []
        for number, label, part, mask in pieces:
            left, top, right, bottom = part
            piece = Piece(owners[top:bottom, left:right] == number, part)
            if piece.is_visible(int(np.count_nonzero(mask)), config.min_visible):
                labels.append(label)
                visible.append(piece)
        boxes = torch.tensor([piece.find_box() for piece in visible], dtype=torch.float32).reshape(-1, 4)
        return Scene(
            image=scene.image,
            boxes=torch.cat([scene.boxes, boxes]),
            labels=torch.cat([scene.labels, torch.tensor(labels, dtype=torch.int64)]),
            masks=(*scene.masks, *(encode_mask(piece.pixels) for piece in visible)),
            frames=(*scene.frames, *(piece.frame for piece in visible)),
            ignore_boxes=scene.ignore_boxes,
        )


def _resize(
    rgba: UInt8[np.ndarray, "h w 4"], height: int, width: int, *, flipped: bool
) -> tuple[UInt8[np.ndarray, "3 H W"], Bool[np.ndarray, "H W"]]:
    """The colors and the mask of a cut-out at another size. A pixel belongs to the mask if half of it does."""
    stored = np.array(rgba[:, ::-1] if flipped else rgba)  # a copy: the file is mapped read-only
    resized = functional.resize(torch.from_numpy(stored).permute(2, 0, 1), [height, width], antialias=True).numpy()
    return resized[:3], resized[3] >= 128


def _blend(
    canvas: UInt8[np.ndarray, "3 H W"],
    colors: UInt8[np.ndarray, "3 H W"],
    mask: Bool[np.ndarray, "H W"],
    *,
    blurred: bool,
) -> None:
    """Writes the colors into the canvas where the mask is; at blurred edges, a mean of both."""
    if not blurred:
        canvas ^= (canvas ^ colors) & np.where(mask, np.uint8(255), np.uint8(0))  # ten times as fast as np.copyto
        return
    size, sigma = BLUR
    solid = torch.from_numpy(mask).float()[None]
    padded = torch.nn.functional.pad(solid, [size // 2] * 4)
    edge = slice(size // 2, -(size // 2))
    alpha = functional.gaussian_blur(padded, [size, size], [sigma, sigma])[:, edge, edge].numpy()
    canvas[:] = np.round(canvas + (colors.astype(np.float32) - canvas) * alpha).astype(np.uint8)


class Piece(NamedTuple):
    """The visible pixels of an object in a part of the image, which has an empty pixel around them where it can."""

    pixels: Bool[np.ndarray, "h w"]
    part: Region

    @property
    def frame(self) -> Frame:
        """Maps the pixels of the part to those of the image."""
        return Frame(shift_x=float(self.part[0]), shift_y=float(self.part[1]))

    def find_box(self) -> tuple[int, int, int, int]:
        """The smallest xyxy box around the pixels, of which there is at least one."""
        rows, columns = np.flatnonzero(self.pixels.any(axis=1)), np.flatnonzero(self.pixels.any(axis=0))
        left, top, _, _ = self.part
        return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1

    def is_visible(self, whole: int, least: float) -> bool:
        """Whether enough of an object of ``whole`` pixels is visible: any pixel, and the share ``least`` of all."""
        count = int(np.count_nonzero(self.pixels))
        return count > 0 and count >= least * whole


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
    masks, frames, boxes = list(scene.masks), list(scene.frames), scene.boxes.clone()
    kept = []
    parts = _find_parts(scene, owners.shape)
    touched = _intersect(parts, np.array(regions).reshape(-1, 4))
    for i, (part, near) in enumerate(zip(parts.tolist(), touched.tolist(), strict=True)):
        kept.append(True)
        left, top, right, bottom = part
        covered = owners[top:bottom, left:right] > 0
        if not (near and covered.any()):
            continue
        has_mask = masks[i] != ()
        whole = rasterize(masks[i], frames[i], tuple(part)) if has_mask else _fill(scene.boxes[i].tolist(), part)
        piece = Piece(whole & ~covered, tuple(part))
        count = int(np.count_nonzero(whole))
        if np.count_nonzero(piece.pixels) == count:
            continue
        kept[i] = piece.is_visible(count, min_visible)
        if kept[i]:
            boxes[i] = _shrink(boxes[i], Piece(whole, piece.part), piece)
            if has_mask:
                masks[i], frames[i] = encode_mask(piece.pixels), piece.frame
    rows = np.flatnonzero(kept)
    return Scene(
        image=scene.image,
        boxes=boxes[rows],
        labels=scene.labels[rows],
        masks=tuple(masks[i] for i in rows.tolist()),
        frames=tuple(frames[i] for i in rows.tolist()),
        ignore_boxes=_cover_rectangles(scene.ignore_boxes, owners),
    )


def _find_parts(scene: Scene, shape: tuple[int, ...]) -> Int64[np.ndarray, "N 4"]:
    """The part of the image that has all pixels of each mask, and one more on each side."""
    extents = find_extents(scene.masks, scene.frames)
    empty = np.array([mask == () for mask in scene.masks], dtype=bool)
    extents[empty] = scene.boxes.numpy()[empty]
    height, width = shape
    outwards = np.concatenate([np.floor(extents[:, :2]) - 1, np.ceil(extents[:, 2:]) + 1], axis=1)
    return np.clip(outwards, 0, [width, height, width, height]).astype(np.int64)


def _intersect(parts: Int64[np.ndarray, "N 4"], regions: Int64[np.ndarray, "P 4"]) -> Bool[np.ndarray, " N"]:
    """Whether each part has a pixel in common with any of the regions."""
    low = np.maximum(parts[:, None, :2], regions[None, :, :2])
    high = np.minimum(parts[:, None, 2:], regions[None, :, 2:])
    return np.any(np.all(high > low, axis=2), axis=1)


def _fill(box: Sequence[float], part: Sequence[int]) -> Bool[np.ndarray, "h w"]:
    """The pixels of a part of the image whose centers are in a box."""
    left, top, right, bottom = part
    columns, rows = np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5
    return ((rows >= box[1]) & (rows < box[3]))[:, None] & ((columns >= box[0]) & (columns < box[2]))


def _shrink(box: Float[Tensor, " 4"], whole: Piece, visible: Piece) -> Float[Tensor, " 4"]:
    """The box of an object after some of its pixels were covered; it never grows."""
    before, after = torch.tensor(whole.find_box()), torch.tensor(visible.find_box()).to(box.dtype)
    moved = torch.cat([torch.maximum(box[:2], after[:2]), torch.minimum(box[2:], after[2:])])
    return torch.where(before == after, box, moved)


def _cover_rectangles(boxes: Float[Tensor, "K 4"], owners: UInt8[np.ndarray, "h w"]) -> Float[Tensor, "V 4"]:
    """The visible part of ignored regions; those without a visible pixel are left out."""
    kept = []
    for box in boxes:
        x1, y1, x2, y2 = box.tolist()
        part = widen((int(x1), int(y1), int(x2) + 1, int(y2) + 1), owners.shape)
        whole = _fill((x1, y1, x2, y2), part)
        visible = Piece(whole & (owners[part[1] : part[3], part[0] : part[2]] == 0), part)
        if not whole.any():
            kept.append(box)
        elif visible.pixels.any():
            kept.append(_shrink(box, Piece(whole, part), visible))
    return torch.stack(kept) if kept else boxes[:0]


def widen(region: Region, shape: tuple[int, ...]) -> Region:
    """The region with one more pixel on each side, within an image of this height and width."""
    left, top, right, bottom = region
    height, width = shape
    return max(left - 1, 0), max(top - 1, 0), min(right + 1, width), min(bottom + 1, height)
