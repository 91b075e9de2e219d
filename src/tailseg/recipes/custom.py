"""Recipes for your own annotation file, in COCO or LVIS format: only ``data.train`` is required.

Images of rare classes are repeated: repeat factor sampling, with the threshold of 1e-3 published for LVIS; raise it for
small data sets. The classifier has the Gumbel loss. Without ``data.val`` a tenth of the images is held out, always the
same ones.
"""

from dataclasses import replace

from tailseg.losses import GumbelCEConfig
from tailseg.models.config import ModelConfig, ResNetConfig, TimmConfig
from tailseg.recipes.recipe import AdamWConfig, DataConfig, Recipe, RunConfig, SGDConfig
from tailseg.recipes.tiny import small_mask_rcnn


def custom_small() -> Recipe:
    """A small Mask R-CNN for your file on any machine: ``tailseg train my.json``; a first try of minutes on a CPU."""
    model = small_mask_rcnn()
    return Recipe(
        name="custom_small",
        data=DataConfig(
            train="",
            val=None,
            short_sides=(256, 288, 320),
            test_short_side=320,
            max_long_side=512,
            batch_size=8,
            workers=2,
            repeat_threshold=0.01,
        ),
        model=replace(model, backbone=ResNetConfig(depth=18, base_width=32, weights="tiny", frozen_stages=0)),
        loss=GumbelCEConfig(),
        optim=SGDConfig(lr=0.08, epochs=24, milestones=(18, 22), warmup_iterations=100, clip_norm=10.0),
        run=RunConfig(eval_every=4),
    )


def custom_frozen() -> Recipe:
    """custom_small on a frozen ImageNet backbone whose maps are computed once; hundreds of photographs, a CPU.

    The backbone is timm's EfficientNet-Lite0 (``pip install 'tailseg[timm]'``).
    """
    small, model = custom_small(), small_mask_rcnn()
    return replace(
        small,
        name="custom_frozen",
        data=replace(
            small.data,
            short_sides=(288,),
            test_short_side=288,
            workers=0,  # kept maps are read faster than another process could send them
            repeat_threshold=0.03,
            keep_maps=True,
        ),
        model=replace(
            model,
            backbone=TimmConfig(name="tf_efficientnet_lite0", frozen_stages=4),
            box=replace(model.box, hidden=512, class_agnostic=True),
        ),
        optim=AdamWConfig(lr=0.002, epochs=16, milestones=(11, 14), warmup_iterations=100, clip_norm=10.0),
        run=RunConfig(precision="bfloat16", eval_every=5),
    )


def custom_r50() -> Recipe:
    """Mask R-CNN R50-FPN with ImageNet weights for your file, on a GPU: ``tailseg train custom_r50 --data.train F``."""
    return Recipe(
        name="custom_r50",
        data=DataConfig(train="", val=None, repeat_threshold=1e-3),
        model=ModelConfig(),
        loss=GumbelCEConfig(),
        optim=SGDConfig(clip_norm=35.0),
    )
