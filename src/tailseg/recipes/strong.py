"""Strong recipes: pretrained weights, copy-paste, rare classes more often, a cosine, last epochs without changes.

Since GOL (2022), better losses have moved the AP of LVIS by 1 to 2 and these parts around the loss by 4 to 6. Each part
is an option: ``--data.no-paste`` leaves out copy-paste, ``--data.repeat-threshold 0`` the repetition of images.
"""

from dataclasses import replace

from tailseg.data.settings import ColorConfig, CopyPasteConfig, JitterConfig
from tailseg.losses import LOSSES
from tailseg.models.config import BoxHeadConfig, FPNConfig, MaskHeadConfig, ModelConfig, ResNetConfig, RPNConfig
from tailseg.recipes.bases import LVIS_V1_RFS, R50, with_nms, with_normalized_classifier, with_normalized_mask
from tailseg.recipes.gol import GOL_LOSS, GUMBEL_NMS
from tailseg.recipes.recipe import AdamWConfig, DataConfig, Recipe, RunConfig, SGDConfig
from tailseg.recipes.tiny import tiny_gol


def medium_mask_rcnn() -> ModelConfig:
    """Returns Mask R-CNN with ImageNet's ResNet-18, for images with a short side of about 400 pixels.

    The heads have half the width of the usual ones, and the anchors and the sizes of the pyramid levels are those of
    800 pixels, scaled. The stem and the first two stages are not trained: their features are general, and a step takes
    less time.
    """
    return ModelConfig(
        backbone=ResNetConfig(depth=18, frozen_stages=2),
        fpn=FPNConfig(channels=128),
        rpn=RPNConfig(anchor_scale=5.0, train_pre_nms=1000, train_post_nms=500, test_pre_nms=500, test_post_nms=300),
        box=BoxHeadConfig(hidden=512, finest_scale=28.0, rois_per_image=128),
        mask=MaskHeadConfig(channels=128, num_convs=2, finest_scale=28.0),
    )


def custom_strong() -> Recipe:
    """Your file with ImageNet weights, copy-paste and GOL: ``tailseg train custom_strong --data.train my.json``.

    ``--dry-run`` says how long it takes on your machine. On a GPU take a larger backbone, ``--backbone resnet50`` or
    ``timm:NAME``, and larger images (``--data.short-sides``, ``--data.test-short-side``, ``--data.max-long-side``).
    """
    return Recipe(
        name="custom_strong",
        data=DataConfig(
            train="",
            val=None,
            short_sides=(352, 384, 416, 448),
            test_short_side=416,
            max_long_side=704,
            jitter=JitterConfig(scale=(0.5, 1.5)),
            color=ColorConfig(),
            paste=CopyPasteConfig(),
            clean_epochs=4,
            batch_size=8,
            workers=2,
            repeat_threshold="auto",
            repeat_rounding="stochastic",  # ceil draws an image twice whose factor is hardly above 1
            only_verified=True,
        ),
        model=with_nms(medium_mask_rcnn(), GUMBEL_NMS),
        loss=LOSSES["gol"],
        optim=AdamWConfig(
            lr=4e-4, epochs=36, schedule="cosine", milestones=(), min_lr_ratio=0.01, warmup_iterations=200, clip_norm=10
        ),
        run=RunConfig(eval_every=6),
    )


def tiny_strong() -> Recipe:
    """tiny_gol with copy-paste of every class alike often, a cosine, a normalized classifier, and larger images.

    The parts were chosen on tiny_tail, with one seed each. benchmarks/results/study/report.md has what was tried.
    """
    recipe = tiny_gol()
    return replace(
        recipe,
        name="tiny_strong",
        data=replace(
            recipe.data,
            short_sides=(144, 152, 160, 168, 176),
            test_short_side=160,
            max_long_side=320,
            paste=CopyPasteConfig(max_objects=6, scale=(0.5, 1.5), min_visible=0.2, repeat_threshold=0),
        ),
        model=with_normalized_classifier(recipe.model),
        optim=replace(recipe.optim, schedule="cosine", milestones=()),
    )


def gol_strong() -> Recipe:
    """GOL on LVIS v1 with large-scale jitter, copy-paste, verified negatives and a cosine. Nobody has trained it yet.

    R50, a normalized mask predictor, 48 epochs of 16 images. The strong baselines of the literature take parts like
    these: Ghiasi et al. 2021 (jitter of 0.1 to 2 at 1024 pixels, copy-paste, long schedules), and Zhou et al. 2022
    (Detic: jitter, federated loss, 90,000 steps of 64 images).
    """
    return Recipe(
        name="gol_strong",
        data=replace(LVIS_V1_RFS, jitter=JitterConfig(), paste=CopyPasteConfig(), clean_epochs=4, only_verified=True),
        model=with_nms(with_normalized_mask(ModelConfig(backbone=R50)), GUMBEL_NMS),
        loss=GOL_LOSS,
        optim=SGDConfig(epochs=48, schedule="cosine", milestones=(), warmup_iterations=1000, clip_norm=35.0),
    )
