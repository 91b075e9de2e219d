"""Annotation files, images, targets, augmentation, sampling and loading.

The names are imported when they are first used: reading annotation files takes no torch.
"""

from typing import TYPE_CHECKING

from tailseg.data.settings import ColorConfig, CopyPasteConfig, CropConfig, JitterConfig
from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations, Category
    from tailseg.annotations.image_files import ImageError
    from tailseg.annotations.problems import DatasetError
    from tailseg.annotations.read import read_dataset
    from tailseg.annotations.types import ClassCounts, ImageInfo
    from tailseg.data.epoch_plan import EpochPlan, Exposure, compute_exposure, plan_epoch
    from tailseg.data.images import load_image
    from tailseg.data.loader import DetectionDataset, Loader, evaluation_loader, train_loader
    from tailseg.data.paste import CopyPaste
    from tailseg.data.repeat_factor import category_repeat_factors, image_repeat_factors
    from tailseg.data.sampler import EvaluationSampler, TrainSampler
    from tailseg.data.transforms import (
        LargeScaleJitter,
        RandomSizeCrop,
        ResizeShortSide,
        evaluation_transform,
        train_transform,
    )
    from tailseg.structures import Batch, ClassFrequency, Target
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "tailseg.annotations.dataset": ("Annotations", "Category"),
            "tailseg.annotations.image_files": ("ImageError",),
            "tailseg.annotations.problems": ("DatasetError",),
            "tailseg.annotations.read": ("read_dataset",),
            "tailseg.annotations.types": ("ClassCounts", "ImageInfo"),
            "epoch_plan": ("EpochPlan", "Exposure", "compute_exposure", "plan_epoch"),
            "images": ("load_image",),
            "loader": ("DetectionDataset", "Loader", "evaluation_loader", "train_loader"),
            "paste": ("CopyPaste",),
            "repeat_factor": ("category_repeat_factors", "image_repeat_factors"),
            "sampler": ("EvaluationSampler", "TrainSampler"),
            "transforms": (
                "LargeScaleJitter",
                "RandomSizeCrop",
                "ResizeShortSide",
                "evaluation_transform",
                "train_transform",
            ),
            "tailseg.structures": ("Batch", "ClassFrequency", "Target"),
        },
    )

__all__ = [
    "Annotations",
    "Batch",
    "Category",
    "ClassCounts",
    "ClassFrequency",
    "ColorConfig",
    "CopyPaste",
    "CopyPasteConfig",
    "CropConfig",
    "DatasetError",
    "DetectionDataset",
    "EpochPlan",
    "EvaluationSampler",
    "Exposure",
    "ImageError",
    "ImageInfo",
    "JitterConfig",
    "LargeScaleJitter",
    "Loader",
    "RandomSizeCrop",
    "ResizeShortSide",
    "Target",
    "TrainSampler",
    "category_repeat_factors",
    "compute_exposure",
    "evaluation_loader",
    "evaluation_transform",
    "image_repeat_factors",
    "load_image",
    "plan_epoch",
    "read_dataset",
    "train_loader",
    "train_transform",
]
