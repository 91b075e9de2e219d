"""What GOL's authors published after it: SE-Mask R-CNN with AGLU, APA and GOL (2024), and FRACAL's base models (2025).

docs/recipes.md lists the published figures and what is repaired. The SE-ResNets start from the authors' ImageNet files,
which their page links (AGLU, classification): put the file where the training starts, or name it with
``--model.backbone.weights``. With ``imagenet`` there, torchvision's ResNet is taken, and AGLU and the gates have
initial weights.
"""

from dataclasses import replace

from tailseg.losses import SoftmaxCEConfig
from tailseg.models.config import MaskHeadConfig, ModelConfig, NormalizedConfig, ResNetConfig, SEConfig
from tailseg.recipes.bases import LVIS_V1_RFS, R50, R101, SGD_2X, lvis_recipe, mask_rcnn
from tailseg.recipes.gol import GOL_LOSS, GUMBEL_NMS
from tailseg.recipes.published import Figures, get_published, published
from tailseg.recipes.recipe import Recipe

MASK_THRESHOLD = 0.4
"""The probability from which a pixel belongs to a mask, as published since 2024."""
FIXED = NormalizedConfig()
LEARNED = NormalizedConfig(temperature=20.25, learned=True)
"""The published start of the parameter is 4.5; the temperature is its square."""
SE_R50 = ResNetConfig(
    activation="aglu",
    se=SEConfig(gate="apa"),
    weights="imagenet_full_se_r50_cosine_scheduler_mixup_aug_unirect_relinse_99.pth",
)
SE_R101 = replace(
    SE_R50,
    depth=101,
    weights="imagenet_full_se_r101_cosine_scheduler_mixup_aug_unirect_relinse_softplus_99.pth",
)


def _with_mask(model: ModelConfig, mask: MaskHeadConfig) -> ModelConfig:
    """The detector with this mask head, tested as published since 2024."""
    postprocess = replace(model.postprocess, nms_iou=GUMBEL_NMS, mask_threshold=MASK_THRESHOLD)
    return replace(model, mask=mask, postprocess=postprocess)


def _fracal(backbone: ResNetConfig, mask: NormalizedConfig) -> ModelConfig:
    model = _with_mask(mask_rcnn(backbone), MaskHeadConfig(upsample="carafe", normalized=mask))
    return replace(model, box=replace(model.box, normalized=FIXED, first_weights="xavier"))


@published(
    "aglu/activations/mask_rcnn_r50_fpn_8x2_sample1e-3_mstrain_lvis_2x.py", Figures(29.2, 21.8, 29.8, 31.9, 29.1)
)
def gol_mask_rcnn_se_r50_aglu_rfs_2x() -> Recipe:
    """GOL on SE-R50 with AGLU and APA, CARAFE and a learned mask temperature; LVIS v1, repeat factor sampling, 2x."""
    mask = MaskHeadConfig(upsample="carafe", normalized=LEARNED)
    return lvis_recipe(GOL_LOSS, _with_mask(mask_rcnn(SE_R50), mask), data=LVIS_V1_RFS, optim=SGD_2X)


@published(
    "aglu/activations/mask_rcnn_r101_fpn_8x2_sample1e-3_mstrain_lvis_2x.py", Figures(30.7, 23.6, 31.3, 33.1, 31.1)
)
def gol_mask_rcnn_se_r101_aglu_rfs_2x() -> Recipe:
    """GOL on SE-R101 with AGLU and APA, a deconvolution and temperature 20; LVIS v1, repeat factor sampling, 2x."""
    mask = MaskHeadConfig(normalized=FIXED)
    return lvis_recipe(GOL_LOSS, _with_mask(mask_rcnn(SE_R101), mask), data=LVIS_V1_RFS, optim=SGD_2X)


@published("fracal/experiments/r50_rfs_cos_lr_norm_4x4_2x_softmax_carafe", Figures(28.5, 23.0, 28.1, 31.5, 28.4))
def fracal_mask_rcnn_r50_rfs_2x() -> Recipe:
    """FRACAL's base: softmax, normalized classifier, CARAFE, a learned mask temperature; R50, LVIS v1, RFS, 2x."""
    return lvis_recipe(SoftmaxCEConfig(), _fracal(R50, LEARNED), data=LVIS_V1_RFS, optim=SGD_2X)


@published("fracal/experiments/r101_rfs_cos_norm_4x4_2x_softmax_carafe", Figures(29.9, 24.6, 29.3, 32.8, 29.8))
def fracal_mask_rcnn_r101_rfs_2x() -> Recipe:
    """FRACAL's base: softmax, normalized classifier, CARAFE, mask temperature 20; R101, LVIS v1, RFS, 2x."""
    return lvis_recipe(SoftmaxCEConfig(), _fracal(R101, FIXED), data=LVIS_V1_RFS, optim=SGD_2X)


LATER = (*get_published("aglu"), *get_published("fracal"))
"""Every row of LVIS that the pages of AGLU and FRACAL print."""
