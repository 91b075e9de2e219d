"""Published configurations of other authors' losses on LVIS v1: Seesaw, EQLv2 and ECM.

Their code is mmdetection's or made from it: initial weights, normalized predictors with T = 20 and NMS at 0.5 are as
there. The figures are those of their pages, which print no AP by frequency for Seesaw and ECM. PCB and LOCE have no
recipe: their published figures need heads that predict three times, and a memory of features.
"""

from dataclasses import replace

from tailseg.losses import ECMLossConfig, EQLv2Config, SeesawLossConfig
from tailseg.models.config import MaskHeadConfig, ModelConfig, NormalizedConfig
from tailseg.recipes.bases import LVIS_V1_RFS, R50, R101, SGD_1X, SGD_2X, cascade, lvis_recipe, mask_rcnn
from tailseg.recipes.published import Figures, get_published, published
from tailseg.recipes.recipe import Recipe

SEESAW = SeesawLossConfig()
ECM = ECMLossConfig(init_bias=0.0)
ECM_1X = replace(SGD_1X, warmup_iterations=10_000, warmup_ratio=1e-4, clip_norm=5.0)
ECM_2X = replace(ECM_1X, epochs=24, milestones=(20, 22))
"""The milestones are those of their file; 2x has 16 and 22."""


def _mmdetection(model: ModelConfig) -> ModelConfig:
    """The detector with mmdetection's initial weights."""
    return replace(model, box=replace(model.box, first_weights="xavier"))


def _normalized(model: ModelConfig) -> ModelConfig:
    """The detector with a normalized classifier and mask predictor, T = 20."""
    model = _mmdetection(model)
    box = replace(model.box, normalized=NormalizedConfig())
    return replace(model, box=box, mask=MaskHeadConfig(normalized=NormalizedConfig()))


@published(
    "seesaw_loss/mask_rcnn_r50_fpn_random_seesaw_loss_normed_mask_mstrain_2x_lvis_v1.py", Figures(25.4, apb=25.6)
)
def seesaw_mask_rcnn_r50_normboth_random_2x() -> Recipe:
    """Seesaw with a normalized classifier and mask; R50, LVIS v1, random sampling, 2x."""
    return lvis_recipe(SEESAW, _normalized(mask_rcnn(R50)), optim=SGD_2X)


@published(
    "seesaw_loss/mask_rcnn_r50_fpn_sample1e-3_seesaw_loss_normed_mask_mstrain_2x_lvis_v1.py", Figures(26.8, apb=27.6)
)
def seesaw_mask_rcnn_r50_normboth_rfs_2x() -> Recipe:
    """Seesaw with a normalized classifier and mask; R50, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(SEESAW, _normalized(mask_rcnn(R50)), data=LVIS_V1_RFS, optim=SGD_2X)


@published(
    "seesaw_loss/mask_rcnn_r101_fpn_sample1e-3_seesaw_loss_normed_mask_mstrain_2x_lvis_v1.py", Figures(28.2, apb=28.9)
)
def seesaw_mask_rcnn_r101_normboth_rfs_2x() -> Recipe:
    """Seesaw with a normalized classifier and mask; R101, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(SEESAW, _normalized(mask_rcnn(R101)), data=LVIS_V1_RFS, optim=SGD_2X)


@published(
    "seesaw_loss/cascade_mask_rcnn_r101_fpn_sample1e-3_seesaw_loss_normed_mask_mstrain_2x_lvis_v1.py",
    Figures(30.1, apb=32.8),
)
def seesaw_cascade_mask_rcnn_r101_normboth_rfs_2x() -> Recipe:
    """Seesaw in a cascade, with normalized classifiers and masks; R101, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(SEESAW, _normalized(cascade(R101)), data=LVIS_V1_RFS, optim=SGD_2X)


@published("eqlv2/end2end/eqlv2_r50_8x2_1x.py", Figures(23.7, 14.9, 22.8, 28.6, 24.2))
def eqlv2_mask_rcnn_r50_random_1x() -> Recipe:
    """EQLv2; R50, LVIS v1, random sampling, 1x."""
    return lvis_recipe(EQLv2Config(), _mmdetection(mask_rcnn(R50)))


@published("ecm/effective_class_margin_loss/r50_ecm_1x.py", Figures(26.4, apb=26.9))
def ecm_mask_rcnn_r50_normboth_rfs_1x() -> Recipe:
    """ECM with a normalized classifier and mask; R50, LVIS v1, repeat factor sampling, 1x."""
    return lvis_recipe(ECM, _normalized(mask_rcnn(R50)), data=LVIS_V1_RFS, optim=ECM_1X)


@published("ecm/effective_class_margin_loss/r50_ecm_2x.py", Figures(27.5, apb=27.9))
def ecm_mask_rcnn_r50_normboth_rfs_2x() -> Recipe:
    """ECM with a normalized classifier and mask; R50, LVIS v1, repeat factor sampling, 24 epochs."""
    return lvis_recipe(ECM, _normalized(mask_rcnn(R50)), data=LVIS_V1_RFS, optim=ECM_2X)


@published("ecm/effective_class_margin_loss/r101_ecm_2x.py", Figures(28.7, apb=29.4))
def ecm_mask_rcnn_r101_normboth_rfs_2x() -> Recipe:
    """ECM with a normalized classifier and mask; R101, LVIS v1, repeat factor sampling, 24 epochs."""
    return lvis_recipe(ECM, _normalized(mask_rcnn(R101)), data=LVIS_V1_RFS, optim=ECM_2X)


RIVALS = (*get_published("seesaw_loss"), *get_published("eqlv2"), *get_published("ecm"))
"""The rivals' configurations."""
