"""Objects across the seams of tiles."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tailseg.inference.tiles import TileConfig, TiledDetector, cut_tiles
from tailseg.ops.masks import encode_mask
from tailseg.structures import Detections

from .scenes import Scene, compute_ious

SMALL = TileConfig(size=100, overlap=0.2)


@pytest.mark.parametrize(("height", "width"), [(100, 100), (50, 250), (101, 99), (333, 470), (1000, 1001)])
@pytest.mark.parametrize("overlap", [0.01, 0.2, 0.9])
def test_tiles_cover_the_image_and_share_bands(height: int, width: int, overlap: float) -> None:
    config = TileConfig(size=100, overlap=overlap)
    tiles = list(cut_tiles(height, width, config))
    for x1, y1, x2, y2 in tiles:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(100, width), min(100, height))
    for side, length in ((0, width), (1, height)):
        starts = sorted({tile[side] for tile in tiles})
        assert starts[0] == 0
        assert starts[-1] + min(100, length) == length
        assert all(second - first <= 100 - np.ceil(100 * overlap) for first, second in pairwise(starts))


def check_scene(scene, config: TileConfig) -> None:
    (found,) = TiledDetector(scene.make_detector(config), config)([scene.image])
    assert len(found) == len(scene.masks)
    ious = compute_ious(scene, found)
    assert min(ious) >= 0.95
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert (found.height, found.width) == (scene.height, scene.width)


@pytest.mark.parametrize("seed", range(3))
def test_an_object_across_seams_comes_out_in_one_piece(seed: int) -> None:
    config = TileConfig(size=200, overlap=0.2, batch_size=1 + seed)
    scene = Scene(600, 900, 120, largest=100, seed=seed)
    assert scene.count_across_seams(config) >= 10
    check_scene(scene, config)


@pytest.mark.slow
def test_an_object_across_seams_comes_out_in_one_piece_in_a_hundred_megapixels() -> None:
    config = TileConfig(size=1024)
    scene = Scene(9000, 12000, 500, largest=600, seed=7)
    assert scene.count_across_seams(config) >= 50
    check_scene(scene, config)


def rectangle(box: Sequence[float], tile: Sequence[int]) -> np.ndarray:
    """The part of a rectangle in a tile, in its pixels; x1, y1, x2, y2."""
    x, y = tile[0], tile[1]
    return np.array(
        [max(box[0], tile[0]) - x, max(box[1], tile[1]) - y, min(box[2], tile[2]) - x, min(box[3], tile[3]) - y]
    )


def detector_of(objects: Sequence[tuple[int, float, Sequence[int]]], height: int, width: int, *, masks: bool = True):
    """A detector that sees rectangles (label, score, box), whatever it gets; ``cut`` in each tile."""
    tiles = cut_tiles(height, width, SMALL)

    def detect(images: Sequence[Tensor]) -> list[Detections]:
        (image,) = images
        tile = next(tiles)
        seen = [(label, score, rectangle(box, tile)) for label, score, box in objects]
        seen = [(label, score, box) for label, score, box in seen if (box[2:] > box[:2]).all()]
        bitmaps = []
        for _, _, (x1, y1, x2, y2) in seen:
            bitmaps.append(bitmap := np.zeros(image.shape[1:], bool))
            bitmap[y1:y2, x1:x2] = True
        boxes = torch.tensor(np.array([box for _, _, box in seen]).reshape(-1, 4), dtype=torch.float32)
        scores = torch.tensor([score for _, score, _ in seen])
        labels = torch.tensor([label for label, _, _ in seen], dtype=torch.int64)
        runs = tuple(map(encode_mask, bitmaps)) if masks else None
        return [Detections(boxes, scores, labels, runs, *image.shape[1:])]

    return detect


def find(
    objects: Sequence[tuple[int, float, Sequence[int]]], *, masks: bool = True, height: int = 100, width: int = 180
):
    """Labels, scores and boxes that two tiles, 0 .. 100 and 80 .. 180, give."""
    detector = TiledDetector(detector_of(objects, height, width, masks=masks), SMALL)
    (found,) = detector([torch.zeros(3, height, width, dtype=torch.uint8)])
    assert (found.masks is not None) == masks
    pairs = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [(label, round(score, 3), tuple(map(round, box))) for label, score, box in pairs]


@pytest.mark.parametrize("masks", [True, False])
def test_two_objects_of_a_class_next_to_each_other_stay_two(*, masks: bool) -> None:
    objects = [(0, 0.9, (60, 10, 120, 30)), (0, 0.8, (60, 31, 120, 50)), (1, 0.7, (60, 10, 120, 30))]
    assert find(objects, masks=masks) == objects


@pytest.mark.parametrize("masks", [True, False])
def test_an_object_that_both_tiles_show_as_a_whole_is_one(*, masks: bool) -> None:
    assert find([(0, 0.5, (84, 10, 96, 30))], masks=masks) == [(0, 0.5, (84, 10, 96, 30))]


def test_objects_that_cross_in_the_band_are_not_joined_with_each_other() -> None:
    """There their masks have an IoU of 0.6; each has its own other half."""
    objects = [(0, 0.9, (20, 10, 160, 50)), (0, 0.8, (30, 20, 150, 60))]
    assert find(objects) == objects


def detect_with(*by_tile: Sequence[tuple[int, float, Sequence[int]]], masks: bool = True):
    """What comes of these detections of the two tiles, in pixels of the image."""
    tiles = list(cut_tiles(100, 180, SMALL))
    rest = iter(zip(tiles, by_tile, strict=True))

    def detect(images: Sequence[Tensor]) -> list[Detections]:
        tile, objects = next(rest)
        fixed = detector_of(objects, 100, 180, masks=masks)
        if tile != tiles[0]:
            fixed([torch.zeros(3, 100, 100)])
        return fixed(images)

    (found,) = TiledDetector(detect, SMALL)([torch.zeros(3, 100, 180, dtype=torch.uint8)])
    pairs = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [(label, round(score, 3), tuple(map(round, box))) for label, score, box in pairs]


def test_the_score_of_an_object_is_that_of_its_best_piece() -> None:
    assert detect_with([(0, 0.4, (50, 10, 150, 30))], [(0, 0.9, (50, 10, 150, 30))]) == [(0, 0.9, (50, 10, 150, 30))]


def test_a_piece_of_an_object_is_left_out_though_its_mask_is_another() -> None:
    """The second tile shows the end of the object, and finds a small part of it."""
    whole, part = (0, 0.6, (40, 10, 96, 40)), (0, 0.9, (80, 12, 96, 20))
    assert detect_with([whole], [part]) == [whole]
    assert detect_with([whole], [(1, 0.9, (80, 12, 96, 20))]) == [(1, 0.9, (80, 12, 96, 20)), whole]


def test_weak_pieces_are_left_out() -> None:
    assert detect_with([(0, 0.04, (10, 10, 30, 30))], [(0, 0.06, (120, 10, 150, 30))]) == [
        (0, 0.06, (120, 10, 150, 30))
    ]


def test_nothing_found() -> None:
    assert detect_with([], []) == []


def test_an_image_of_one_tile_is_detected_as_it_is() -> None:
    seen = []

    def detect(images: Sequence[Tensor]) -> list[Detections]:
        seen.append(images[0])
        return detector_of([(0, 0.01, (1, 2, 3, 4))], 90, 100)(images)

    image = torch.zeros(3, 90, 100, dtype=torch.uint8)
    (found,) = TiledDetector(detect, SMALL)([image])
    assert seen[0] is image
    assert len(found) == 1


@pytest.mark.parametrize("wrong", [{"size": 10}, {"overlap": 0.0}, {"overlap": 0.95}, {"batch_size": 0}])
def test_settings_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(ValueError, match="tiles need a side of 32 pixels or more"):
        TileConfig(**wrong)
