"""Instance masks: run lengths, training targets, pasting.

Shapes: K boxes, D detections, s the side of a mask head's output, h x w an image or a bitmap.

A mask as annotated is a tuple of polygons or COCO run lengths (see ``tailseg.structures.Segmentation``). Bitmaps of the
image's size are made only where needed: targets are rasterized at their 28 x 28, predictions become run lengths
from the pixels inside their box.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pycocotools import mask as coco
from torch import Tensor
from torchvision.ops import roi_align

from tailseg.annotations.run_lengths import check_run_lengths
from tailseg.structures import Frame, Polygons, RunLengths, Segmentation

MAX_COORDINATE: Final = 100_000
"""Largest coordinate of a polygon, in pixels: pycocotools walks along every edge, and its memory grows with it."""

MAX_OUTLINE: Final = 30_000_000
"""Longest outline of the polygons that are rasterized together, in pixels of the grid: pycocotools takes 40 bytes each.
A mask's target has a grid of 28 x 28 to its box, in which polygons far outside a tiny box are long."""


def encode_mask(bitmap: Bool[np.ndarray, "h w"]) -> RunLengths:
    """The bitmap as COCO run lengths, ready for JSON."""
    return to_json(coco.encode(np.asfortranarray(bitmap, dtype=np.uint8)))


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
    """The union of the polygons in an image of ``height x width``, rasterized by pycocotools.

    Args:
        polygons: points ``[P, 2]`` of each polygon, x and y in pixels.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        COCO run lengths, ready for JSON.

    Raises:
        ValueError: no polygon, one of fewer than three points, a coordinate that is not finite or beyond
            ``MAX_COORDINATE``, or edges longer than ``MAX_OUTLINE`` together.
    """
    points = _points(polygons)
    _check_outline(points)
    return to_json(coco.merge(coco.frPyObjects(_flat(points, polygons), height, width)))


def segmentation_to_rle(segmentation: Segmentation, height: int, width: int) -> RunLengths:
    """An annotated mask as run lengths of an image of ``height x width``.

    Args:
        segmentation: polygons or run lengths.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        COCO run lengths, ready for JSON.

    Raises:
        ValueError: polygons that ``polygons_to_rle`` refuses, or run lengths of another size or that do not fill it.
    """
    if segmentation == ():  # annotated, but without a pixel
        return to_json(coco.encode(np.zeros((height, width), np.uint8, order="F")))
    if isinstance(segmentation, tuple):
        return polygons_to_rle(segmentation, height, width)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(
            f"run lengths must have the image's size: expected [height, width] = {[height, width]}, "
            f"got {list(segmentation['size'])}"
        )
    return to_json(check_run_lengths(segmentation))


def to_json(rle: RunLengths) -> RunLengths:
    """The run lengths of pycocotools with text in place of bytes, ready for JSON."""
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


def _check_outline(points: Float[np.ndarray, "P 2"]) -> None:
    """Refuses polygons that take gigabytes to walk along: a zigzag of some thousand long edges is a small file."""
    if 2 * np.abs(points).max() * len(points) <= MAX_OUTLINE:  # quick, and nearly always so
        return
    length = np.abs(np.diff(points, axis=0)).max(axis=1).sum()
    if length > MAX_OUTLINE:
        raise ValueError(
            f"polygons' edges must be at most {MAX_OUTLINE} pixels long together, got {length:.0f}: correct or remove "
            "the object"
        )


def _flat(points: Float[np.ndarray, "P 2"], polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The points cut into one flat ``x, y, x, y ...`` a polygon, as pycocotools reads them."""
    ends = np.cumsum([0, *(len(polygon) for polygon in polygons)])
    return [points[start:end].ravel() for start, end in pairwise(ends)]


def mask_targets(
    masks: Sequence[Segmentation], frame: Frame | Sequence[Frame], boxes: Float[Tensor, "K 4"], *, size: int = 28
) -> Float[Tensor, "K size size"]:
    """Computes the targets of the mask head: the part of each mask inside its box, at ``size x size``.

    Polygons are moved onto the target's grid and rasterized there. Run lengths are pooled by RoIAlign in the annotated
    file's pixels, and a target pixel belongs to the mask when at least half of it does.

    Args:
        masks: one a box, in pixels of the annotated file.
        frame: maps those to the image that the model sees; or one for each mask, in its own pixels.
        boxes: in the image that the model sees.
        size: side of the targets.

    Returns:
        0 or 1, on the boxes' device.

    Raises:
        ValueError: not one mask or one frame a box, or polygons that ``polygons_to_rle`` refuses.

    Source: mmdetection's crop_and_resize (a box side below 1 counts as 1); detectron2's polygon targets are the same.
    """
    if len(masks) != len(boxes):
        raise ValueError(f"mask targets need one mask a box, got {len(masks)} masks and {len(boxes)} boxes")
    frames = [frame] * len(masks) if isinstance(frame, Frame) else frame
    if len(frames) != len(masks):
        raise ValueError(f"mask targets need one frame a mask, got {len(frames)} frames and {len(masks)} masks")
    corners = boxes.detach().cpu().double().numpy()
    targets = np.zeros((len(masks), size, size), dtype=np.float32)
    polygons = {i: mask for i, mask in enumerate(masks) if isinstance(mask, tuple)}
    if polygons:
        places = list(polygons)
        moves = [frames[place] for place in places]
        targets[places] = _polygon_targets(list(polygons.values()), moves, corners[places], size)
    for rle, move, members in _by_mask(masks, frames):
        targets[members] = _run_length_targets(rle, move, corners[members], size)
    return torch.from_numpy(targets).to(boxes.device)


def _polygon_targets(
    masks: Sequence[Polygons], frames: Sequence[Frame], boxes: Float[np.ndarray, "K 4"], size: int
) -> np.ndarray:
    """One pass over the points of all masks, one call of pycocotools for all polygons and one decode for all masks."""
    polygons = [polygon for mask in masks for polygon in mask]
    counts = [len(mask) for mask in masks]
    owner = np.repeat(np.repeat(np.arange(len(masks)), counts), [len(polygon) for polygon in polygons])
    scale = size / np.maximum(boxes[:, 2:] - boxes[:, :2], 1)
    scales = np.array([(frame.scale_x, frame.scale_y) for frame in frames])
    shifts = np.array([(frame.shift_x, frame.shift_y) for frame in frames])
    points = _points(polygons) * scales[owner] + shifts[owner]
    points = (points - boxes[owner, :2]) * scale[owner]
    _check_outline(points)
    rles = coco.frPyObjects(_flat(points, polygons), size, size)
    ends = np.cumsum([0, *counts])
    union = [rles[start] if end == start + 1 else coco.merge(rles[start:end]) for start, end in pairwise(ends)]
    return coco.decode(union).transpose(2, 0, 1)


def _by_mask(masks: Sequence[Segmentation], frames: Sequence[Frame]) -> list[tuple[RunLengths, Frame, list[int]]]:
    """The different run lengths among the masks, each with its frame and its places.

    A bitmap is decoded once for all its boxes.
    """
    groups: dict[tuple[str | bytes, int, Frame], tuple[RunLengths, Frame, list[int]]] = {}
    for i, (mask, frame) in enumerate(zip(masks, frames, strict=True)):
        if not isinstance(mask, tuple):
            groups.setdefault((mask["counts"], mask["size"][0], frame), (mask, frame, []))[2].append(i)
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


FIFTHS: Final = 5
"""pycocotools rounds the corners of polygons to fifths of a pixel."""

Region = tuple[int, int, int, int]
"""Pixels of an image: ``left, top, right, bottom``."""


def rasterize(segmentation: Segmentation, frame: Frame, region: Region) -> RunLengths:
    """Rasterizes the part of an annotated mask that is in a region of the transformed image.

    The pixels are those of the whole image's bitmap if the region has all of the mask that is in the image, with one
    more pixel above it and on its left, up to the image's border. Polygons are moved and rasterized by pycocotools. Of
    run lengths, each pixel takes the pixel of the annotated file at its center.

    Args:
        segmentation: in pixels of the annotated file; run lengths must have been checked, as a reader does.
        frame: maps those to the transformed image.
        region: in the transformed image.

    Returns:
        COCO run lengths of the region, as pycocotools has them.

    Raises:
        ValueError: polygons that ``polygons_to_rle`` refuses.
    """
    left, top, right, bottom = region
    height, width = bottom - top, right - left
    if segmentation == ():
        return coco.encode(np.zeros((height, width), np.uint8, order="F"))
    if isinstance(segmentation, tuple):
        points = _points(segmentation) * (frame.scale_x, frame.scale_y) + (frame.shift_x, frame.shift_y)
        # Corners are rounded as in the whole image, and then moved by whole pixels: a corner between two fifths could
        # otherwise be rounded to another one. pycocotools rounds 5 x + 0.5 towards zero.
        corners = np.trunc(FIFTHS * points + 0.5) - (FIFTHS * left, FIFTHS * top)
        points = np.where(corners < 0, corners - 1, corners) / FIFTHS
        _check_outline(points)
        rles = coco.frPyObjects(_flat(points, segmentation), height, width)
        return coco.merge(rles) if len(rles) > 1 else rles[0]
    bitmap = coco.decode(segmentation)
    columns = np.floor((np.arange(left, right) + 0.5 - frame.shift_x) / frame.scale_x).astype(np.int64)
    rows = np.floor((np.arange(top, bottom) + 0.5 - frame.shift_y) / frame.scale_y).astype(np.int64)
    inside = ((rows >= 0) & (rows < len(bitmap)))[:, None] & ((columns >= 0) & (columns < bitmap.shape[1]))
    pixels = bitmap[rows.clip(0, len(bitmap) - 1)[:, None], columns.clip(0, bitmap.shape[1] - 1)] * inside
    return coco.encode(np.asfortranarray(pixels))


def find_extents(masks: Sequence[Segmentation], frames: Sequence[Frame]) -> Float[np.ndarray, "K 4"]:
    """Finds the smallest xyxy box around each mask in the transformed image; all zeros for a mask without a pixel.

    Args:
        masks: in pixels of the annotated file; run lengths must have been checked, as a reader does.
        frames: one for each mask; maps those to the transformed image.

    Returns:
        The boxes. They may reach beyond the image.
    """
    extents = np.zeros((len(masks), 4))
    with_polygons = [i for i, mask in enumerate(masks) if isinstance(mask, tuple) and mask]
    if with_polygons:
        polygons = [polygon for i in with_polygons for polygon in masks[i]]
        counts = np.cumsum([0, *(sum(map(len, masks[i])) for i in with_polygons)])[:-1]
        points = np.concatenate(polygons)
        extents[with_polygons] = np.concatenate(
            [np.minimum.reduceat(points, counts), np.maximum.reduceat(points, counts)], axis=1
        )
    encoded = [i for i, mask in enumerate(masks) if not isinstance(mask, tuple)]
    if encoded:
        boxes = coco.toBbox([masks[i] for i in encoded])
        boxes[:, 2:] += boxes[:, :2]
        extents[encoded] = boxes
    moves = np.array([(f.scale_x, f.scale_y, f.shift_x, f.shift_y) for f in frames]).reshape(-1, 4)
    first, last = (extents[:, sides] * moves[:, :2] + moves[:, 2:] for sides in (slice(2), slice(2, 4)))
    moved = np.concatenate([np.minimum(first, last), np.maximum(first, last)], axis=1)
    moved[np.any(extents[:, 2:] <= extents[:, :2], axis=1)] = 0
    return moved


def paste_masks(
    probabilities: Float[Tensor, "D s s"],
    boxes: Float[Tensor, "D 4"],
    height: int,
    width: int,
    *,
    threshold: float = 0.5,
) -> list[RunLengths]:
    """Each mask stretched over its box, as run lengths of the whole image.

    A pixel belongs to the mask when the probability at its center, bilinear between the centers of the ``s x s`` cells
    and falling to zero outside them, is at least ``threshold``. Only pixels inside the box (rounded outwards, and one
    more) are computed. A box without area has an empty mask.

    Args:
        probabilities: of the mask head, in ``[0, 1]``.
        boxes: finite, in pixels of the image.
        height: of the image.
        width: of the image.
        threshold: least probability of the mask, positive: every pixel around a mask reaches 0.

    Returns:
        COCO run lengths of each mask.

    Raises:
        ValueError: the threshold is not positive.

    Source: the published pasting (grid_sample with align_corners False), as mmdetection and detectron2 do it.
    """
    return [
        rle
        for regions, pixels in _pasted(probabilities, boxes, height, width, threshold)
        for rle in _encode(pixels, regions, height, width)
    ]


def paste_bitmaps(
    probabilities: Float[Tensor, "D s s"],
    boxes: Float[Tensor, "D 4"],
    height: int,
    width: int,
    *,
    threshold: float = 0.5,
) -> Bool[Tensor, "D {height} {width}"]:
    """The masks of ``paste_masks`` as bitmaps, in main memory.

    Args:
        probabilities: of the mask head, in ``[0, 1]``.
        boxes: finite, in pixels of the image.
        height: of the image, in pixels.
        width: of the image, in pixels.
        threshold: least probability of the mask, positive.

    Returns:
        A bitmap of each mask.

    Raises:
        ValueError: the threshold is not positive.
    """
    bitmaps = np.zeros((len(boxes), height, width), dtype=bool)
    empty = iter(bitmaps)
    for regions, pixels in _pasted(probabilities, boxes, height, width, threshold):
        for (left, top, right, bottom), crop in zip(regions.tolist(), _crops(pixels, regions), strict=True):
            next(empty)[top:bottom, left:right] = crop[:, :-1].T
    return torch.from_numpy(bitmaps)


PIXELS_AT_A_TIME: Final = 2**21
"""Masks are pasted together until they have this many pixels: bounds the memory."""

_Regions = Int64[np.ndarray, "D 4"]
"""The pixels that a mask may have, ``left, top, right, bottom``; all others are empty."""
_Pixels = Bool[np.ndarray, " pixels"]
"""Masks inside their regions, one after the other, each down its columns with an empty pixel below every column."""


def _sizes(regions: _Regions) -> Int64[np.ndarray, " D"]:
    """Entries of each mask in ``_Pixels``."""
    return (regions[:, 2] - regions[:, 0]) * (regions[:, 3] - regions[:, 1] + 1)


def _crops(pixels: np.ndarray, regions: _Regions) -> list[np.ndarray]:
    """Each mask's part of ``_Pixels``, or of numbers in that order, as ``[columns, rows + 1]``."""
    ends = np.cumsum(_sizes(regions))
    return [
        part.reshape(-1, rows + 1)
        for part, rows in zip(np.split(pixels, ends[:-1]), (regions[:, 3] - regions[:, 1]).tolist(), strict=True)
    ]


def _pasted(
    probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Iterator[tuple[_Regions, _Pixels]]:
    """The masks' regions and their thresholded pixels, a few masks at a time.

    Bilinear sampling of a grid is a product of two thin matrices with the mask, one of rows and one of columns: quicker
    than sampling every pixel by itself.
    """
    if not threshold > 0:
        raise ValueError(f"the threshold of a mask must be above 0, got {threshold}: every pixel reaches 0")
    cells = probabilities.detach().float().cpu().numpy()
    corners = boxes.detach().cpu().double().numpy()
    outwards = np.concatenate([np.floor(corners[:, :2]) - 1, np.ceil(corners[:, 2:]) + 1], axis=1)
    regions = np.clip(outwards, 0, [width, height, width, height]).astype(np.int64)
    empty = (corners[:, 2:] <= corners[:, :2]) | (regions[:, 2:] <= regions[:, :2])
    regions[empty.any(axis=1)] = 0
    if len(regions) == 0:
        return
    batch = np.cumsum(_sizes(regions)) // PIXELS_AT_A_TIME
    for part in np.split(np.arange(len(regions)), np.flatnonzero(np.diff(batch)) + 1):
        chunk, box = regions[part], corners[part]
        # an empty row below every column ends its last run
        rows = _bilinear_weights(chunk[:, 1], chunk[:, 3], box[:, 1], box[:, 3], cells.shape[1], spare=1)
        columns = _bilinear_weights(chunk[:, 0], chunk[:, 2], box[:, 0], box[:, 2], cells.shape[2], spare=0)
        values = np.empty(_sizes(chunk).sum(), dtype=np.float32)
        for mask, row, column, crop in zip(cells[part], rows, columns, _crops(values, chunk), strict=True):
            np.matmul(column, (row @ mask).T, out=crop)
        yield chunk, values >= threshold


def _bilinear_weights(
    start: Int64[np.ndarray, " D"],
    stop: Int64[np.ndarray, " D"],
    low: Float[np.ndarray, " D"],
    high: Float[np.ndarray, " D"],
    cells: int,
    *,
    spare: int,
) -> list[np.ndarray]:
    """For each box ``[pixels + spare, cells]``: the weight of each cell between ``low`` and ``high`` at each pixel.

    Those of the spare pixels behind the last are zero.
    """
    counts = stop - start + spare
    ends = np.cumsum(counts)
    owner = np.repeat(np.arange(len(counts)), counts)
    pixel = start[owner] + np.arange(len(owner)) - (ends - counts)[owner]
    # Positions in float64: where a probability falls on the threshold exactly, rounding must not decide.
    position = (pixel + 0.5 - low[owner]) * (cells / np.where(high > low, high - low, 1))[owner] - 0.5
    lower = np.floor(position)
    inside = (pixel < stop[owner]) & (lower >= -1) & (lower < cells)
    weights = np.zeros((len(pixel), cells + 2), dtype=np.float32)  # a cell more at both ends, cut off below
    entry = np.arange(len(pixel)) * (cells + 2) + np.clip(lower, -1, cells - 1).astype(np.int64) + 1
    weights.reshape(-1)[entry] = (1 - (position - lower)) * inside
    weights.reshape(-1)[entry + 1] = (1 - (lower + 1 - position)) * inside
    return np.split(weights[:, 1:-1], ends[:-1])


def _encode(pixels: _Pixels, regions: _Regions, height: int, width: int) -> list[RunLengths]:
    """Run lengths of whole images (down the columns, as COCO counts) from the places where the masks change."""
    sizes = _sizes(regions)
    left, top, _, bottom = regions.T
    starts = np.cumsum(sizes) - sizes
    change = np.flatnonzero(np.diff(pixels, prepend=False))
    mask = np.searchsorted(starts, change, side="right") - 1
    column, row = np.divmod(change - starts[mask], (bottom - top + 1)[mask])
    # a mask starts one past the end of the one before: its last run may end at its last pixel
    pixels_each = height * width
    place = mask * (pixels_each + 1) + (left[mask] + column) * height + top[mask] + row
    # Where a region reaches from the image's top to its bottom, a run may end where the next column's begins: one run.
    place = place[(np.diff(place, prepend=-1) > 0) & (np.diff(place, append=-1) != 0)]
    ends = np.arange(len(regions)) * (pixels_each + 1) + pixels_each
    place = np.sort(np.concatenate([place, ends]), kind="stable")
    place = place[np.diff(place, prepend=-1) > 0]
    mask = place // (pixels_each + 1)
    counts = np.diff(place, prepend=0)
    first = np.diff(mask, prepend=-1) > 0
    counts[first] = place[first] - mask[first] * (pixels_each + 1)
    return [{"size": [height, width], "counts": text} for text in _compressed(counts, np.flatnonzero(first))]


MAX_CHARACTERS: Final = 7
"""Of a run length in COCO's text, five bits each: images have fewer than 2^34 pixels."""


def _compressed(counts: Int64[np.ndarray, " K"], starts: Int64[np.ndarray, " D"]) -> list[str]:
    """COCO's text for the run lengths of each mask, which begin at ``starts``.

    From the fourth on a run is written as its difference from the one two before. Numbers are cut into groups of five
    bits, lowest first, each with a bit that says whether another follows, plus 48.

    Source: pycocotools, ``rleToString``; all masks at once.
    """
    index = np.arange(len(counts)) - np.repeat(starts, np.diff(starts, append=len(counts)))
    rest = counts.copy()
    later = np.flatnonzero(index > 2)
    rest[later] -= counts[later - 2]
    characters = np.zeros((len(counts), MAX_CHARACTERS), dtype=np.uint8)
    length = np.zeros(len(counts), dtype=np.int64)
    more = np.arange(len(counts))
    for column in range(MAX_CHARACTERS):
        bits, rest = rest & 31, rest >> 5
        follows = rest != -(bits >> 4)  # the sign is in the highest of the five bits
        characters[more, column] = bits + 32 * follows + 48
        length[more] += 1
        more, rest = more[follows], rest[follows]
        if len(more) == 0:
            break
    text = characters[np.arange(MAX_CHARACTERS) < length[:, None]].tobytes().decode("ascii")
    ends = np.cumsum(np.add.reduceat(length, starts)).tolist()
    return [text[start:end] for start, end in pairwise([0, *ends])]
