"""Recipes for the embedded data set: a small Mask R-CNN that learns on two CPU cores.

The network has Mask R-CNN's parts at a sixteenth of the usual cost: ResNet-18 at half width, 64 channels instead of
256, images of 128 pixels. It starts from the small backbone that comes with tailseg (``tools/pretrain_backbone.py``).
That backbone was trained on shapes and surfaces that are not in ``tiny_tail``.
"""

from dataclasses import replace

from tailseg.losses import LOSSES, LossConfig, PCBLossConfig, ROGLossConfig
from tailseg.models.config import (
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    PostprocessConfig,
    ResNetConfig,
    RPNConfig,
    cascade_mask_rcnn,
    hybrid_task_cascade,
)
from tailseg.recipes.recipe import DataConfig, Recipe, RunConfig, SGDConfig

PCB_START = 701
"""Of the 1,052 steps; the same share as 16 of 24 epochs, the published start."""


def small_mask_rcnn() -> ModelConfig:
    """Returns Mask R-CNN with 5 million parameters, for images of about 128 pixels."""
    return ModelConfig(
        backbone=ResNetConfig(depth=18, base_width=32, weights="tiny", frozen_stages=1),
        fpn=FPNConfig(channels=64),
        rpn=RPNConfig(anchors_per_image=64, train_pre_nms=400, train_post_nms=200, test_pre_nms=200, test_post_nms=100),
        box=BoxHeadConfig(hidden=256, finest_scale=16.0, rois_per_image=48),
        mask=MaskHeadConfig(channels=64, num_convs=2, finest_scale=24.0),
        postprocess=PostprocessConfig(max_detections=100),
    )


def small_cascade() -> ModelConfig:
    """Returns the small Mask R-CNN with Cascade Mask R-CNN's three stages and settings.

    It has twice the proposals in training, as published.
    """
    model, large = small_mask_rcnn(), cascade_mask_rcnn()
    rpn = replace(model.rpn, train_post_nms=400, border=large.rpn.border, smooth_l1_beta=large.rpn.smooth_l1_beta)
    box = replace(
        model.box,
        allow_low_quality_matches=large.box.allow_low_quality_matches,
        class_agnostic=large.box.class_agnostic,
        smooth_l1_beta=large.box.smooth_l1_beta,
    )
    return replace(model, rpn=rpn, box=box, cascade=large.cascade)


def small_htc() -> ModelConfig:
    """Returns the small cascade with Hybrid Task Cascade's mask flow and settings."""
    model, large = small_cascade(), hybrid_task_cascade()
    return replace(
        model,
        box=replace(model.box, allow_low_quality_matches=large.box.allow_low_quality_matches),
        cascade=large.cascade,
    )


def _tiny(name: str, loss: LossConfig, *, model: ModelConfig | None = None) -> Recipe:
    return Recipe(
        name=name,
        data=DataConfig(
            train="tiny_tail",
            val="tiny_tail",
            short_sides=(112, 120, 128, 136, 144),
            test_short_side=128,
            max_long_side=256,
            batch_size=8,
            workers=1,
        ),
        model=model or small_mask_rcnn(),
        loss=loss,
        optim=SGDConfig(lr=0.08, epochs=4, milestones=(3,), warmup_iterations=200, clip_norm=10.0),
        run=RunConfig(eval_every=0),
    )


def tiny_gumbel() -> Recipe:
    """The small Mask R-CNN with the Gumbel loss on tiny_tail: ``tailseg train tiny_gumbel``, two CPU cores."""
    return _tiny("tiny_gumbel", LOSSES["gumbel"])


def tiny_sigmoid() -> Recipe:
    """tiny_gumbel with the sigmoid loss, tested with the sigmoid (the published baseline was tested with softmax)."""
    return _tiny("tiny_sigmoid", LOSSES["sigmoid"])


def tiny_softmax() -> Recipe:
    """tiny_gumbel with softmax cross entropy."""
    return _tiny("tiny_softmax", LOSSES["softmax"])


def tiny_gol() -> Recipe:
    """tiny_gumbel with GOL, DropLoss over the Gumbel link; the tail is the rare and the common classes."""
    return _tiny("tiny_gol", LOSSES["gol"])


def tiny_droploss() -> Recipe:
    """tiny_gumbel with DropLoss over the sigmoid; the tail is the rare and the common classes."""
    return _tiny("tiny_droploss", LOSSES["droploss_sigmoid"])


def tiny_eql() -> Recipe:
    """tiny_gumbel with the equalization loss over the sigmoid; the tail is the rare and the common classes."""
    return _tiny("tiny_eql", LOSSES["eql"])


def tiny_class_relative() -> Recipe:
    """tiny_gumbel with class-relative activations: normal CDF for frequent classes, Gumbel for the others."""
    return _tiny("tiny_class_relative", LOSSES["class_relative"])


def tiny_focal() -> Recipe:
    """tiny_gumbel with the focal loss."""
    return _tiny("tiny_focal", LOSSES["focal"])


def tiny_eql_v2() -> Recipe:
    """tiny_gumbel with EQLv2."""
    return _tiny("tiny_eql_v2", LOSSES["eqlv2"])


def tiny_seesaw() -> Recipe:
    """tiny_gumbel with the Seesaw loss."""
    return _tiny("tiny_seesaw", LOSSES["seesaw"])


def tiny_bags() -> Recipe:
    """tiny_gumbel with balanced group softmax."""
    return _tiny("tiny_bags", LOSSES["bags"])


def tiny_federated() -> Recipe:
    """tiny_gumbel with the federated loss."""
    return _tiny("tiny_federated", LOSSES["federated"])


def tiny_balanced_softmax() -> Recipe:
    """tiny_gumbel with balanced softmax: logit adjustment with tau = 1."""
    return _tiny("tiny_balanced_softmax", LOSSES["balanced_softmax"])


def tiny_ecm() -> Recipe:
    """tiny_gumbel with the effective class-margin loss."""
    return _tiny("tiny_ecm", LOSSES["ecm"])


def tiny_ldam() -> Recipe:
    """tiny_gumbel with LDAM."""
    return _tiny("tiny_ldam", LOSSES["ldam"])


def tiny_pcb() -> Recipe:
    """tiny_gumbel with pairwise class balance over softmax, in the last third of the training as published."""
    return _tiny("tiny_pcb", PCBLossConfig(start_after=PCB_START))


def tiny_pcb_seesaw() -> Recipe:
    """tiny_gumbel with pairwise class balance over Seesaw, otherwise as tiny_pcb."""
    return _tiny("tiny_pcb_seesaw", PCBLossConfig(base="seesaw", start_after=PCB_START))


def tiny_ebl() -> Recipe:
    """tiny_gumbel with LOCE's equilibrium loss."""
    return _tiny("tiny_ebl", LOSSES["ebl"])


def tiny_rog() -> Recipe:
    """tiny_gumbel with ROG's rank loss next to the sigmoid."""
    return _tiny("tiny_rog", LOSSES["rog"])


def tiny_rog_seesaw() -> Recipe:
    """tiny_gumbel with ROG's rank loss next to Seesaw."""
    return _tiny("tiny_rog_seesaw", ROGLossConfig(base="seesaw"))


def tiny_cab() -> Recipe:
    """tiny_softmax with a regressor for all classes in half of each class's box (CAB)."""
    model = small_mask_rcnn()
    return _tiny("tiny_cab", LOSSES["softmax"], model=replace(model, box=replace(model.box, shared_share=0.5)))


def tiny_cascade_gumbel() -> Recipe:
    """Cascade Mask R-CNN on tiny_tail with the Gumbel loss; everything else as in tiny_gumbel."""
    return _tiny("tiny_cascade_gumbel", LOSSES["gumbel"], model=small_cascade())


def tiny_cascade_gol() -> Recipe:
    """Cascade Mask R-CNN on tiny_tail with GOL; everything else as in tiny_gol."""
    return _tiny("tiny_cascade_gol", LOSSES["gol"], model=small_cascade())


def tiny_cascade_softmax() -> Recipe:
    """Cascade Mask R-CNN on tiny_tail with softmax cross entropy; everything else as in tiny_gumbel."""
    return _tiny("tiny_cascade_softmax", LOSSES["softmax"], model=small_cascade())


def tiny_htc_gumbel() -> Recipe:
    """Hybrid Task Cascade on tiny_tail with the Gumbel loss; everything else as in tiny_gumbel."""
    return _tiny("tiny_htc_gumbel", LOSSES["gumbel"], model=small_htc())


def tiny_htc_gol() -> Recipe:
    """Hybrid Task Cascade on tiny_tail with GOL; everything else as in tiny_gol."""
    return _tiny("tiny_htc_gol", LOSSES["gol"], model=small_htc())


def tiny_htc_softmax() -> Recipe:
    """Hybrid Task Cascade on tiny_tail with softmax cross entropy; everything else as in tiny_gumbel."""
    return _tiny("tiny_htc_softmax", LOSSES["softmax"], model=small_htc())


def demo_gumbel() -> Recipe:
    """The recipe of ``tailseg demo``: tiny_gumbel on the smaller ``demo`` draw of tiny_tail."""
    recipe = tiny_gumbel()
    return replace(
        recipe,
        name="demo_gumbel",
        data=replace(recipe.data, train="tiny_tail:demo", val="tiny_tail:demo"),
        optim=replace(recipe.optim, epochs=8, milestones=(6, 7)),
    )


TINY_LOSSES = (
    tiny_gumbel,
    tiny_sigmoid,
    tiny_softmax,
    tiny_gol,
    tiny_droploss,
    tiny_eql,
    tiny_class_relative,
    tiny_focal,
    tiny_eql_v2,
    tiny_seesaw,
    tiny_bags,
    tiny_federated,
    tiny_balanced_softmax,
    tiny_ecm,
    tiny_ldam,
)
"""One recipe for each loss; they differ only in the loss. Benchmarks and examples compare them."""

TINY_RIVALS = (
    tiny_pcb,
    tiny_pcb_seesaw,
    tiny_ebl,
    tiny_rog,
    tiny_rog_seesaw,
    tiny_cab,
)
"""The rivals since 2021 on the same data and schedule. Nobody has trained them yet."""

TINY_CASCADES = (
    tiny_cascade_gumbel,
    tiny_cascade_gol,
    tiny_cascade_softmax,
    tiny_htc_gumbel,
    tiny_htc_gol,
    tiny_htc_softmax,
)
"""The cascades on the same data and schedule."""
