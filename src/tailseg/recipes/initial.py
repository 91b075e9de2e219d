"""Which recipe and which network fit initial weights that a user names: ``coco``, ``imagenet``, a file or a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from tailseg.models.config import MaskHeadConfig, ModelConfig, ResNetConfig, SwinConfig, TimmConfig
from tailseg.ranges import SettingError
from tailseg.recipes.recipe import Recipe, RunConfig
from tailseg.recipes.saved import load_recipe

COCO: Final = "coco"
"""torchvision's Mask R-CNN (or Faster R-CNN) R50-FPN, trained on COCO."""
IMAGENET: Final = "imagenet"
"""ImageNet weights of the backbone: torchvision's or timm's."""
COCO_RECIPE: Final = "custom_r50"
"""The recipe for your own file whose network fits ``coco``."""
IMAGENET_RECIPE: Final = "custom_strong"
"""The recipe for your own file whose backbone has ImageNet weights, and whose learning rate suits them."""


def choose_recipe(init_from: str) -> str | Recipe:
    """Chooses the recipe for the user's own annotation file by its initial weights.

    Args:
        init_from: ``coco``, ``imagenet``, a file, or the folder of a run.

    Returns:
        The name of a built-in recipe. For the folder of a run its saved recipe, without its data and its folder.

    Raises:
        ValueError: the recipe of the run cannot be read.
    """
    saved = Path(init_from) / "recipe.json"
    if init_from in (COCO, IMAGENET):
        return COCO_RECIPE if init_from == COCO else IMAGENET_RECIPE
    if not saved.is_file():
        return "custom_small"
    recipe = load_recipe(saved)
    data = replace(recipe.data, train="", val=None, train_images=None, val_images=None, source=None)
    run = replace(recipe.run, out=RunConfig.out, init_from=None)
    return replace(recipe, data=data, run=run)


def with_initial_weights(recipe: Recipe, init_from: str) -> Recipe:
    """Sets the initial weights of a recipe.

    Args:
        recipe: the recipe, with its network.
        init_from: ``imagenet`` sets the weights of the backbone. Anything else is ``run.init_from``.

    Returns:
        The recipe with these weights.

    Raises:
        SettingError: the network does not fit; says what to do.
    """
    if init_from != IMAGENET:
        recipe = replace(recipe, run=replace(recipe.run, init_from=init_from))
        if init_from == COCO and (misfit := explain_misfit(recipe)):
            raise SettingError(misfit)
        return recipe
    model = recipe.model
    backbone: Any = model.backbone if isinstance(model, ModelConfig) else None
    if isinstance(backbone, TimmConfig):
        backbone = replace(backbone, weights="pretrained")
    elif isinstance(backbone, SwinConfig) or (isinstance(backbone, ResNetConfig) and backbone.base_width == 64):
        backbone = replace(backbone, weights=IMAGENET)
    else:
        what = getattr(backbone, "description", "a network of your own")
        raise SettingError(
            f"--init-from imagenet: {recipe.name} has {what}, for which there are no ImageNet weights. Choose a "
            "backbone that has them (--backbone resnet18, resnet50, timm:tf_efficientnet_lite0, ...), or the recipe "
            f"{IMAGENET_RECIPE}"
        )
    model = replace(cast("ModelConfig", model), backbone=backbone)
    return replace(recipe, model=model, run=replace(recipe.run, init_from=None))


def explain_misfit(recipe: Recipe) -> str:
    """Says why torchvision's COCO weights do not fit a network, and what to do; nothing if they fit."""
    model, usual = recipe.model, ModelConfig()
    if not isinstance(model, ModelConfig):
        differences = [f"the detector is a {type(model).__name__}"]
    else:
        backbone = model.backbone
        is_resnet50 = isinstance(backbone, ResNetConfig) and (
            (backbone.depth, backbone.base_width, backbone.grouped) == (50, 64, None)
            and (backbone.activation, backbone.se) == ("relu", None)
        )
        mask, usual_mask = model.mask or MaskHeadConfig(), MaskHeadConfig()
        pairs: list[tuple[str, object, object]] = [
            ("model.backbone", is_resnet50 or getattr(backbone, "description", "a backbone of your own"), True),
            ("model.cascade", None if model.cascade is None else type(model.cascade).__name__, None),
            ("model.fpn.channels", model.fpn.channels, usual.fpn.channels),
            ("model.rpn.anchor_ratios", model.rpn.anchor_ratios, usual.rpn.anchor_ratios),
            ("model.box.hidden", model.box.hidden, usual.box.hidden),
            ("model.box.pool_size", model.box.pool_size, usual.box.pool_size),
            ("model.box.normalized", model.box.normalized is not None, False),
            ("model.mask.channels", mask.channels, usual_mask.channels),
            ("model.mask.num_convs", mask.num_convs, usual_mask.num_convs),
            ("model.mask.upsample", mask.upsample, usual_mask.upsample),
            ("model.mask.normalized", mask.normalized is not None, False),
        ]
        differences = [f"{name} is {value}" for name, value, expected in pairs if value != expected]
    if not differences:
        return ""
    return (
        f"--init-from coco: torchvision's COCO weights are of a Mask R-CNN R50-FPN, and {recipe.name} has another "
        f"network ({', '.join(differences[:3])}{' ..' * (len(differences) > 3)}). Use the recipe {COCO_RECIPE} "
        f"(tailseg train {COCO_RECIPE} --data.train my.json --init-from coco), or --init-from imagenet, which loads "
        "weights of the backbone alone"
    )
