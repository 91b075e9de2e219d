"""The published comparison of activations: Mask R-CNN R50-FPN on LVIS v1, 1x, random sampling.

Published AP / APr / APc / APf / APb: sigmoid 16.4 / 0.8 / 12.7 / 27.3 / 17.2 (tested with softmax by mistake; here it
is tested with the sigmoid), softmax 15.2 / 0.0 / 10.6 / 26.9 / 16.1, Gumbel 19.0 / 4.9 / 16.8 / 27.6 / 19.1. Trained on
4 devices with 4 images each. The annotation files are LVIS's own; `data.train_images` is the folder of COCO 2017.
"""

from tailseg.losses import GumbelCEConfig, LossConfig, SigmoidCEConfig, SoftmaxCEConfig
from tailseg.models.config import ModelConfig
from tailseg.recipes.recipe import DataConfig, OptimConfig, Recipe


def _mask_rcnn_r50_lvis_v1(name: str, loss: LossConfig) -> Recipe:
    return Recipe(
        name=name,
        data=DataConfig(train="lvis_v1_train.json", val="lvis_v1_val.json"),
        model=ModelConfig(),
        loss=loss,
        optim=OptimConfig(),
    )


def gumbel_mask_rcnn_r50_random_1x() -> Recipe:
    """Gumbel: published AP 19.0, APr 4.9, APc 16.8, APf 27.6, APb 19.1."""
    return _mask_rcnn_r50_lvis_v1("gumbel_mask_rcnn_r50_random_1x", GumbelCEConfig())


def sigmoid_mask_rcnn_r50_random_1x() -> Recipe:
    """Sigmoid: published AP 16.4, APr 0.8, APc 12.7, APf 27.3, APb 17.2, there tested with softmax."""
    return _mask_rcnn_r50_lvis_v1("sigmoid_mask_rcnn_r50_random_1x", SigmoidCEConfig())


def softmax_mask_rcnn_r50_random_1x() -> Recipe:
    """Softmax: published AP 15.2, APr 0.0, APc 10.6, APf 26.9, APb 16.1."""
    return _mask_rcnn_r50_lvis_v1("softmax_mask_rcnn_r50_random_1x", SoftmaxCEConfig())
