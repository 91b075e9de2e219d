"""Settings that a run decides once and keeps: the normalization for a network of timm, the files of a data set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tailseg.data.source import open_source, source_files
from tailseg.models.config import ModelConfig, TimmConfig
from tailseg.models.timm_weights import with_own_normalization
from tailseg.recipes.recipe import Recipe
from tailseg.training import checkpoint
from tailseg.training.run_files import newest_whole


def resolve_settings(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the settings that it leaves open: the mean and the deviation that images are normalized with.

    Those of the run that is in the folder, or of the run that this one starts from (runs of versions before had
    ImageNet's, which None says), or else those of the backbone's weights.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        ValueError: timm is not installed, or does not know the network.
    """
    recipe = _with_source_files(recipe, folder)
    model = recipe.model
    if not (isinstance(model, ModelConfig) and isinstance(model.backbone, TimmConfig)) or model.backbone.mean:
        return recipe
    backbone = model.backbone
    earlier = _earlier(recipe, folder)
    if earlier is None:
        made = with_own_normalization(backbone)
    else:
        mean, std = (tuple(earlier[name]) if earlier.get(name) else None for name in ("mean", "std"))
        made = replace(backbone, mean=mean, std=std)
    return replace(recipe, model=replace(model, backbone=made))


def _with_source_files(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the annotation files that will be written of the user's own data set, if it has one."""
    if recipe.data.source is None:
        return recipe
    train, val = source_files(folder)
    _, val_part = open_source(recipe.data.source)
    return replace(recipe, data=replace(recipe.data, train=str(train), val=None if val_part is None else str(val)))


def _earlier(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The saved settings of the backbone that the weights come with, if they come from a run with a network of timm."""
    if found := newest_whole(folder):
        saved = found[0]
    elif recipe.run.init_from:
        saved = checkpoint.load(Path(recipe.run.init_from))
    else:
        return None
    backbone = saved.recipe["resolved"]["model"].get("backbone", {})
    return backbone if backbone.get("type") == TimmConfig.__name__ else None
