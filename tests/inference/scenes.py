"""Drawn scenes of any size without bitmaps, and a detector that returns what each tile shows of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tailseg.inference.tiles import TileConfig, cut_tiles
from tailseg.ops import strips
from tailseg.ops.strips import Strips
from tailseg.structures import Detections


def draw_disk(x: int, y: int, radius: float) -> Strips:
    columns = np.arange(int(x - radius), int(x + radius) + 1)
    half = np.sqrt(np.clip(radius**2 - (columns - x) ** 2, 0, None))
    found = np.stack([columns, np.rint(y - half).astype(int), np.rint(y + half).astype(int)], axis=1)
    return found[found[:, 2] > found[:, 1]]


def draw_bar(x: int, y: int, length: int, slope: float, thickness: int) -> Strips:
    columns = np.arange(x, x + length)
    rows = np.rint(y + (columns - x) * slope).astype(int)
    return np.stack([columns, rows, rows + thickness], axis=1)


class Scene:
    """Disks and long bars of a few classes; none covers another one, and many touch the seams of tiles."""

    def __init__(self, height: int, width: int, count: int, *, largest: int, classes: int = 3, seed: int = 0) -> None:
        draws = np.random.default_rng(seed)
        self.height, self.width = height, width
        self.masks: list[Strips] = []
        for _ in range(count):
            x, y = int(draws.integers(0, width)), int(draws.integers(0, height))
            if draws.random() < 0.4:
                mask = draw_disk(x, y, draws.uniform(3, largest / 2))
            else:
                length, thickness = int(draws.integers(largest, 5 * largest)), int(draws.integers(4, 4 + largest // 5))
                mask = draw_bar(x, y, length, draws.uniform(-1, 1), thickness)
            mask = strips.cut(mask, (0, 0, width, height))
            box = strips.find_box(mask)
            if strips.count_pixels(mask) >= 20 and not any(
                strips.count_shared(mask, other) for other in self.masks if len(strips.cut(other, box))
            ):
                self.masks.append(mask)
        self.labels: list[int] = draws.integers(0, classes, len(self.masks)).tolist()
        # memory is taken where a tile is copied, and not for the whole image
        self.image = torch.zeros(1, dtype=torch.uint8).expand(3, height, width)

    def make_detector(self, config: TileConfig):
        """A detector of the tiles in their order: the truth, cut at each tile's border."""
        boxes = cut_tiles(self.height, self.width, config)

        def detect(tiles: Sequence[Tensor]) -> list[Detections]:
            return [self._show(next(boxes), tile) for tile in tiles]

        return detect

    def _show(self, box: tuple[int, int, int, int], tile: Tensor) -> Detections:
        x1, y1, x2, y2 = box
        assert tile.shape == (3, y2 - y1, x2 - x1)
        cut = [(label, strips.cut(mask, box)) for label, mask in zip(self.labels, self.masks, strict=True)]
        shown = [(label, strips.move(mask, -x1, -y1)) for label, mask in cut if len(mask)]
        return Detections(
            torch.tensor([strips.find_box(mask) for _, mask in shown], dtype=torch.float32).reshape(-1, 4),
            torch.linspace(0.9, 0.5, len(shown)),
            torch.tensor([label for label, _ in shown], dtype=torch.int64),
            tuple(strips.to_run_lengths(mask, y2 - y1, x2 - x1) for _, mask in shown),
            y2 - y1,
            x2 - x1,
        )

    def count_across_seams(self, config: TileConfig) -> int:
        """How many objects no tile shows as a whole."""
        boxes = list(cut_tiles(self.height, self.width, config))
        whole = [
            any(x1 <= a and y1 <= b and c <= x2 and d <= y2 for x1, y1, x2, y2 in boxes)
            for a, b, c, d in map(strips.find_box, self.masks)
        ]
        return whole.count(False)


def compute_ious(scene: Scene, found: Detections) -> list[float]:
    """The mask IoU of each object of a scene with the best detection of its class."""
    masks = [strips.from_run_lengths(mask) for mask in found.masks or ()]
    labels = found.labels.tolist()
    ious = []
    for label, truth in zip(scene.labels, scene.masks, strict=True):
        shared = [
            (strips.count_shared(truth, mask), strips.count_pixels(mask))
            for mask, other in zip(masks, labels, strict=True)
            if other == label
        ]
        area = strips.count_pixels(truth)
        ious.append(max((both / (area + other - both) for both, other in shared), default=0.0))
    return ious
