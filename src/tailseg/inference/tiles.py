"""Detection in large images: overlapping tiles, whose detections are joined to whole objects.

An object across a seam is detected in two or more tiles, in each cut at the tile's border. Two tiles share a band. Two
detections of one class are of one object if they agree there: if the IoU of their masks inside the shared part is at
least `MIN_IOU`. (The IoU of the whole masks says nothing: the pieces of a long object share little.) The detections
that are linked in this way become one, with the union of their masks and the highest score.

What is left is compared as in the NMS of one image, by class: of two objects that no tile sees together and whose masks
have an IoU above `MIN_IOU`, the one with the higher score stays. A piece at a tile's border that is part of another
object is left out.

Masks stay run lengths throughout (`tailseg.ops.strips`). A detector without masks is treated in the same way, with
boxes in place of the masks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from tailseg.inference.pipeline import Detector
from tailseg.ops import strips
from tailseg.ops.strips import Box, Strips
from tailseg.structures import Detections

MIN_IOU: Final = 0.5
"""The smallest IoU of two detections of one object."""
MIN_PART: Final = 0.8
"""The smallest share of a cut piece that lies in another object, of which it is then a part."""
BORDER: Final = 2.0
"""A box that ends this near the border of a tile, in pixels, may be cut there."""
MIN_TILE: Final = 32
"""The smallest side of a tile, in pixels."""


@dataclass(frozen=True)
class TileConfig:
    """How an image is cut.

    Attributes:
        size: the side of a tile, in pixels of the image.
        overlap: the smallest share of a tile's side that it has in common with the next one, in (0, 0.9].
        min_score: a piece with a lower score is left out; half the threshold of the objects is a good value, because
            a cut object has a lower score than a whole one.
        batch_size: tiles that the detector gets at a time.
    """

    size: int = 1024
    overlap: float = 0.2
    min_score: float = 0.05
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.size < MIN_TILE or not 0 < self.overlap <= 0.9 or self.batch_size < 1:
            raise ValueError(
                f"tiles need a side of {MIN_TILE} pixels or more, an overlap in (0, 0.9] and a batch of 1 or more, got "
                f"{self.size}, {self.overlap} and {self.batch_size}"
            )


class TiledDetector:
    """A detector that cuts images into tiles. An image that is not larger than a tile is detected as a whole.

    Args:
        detector: detects in the tiles.
        config: how images are cut.
    """

    def __init__(self, detector: Detector, config: TileConfig = TileConfig()) -> None:
        self._detector = detector
        self._config = config

    def __call__(self, images: Sequence[Tensor]) -> list[Detections]:
        """Detects objects in images, uint8 RGB ``[3, h, w]``, one after the other.

        Returns:
            The detections of each, best first, in pixels of the image.
        """
        return [self._detect(image) for image in images]

    def _detect(self, image: UInt8[Tensor, "3 h w"]) -> Detections:
        height, width = image.shape[-2:]
        tiles = list(cut_tiles(height, width, self._config))
        if len(tiles) == 1:
            return self._detector([image])[0]
        pieces: list[_Piece] = []
        found = None
        for start in range(0, len(tiles), self._config.batch_size):
            batch = tiles[start : start + self._config.batch_size]
            parts = [image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in batch]
            for tile, found in zip(batch, self._detector(parts), strict=True):
                pieces += _make_pieces(found.above(self._config.min_score), tile, height, width)
        assert found is not None
        objects = join_pieces(pieces)
        return Detections(
            boxes=torch.tensor([piece.box for piece in objects], dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor([piece.score for piece in objects], dtype=torch.float32),
            labels=torch.tensor([piece.label for piece in objects], dtype=torch.int64),
            masks=None
            if found.masks is None
            else tuple(strips.to_run_lengths(_get_mask(piece), height, width) for piece in objects),
            height=height,
            width=width,
            class_names=found.class_names,
        )


def cut_tiles(height: int, width: int, config: TileConfig) -> Iterator[Box]:
    """Cuts an image into tiles.

    Args:
        height: of the image.
        width: of the image.
        config: side and overlap of the tiles.

    Yields:
        The tiles, row by row, as ``x1, y1, x2, y2`` in whole pixels; none is outside the image.
    """
    for y in _cut_side(height, config):
        for x in _cut_side(width, config):
            yield x, y, min(x + config.size, width), min(y + config.size, height)


def _cut_side(length: int, config: TileConfig) -> list[int]:
    """Returns where the tiles start: as few as cover the side, at equal distances."""
    if length <= config.size:
        return [0]
    shared = max(1, ceil(config.size * config.overlap))
    count = ceil((length - shared) / (config.size - shared))
    return [round(index * (length - config.size) / (count - 1)) for index in range(count)]


@dataclass(frozen=True, eq=False)
class _Piece:
    """A detection in a tile, or an object of several of them; in pixels of the image."""

    label: int
    score: float
    box: tuple[float, float, float, float]
    mask: Strips | None
    tiles: frozenset[Box]
    is_cut: bool

    def shape_in(self, box: Box) -> "_Shape":
        """The part of the mask in a box; of the detection's box without a mask."""
        if self.mask is not None:
            return strips.cut(self.mask, box)
        x1, y1, x2, y2 = self.box
        part = max(x1, box[0]), max(y1, box[1]), min(x2, box[2]), min(y2, box[3])
        return np.array(part, dtype=np.float64)


_Shape = Strips | Float64[np.ndarray, "4"]


def _get_mask(piece: _Piece) -> Strips:
    assert piece.mask is not None
    return piece.mask


def _compute_area(shape: _Shape) -> float:
    if shape.ndim == 2:
        return strips.count_pixels(shape)
    return float(max(shape[2] - shape[0], 0) * max(shape[3] - shape[1], 0))


def _compute_shared(one: _Shape, other: _Shape) -> float:
    if one.ndim == 2:
        return strips.count_shared(one, other)
    return _compute_area(np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])]))


def _make_pieces(detections: Detections, tile: Box, height: int, width: int) -> list[_Piece]:
    """Moves the detections of a tile to the image."""
    x, y, right, bottom = tile
    borders = np.array([x, y, right, bottom], dtype=np.float64)
    is_inner = np.array([x > 0, y > 0, right < width, bottom < height])
    boxes = detections.boxes.detach().cpu().double().numpy() + [x, y, x, y]
    cut = ((np.abs(boxes - borders) <= BORDER) & is_inner).any(axis=1)
    masks = detections.masks
    return [
        _Piece(
            label,
            score,
            tuple(box),
            None if masks is None else strips.move(strips.from_run_lengths(masks[index]), x, y),
            frozenset([tile]),
            bool(cut[index]),
        )
        for index, (label, score, box) in enumerate(
            zip(detections.labels.tolist(), detections.scores.tolist(), boxes.tolist(), strict=True)
        )
    ]


def join_pieces(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Joins the pieces of each object, and leaves out what is detected twice; returns the objects, best first."""
    by_label: dict[int, list[_Piece]] = {}
    for piece in pieces:
        by_label.setdefault(piece.label, []).append(piece)
    objects = [kept for group in by_label.values() for kept in _suppress(_link(group))]
    return sorted(objects, key=lambda piece: -piece.score)


def _link(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Joins the pieces of one class that agree in the part that their tiles share, the most similar ones first.

    The detector returns an object once in a tile. So an object has at most one piece of each tile, and two objects that
    cross in a band are not joined with each other.
    """
    boxes = np.array([piece.box for piece in pieces]).reshape(-1, 4)
    pairs = [
        (iou, index, other)
        for index, piece in enumerate(pieces)
        for other in _find_near(boxes, index, range(index + 1, len(pieces)))
        if (iou := _compute_agreement(piece, pieces[other])) >= MIN_IOU
    ]
    groups = {index: [index] for index in range(len(pieces))}
    tiles = [set(piece.tiles) for piece in pieces]
    for _, one, other in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        first, second = groups[one], groups[other]
        if tiles[first[0]] & tiles[second[0]]:
            continue
        tiles[first[0]] |= tiles[second[0]]
        first += second
        groups |= dict.fromkeys(second, first)
    return [_unite([pieces[index] for index in group]) for start, group in groups.items() if group[0] == start]


def _find_near(boxes: Float64[np.ndarray, "P 4"], index: int, others: range) -> list[int]:
    """Finds the boxes among others that overlap a box."""
    box, rest = boxes[index], boxes[others.start : others.stop]
    overlap = ((rest[:, :2] < box[2:]) & (rest[:, 2:] > box[:2])).all(axis=1)
    return (np.flatnonzero(overlap) + others.start).tolist()


def _compute_agreement(one: _Piece, other: _Piece) -> float:
    """Computes the IoU of the detections of two tiles in the part that the tiles share; 0 if they share none."""
    (first,), (second,) = one.tiles, other.tiles
    shared = max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3])
    if first == second or shared[0] >= shared[2] or shared[1] >= shared[3]:
        return 0.0
    return _compute_iou(one.shape_in(shared), other.shape_in(shared))


def _compute_iou(one: _Shape, other: _Shape) -> float:
    shared = _compute_shared(one, other)
    return shared / max(_compute_area(one) + _compute_area(other) - shared, 1e-9)


def _unite(group: Sequence[_Piece]) -> _Piece:
    if len(group) == 1:
        return group[0]
    boxes = np.array([piece.box for piece in group])
    box = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
    return replace(
        max(group, key=lambda piece: piece.score),
        box=box,
        mask=None if group[0].mask is None else strips.unite([_get_mask(piece) for piece in group]),
        tiles=frozenset(tile for piece in group for tile in piece.tiles),
        is_cut=False,
    )


def _suppress(objects: Sequence[_Piece]) -> list[_Piece]:
    """Leaves out objects of one class that are detected in other tiles too; pieces at a border are looked at last."""
    ordered = sorted(objects, key=lambda piece: (piece.is_cut, -piece.score))
    boxes = np.array([piece.box for piece in ordered]).reshape(-1, 4)
    shapes = [_whole_shape(piece) for piece in ordered]
    kept: dict[int, _Piece] = {}
    for index, piece in enumerate(ordered):
        near = [other for other in _find_near(boxes, index, range(index)) if other in kept]
        if not any(_is_covered(piece, shapes[index], kept[other], shapes[other]) for other in near):
            kept[index] = piece
    return list(kept.values())


def _whole_shape(piece: _Piece) -> _Shape:
    return np.array(piece.box, dtype=np.float64) if piece.mask is None else piece.mask


def _is_covered(piece: _Piece, shape: _Shape, other: _Piece, other_shape: _Shape) -> bool:
    """Whether an object is a copy, or a cut piece, of another one that no tile sees next to it."""
    if piece.tiles & other.tiles:  # the detector itself kept both
        return False
    shared, area = _compute_shared(shape, other_shape), _compute_area(shape)
    union = area + _compute_area(other_shape) - shared
    return shared > MIN_IOU * union or (piece.is_cut and shared > MIN_PART * area)
