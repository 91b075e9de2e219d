"""Copy-paste as the papers describe it: a bitmap of the whole image for every object, one object after the other."""

from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as coco
from torchvision.transforms.v2 import functional

from tailseg.structures import Frame, Segmentation


@dataclass
class Thing:
    """An object of the image: all its pixels, those that are visible, its class, its box, and whether it has a mask."""

    whole: np.ndarray
    visible: np.ndarray
    label: int
    box: np.ndarray
    has_mask: bool = True


def make_bitmap(mask: Segmentation, frame: Frame, height: int, width: int) -> np.ndarray:
    """The bitmap of a mask in the transformed image: each polygon by itself, each pixel of run lengths by itself."""
    bitmap = np.zeros((height, width), dtype=bool)
    if isinstance(mask, tuple):
        for polygon in mask:
            points = polygon * [frame.scale_x, frame.scale_y] + [frame.shift_x, frame.shift_y]
            bitmap |= coco.decode(coco.frPyObjects([points.ravel().tolist()], height, width)[0]).astype(bool)
        return bitmap
    decoded = coco.decode(mask).astype(bool)
    for y in range(height):
        for x in range(width):
            row = int(np.floor((y + 0.5 - frame.shift_y) / frame.scale_y))
            column = int(np.floor((x + 0.5 - frame.shift_x) / frame.scale_x))
            bitmap[y, x] = 0 <= row < len(decoded) and 0 <= column < decoded.shape[1] and decoded[row, column]
    return bitmap


def fill_box(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels with their center in a box."""
    bitmap = np.zeros((height, width), dtype=bool)
    for y in range(height):
        for x in range(width):
            bitmap[y, x] = box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]
    return bitmap


def find_box(bitmap: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(bitmap)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def shrink(box: np.ndarray, whole: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """A side of the box moves to the mask if the mask no longer reaches as far as before, and never outwards."""
    before, after, moved = find_box(whole), find_box(visible), box.copy()
    for side in range(4):
        if before[side] != after[side]:
            moved[side] = max(box[side], after[side]) if side < 2 else min(box[side], after[side])
    return moved


def paste(
    image: np.ndarray,
    things: list[Thing],
    ignored: list[np.ndarray],
    pasted: list[tuple[np.ndarray, int, tuple[int, int, int, int], bool]],
    min_visible: float,
) -> tuple[np.ndarray, list[Thing], list[np.ndarray]]:
    """Pastes ``(rgba [h, w, 4], label, region, flipped)`` one after the other.

    Returns the image, the visible objects, and the boxes of the visible ignored regions.
    """
    height, width = image.shape[1:]
    image, things = image.copy(), list(things)
    regions = [fill_box(box, height, width) for box in ignored]
    seen = [region.copy() for region in regions]
    for rgba, label, (left, top, right, bottom), flipped in pasted:
        planes = torch.from_numpy(np.array(rgba)).permute(2, 0, 1)
        planes = functional.horizontal_flip(planes) if flipped else planes
        planes = functional.resize(planes, [bottom - top, right - left], antialias=True).numpy()
        bitmap = np.zeros((height, width), dtype=bool)
        for y in range(bottom - top):
            for x in range(right - left):
                if planes[3, y, x] >= 128:
                    bitmap[top + y, left + x] = True
                    image[:, top + y, left + x] = planes[:3, y, x]
        for thing in things:
            thing.visible &= ~bitmap
        for region in seen:
            region &= ~bitmap
        things.append(Thing(bitmap, bitmap.copy(), label, find_box(bitmap)))
    kept = []
    for thing in things:
        if thing.whole.any() and thing.visible.sum() < thing.whole.sum():
            if not thing.visible.any() or thing.visible.sum() < min_visible * thing.whole.sum():
                continue
            thing.box = shrink(thing.box, thing.whole, thing.visible)
        kept.append(thing)
    boxes = [
        shrink(box, region, visible) if (visible != region).any() else box
        for box, region, visible in zip(ignored, regions, seen, strict=True)
        if visible.any() or not region.any()
    ]
    return image, kept, boxes
