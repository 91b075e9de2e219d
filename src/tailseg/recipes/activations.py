"""The published comparison of activations: sigmoid, softmax, Gumbel, and class-relative ones, on LVIS.

Masks are plain, scores count above 1e-4, NMS is at 0.5, and 300 detections of an image are kept. What was published
with a defect runs here as it was meant; docs/recipes.md lists that, and the published figures.

As published the sigmoid was tested with a softmax; here it is tested with the sigmoid.
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
    mask_rcnn,
    published,
)
from tailseg.recipes.recipe import Recipe

SIGMOID = SigmoidCEConfig(background=True)


def gumbel_mask_rcnn_r50_random_1x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v1, random sampling, 1x. Published AP 19.0, APr 4.9."""
    return published("gumbel_mask_rcnn_r50_random_1x", GumbelCEConfig(), mask_rcnn(R50))


def sigmoid_mask_rcnn_r50_random_1x() -> Recipe:
    """Sigmoid, Mask R-CNN R50, LVIS v1, random sampling, 1x. Published AP 16.4, APr 0.8, there tested with softmax."""
    return published("sigmoid_mask_rcnn_r50_random_1x", SIGMOID, mask_rcnn(R50))


def softmax_mask_rcnn_r50_random_1x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v1, random sampling, 1x. Published AP 15.2, APr 0.0."""
    return published("softmax_mask_rcnn_r50_random_1x", SoftmaxCEConfig(), mask_rcnn(R50))


def gumbel_mask_rcnn_r50_random_2x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v1, random sampling, 2x."""
    return published("gumbel_mask_rcnn_r50_random_2x", GumbelCEConfig(), mask_rcnn(R50), optim=SGD_2X)


def sigmoid_mask_rcnn_r50_random_2x() -> Recipe:
    """Sigmoid, Mask R-CNN R50, LVIS v1, random sampling, 2x."""
    return published("sigmoid_mask_rcnn_r50_random_2x", SIGMOID, mask_rcnn(R50), optim=SGD_2X)


def softmax_mask_rcnn_r50_random_2x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v1, random sampling, 2x."""
    return published("softmax_mask_rcnn_r50_random_2x", SoftmaxCEConfig(), mask_rcnn(R50), optim=SGD_2X)


def gumbel_mask_rcnn_r50_rfs_1x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v1, repeat factor sampling, 1x."""
    return published("gumbel_mask_rcnn_r50_rfs_1x", GumbelCEConfig(), mask_rcnn(R50), data=LVIS_V1_RFS)


def sigmoid_mask_rcnn_r50_rfs_1x() -> Recipe:
    """Sigmoid, Mask R-CNN R50, LVIS v1, repeat factor sampling, 1x."""
    return published("sigmoid_mask_rcnn_r50_rfs_1x", SIGMOID, mask_rcnn(R50), data=LVIS_V1_RFS)


def softmax_mask_rcnn_r50_rfs_1x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v1, repeat factor sampling, 1x."""
    return published("softmax_mask_rcnn_r50_rfs_1x", SoftmaxCEConfig(), mask_rcnn(R50), data=LVIS_V1_RFS)


def gumbel_mask_rcnn_r50_rfs_2x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v1, repeat factor sampling, 2x."""
    return published("gumbel_mask_rcnn_r50_rfs_2x", GumbelCEConfig(), mask_rcnn(R50), data=LVIS_V1_RFS, optim=SGD_2X)


def sigmoid_mask_rcnn_r50_rfs_2x() -> Recipe:
    """Sigmoid, Mask R-CNN R50, LVIS v1, repeat factor sampling, 2x."""
    return published("sigmoid_mask_rcnn_r50_rfs_2x", SIGMOID, mask_rcnn(R50), data=LVIS_V1_RFS, optim=SGD_2X)


def softmax_mask_rcnn_r50_rfs_2x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v1, repeat factor sampling, 2x."""
    return published("softmax_mask_rcnn_r50_rfs_2x", SoftmaxCEConfig(), mask_rcnn(R50), data=LVIS_V1_RFS, optim=SGD_2X)


def gumbel_mask_rcnn_r50_lvis05_random_1x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v0.5, random sampling, 1x."""
    return published("gumbel_mask_rcnn_r50_lvis05_random_1x", GumbelCEConfig(), mask_rcnn(R50), data=LVIS_V05)


def gumbel_mask_rcnn_r50_lvis05_random_2x() -> Recipe:
    """Gumbel, Mask R-CNN R50, LVIS v0.5, random sampling, 2x."""
    return published(
        "gumbel_mask_rcnn_r50_lvis05_random_2x", GumbelCEConfig(), mask_rcnn(R50), data=LVIS_V05, optim=SGD_2X
    )


def softmax_mask_rcnn_r50_lvis05_rfs_2x() -> Recipe:
    """Softmax, Mask R-CNN R50, LVIS v0.5, repeat factor sampling, 2x."""
    return published(
        "softmax_mask_rcnn_r50_lvis05_rfs_2x", SoftmaxCEConfig(), mask_rcnn(R50), data=LVIS_V05_RFS, optim=SGD_2X
    )


def gumbel_mask_rcnn_r101_random_1x() -> Recipe:
    """Gumbel, Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return published("gumbel_mask_rcnn_r101_random_1x", GumbelCEConfig(), mask_rcnn(R101))


def sigmoid_mask_rcnn_r101_random_1x() -> Recipe:
    """Sigmoid, Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return published("sigmoid_mask_rcnn_r101_random_1x", SIGMOID, mask_rcnn(R101))


def softmax_mask_rcnn_r101_random_1x() -> Recipe:
    """Softmax, Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return published("softmax_mask_rcnn_r101_random_1x", SoftmaxCEConfig(), mask_rcnn(R101))


def softmax_mask_rcnn_r101_rfs_2x() -> Recipe:
    """Softmax, Mask R-CNN R101, LVIS v1, repeat factor sampling, 2x."""
    return published(
        "softmax_mask_rcnn_r101_rfs_2x", SoftmaxCEConfig(), mask_rcnn(R101), data=LVIS_V1_RFS, optim=SGD_2X
    )


def gumbel_mask_rcnn_x101_64x4d_random_1x() -> Recipe:
    """Gumbel, Mask R-CNN ResNeXt-101 64x4d, LVIS v1, random sampling, 1x."""
    return published("gumbel_mask_rcnn_x101_64x4d_random_1x", GumbelCEConfig(), mask_rcnn(X101_64X4D))


def sigmoid_mask_rcnn_x101_64x4d_random_1x() -> Recipe:
    """Sigmoid, Mask R-CNN ResNeXt-101 64x4d, LVIS v1, random sampling, 1x."""
    return published("sigmoid_mask_rcnn_x101_64x4d_random_1x", SIGMOID, mask_rcnn(X101_64X4D))


def softmax_mask_rcnn_x101_64x4d_random_1x() -> Recipe:
    """Softmax, Mask R-CNN ResNeXt-101 64x4d, LVIS v1, random sampling, 1x."""
    return published("softmax_mask_rcnn_x101_64x4d_random_1x", SoftmaxCEConfig(), mask_rcnn(X101_64X4D))


def class_relative_mask_rcnn_r50_random_1x() -> Recipe:
    """Class-relative activations, Mask R-CNN R50, LVIS v1, random sampling, 1x."""
    return published("class_relative_mask_rcnn_r50_random_1x", ClassRelativeLossConfig(), mask_rcnn(R50))


def gumbel_faster_rcnn_r50_lvis05_random_1x() -> Recipe:
    """Gumbel, Faster R-CNN R50, LVIS v0.5, random sampling, 1x."""
    return published("gumbel_faster_rcnn_r50_lvis05_random_1x", GumbelCEConfig(), faster_rcnn(R50), data=LVIS_V05)


def gumbel_cascade_mask_rcnn_r101_random_1x() -> Recipe:
    """Gumbel, Cascade Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return published("gumbel_cascade_mask_rcnn_r101_random_1x", GumbelCEConfig(), cascade(R101))


def sigmoid_cascade_mask_rcnn_r101_random_1x() -> Recipe:
    """Sigmoid, Cascade Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return published("sigmoid_cascade_mask_rcnn_r101_random_1x", SIGMOID, cascade(R101))


def softmax_cascade_mask_rcnn_r101_random_1x() -> Recipe:
    """Softmax, Cascade Mask R-CNN R101, LVIS v1, random sampling, 1x."""
    return published("softmax_cascade_mask_rcnn_r101_random_1x", SoftmaxCEConfig(), cascade(R101))


def gumbel_htc_r101_random_1x() -> Recipe:
    """Gumbel, Hybrid Task Cascade R101, LVIS v1, random sampling, 1x."""
    return published("gumbel_htc_r101_random_1x", GumbelCEConfig(), htc(R101))


def softmax_htc_r101_random_1x() -> Recipe:
    """Softmax, Hybrid Task Cascade R101, LVIS v1, random sampling, 1x."""
    return published("softmax_htc_r101_random_1x", SoftmaxCEConfig(), htc(R101))


ACTIVATIONS = (
    gumbel_mask_rcnn_r50_random_1x,
    sigmoid_mask_rcnn_r50_random_1x,
    softmax_mask_rcnn_r50_random_1x,
    gumbel_mask_rcnn_r50_random_2x,
    sigmoid_mask_rcnn_r50_random_2x,
    softmax_mask_rcnn_r50_random_2x,
    gumbel_mask_rcnn_r50_rfs_1x,
    sigmoid_mask_rcnn_r50_rfs_1x,
    softmax_mask_rcnn_r50_rfs_1x,
    gumbel_mask_rcnn_r50_rfs_2x,
    sigmoid_mask_rcnn_r50_rfs_2x,
    softmax_mask_rcnn_r50_rfs_2x,
    gumbel_mask_rcnn_r50_lvis05_random_1x,
    gumbel_mask_rcnn_r50_lvis05_random_2x,
    softmax_mask_rcnn_r50_lvis05_rfs_2x,
    gumbel_mask_rcnn_r101_random_1x,
    sigmoid_mask_rcnn_r101_random_1x,
    softmax_mask_rcnn_r101_random_1x,
    softmax_mask_rcnn_r101_rfs_2x,
    gumbel_mask_rcnn_x101_64x4d_random_1x,
    sigmoid_mask_rcnn_x101_64x4d_random_1x,
    softmax_mask_rcnn_x101_64x4d_random_1x,
    class_relative_mask_rcnn_r50_random_1x,
    gumbel_faster_rcnn_r50_lvis05_random_1x,
    gumbel_cascade_mask_rcnn_r101_random_1x,
    sigmoid_cascade_mask_rcnn_r101_random_1x,
    softmax_cascade_mask_rcnn_r101_random_1x,
    gumbel_htc_r101_random_1x,
    softmax_htc_r101_random_1x,
)
"""Every configuration of the published folder ``activations``."""
