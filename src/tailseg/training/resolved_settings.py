"""Settings that a run decides at its start and saves: the normalization of a timm network, the files of a data set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tailseg.data.source import open_source, source_files
from tailseg.models.config import ModelConfig, TimmConfig
from tailseg.models.timm_weights import with_own_normalization
from tailseg.recipes.recipe import Recipe
from tailseg.training import checkpoint
from tailseg.training.run_files import load_newest


def resolve_settings(recipe: Recipe, folder: Path) -> Recipe:
    """Fills in the settings that a recipe leaves open: the mean and the standard deviation that normalize the images.

    They come from the run in the folder, or from the run that gives the initial weights, or else from the weights of
    the backbone. Runs of earlier versions saved None, which means ImageNet's values.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        ValueError: timm is not installed, or does not know the network.
    """
    recipe = _with_source_files(recipe, folder)
    model = recipe.model
    if not (isinstance(model, ModelConfig) and isinstance(model.backbone, TimmConfig)) or model.backbone.mean:
        return recipe
    backbone = model.backbone
    earlier = _read_saved_backbone(recipe, folder)
    if earlier is None:
        resolved = with_own_normalization(backbone)
    else:
        mean, std = (tuple(earlier[name]) if earlier.get(name) else None for name in ("mean", "std"))
        resolved = replace(backbone, mean=mean, std=std)
    return replace(recipe, model=replace(model, backbone=resolved))


def _with_source_files(recipe: Recipe, folder: Path) -> Recipe:
    """Adds the annotation files that will be written for the user's own data set, if the recipe has one."""
    if recipe.data.source is None:
        return recipe
    train, val = source_files(folder)
    _, val_part = open_source(recipe.data.source)
    return replace(recipe, data=replace(recipe.data, train=str(train), val=None if val_part is None else str(val)))


def _read_saved_backbone(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """Reads the backbone's settings of the run that gives the weights; None without such a run or a timm network."""
    if newest := load_newest(folder):
        saved = newest[0]
    elif recipe.run.init_from:
        saved = checkpoint.load(Path(recipe.run.init_from))
    else:
        return None
    backbone = saved.recipe["resolved"]["model"].get("backbone", {})
    return backbone if backbone.get("type") == TimmConfig.__name__ else None
