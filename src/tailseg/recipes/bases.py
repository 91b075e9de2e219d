"""The common parts of the published configurations: data, backbones, schedules, detectors.

All of them have the defaults of `DataConfig` and `ModelConfig`: 16 images in each step (4 devices with 4 images), short
sides 640 to 800, ImageNet weights, the published boxes, proposals and RoIs. The annotation files are LVIS's, the images
are those of COCO 2017. The environment variables ``TAILSEG_DATA`` and ``DETECTRON2_DATASETS`` name their folders (see
`tailseg.recipes.build` and `tailseg.data.images`); ``data.train`` and ``data.train_images`` name them directly.
"""

from dataclasses import replace

from tailseg.data.settings import CropConfig
from tailseg.losses import LossConfig
from tailseg.models.config import (
    BackboneConfig,
    GroupedConfig,
    MaskHeadConfig,
    ModelConfig,
    NormalizedConfig,
    ResNetConfig,
    SwinConfig,
    cascade_mask_rcnn,
    hybrid_task_cascade,
)
from tailseg.recipes.recipe import AdamWConfig, DataConfig, OptimConfig, Recipe, SGDConfig

REPEAT_THRESHOLD = 1e-3
"""The threshold of repeat factor sampling (RFS), as published for LVIS."""
LVIS_V1 = DataConfig(train="lvis_v1_train.json", val="lvis_v1_val.json")
LVIS_V1_RFS = replace(LVIS_V1, repeat_threshold=REPEAT_THRESHOLD)
LVIS_V05 = DataConfig(train="lvis_v0.5_train.json", val="lvis_v0.5_val.json")
LVIS_V05_RFS = replace(LVIS_V05, repeat_threshold=REPEAT_THRESHOLD)
SWIN_SHORT_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
LVIS_V1_RFS_CROPS = replace(LVIS_V1_RFS, short_sides=SWIN_SHORT_SIDES, crop=CropConfig())
"""LVIS v1 with the augmentation of Swin's detectors."""

LVIS_V1_TAIL = 0.0011
"""The threshold lambda: 815 classes are the tail, 337 rare, 461 common and 17 frequent ones."""
LVIS_V05_TAIL = 0.00177
"""The threshold lambda: 915 classes are the tail, all rare and all common ones."""

R50 = ResNetConfig()
R101 = ResNetConfig(depth=101)
X101_64X4D = ResNetConfig(depth=101, grouped=GroupedConfig(groups=64, width=4))
SWIN_T = SwinConfig()

SGD_1X = SGDConfig()
SGD_2X = SGDConfig(epochs=24, milestones=(16, 22))
ADAMW_1X = AdamWConfig()
ADAMW_3X = AdamWConfig(epochs=36, milestones=(27, 33))


def lvis_recipe(
    loss: LossConfig, model: ModelConfig, *, data: DataConfig = LVIS_V1, optim: OptimConfig = SGD_1X
) -> Recipe:
    """A recipe without a name; `tailseg.recipes.published.published` gives it the name of its function.

    Args:
        loss: settings of the loss.
        model: settings of the detector.
        data: LVIS v1 with random sampling by default.
        optim: SGD for 12 epochs by default.

    Returns:
        The recipe.
    """
    return Recipe(name="", data=data, model=model, loss=loss, optim=optim)


def mask_rcnn(backbone: BackboneConfig) -> ModelConfig:
    """Mask R-CNN."""
    return ModelConfig(backbone=backbone)


def faster_rcnn(backbone: BackboneConfig) -> ModelConfig:
    """Faster R-CNN: boxes only."""
    return ModelConfig(backbone=backbone, mask=None)


def cascade(backbone: BackboneConfig) -> ModelConfig:
    """Cascade Mask R-CNN."""
    return replace(cascade_mask_rcnn(), backbone=backbone)


def htc(backbone: BackboneConfig) -> ModelConfig:
    """Hybrid Task Cascade without its semantic branch."""
    return replace(hybrid_task_cascade(), backbone=backbone)


def with_nms(model: ModelConfig, iou: float) -> ModelConfig:
    """Returns the same detector with another IoU threshold of NMS at test."""
    return replace(model, postprocess=replace(model.postprocess, nms_iou=iou))


def with_normalized_mask(model: ModelConfig) -> ModelConfig:
    """Returns the same Mask R-CNN with a normalized mask predictor (T = 20)."""
    return replace(model, mask=MaskHeadConfig(normalized=NormalizedConfig()))


def with_normalized_classifier(model: ModelConfig) -> ModelConfig:
    """Returns the same detector with a normalized classifier (T = 5), which starts with the loss's bias."""
    return replace(model, box=replace(model.box, normalized=NormalizedConfig(temperature=5.0)))
