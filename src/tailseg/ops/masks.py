"""Instance masks: run lengths, training targets, pasting.

Shapes: K boxes, D detections, s the side of a mask head's output, h x w an image or a bitmap.

A mask as annotated is a tuple of polygons or COCO run lengths (see ``tailseg.structures.Segmentation``). Bitmaps of an
image's size are made only for those who ask: targets are rasterised at their 28 x 28, predictions become run lengths
from the pixels inside their box.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from pycocotools import mask as coco
from torch import Tensor
from torchvision.ops import roi_align

from tailseg.ops.run_lengths import check_run_lengths
from tailseg.structures import Frame, Polygons, RunLengths, Segmentation

MAX_COORDINATE: Final = 100_000
"""Largest coordinate of a polygon, in pixels: pycocotools walks along every edge, and its memory grows with it."""


def encode_mask(bitmap: Bool[np.ndarray, "h w"]) -> RunLengths:
    """The bitmap as COCO run lengths, ready for JSON."""
    return _ready(coco.encode(np.asfortranarray(bitmap, dtype=np.uint8)))


def decode_mask(rle: RunLengths) -> Bool[np.ndarray, "h w"]:
    """The bitmap that the run lengths stand for.

    Raises:
        ValueError: the counts do not fit the size.
    """
    return coco.decode(check_run_lengths(rle)).astype(bool)


def mask_area(rle: RunLengths) -> int:
    """The mask's number of pixels.

    Raises:
        ValueError: the counts do not fit the size.
    """
    return int(coco.area(check_run_lengths(rle)))


def mask_box(rle: RunLengths) -> tuple[float, float, float, float]:
    """The smallest xyxy box around the mask; all zeros for an empty one.

    Raises:
        ValueError: the counts do not fit the size.
    """
    x, y, width, height = coco.toBbox(check_run_lengths(rle))
    return float(x), float(y), float(x + width), float(y + height)


def polygons_to_rle(polygons: Polygons, height: int, width: int) -> RunLengths:
    """The union of the polygons in an image of ``height x width``, rasterised by pycocotools.

    Raises:
        ValueError: no polygon, one of fewer than three points, or a coordinate that is not finite or beyond
            ``MAX_COORDINATE``.
    """
    points = _points(polygons)
    return _ready(coco.merge(coco.frPyObjects(_flat(points, polygons), height, width)))


def segmentation_to_rle(segmentation: Segmentation, height: int, width: int) -> RunLengths:
    """An annotated mask as run lengths of an image of ``height x width``.

    Raises:
        ValueError: polygons that ``polygons_to_rle`` refuses, or run lengths of another size or that do not fill it.
    """
    if isinstance(segmentation, tuple):
        return polygons_to_rle(segmentation, height, width)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(
            f"run lengths must have the image's size: expected [height, width] = {[height, width]}, "
            f"got {list(segmentation['size'])}"
        )
    return _ready(check_run_lengths(segmentation))


def _ready(rle: RunLengths) -> RunLengths:
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _points(polygons: Sequence[np.ndarray]) -> Float[np.ndarray, "P 2"]:
    """All polygons' points, one after the other, after the checks: pycocotools crashes on NaN."""
    if len(polygons) == 0:
        raise ValueError("a mask needs at least one polygon, got none")
    shortest = min(len(polygon) for polygon in polygons)
    if shortest < 3:
        raise ValueError(f"a polygon needs at least three points, got one of {shortest}: remove it or its object")
    points = np.concatenate(polygons).astype(np.float64, copy=False)
    if not np.abs(points).max() <= MAX_COORDINATE:  # false for NaN too
        raise ValueError(
            f"a polygon's coordinates must be finite and at most {MAX_COORDINATE} pixels, got "
            f"{points[~(np.abs(points) <= MAX_COORDINATE)][0]}: correct or remove the object"
        )
    return points


def _flat(points: Float[np.ndarray, "P 2"], polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The points cut into one flat ``x, y, x, y ...`` a polygon, as pycocotools reads them."""
    ends = np.cumsum([0, *(len(polygon) for polygon in polygons)])
    return [points[start:end].ravel() for start, end in pairwise(ends)]


def mask_targets(
    masks: Sequence[Segmentation], frame: Frame, boxes: Float[Tensor, "K 4"], *, size: int = 28
) -> Float[Tensor, "K size size"]:
    """What the mask head should say: the part of each mask inside its box, at ``size x size``.

    Polygons are moved onto the target's grid and rasterised there. Run lengths are pooled by RoIAlign in the annotated
    file's pixels, and a target pixel belongs to the mask when at least half of it does.

    Args:
        masks: one a box, in pixels of the annotated file.
        frame: maps those to the image at hand.
        boxes: in the image at hand.
        size: side of the targets.

    Returns:
        0 or 1, on the boxes' device.

    Raises:
        ValueError: not one mask a box, or polygons that ``polygons_to_rle`` refuses.

    Source: mmdetection's crop_and_resize (a box side below 1 counts as 1); detectron2's polygon targets are the same.
    """
    if len(masks) != len(boxes):
        raise ValueError(f"mask targets need one mask a box, got {len(masks)} masks and {len(boxes)} boxes")
    corners = boxes.detach().double().cpu().numpy()
    targets = np.zeros((len(masks), size, size), dtype=np.float32)
    polygons = {i: mask for i, mask in enumerate(masks) if isinstance(mask, tuple)}
    if polygons:
        places = list(polygons)
        targets[places] = _polygon_targets(list(polygons.values()), frame, corners[places], size)
    for rle, members in _by_mask(masks):
        targets[members] = _run_length_targets(rle, frame, corners[members], size)
    return torch.from_numpy(targets).to(boxes.device)


def _polygon_targets(masks: Sequence[Polygons], frame: Frame, boxes: Float[np.ndarray, "K 4"], size: int) -> np.ndarray:
    """One pass over the points of all masks, one call of pycocotools for all polygons and one decode for all masks."""
    polygons = [polygon for mask in masks for polygon in mask]
    parts = [len(mask) for mask in masks]
    owner = np.repeat(np.repeat(np.arange(len(masks)), parts), [len(polygon) for polygon in polygons])
    scale = size / np.maximum(boxes[:, 2:] - boxes[:, :2], 1)
    points = _points(polygons) * (frame.scale_x, frame.scale_y) + (frame.shift_x, frame.shift_y)
    points = (points - boxes[owner, :2]) * scale[owner]
    rles = coco.frPyObjects(_flat(points, polygons), size, size)
    ends = np.cumsum([0, *parts])
    union = [rles[start] if end == start + 1 else coco.merge(rles[start:end]) for start, end in pairwise(ends)]
    return coco.decode(union).transpose(2, 0, 1)


def _by_mask(masks: Sequence[Segmentation]) -> list[tuple[RunLengths, list[int]]]:
    """The different run lengths among the masks and the places of each: a bitmap is decoded once for all its boxes."""
    groups: dict[tuple[str | bytes, int], tuple[RunLengths, list[int]]] = {}
    for i, mask in enumerate(masks):
        if not isinstance(mask, tuple):
            groups.setdefault((mask["counts"], mask["size"][0]), (mask, []))[1].append(i)
    return list(groups.values())


def _run_length_targets(rle: RunLengths, frame: Frame, boxes: Float[np.ndarray, "K 4"], size: int) -> np.ndarray:
    shift = np.tile([frame.shift_x, frame.shift_y], 2)
    scale = np.tile([frame.scale_x, frame.scale_y], 2)
    annotated = (boxes - shift) / scale
    low, high = np.minimum(annotated[:, :2], annotated[:, 2:]), np.maximum(annotated[:, :2], annotated[:, 2:])
    rois = torch.from_numpy(np.concatenate([low, high], axis=1)).float()
    bitmap = torch.from_numpy(coco.decode(rle)).float()[None, None]
    pooled = roi_align(bitmap, [rois], size, sampling_ratio=-1, aligned=True)[:, 0].numpy() >= 0.5
    # A mirrored frame shows the annotated file's right end of the box on the left.
    return pooled[:, :: -1 if frame.scale_y < 0 else 1, :: -1 if frame.scale_x < 0 else 1]


def paste_masks(
    probabilities: Float[Tensor, "D s s"],
    boxes: Float[Tensor, "D 4"],
    height: int,
    width: int,
    *,
    threshold: float = 0.5,
) -> list[RunLengths]:
    """Each mask stretched over its box, as run lengths of the whole image.

    A pixel belongs to the mask when the probability at its centre, bilinear between the centres of the ``s x s`` cells
    and falling to zero outside them, is at least ``threshold``. Only pixels inside the box (rounded outwards, and one
    more) are computed. A box without area has an empty mask.

    Args:
        probabilities: of the mask head, in ``[0, 1]``.
        boxes: finite, in pixels of the image.
        height: of the image.
        width: of the image.
        threshold: least probability of the mask, positive.

    Source: the published pasting (grid_sample with align_corners False), as mmdetection and detectron2 do it.
    """
    return [_crop_to_rle(crop, height, width) for crop in _crops(probabilities, boxes, height, width, threshold)]


def paste_bitmaps(
    probabilities: Float[Tensor, "D s s"],
    boxes: Float[Tensor, "D 4"],
    height: int,
    width: int,
    *,
    threshold: float = 0.5,
) -> Bool[Tensor, "D {height} {width}"]:
    """The masks of ``paste_masks`` as bitmaps, in main memory."""
    bitmaps = torch.zeros((len(boxes), height, width), dtype=torch.bool)
    for bitmap, crop in zip(bitmaps, _crops(probabilities, boxes, height, width, threshold), strict=True):
        rows, columns = crop.pixels.shape
        bitmap[crop.top : crop.top + rows, crop.left : crop.left + columns] = torch.from_numpy(crop.pixels)
    return bitmaps


class _Crop(NamedTuple):
    """The part of an image's mask around its box; the rest of the mask is empty."""

    pixels: np.ndarray
    top: int
    left: int


def _crops(probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Iterator[_Crop]:
    """The thresholded pixels of each mask.

    Bilinear sampling of a grid is a product of two thin matrices with the mask, one of rows and one of columns: quicker
    than sampling every pixel by itself.
    """
    cells = probabilities.detach().float().cpu().numpy()
    corners = boxes.detach().double().cpu().numpy()
    limits = np.array([width, height, width, height])
    outwards = np.concatenate([np.floor(corners[:, :2]) - 1, np.ceil(corners[:, 2:]) + 1], axis=1)
    region = np.clip(outwards, 0, limits).astype(int).tolist()
    for mask, (x1, y1, x2, y2), (left, top, right, bottom) in zip(cells, corners.tolist(), region, strict=True):
        if x2 <= x1 or y2 <= y1:
            yield _Crop(np.zeros((0, 0), dtype=bool), 0, 0)
            continue
        rows = _bilinear_weights(top, bottom, y1, y2, mask.shape[0])
        columns = _bilinear_weights(left, right, x1, x2, mask.shape[1])
        yield _Crop(rows @ mask @ columns.T >= threshold, top, left)


def _bilinear_weights(
    start: int, stop: int, low: float, high: float, cells: int
) -> Float[np.ndarray, "pixels {cells}"]:
    """The weight of each of the cells between ``low`` and ``high`` at the pixels ``start .. stop - 1``."""
    # Positions in float64: where a probability falls on the threshold exactly, rounding must not decide.
    position = (np.arange(start, stop) + 0.5 - low) * (cells / (high - low)) - 0.5
    distance = np.abs(position[:, None] - np.arange(cells))
    return np.maximum(1 - distance, 0).astype(np.float32)


def _crop_to_rle(crop: _Crop, height: int, width: int) -> RunLengths:
    """Run lengths of the whole image (down the columns, as COCO counts) from the places where the crop changes."""
    rows, columns = crop.pixels.shape
    padded = np.zeros((columns, rows + 1), dtype=bool)  # the empty row below ends each column's last run
    padded[:, :rows] = crop.pixels.T
    column, row = np.divmod(np.flatnonzero(np.diff(padded.ravel(), prepend=False)), rows + 1)
    change = (crop.left + column) * height + crop.top + row
    # Where the crop reaches from the image's top to its bottom, a run may end where the next column's begins: one run.
    change, times = np.unique(change, return_counts=True)
    counts = np.diff(change[times == 1], prepend=0, append=height * width)
    if counts[-1] == 0:
        counts = counts[:-1]
    return _ready(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))
