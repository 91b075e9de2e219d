"""A data set of your own in Python: `tailseg train own_dataset:recipe`."""

from dataclasses import dataclass, replace

import torch

from tailseg.recipes import DataConfig, Recipe, get_recipe


class Squares:
    """A map-style data set: images with one or two bright squares."""

    class_names = ("small", "large")

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        labels = torch.arange(1 + index % 2)
        corners = torch.tensor([[4 + index % 8, 8], [28, 24]])[: len(labels)]
        boxes = torch.cat([corners, corners + torch.tensor([[12], [32]])[labels]], dim=1)
        masks = torch.zeros(len(labels), 64, 64, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        return (0.3 + 0.5 * masks.any(0)).expand(3, -1, -1), {"boxes": boxes, "labels": labels, "masks": masks}


@dataclass(frozen=True)
class SquaresConfig:
    def build(self) -> tuple[Squares, Squares | None]:
        return Squares(), None  # (train, val); without val a tenth of the images is held out


def recipe() -> Recipe:
    data = DataConfig(train="", val=None, short_sides=(64,), test_short_side=64, source=SquaresConfig())
    return replace(get_recipe("custom_small"), name="own_dataset:recipe", data=data)
