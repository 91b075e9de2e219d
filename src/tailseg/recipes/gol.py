"""The published Gumbel Optimised Loss (GOL) and its baselines: DropLoss and EQL over Gumbel and the sigmoid.

As published, NMS is at 0.3 over Gumbel and at 0.5 over the sigmoid. That alone changes AP: compare them also with the
same ``--model.postprocess.nms-iou``. docs/recipes.md lists the published figures, and the defects of the published code
that are repaired here.
"""

from dataclasses import replace

from tailseg.losses import DropLossConfig, EQLConfig
from tailseg.models.config import BackboneConfig, ModelConfig
from tailseg.recipes.bases import (
    ADAMW_1X,
    ADAMW_3X,
    LVIS_V05_RFS,
    LVIS_V05_TAIL,
    LVIS_V1_RFS,
    LVIS_V1_RFS_CROPS,
    LVIS_V1_TAIL,
    R50,
    R101,
    SGD_2X,
    SWIN_T,
    lvis_recipe,
    mask_rcnn,
    with_nms,
    with_normalized_classifier,
    with_normalized_mask,
)
from tailseg.recipes.published import Figures, get_published, published
from tailseg.recipes.recipe import Recipe

GOL_LOSS = DropLossConfig(tail=LVIS_V1_TAIL)
GOL_LOSS_V05 = DropLossConfig(tail=LVIS_V05_TAIL)
DROPLOSS_SIGMOID = DropLossConfig(tail=LVIS_V1_TAIL, link="sigmoid")
EQL_GUMBEL = EQLConfig(tail=LVIS_V1_TAIL)
EQL_SIGMOID = EQLConfig(tail=LVIS_V1_TAIL, link="sigmoid")
GUMBEL_NMS = 0.3
"""The IoU threshold of NMS at test over Gumbel, as published."""


def _gumbel_mask_rcnn(backbone: BackboneConfig) -> ModelConfig:
    return with_nms(mask_rcnn(backbone), GUMBEL_NMS)


def _normalized_mask(backbone: BackboneConfig) -> ModelConfig:
    return with_normalized_mask(_gumbel_mask_rcnn(backbone))


def _normalized_both(backbone: BackboneConfig) -> ModelConfig:
    return with_normalized_classifier(_normalized_mask(backbone))


def _droploss_sigmoid_mask_rcnn(backbone: BackboneConfig) -> ModelConfig:
    model = mask_rcnn(backbone)
    return replace(model, box=replace(model.box, classifier_weight=0.01))


@published("gol/droploss_normed_mask_r50_4x4_2x_gumbel.py")
def gol_mask_rcnn_r50_random_2x() -> Recipe:
    """GOL: DropLoss over Gumbel with a normalized mask; R50, LVIS v1, random sampling, 2x."""
    return lvis_recipe(GOL_LOSS, _normalized_mask(R50), optim=SGD_2X)


@published("gol/droploss_normed_mask_r50_rfs_4x4_2x_gumbel.py", Figures(27.7, 21.4, 27.7, 30.4, 27.5))
def gol_mask_rcnn_r50_rfs_2x() -> Recipe:
    """GOL: DropLoss over Gumbel with a normalized mask; R50, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(GOL_LOSS, _normalized_mask(R50), data=LVIS_V1_RFS, optim=SGD_2X)


@published("gol/droploss_normed_mask_r101_4x4_2x_gumbel.py")
def gol_mask_rcnn_r101_random_2x() -> Recipe:
    """GOL: DropLoss over Gumbel with a normalized mask; R101, LVIS v1, random sampling, 2x."""
    return lvis_recipe(GOL_LOSS, _normalized_mask(R101), optim=SGD_2X)


@published("gol/droploss_normed_mask_r101_rfs_4x4_2x_gumbel.py", Figures(29.0, 22.8, 29.0, 31.7, 29.2))
def gol_mask_rcnn_r101_rfs_2x() -> Recipe:
    """GOL: DropLoss over Gumbel with a normalized mask; R101, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(GOL_LOSS, _normalized_mask(R101), data=LVIS_V1_RFS, optim=SGD_2X)


@published("gol/droploss_normed_mask_r50_lvis05_rfs_4x4_2x_gumbel.py", Figures(29.5, 22.5, 31.3, 30.1, 28.2))
def gol_mask_rcnn_r50_lvis05_rfs_2x() -> Recipe:
    """GOL on LVIS v0.5: R50, repeat factor sampling, 2x."""
    return lvis_recipe(GOL_LOSS_V05, _normalized_mask(R50), data=LVIS_V05_RFS, optim=SGD_2X)


@published("gol/droploss_swin_1x_rfs.py")
def gol_mask_rcnn_swin_t_rfs_1x() -> Recipe:
    """GOL on Swin-T: AdamW, multi-scale crops; LVIS v1, repeat factor sampling, 1x."""
    return lvis_recipe(GOL_LOSS, _normalized_mask(SWIN_T), data=LVIS_V1_RFS_CROPS, optim=ADAMW_1X)


@published("gol/droploss_swin_3x_rfs.py")
def gol_mask_rcnn_swin_t_rfs_3x() -> Recipe:
    """GOL on Swin-T: AdamW, multi-scale crops; LVIS v1, repeat factor sampling, 3x."""
    return lvis_recipe(GOL_LOSS, _normalized_mask(SWIN_T), data=LVIS_V1_RFS_CROPS, optim=ADAMW_3X)


@published("gol/droploss_r50_4x4_1x.py")
def droploss_sigmoid_mask_rcnn_r50_random_1x() -> Recipe:
    """DropLoss over the sigmoid, plain mask; LVIS v1, random sampling, 1x."""
    return lvis_recipe(DROPLOSS_SIGMOID, _droploss_sigmoid_mask_rcnn(R50))


@published("gol/droploss_r50_4x4_1x_gumbel.py")
def droploss_gumbel_mask_rcnn_r50_random_1x() -> Recipe:
    """DropLoss over Gumbel, plain mask; LVIS v1, random sampling, 1x."""
    return lvis_recipe(GOL_LOSS, _gumbel_mask_rcnn(R50))


@published("gol/droploss_r50_4x4_2x_gumbel.py")
def droploss_gumbel_mask_rcnn_r50_random_2x() -> Recipe:
    """DropLoss over Gumbel, plain mask; LVIS v1, random sampling, 2x."""
    return lvis_recipe(GOL_LOSS, _gumbel_mask_rcnn(R50), optim=SGD_2X)


@published("gol/eql_r50_4x4_1x.py")
def eql_sigmoid_mask_rcnn_r50_random_1x() -> Recipe:
    """EQL over the sigmoid; R50, LVIS v1, random sampling, 1x."""
    return lvis_recipe(EQL_SIGMOID, mask_rcnn(R50))


@published("gol/eql_r50_4x4_2x.py")
def eql_sigmoid_mask_rcnn_r50_random_2x() -> Recipe:
    """EQL over the sigmoid; R50, LVIS v1, random sampling, 2x."""
    return lvis_recipe(EQL_SIGMOID, mask_rcnn(R50), optim=SGD_2X)


@published("gol/eql_r50_rfs_4x4_2x.py")
def eql_sigmoid_mask_rcnn_r50_rfs_2x() -> Recipe:
    """EQL over the sigmoid; R50, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(EQL_SIGMOID, mask_rcnn(R50), data=LVIS_V1_RFS, optim=SGD_2X)


@published("gol/eql_r50_4x4_2x_gumbel.py")
def eql_gumbel_mask_rcnn_r50_random_2x() -> Recipe:
    """EQL over Gumbel, plain mask; R50, LVIS v1, random sampling, 2x."""
    return lvis_recipe(EQL_GUMBEL, _gumbel_mask_rcnn(R50), optim=SGD_2X)


@published("gol/eql_r50_rfs_4x4_2x_gumbel.py")
def eql_gumbel_mask_rcnn_r50_rfs_2x() -> Recipe:
    """EQL over Gumbel, plain mask; R50, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(EQL_GUMBEL, _gumbel_mask_rcnn(R50), data=LVIS_V1_RFS, optim=SGD_2X)


@published("gol/eql_normed_mask_r50_4x4_2x_gumbel.py")
def eql_gumbel_mask_rcnn_r50_normmask_random_2x() -> Recipe:
    """EQL over Gumbel, normalized mask; R50, LVIS v1, random sampling, 2x."""
    return lvis_recipe(EQL_GUMBEL, _normalized_mask(R50), optim=SGD_2X)


@published("gol/eql_normed_mask_r50_rfs_4x4_2x_gumbel.py")
def eql_gumbel_mask_rcnn_r50_normmask_rfs_2x() -> Recipe:
    """EQL over Gumbel, normalized mask; R50, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(EQL_GUMBEL, _normalized_mask(R50), data=LVIS_V1_RFS, optim=SGD_2X)


@published("gol/eql_normed_mask_classifier_r50_4x4_1x_gumbel.py")
def eql_gumbel_mask_rcnn_r50_normboth_random_1x() -> Recipe:
    """EQL over Gumbel, normalized mask and classifier (T = 5); R50, LVIS v1, random sampling, 1x."""
    return lvis_recipe(EQL_GUMBEL, _normalized_both(R50))


@published("gol/eql_normed_mask_classifier_r50_rfs_4x4_2x_gumbel.py")
def eql_gumbel_mask_rcnn_r50_normboth_rfs_2x() -> Recipe:
    """EQL over Gumbel, normalized mask and classifier (T = 5); R50, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(EQL_GUMBEL, _normalized_both(R50), data=LVIS_V1_RFS, optim=SGD_2X)


@published("gol/eql_normed_mask_classifier_r101_rfs_4x4_2x_gumbel.py")
def eql_gumbel_mask_rcnn_r101_normboth_rfs_2x() -> Recipe:
    """EQL over Gumbel, normalized mask and classifier (T = 5); R101, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(EQL_GUMBEL, _normalized_both(R101), data=LVIS_V1_RFS, optim=SGD_2X)


GOL = get_published("gol")
"""Every configuration of the published folder ``gol``."""
