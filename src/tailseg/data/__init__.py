"""Images, augmentation, sampling and loading; data sets of your own (`tailseg.data.source`).

The names are imported when they are asked for, so that settings come without torch.
"""

from typing import TYPE_CHECKING

from tailseg.data.settings import CropConfig
from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg.data.images import load_image
    from tailseg.data.loader import DetectionDataset, Loader, evaluation_loader, train_loader
    from tailseg.data.sampler import EvaluationSampler, TrainSampler
    from tailseg.data.transforms import RandomSizeCrop, ResizeShortSide, evaluation_transform, train_transform
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "images": ("load_image",),
            "loader": ("DetectionDataset", "Loader", "evaluation_loader", "train_loader"),
            "sampler": ("EvaluationSampler", "TrainSampler"),
            "transforms": ("RandomSizeCrop", "ResizeShortSide", "evaluation_transform", "train_transform"),
        },
    )

__all__ = [
    "CropConfig",
    "DetectionDataset",
    "EvaluationSampler",
    "Loader",
    "RandomSizeCrop",
    "ResizeShortSide",
    "TrainSampler",
    "evaluation_loader",
    "evaluation_transform",
    "load_image",
    "train_loader",
    "train_transform",
]
