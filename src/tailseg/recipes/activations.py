"""The published comparison of activations: sigmoid, softmax, Gumbel, and class-relative ones, on LVIS.

Mask predictors are not normalized, scores count above 1e-4, NMS is at 0.5, and 300 detections of each image are kept.
docs/recipes.md lists the published figures, and the defects of the published code that are repaired here.

The published sigmoid was tested with a softmax; here it is tested with the sigmoid.
"""

from tailseg.losses import ClassRelativeLossConfig, GumbelCEConfig, SigmoidCEConfig, SoftmaxCEConfig
from tailseg.recipes.bases import (
    LVIS_V05,
    LVIS_V05_RFS,
    LVIS_V1_RFS,
    R50,
    R101,
    SGD_2X,
    X101_64X4D,
    cascade,
    faster_rcnn,
    htc,
    lvis_recipe,
    mask_rcnn,
)
from tailseg.recipes.published import Figures, get_published, published
from tailseg.recipes.recipe import Recipe

SIGMOID = SigmoidCEConfig(background=True)


@published("activations/gumbel/gumbel_r50_4x4_1x.py", Figures(19.0, 4.9, 16.8, 27.6, 19.1))
def gumbel_mask_rcnn_r50_random_1x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v1, random sampling, 1x."""
    return lvis_recipe(GumbelCEConfig(), mask_rcnn(R50))


@published("activations/r50_4x4_1x.py", Figures(16.4, 0.8, 12.7, 27.3, 17.2))
def sigmoid_mask_rcnn_r50_random_1x() -> Recipe:
    """Sigmoid, Mask R-CNN R50, LVIS v1, random sampling, 1x."""
    return lvis_recipe(SIGMOID, mask_rcnn(R50))


@published("activations/r50_4x4_1x_softmax.py", Figures(15.2, 0.0, 10.6, 26.9, 16.1))
def softmax_mask_rcnn_r50_random_1x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v1, random sampling, 1x."""
    return lvis_recipe(SoftmaxCEConfig(), mask_rcnn(R50))


@published("activations/gumbel/gumbel_r50_4x4_2x.py")
def gumbel_mask_rcnn_r50_random_2x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v1, random sampling, 2x."""
    return lvis_recipe(GumbelCEConfig(), mask_rcnn(R50), optim=SGD_2X)


@published("activations/r50_4x4_2x.py")
def sigmoid_mask_rcnn_r50_random_2x() -> Recipe:
    """Sigmoid, Mask R-CNN R50, LVIS v1, random sampling, 2x."""
    return lvis_recipe(SIGMOID, mask_rcnn(R50), optim=SGD_2X)


@published("activations/r50_4x4_2x_softmax.py")
def softmax_mask_rcnn_r50_random_2x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v1, random sampling, 2x."""
    return lvis_recipe(SoftmaxCEConfig(), mask_rcnn(R50), optim=SGD_2X)


@published("activations/gumbel/gumbel_r50_rfs_4x4_1x.py")
def gumbel_mask_rcnn_r50_rfs_1x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v1, repeat factor sampling, 1x."""
    return lvis_recipe(GumbelCEConfig(), mask_rcnn(R50), data=LVIS_V1_RFS)


@published("activations/r50_rfs_4x4_1x.py")
def sigmoid_mask_rcnn_r50_rfs_1x() -> Recipe:
    """Sigmoid, Mask R-CNN R50, LVIS v1, repeat factor sampling, 1x."""
    return lvis_recipe(SIGMOID, mask_rcnn(R50), data=LVIS_V1_RFS)


@published("activations/r50_rfs_4x4_1x_softmax.py")
def softmax_mask_rcnn_r50_rfs_1x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v1, repeat factor sampling, 1x."""
    return lvis_recipe(SoftmaxCEConfig(), mask_rcnn(R50), data=LVIS_V1_RFS)


@published("activations/gumbel/gumbel_r50_rfs_4x4_2x.py")
def gumbel_mask_rcnn_r50_rfs_2x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(GumbelCEConfig(), mask_rcnn(R50), data=LVIS_V1_RFS, optim=SGD_2X)


@published("activations/r50_rfs_4x4_2x.py")
def sigmoid_mask_rcnn_r50_rfs_2x() -> Recipe:
    """Sigmoid, Mask R-CNN R50, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(SIGMOID, mask_rcnn(R50), data=LVIS_V1_RFS, optim=SGD_2X)


@published("activations/r50_rfs_4x4_2x_softmax.py")
def softmax_mask_rcnn_r50_rfs_2x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(SoftmaxCEConfig(), mask_rcnn(R50), data=LVIS_V1_RFS, optim=SGD_2X)


@published("activations/gumbel/gumbel_r50_4x4_1x_lvis_v05.py")
def gumbel_mask_rcnn_r50_lvis05_random_1x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v0.5, random sampling, 1x."""
    return lvis_recipe(GumbelCEConfig(), mask_rcnn(R50), data=LVIS_V05)


@published("activations/gumbel/gumbel_r50_4x4_2x_lvis_v05.py")
def gumbel_mask_rcnn_r50_lvis05_random_2x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v0.5, random sampling, 2x."""
    return lvis_recipe(GumbelCEConfig(), mask_rcnn(R50), data=LVIS_V05, optim=SGD_2X)


@published("activations/r50_rfs_4x4_2x_softmax_lvisv0.5.py")
def softmax_mask_rcnn_r50_lvis05_rfs_2x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v0.5, repeat factor sampling, 2x."""
    return lvis_recipe(SoftmaxCEConfig(), mask_rcnn(R50), data=LVIS_V05_RFS, optim=SGD_2X)


@published("activations/gumbel/gumbel_r101_4x4_1x.py", Figures(20.6, 6.4, approximate=True))
def gumbel_mask_rcnn_r101_random_1x() -> Recipe:
    """Gumbel, Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return lvis_recipe(GumbelCEConfig(), mask_rcnn(R101))


@published("activations/r101_4x4_1x.py")
def sigmoid_mask_rcnn_r101_random_1x() -> Recipe:
    """Sigmoid, Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return lvis_recipe(SIGMOID, mask_rcnn(R101))


@published("activations/r101_4x4_1x_softmax.py", Figures(16.7, 0.5, approximate=True))
def softmax_mask_rcnn_r101_random_1x() -> Recipe:
    """Softmax, Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return lvis_recipe(SoftmaxCEConfig(), mask_rcnn(R101))


@published("activations/r101_rfs_4x4_2x_softmax.py")
def softmax_mask_rcnn_r101_rfs_2x() -> Recipe:
    """Softmax, Mask R-CNN R101, LVIS v1, repeat factor sampling, 2x."""
    return lvis_recipe(SoftmaxCEConfig(), mask_rcnn(R101), data=LVIS_V1_RFS, optim=SGD_2X)


@published("activations/gumbel/gumbel_x101_4x4_1x.py", Figures(22.6, 5.9, approximate=True))
def gumbel_mask_rcnn_x101_64x4d_random_1x() -> Recipe:
    """Gumbel, Mask R-CNN ResNeXt-101 64x4d, LVIS v1, random sampling, 1x."""
    return lvis_recipe(GumbelCEConfig(), mask_rcnn(X101_64X4D))


@published("activations/x101_4x4_1x.py")
def sigmoid_mask_rcnn_x101_64x4d_random_1x() -> Recipe:
    """Sigmoid, Mask R-CNN ResNeXt-101 64x4d, LVIS v1, random sampling, 1x."""
    return lvis_recipe(SIGMOID, mask_rcnn(X101_64X4D))


@published("activations/x101_4x4_1x_softmax.py", Figures(18.6, 0.6, approximate=True))
def softmax_mask_rcnn_x101_64x4d_random_1x() -> Recipe:
    """Softmax, Mask R-CNN ResNeXt-101 64x4d, LVIS v1, random sampling, 1x."""
    return lvis_recipe(SoftmaxCEConfig(), mask_rcnn(X101_64X4D))


@published("activations/cra/cra_r50_4x4_1x.py")
def class_relative_mask_rcnn_r50_random_1x() -> Recipe:
    """Class-relative activations, Mask R-CNN R50, LVIS v1, random sampling, 1x."""
    return lvis_recipe(ClassRelativeLossConfig(), mask_rcnn(R50))


@published("activations/gumbel/gumbel_fr50_4x4_1x_lvis05.py")
def gumbel_faster_rcnn_r50_lvis05_random_1x() -> Recipe:
    """Gumbel, Faster R-CNN R50, LVIS v0.5, random sampling, 1x."""
    return lvis_recipe(GumbelCEConfig(), faster_rcnn(R50), data=LVIS_V05)


@published("activations/gumbel/gumbel_cascade_r50_4x4_1x.py", Figures(22.9, 6.6, approximate=True))
def gumbel_cascade_mask_rcnn_r101_random_1x() -> Recipe:
    """Gumbel, Cascade Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return lvis_recipe(GumbelCEConfig(), cascade(R101))


@published("activations/cascade_r50_4x4_1x.py")
def sigmoid_cascade_mask_rcnn_r101_random_1x() -> Recipe:
    """Sigmoid, Cascade Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return lvis_recipe(SIGMOID, cascade(R101))


@published("activations/cascade_r50_4x4_1x_softmax.py", Figures(18.8, 0.6, approximate=True))
def softmax_cascade_mask_rcnn_r101_random_1x() -> Recipe:
    """Softmax, Cascade Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return lvis_recipe(SoftmaxCEConfig(), cascade(R101))


@published("activations/gumbel/gumbel_htc_r101_4x4_1x.py", Figures(23.3, 6.1, approximate=True))
def gumbel_htc_r101_random_1x() -> Recipe:
    """Gumbel, Hybrid Task Cascade R101, LVIS v1, random sampling, 1x."""
    return lvis_recipe(GumbelCEConfig(), htc(R101))


@published("activations/htc_r101_4x4_1x_softmax.py", Figures(19.9, 0.6, approximate=True))
def softmax_htc_r101_random_1x() -> Recipe:
    """Softmax, Hybrid Task Cascade R101, LVIS v1, random sampling, 1x."""
    return lvis_recipe(SoftmaxCEConfig(), htc(R101))


ACTIVATIONS = get_published("activations")
"""Every configuration of the published folder ``activations``."""
